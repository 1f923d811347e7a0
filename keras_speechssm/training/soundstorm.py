"""Training SoundStorm: its masked batches, its command."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.soundstorm.masking import mask_for_training
from keras_speechssm.models.soundstorm.soundstorm import SoundStorm
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.presets import fetch_folder, stored_dtype
from keras_speechssm.shapes import FRAMES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.training.config import check_crops, check_model_config, check_schedule
from keras_speechssm.training.token_pairs import TokenPair, prepare_token_pairs, read_token_pairs
from keras_speechssm.training.trainer import fit_resumable

DEMO_SOUNDSTORM = dict(
    num_layers=6, hidden_dim=256, num_heads=4, intermediate_dim=768, kernel_size=5, dropout=0.0
)
"""Arguments of a small SoundStorm (the demo has 4 layers), less what tokenizer and codec give."""


class SoundStormBatches:
    """Random crops of token pairs, masked for training, as a function of the step.

    Args:
        groups: lists of token pairs, one list for each source.
        vocabulary_size: int. Semantic tokens; the id after them hides one.
        codebook_size: int. Codes of a level.
        batch_size: int. Crops in a batch.
        crop_tokens: int. Semantic tokens of each; shorter recordings are padded.
        seed: of weights, crops and masks.
        group_weights: share of the crops from each group. By default in proportion to
            its length.
        level_shares: how often each level is the one to learn. By default all alike.
        unconditional_share: float. Share of the crops whose semantic tokens are all hidden.

    Calling it with a step gives `(x, y, sample_weight)` for `model.fit` with
    `SparseCategoricalCrossentropy(from_logits=True)`: the model's inputs, the true
    tokens of the level asked for, int32 (batch, frames), and weights float32
    (batch, frames), zero but at hidden tokens and one on average, so that the loss is
    the mean over the hidden tokens in nats.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[TokenPair]],
        vocabulary_size: int,
        codebook_size: int,
        batch_size: int,
        crop_tokens: int,
        seed: int,
        group_weights: Sequence[float] | None = None,
        level_shares: Sequence[float] | None = None,
        unconditional_share: float = 0.0,
    ):
        if not groups or not all(groups):
            raise ValueError("Every source needs at least one recording of a token or more.")
        self.groups = groups
        self.vocabulary_size = vocabulary_size
        self.codebook_size = codebook_size
        self.batch_size = batch_size
        self.crop_tokens = crop_tokens
        self.seed = seed
        self.level_shares = level_shares
        self.unconditional_share = unconditional_share
        lengths = [np.array([len(pair[0]) for pair in group], dtype=float) for group in groups]
        self.shares = [length / length.sum() for length in lengths]
        weights = [length.sum() for length in lengths] if group_weights is None else group_weights
        self.weights = np.asarray(weights, dtype=float) / np.sum(weights)

    def __call__(self, step: int) -> tuple[dict, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        crops = [self._crop(rng) for _ in range(self.batch_size)]
        semantic, acoustic, real = (np.stack(arrays) for arrays in zip(*crops, strict=True))
        masked, level, target, loss_mask = mask_for_training(
            acoustic, real, self.codebook_size, rng, self.level_shares
        )
        semantic[rng.random(len(semantic)) < self.unconditional_share] = self.vocabulary_size
        inputs = {
            "semantic_tokens": semantic,
            "acoustic_tokens": masked,
            "level": level,
            "padding_mask": real,
        }
        weight = loss_mask * (loss_mask.size / loss_mask.sum())
        return inputs, target, weight.astype("float32")

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        group = rng.choice(len(self.groups), p=self.weights)
        number = rng.choice(len(self.groups[group]), p=self.shares[group])
        semantic, acoustic = self.groups[group][number]
        start = rng.integers(0, max(0, len(semantic) - self.crop_tokens) + 1)
        semantic = semantic[start : start + self.crop_tokens].astype("int32")
        first, end = start * FRAMES_PER_TOKEN, (start + len(semantic)) * FRAMES_PER_TOKEN
        acoustic = acoustic[first:end].astype("int32")
        fill = self.crop_tokens - len(semantic)
        real = np.arange(self.crop_tokens * FRAMES_PER_TOKEN) < len(acoustic)
        acoustic = np.pad(acoustic, ((0, fill * FRAMES_PER_TOKEN), (0, 0)))
        return np.pad(semantic, (0, fill)), acoustic, real


def train_soundstorm(
    audio_folders: Sequence[str | Path],
    output_dir: str | Path,
    *,
    tokenizer_preset: str,
    codec_preset: str,
    validation_folders: Sequence[str | Path] | None = None,
    model_config: dict | None = None,
    folder_weights: Sequence[float] | None = None,
    level_shares: Sequence[float] | None = None,
    unconditional_share: float = 0.1,
    initial_preset: str | None = None,
    batch_size: int = 8,
    crop_seconds: float = 6.0,
    total_steps: int = 20_000,
    steps_per_epoch: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    max_seconds: float | None = None,
    cache_dir: str | Path | None = None,
) -> SoundStorm:
    """Trains a SoundStorm on folders of audio; run again, it goes on where it stopped.

    Both token streams are computed first (see `prepare_token_pairs`). Adam, gradient
    norm clipped at 1. Writes the run's files (see `fit_resumable`) and the preset
    `output_dir/preset`.

    Args:
        audio_folders: folders of audio files.
        output_dir: folder of the run; the trained model is written to `preset/` in it.
        tokenizer_preset: preset of the `SemanticTokenizer`.
        codec_preset: preset of the `SoundStream`.
        validation_folders: folders of other recordings; the weights that do best on
            them are kept. By default the training loss selects.
        model_config: arguments of `SoundStorm` over those of the demo, without the
            vocabulary's, the levels' and the codebook's size, which tokenizer and codec
            give. Not together with `initial_preset`.
        folder_weights: share of the crops from each folder. Defaults to its length.
        level_shares: how often each level is the one to learn, the coarsest first, in
            any unit: the coarse levels carry the words. Defaults to all alike, as in
            the paper.
        unconditional_share: float, at least 0 and below 1. Share of the crops whose semantic
            tokens are all hidden, which classifier-free guidance needs when it speaks.
            The validation has none. Defaults to `0.1`.
        initial_preset: preset of a `SoundStorm` for this codec and tokenizer to start from, in
            the dtype policy that it was saved with. Where the tokenizer has another number of
            tokens, all is kept but what it knows of them; another
            tokenizer of the same number is not noticed. Defaults to a new model,
            whose embeddings begin as the codebooks.
        batch_size: crops in a step.
        crop_seconds: length of a crop.
        total_steps: steps of the whole run.
        steps_per_epoch: steps between validations and checkpoints.
        learning_rate: peak of Adam's learning rate, which falls along a cosine.
        seed: of weights, crops and masks.
        max_seconds: training time of the whole run, the sessions before counted; the learning
            rate has fallen to its end by then. A run that is to go on wants a larger number.
        cache_dir: folder of the token files. Defaults to `output_dir/token_pairs`.

    Returns:
        The trained model.

    Raises:
        ValueError: `initial_preset` and `model_config` are both given, `initial_preset` has
            another number of levels or codes than the codec, `level_shares` are not a number
            from 0 on for each level, or all 0, or `unconditional_share` is no share.
    """
    check_schedule(learning_rate, total_steps, steps_per_epoch, max_seconds=max_seconds)
    check_crops(audio_folders, validation_folders, batch_size, crop_seconds, folder_weights)
    if not 0.0 <= unconditional_share < 1.0:
        raise ValueError(f"unconditional_share must lie in [0, 1), got {unconditional_share}.")
    keras.utils.set_random_seed(seed)
    tokenizer = SemanticTokenizer.from_preset(tokenizer_preset)
    codec = SoundStream.from_preset(codec_preset)
    _check_level_shares(level_shares, codec.num_quantizers)
    model = _initial_model(initial_preset, model_config, tokenizer, codec)
    cache_dir = Path(output_dir) / "token_pairs" if cache_dir is None else Path(cache_dir)

    def batches(folders, seed, weights=None, unconditional_share=0.0):
        paths = prepare_token_pairs(folders, cache_dir, tokenizer, codec)
        groups = [read_token_pairs(group) for group in paths]
        crop_tokens = round(crop_seconds * TOKEN_RATE)
        return SoundStormBatches(
            groups,
            tokenizer.vocabulary_size,
            codec.codebook_size,
            batch_size,
            crop_tokens,
            seed,
            weights,
            level_shares,
            unconditional_share,
        )

    training = batches(audio_folders, seed, folder_weights, unconditional_share)
    validation = None
    if validation_folders is not None:
        held_out = batches(validation_folders, seed + 1)
        validation = [held_out(step) for step in range(8)]
    compile_soundstorm(model)
    fit_resumable(
        model,
        training,
        output_dir,
        learning_rate=learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        validation_batches=validation,
        max_seconds=max_seconds,
    )
    model.save_to_preset(str(Path(output_dir) / "preset"))
    return model


def _check_level_shares(level_shares: Sequence[float] | None, num_levels: int) -> None:
    if level_shares is None:
        return
    if len(level_shares) != num_levels or not all(0 <= s < float("inf") for s in level_shares):
        raise ValueError(
            f"level_shares must give one number, 0 or more, for each of the {num_levels} levels, "
            f"got {list(level_shares)}."
        )
    if not sum(level_shares):
        raise ValueError("level_shares are all zero; at least one level must be learned.")


def _initial_model(initial_preset, model_config, tokenizer, codec) -> SoundStorm:
    """The model that training starts from, new or from a preset."""
    sizes = dict(
        semantic_vocabulary_size=tokenizer.vocabulary_size,
        num_levels=codec.num_quantizers,
        codebook_size=codec.codebook_size,
    )
    check_model_config(model_config, SoundStorm, tuple(sizes))
    if initial_preset is None:
        model = SoundStorm(**sizes, **{**DEMO_SOUNDSTORM, **(model_config or {})})
        start_from_codebooks(model, tokenizer, codec)
        return model
    if model_config is not None:
        raise ValueError("Give initial_preset or model_config, not both: a preset has its sizes.")
    folder = fetch_folder(initial_preset, SoundStorm.preset_part)
    model = SoundStorm.from_preset(folder, dtype=stored_dtype(folder))
    other = {name: getattr(model, name) for name in sizes}
    if any(other[name] != sizes[name] for name in ("num_levels", "codebook_size")):
        raise ValueError(f"{initial_preset} has {other}; tokenizer and codec need {sizes}.")
    return model if other == sizes else change_vocabulary(model, tokenizer)


def change_vocabulary(model: SoundStorm, tokenizer, seed: int = 0) -> SoundStorm:
    """The same model for another tokenizer: only its table of semantic tokens begins anew.

    The new rows are projections of the tokenizer's codes (see `start_from_codebooks`), as loud
    as the old ones. The last row, a hidden token's, stays.

    Args:
        model: a trained `SoundStorm`.
        tokenizer: the `SemanticTokenizer` whose tokens it shall read.
        seed: int. Of the projection.
    """
    sizes = {"semantic_vocabulary_size": tokenizer.vocabulary_size}
    changed = SoundStorm.from_config({**model.get_config(), **sizes})
    old, new = (m.frame_embedding.semantic_embedding.embeddings for m in (model, changed))
    for source, target in zip(model.weights, changed.weights, strict=True):
        if target is not new:
            target.assign(source)
    old = keras.ops.convert_to_numpy(old)
    rng = np.random.default_rng(seed)
    rows = old[:-1].std() * _project(np.asarray(tokenizer.codebook), model.hidden_dim, rng)
    new.assign(np.concatenate([rows, old[-1:]]))
    return changed


def start_from_codebooks(model: SoundStorm, tokenizer, codec, seed: int = 0) -> None:
    """Gives a new model the geometry of the codebooks, and lets it begin shallow.

    Rows of the embeddings and columns of the heads become random orthogonal projections
    of the codes that they stand for. Codes that sound alike then begin alike, and what
    is learned of one is learned of its neighbors: with 1024 codes a level, a small
    corpus shows each only now and then. A hidden token begins as zero and a semantic
    token with half of the input's variance, so that it is heard where all else is
    hidden; the residual branches begin at a tenth, so that gradients reach the tables.
    On the demo's corpus the first level's training loss was 4.9 nats a token over steps
    101 to 150 with all of this, 5.3 with the projections alone, 5.4 with a silent mask and
    loud semantic tokens but no projections.

    Args:
        model: the `SoundStorm` to change.
        tokenizer: the `SemanticTokenizer` whose tokens it reads.
        codec: the `SoundStream` whose tokens it writes.
        seed: int. Of the projections.
    """
    rng = np.random.default_rng(seed)
    semantic_table = model.frame_embedding.semantic_embedding.embeddings
    acoustic_table = model.frame_embedding.acoustic_embedding.embeddings
    semantic = _project(np.asarray(tokenizer.codebook), model.hidden_dim, rng)
    acoustic = np.zeros((model.num_levels, model.codebook_size + 1, model.hidden_dim))
    kernel = np.zeros(model.level_heads.kernel.shape)
    for level, codebook in enumerate(np.asarray(codec.codebooks)):
        # The last row, the mask's, stays zero.
        acoustic[level, :-1] = _project(codebook, model.hidden_dim, rng)
        kernel[level] = _project(codebook, model.hidden_dim, rng).T
    hidden = np.zeros((1, model.hidden_dim))
    semantic_table.assign(np.concatenate([0.5**0.5 * semantic, hidden]))
    acoustic_table.assign((0.5 / model.num_levels) ** 0.5 * acoustic.reshape(acoustic_table.shape))
    model.level_heads.kernel.assign(0.06 * kernel)
    for block in model.conformer_blocks:
        branches = block.first_output, block.attention.output_dense, block.convolution.output_dense
        for dense in (*branches, block.second_output):
            dense.kernel.assign(0.1 * dense.kernel)


def _project(codebook: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Codes (codes, dim) in another width, centerd, distances kept up to scale, of variance 1."""
    centerd = codebook - codebook.mean(axis=0)
    dim = centerd.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((max(dim, width), max(dim, width))))[0]
    projected = centerd @ rotation[:dim, :width]
    return projected / (projected.std() + 1e-9)


def compile_soundstorm(model: SoundStorm) -> None:
    """Compiles a model with Adam, whose rate `fit_resumable` sets, and its loss."""
    model.compile(
        optimizer=keras.optimizers.Adam(beta_2=0.98, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
