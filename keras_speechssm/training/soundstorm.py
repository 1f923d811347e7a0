"""Training of SoundStorm on pairs of semantic and acoustic tokens."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np

from keras_speechssm.data.prepare import checksum_of_models, prepare_token_pairs
from keras_speechssm.data.token_store import TokenStore, is_token_store
from keras_speechssm.files import is_bucket
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.soundstorm.decoding import check_iterations
from keras_speechssm.models.soundstorm.masking import mask_for_training
from keras_speechssm.models.soundstorm.soundstorm import SoundStorm
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.presets import DEFAULT_PRESET, fetch_folder, has_weights, stored_dtype
from keras_speechssm.shapes import FRAMES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.training.config import (
    AudioTrainingConfig,
    TrainingConfig,
    check_model_config,
    demo_arguments,
)
from keras_speechssm.training.distribution import (
    conformer_layout_map,
    distributed,
    on_first_process,
    save_preset,
)
from keras_speechssm.training.trainer import fit_resumable, make_optimizer

logger = logging.getLogger(__name__)


class SoundStormBatches:
    """Random crops of token pairs, masked for training, as a function of the batch's number.

    Args:
        stores: Stores of token pairs, one per source. They are read on demand.
        vocabulary_size: Number of semantic tokens. The id after them is the mask.
        codebook_size: Codes per level.
        batch_size: Crops per batch.
        crop_tokens: Semantic tokens per crop, or less if all sequences are shorter. Shorter
            sequences are padded.
        seed: Seed of crops and masks.
        store_weights: Weight of each source among the crops. Defaults to `None`: its length.
        level_weights: Weight of each level among the levels to predict. Defaults to `None`: all
            alike.
        unconditional_fraction: Fraction of the crops whose semantic tokens are all masked.
            Defaults to `0.0`.
        iterations: Passes for each level with which the model will decode; see
            `mask_for_training`. Defaults to `None`: SoundStorm's own masks.
        prompt_tokens: Length of the voice prompt in semantic tokens. Defaults to `None`: drawn.

    Returns:
        When called with a number: `(x, y, sample_weight)` for `model.fit` with
        `SparseCategoricalCrossentropy(from_logits=True)`. These are the inputs of the model, the
        true tokens of the level to predict, int32 (batch, frames), and float32 weights
        (batch, frames). The weights are zero except at masked tokens, and one on average, so
        that the loss is the mean over the masked tokens in nats.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        vocabulary_size: int,
        codebook_size: int,
        batch_size: int,
        crop_tokens: int,
        seed: int,
        store_weights: Sequence[float] | None = None,
        level_weights: Sequence[float] | None = None,
        unconditional_fraction: float = 0.0,
        iterations: Sequence[int] | None = None,
        prompt_tokens: int | None = None,
    ):
        if not stores or not all(map(len, stores)):
            raise ValueError(
                "A source has no recording as long as one token; each needs at least one."
            )
        self.stores = stores
        self.vocabulary_size = vocabulary_size
        self.codebook_size = codebook_size
        self.batch_size = batch_size
        self.crop_tokens = min(crop_tokens, int(max(store.lengths.max() for store in stores)))
        self.seed = seed
        self.level_weights = level_weights
        self.unconditional_fraction = unconditional_fraction
        self.iterations = iterations
        self.prompt_tokens = prompt_tokens
        # Cumulative, since a draw from weights would add up those of all sequences each time.
        self._ends = [np.cumsum(store.lengths) for store in stores]
        weights = [ends[-1] for ends in self._ends] if store_weights is None else store_weights
        self.weights = np.asarray(weights, dtype=float) / np.sum(weights)

    def __call__(self, step: int) -> tuple[dict, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        crops = [self._crop(rng) for _ in range(self.batch_size)]
        semantic, acoustic, real = (np.stack(arrays) for arrays in zip(*crops, strict=True))
        boundary = None
        if self.prompt_tokens is not None:
            boundary = np.full(len(semantic), self.prompt_tokens * FRAMES_PER_TOKEN)
        masked, level, target, loss_mask = mask_for_training(
            acoustic, real, self.codebook_size, rng, self.level_weights, self.iterations, boundary
        )
        semantic[rng.random(len(semantic)) < self.unconditional_fraction] = self.vocabulary_size
        inputs = {
            "semantic_tokens": semantic,
            "acoustic_tokens": masked,
            "level": level,
            "padding_mask": real,
        }
        weight = loss_mask * (loss_mask.size / loss_mask.sum())
        return inputs, target, weight.astype("float32")

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        store = rng.choice(len(self.stores), p=self.weights)
        ends = self._ends[store]
        sequence = self.stores[store][np.searchsorted(ends, rng.integers(ends[-1]), side="right")]
        start = rng.integers(0, max(0, len(sequence.tokens) - self.crop_tokens) + 1)
        semantic = sequence.tokens[start : start + self.crop_tokens]
        first, end = start * FRAMES_PER_TOKEN, (start + len(semantic)) * FRAMES_PER_TOKEN
        acoustic = sequence.acoustic[first:end]
        fill = self.crop_tokens - len(semantic)
        real = np.arange(self.crop_tokens * FRAMES_PER_TOKEN) < len(acoustic)
        acoustic = np.pad(acoustic, ((0, fill * FRAMES_PER_TOKEN), (0, 0)))
        return np.pad(semantic, (0, fill)), acoustic, real


@dataclass(kw_only=True, frozen=True)
class SoundStormTrainingConfig(AudioTrainingConfig):
    """Options of `train_soundstorm`. See `TrainingConfig` for the rest.

    Args:
        audio_folders: Folders of audio files, or stores of `speechssm prepare token-pairs`.
        validation_folders: Held-out folders or stores. The weights with the lowest validation loss
            are kept. Defaults to `None`: the weights with the lowest training loss.
        tokenizer_preset: Preset of the `SemanticTokenizer`.
        codec_preset: Preset of the `SoundStream`.
        folder_weights: Weight of each audio folder among the crops. Defaults to `None`: its
            length.
        level_weights: Weight of each level among the levels to predict, the coarsest first. The
            coarse levels carry the words. Defaults to `None`: all alike, as in the paper.
        unconditional_fraction: Fraction of the crops whose semantic tokens are all masked,
            which classifier-free guidance needs. Validation has none.
        iterations: Passes for each level with which the model will decode, as in `SynthesisConfig`.
            Crops then have the masks that these passes meet. Defaults to `None`: masks
            for any number of passes, as in the paper.
        prompt_seconds: Seconds of voice prompt at the beginning of each crop. Defaults to `None`:
            any length, as in the paper.
        preset: Preset of a `SoundStorm` for this codec and tokenizer to start from. If the
            tokenizer has a different number of tokens, only the embeddings of semantic tokens are
            new; another tokenizer with the same number is not detected. A preset without weights,
            such as `soundstorm_600m` (the paper's size), gives a new model of its size. Not
            together with `model_config`. Defaults to `None`: a new model of the demo's size, whose
            embeddings start as projections of the codebooks.
        cache_dir: Folder of the stores of token pairs that are made of folders of audio.
            Defaults to `None`: `token_pairs/` in `output_dir`.
        crop_seconds: Seconds of one training example. The paper's 30 s are what a window of
            synthesis has: a voice prompt of 3 s and 27 s to speak. If all recordings are shorter,
            crops have the length of the longest.
    """

    tokenizer_preset: str = DEFAULT_PRESET
    codec_preset: str = DEFAULT_PRESET
    folder_weights: Sequence[float] | None = None
    level_weights: Sequence[float] | None = None
    unconditional_fraction: float = 0.1
    iterations: Sequence[int] | None = None
    prompt_seconds: float | None = None
    cache_dir: str | Path | None = None
    crop_seconds: float = 30.0
    total_steps: int = 20_000
    beta_2: float = 0.98

    fixed: ClassVar[tuple[str, ...]] = (
        "tokenizer_preset",
        "codec_preset",
        *TrainingConfig.fixed,
    )

    recipes: ClassVar[dict[str, dict]] = {
        "finetune": {
            "preset": DEFAULT_PRESET,
            "batch_size": 4,
            "total_steps": 500,
            "steps_per_epoch": 50,
            "warmup_steps": 50,
            "learning_rate": 1e-4,
        },
    }

    def validate(self) -> None:
        super().validate()
        self._check_folder_weights(self.folder_weights)
        if not 0.0 <= self.unconditional_fraction < 1.0:
            raise ValueError(
                f"unconditional_fraction is {self.unconditional_fraction}; expected at least 0 "
                "and less than 1."
            )
        if self.prompt_seconds is not None and not 0 < self.prompt_seconds < self.crop_seconds:
            raise ValueError(
                f"prompt_seconds is {self.prompt_seconds}; expected more than 0 and less than the "
                f"{self.crop_seconds:g} s of a crop."
            )
        if self.preset is not None and self.model_config is not None:
            raise ValueError(
                "preset and model_config are both given; the size of a preset cannot be changed."
            )


def train_soundstorm(config: SoundStormTrainingConfig) -> SoundStorm:
    """Train a SoundStorm on folders of audio, or resume the run of the same folder.

    Both kinds of tokens of folders of audio are computed first (see `prepare_token_pairs`). They
    are read from disk during training, so that memory does not grow with the recordings.

    Args:
        config: The options. See `SoundStormTrainingConfig`.

    Returns:
        The trained model. It is also saved to `preset/` in `output_dir`.

    Raises:
        ValueError: If the preset does not fit the codec, `level_weights` do not fit the levels,
            or the run was started with other options.
    """
    config.join_processes()
    config.check_resumed()
    keras.utils.set_random_seed(config.seed)
    tokenizer = load_part(config.tokenizer_preset, SemanticTokenizer.preset_part)
    codec = load_part(config.codec_preset, SoundStream.preset_part)
    _check_level_weights(config.level_weights, codec.num_quantizers)
    if config.iterations is not None:
        check_iterations(config.iterations, codec.num_quantizers)
    with distributed(config.device_mesh, conformer_layout_map, config.batch_size):
        model = _initial_model(config, tokenizer, codec)
        validation_batches = None
        make_batch = _batches(config, config.audio_folders, tokenizer, codec)
        if config.validation_folders is not None:
            held_out = _batches(config, config.validation_folders, tokenizer, codec, held_out=True)
            validation_batches = [held_out(step) for step in range(config.validation_steps)]
        compile_soundstorm(model, make_optimizer(config))
        fit_resumable(model, make_batch, config, validation_batches=validation_batches)
        save_preset(model, config.output_dir, "preset")
    return model


def _batches(
    config: SoundStormTrainingConfig,
    folders: Sequence[str | Path],
    tokenizer: SemanticTokenizer,
    codec: SoundStream,
    held_out: bool = False,
) -> SoundStormBatches:
    models = checksum_of_models(tokenizer, codec)
    stores = [_open_token_pairs(config, Path(folder), models) for folder in folders]
    crop_tokens = round(config.crop_seconds * TOKEN_RATE)
    longest = int(max(store.lengths.max() for store in stores))
    if longest < crop_tokens:
        logger.warning(
            "The longest recording in %s has %.1f s: crops are that long, not %g s.",
            ", ".join(map(str, folders)),
            longest / TOKEN_RATE,
            config.crop_seconds,
        )
    return SoundStormBatches(
        stores,
        tokenizer.vocabulary_size,
        codec.codebook_size,
        config.batch_size,
        crop_tokens,
        config.seed + held_out,
        None if held_out else config.folder_weights,
        config.level_weights,
        0.0 if held_out else config.unconditional_fraction,
        config.iterations,
        None if config.prompt_seconds is None else round(config.prompt_seconds * TOKEN_RATE),
    )


def _open_token_pairs(config: SoundStormTrainingConfig, folder: Path, models: str) -> TokenStore:
    """Open a store, or make one of a folder of audio."""
    if is_token_store(folder):
        store = TokenStore(folder)
    else:
        if is_bucket(cache_dir := config.cache_dir or config.output_dir):
            raise ValueError(
                f"cache_dir is {cache_dir}; expected a local folder for the tokens of {folder}, or "
                "stores of `speechssm prepare token-pairs` as audio_folders."
            )
        cache_dir = Path(config.cache_dir or Path(config.output_dir) / "token_pairs")
        # With a hash of its path, since other folders may have the same name.
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
        path = cache_dir / f"{folder.resolve().name}-{digest[:8]}"
        presets = {"tokenizer_preset": config.tokenizer_preset, "codec_preset": config.codec_preset}
        on_first_process(lambda: prepare_token_pairs([folder], path, **presets))
        store = TokenStore(path, verify=False)
    if store.manifest.get("models") != models:
        raise ValueError(
            f"The store {store.folder} was not made by this tokenizer and codec; make it with "
            "`speechssm prepare token-pairs` and the presets that are trained with."
        )
    return store


def _check_level_weights(level_weights: Sequence[float] | None, num_levels: int) -> None:
    if level_weights is None:
        return
    valid = all(0 <= weight < float("inf") for weight in level_weights)
    if len(level_weights) != num_levels or not valid:
        raise ValueError(
            f"level_weights are {list(level_weights)}; expected one number, 0 or more, for each "
            f"of the {num_levels} levels."
        )
    if not sum(level_weights):
        raise ValueError("level_weights are all zero; at least one must be above zero.")


def _initial_model(
    config: SoundStormTrainingConfig, tokenizer: SemanticTokenizer, codec: SoundStream
) -> SoundStorm:
    """Return the model that training starts from, new or from a preset."""
    sizes = dict(
        semantic_vocabulary_size=tokenizer.vocabulary_size,
        num_levels=codec.num_quantizers,
        codebook_size=codec.codebook_size,
    )
    check_model_config(config.model_config, SoundStorm, tuple(sizes))
    if config.preset is None or not has_weights(SoundStorm, config.preset):
        sizes |= {"dtype": config.dtype} if config.dtype else {}
        if config.preset is not None:  # one of the paper's size
            model = SoundStorm.from_preset(config.preset, load_weights=False, **sizes)
        else:
            demo = {**demo_arguments("soundstorm"), **(config.model_config or {})}
            model = SoundStorm(**{**demo, **sizes})
        start_from_codebooks(model, tokenizer, codec)
        return model
    folder = fetch_folder(config.preset, SoundStorm.preset_part)
    model = SoundStorm.from_preset(folder, dtype=config.dtype or stored_dtype(folder))
    other = {name: getattr(model, name) for name in sizes}
    if any(other[name] != sizes[name] for name in ("num_levels", "codebook_size")):
        raise ValueError(
            f"Preset {config.preset!r} has {other}, but tokenizer and codec need {sizes}; use a "
            "preset of the same codec."
        )
    return model if other == sizes else change_vocabulary(model, tokenizer)


def change_vocabulary(model: SoundStorm, tokenizer, seed: int = 0) -> SoundStorm:
    """Return the same model for another tokenizer, with new embeddings of semantic tokens.

    The new embeddings are projections of the tokenizer's codes (see `start_from_codebooks`) with
    the variance of the old ones. The embedding of the mask stays.

    Args:
        model: A trained `SoundStorm`.
        tokenizer: The `SemanticTokenizer` of the new model.
        seed: Seed of the projection. Defaults to `0`.
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
    """Initialize a new model with the geometry of the codebooks.

    Rows of the embeddings and columns of the heads become random orthogonal projections of
    their codes. Codes that sound alike then start alike, so that what is learned about one is
    learned about its neighbors; with 1024 codes per level, a small corpus has few examples of
    each. The embedding of the mask starts as zero, and semantic tokens start with half of the
    variance of the input, so that they matter where all else is masked. The residual branches
    are scaled by a tenth, so that gradients reach the embeddings.

    On the demo's corpus the training loss of the first level was 4.9 nats per token over steps
    101 to 150 with all of this, 5.3 with the projections alone, and 5.4 without projections.

    Args:
        model: The `SoundStorm` to change.
        tokenizer: The `SemanticTokenizer` whose tokens it reads.
        codec: The `SoundStream` whose tokens it writes.
        seed: Seed of the projections. Defaults to `0`.
    """
    rng = np.random.default_rng(seed)
    semantic_table = model.frame_embedding.semantic_embedding.embeddings
    acoustic_table = model.frame_embedding.acoustic_embedding.embeddings
    semantic = _project(np.asarray(tokenizer.codebook), model.hidden_dim, rng)
    acoustic = np.zeros((model.num_levels, model.codebook_size + 1, model.hidden_dim))
    kernel = np.zeros(model.level_heads.kernel.shape)
    for level, codebook in enumerate(np.asarray(codec.codebooks)):
        # The last row, of the mask, stays zero.
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
    """Project codes (codes, dim) to `width` with variance 1, keeping distances up to scale."""
    centered = codebook - codebook.mean(axis=0)
    dim = centered.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((max(dim, width), max(dim, width))))[0]
    projected = centered @ rotation[:dim, :width]
    return projected / (projected.std() + 1e-9)


def compile_soundstorm(
    model: SoundStorm, optimizer: keras.optimizers.Optimizer | None = None
) -> None:
    """Compile a model with its loss.

    Args:
        model: The model.
        optimizer: The optimizer. Defaults to `None`: Adam as `train_soundstorm` uses it.
    """
    if optimizer is None:
        optimizer = keras.optimizers.Adam(beta_2=0.98, global_clipnorm=1.0)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
