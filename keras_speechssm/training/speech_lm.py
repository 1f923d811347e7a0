"""Training a SpeechSSM on semantic tokens: next-token cross-entropy on packed documents."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.data.token_store import read_manifest, read_token_folder
from keras_speechssm.speech_lm.griffin_backbone import GriffinBackbone
from keras_speechssm.speech_lm.speech_ssm import SpeechSSM
from keras_speechssm.training.loop import fit_resumable

DEFAULT_CONFIG = {
    "num_layers": 6,
    "hidden_dim": 256,
    "intermediate_dim": 768,
    "num_heads": 4,
    "attention_window": 512,
    "use_rotary": False,
}
"""The demo's size, about 5 million parameters; `vocabulary_size` comes from the tokens."""


class PackedTokens:
    """Recordings laid end to end, cut into windows that know where documents start.

    Args:
        streams: list of int (time,), one a recording.
        sequence_length: int. Input tokens of a window.

    Raises:
        ValueError: fewer tokens than one window needs.
    """

    def __init__(self, streams: Sequence[np.ndarray], sequence_length: int):
        streams = [np.asarray(stream) for stream in streams if len(stream)]
        total = sum(map(len, streams))
        if total < sequence_length + 1:
            raise ValueError(
                f"The token folders hold {total} tokens; a window needs {sequence_length + 1}: "
                "give more recordings or a shorter sequence_length."
            )
        self.sequence_length = sequence_length
        self.tokens = np.concatenate(streams).astype("int32")
        self.starts = np.zeros(total, bool)
        self.starts[np.cumsum([0, *map(len, streams[:-1])])] = True

    def window(self, offsets: Sequence[int]) -> tuple[dict, np.ndarray, np.ndarray]:
        """Windows that start at `offsets`: what `fit` takes.

        Returns:
            Inputs (`token_ids` int32 and `reset_mask` bool, (batch, sequence_length)),
            targets int32, and weights float32: 0 where the target is another document's
            first token, which nothing before it can tell.
        """
        index = np.asarray(offsets)[:, None] + np.arange(self.sequence_length + 1)
        tokens, starts = self.tokens[index], self.starts[index]
        inputs = {"token_ids": tokens[:, :-1], "reset_mask": starts[:, :-1]}
        return inputs, tokens[:, 1:], 1.0 - starts[:, 1:].astype("float32")

    def random_batches(self, batch_size: int, seed: int) -> Callable[[int], tuple]:
        """A function from the step to a batch of windows at random offsets."""

        def make_batch(step: int) -> tuple:
            random = np.random.default_rng((seed, step))
            last = len(self.tokens) - self.sequence_length
            return self.window(random.integers(0, last, batch_size))

        return make_batch

    def batches_in_order(self, batch_size: int, max_batches: int) -> list[tuple]:
        """Windows side by side, spread over the recordings; whole batches where there are any."""
        count = (len(self.tokens) - 1) // self.sequence_length
        wanted = min(count, max_batches * batch_size)
        wanted = max(wanted - wanted % batch_size, min(count, batch_size))
        chosen = np.linspace(0, count - 1, wanted).astype(int) * self.sequence_length
        return [
            self.window(chosen[start : start + batch_size])
            for start in range(0, wanted, batch_size)
        ]


def make_optimizer(
    learning_rate: float = 1e-3, weight_decay: float = 0.1, clip_norm: float = 1.0
) -> keras.optimizers.Optimizer:
    """AdamW, clipped by the global norm.

    Biases, gains and the decay parameters of the recurrences are not decayed.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate, weight_decay=weight_decay, beta_2=0.98, global_clipnorm=clip_norm
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale", "a_param"])
    return optimizer


def train_speech_lm(
    token_folders: Sequence[str | PathLike],
    output_dir: str | PathLike,
    *,
    validation_folders: Sequence[str | PathLike] | None = None,
    model_config: dict | None = None,
    sequence_length: int = 750,
    batch_size: int = 8,
    total_steps: int = 4000,
    steps_per_epoch: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    clip_norm: float = 1.0,
    validation_steps: int = 8,
    seed: int = 0,
    max_seconds: float | None = None,
) -> SpeechSSM:
    """Trains a SpeechSSM on tokenised recordings; run again, it goes on where it stopped.

    Args:
        token_folders: folders written by `speechssm prepare`, of one tokenizer.
        output_dir: folder of the run; the trained model is written to `preset/` in it.
        validation_folders: folders of held-out recordings; the best weights on them are
            kept. Defaults to `None`: the training loss selects.
        model_config: arguments of `GriffinBackbone`, over `DEFAULT_CONFIG`.
        sequence_length: int. Tokens of a window (750 are 30 s).
        batch_size: int. Windows of a step.
        total_steps: int. Optimizer steps.
        steps_per_epoch: int. Steps between validations and backups.
        learning_rate: float. Peak of AdamW's learning rate, see `LearningRate`.
        weight_decay, clip_norm: floats of `make_optimizer`.
        validation_steps: int. Batches of a validation.
        seed: int. Seed of the weights and of the batches.
        max_seconds: float or `None`. Stop early after this much training time.

    Returns:
        The trained model.

    Raises:
        ValueError: folders of different vocabularies, or too few tokens.
    """
    if not token_folders:
        raise ValueError("token_folders is empty: give at least one folder of tokens.")
    vocabulary_size = _read_vocabulary_size([*token_folders, *(validation_folders or ())])
    packed = PackedTokens(_read_streams(token_folders), sequence_length)
    validation_batches = None
    if validation_folders:
        held_out = PackedTokens(_read_streams(validation_folders), sequence_length)
        validation_batches = held_out.batches_in_order(batch_size, validation_steps)
    keras.utils.set_random_seed(seed)
    config = {"vocabulary_size": vocabulary_size, **DEFAULT_CONFIG, **(model_config or {})}
    model = SpeechSSM(GriffinBackbone(**config))
    model.compile(
        optimizer=make_optimizer(learning_rate, weight_decay, clip_norm),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=None,
    )
    fit_resumable(
        model,
        packed.random_batches(batch_size, seed),
        output_dir,
        learning_rate=learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        validation_batches=validation_batches,
        max_seconds=max_seconds,
    )
    model.save_to_preset(str(Path(output_dir) / "preset"))
    return model


def _read_streams(folders: Sequence[str | PathLike]) -> list[np.ndarray]:
    return [stream for folder in folders for stream in read_token_folder(folder)]


def _read_vocabulary_size(folders: Sequence[str | PathLike]) -> int:
    sizes = {str(folder): read_manifest(folder).vocabulary_size for folder in folders}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"Token folders must share one tokenizer; their vocabulary sizes are {sizes}."
        )
    return next(iter(sizes.values()))
