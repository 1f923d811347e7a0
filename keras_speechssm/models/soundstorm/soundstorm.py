"""SoundStorm: acoustic tokens for semantic tokens, in the voice of a short prompt."""

from collections.abc import Sequence

import keras
import keras_hub
import numpy as np

from keras_speechssm.layers.conformer_block import ConformerBlock
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.soundstorm.decoding import decode_levels, make_decode_pass, read_request
from keras_speechssm.models.soundstorm.soundstorm_layers import FrameEmbedding, LevelHeads
from keras_speechssm.shapes import FRAMES_PER_TOKEN


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SoundStorm(PresetMixin, keras_hub.models.Backbone):
    """A masked decoder of acoustic tokens, conditioned on semantic tokens.

    What is it for: it gives the words of the semantic tokens (25 Hz) a voice, as the
    acoustic tokens of a codec (50 Hz, several levels). A bidirectional Conformer sees
    every semantic token and those acoustic tokens that are known, and predicts one
    level's hidden tokens; `generate` fills in level after level, a few passes each,
    whatever the length (Borsos et al. 2023, "SoundStorm").

    It looks ahead by design, so it works on windows of bounded length.

    Called as a model it takes a dictionary:
        semantic_tokens: int (batch, time); id `semantic_vocabulary_size` where hidden.
        acoustic_tokens: int (batch, 2 time, levels); id `codebook_size` where hidden.
        level: int (batch,), the level to predict, from 0 for the coarsest.
        padding_mask: bool (batch, 2 time), `True` at real frames. Padding may lie
            anywhere and hold any ids.
    and returns the logits of that level, float32 (batch, 2 time, codebook_size). See
    `keras_speechssm.training.soundstorm` for batches that `fit` takes.

    Args:
        semantic_vocabulary_size: int. Ids of semantic tokens.
        num_levels: int. Acoustic tokens of a frame.
        codebook_size: int. Codes of each level.
        num_layers: int. Conformer blocks.
        hidden_dim: int. Width of the model.
        num_heads: int. Attention heads; `hidden_dim` must be a multiple of
            `2 * num_heads`.
        intermediate_dim: int. Width inside the feed-forwards.
        kernel_size: int. Taps of the depthwise convolutions. Defaults to `5`.
        dropout: float. Defaults to `0.0`.
        dtype: dtype policy of the model.

    Example:

    ```python
    soundstorm = keras_speechssm.models.SoundStorm.from_preset("speech_ssm_demo_en")
    acoustic = soundstorm.generate(semantic_tokens, seed=0)  # (time,) -> (2 time, levels)
    ```
    """

    preset_part = "soundstorm"

    def __init__(
        self,
        semantic_vocabulary_size: int,
        num_levels: int,
        codebook_size: int,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        kernel_size: int = 5,
        dropout: float = 0.0,
        dtype=None,
        **kwargs,
    ):
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

        # === Layers ===
        self.frame_embedding = FrameEmbedding(
            semantic_vocabulary_size,
            num_levels,
            codebook_size,
            hidden_dim,
            dtype=dtype,
            name="frame_embedding",
        )
        self.conformer_blocks = [
            ConformerBlock(
                hidden_dim,
                num_heads,
                intermediate_dim,
                kernel_size=kernel_size,
                dropout=dropout,
                dtype=dtype,
                name=f"conformer_block_{number}",
            )
            for number in range(num_layers)
        ]
        self.level_heads = LevelHeads(num_levels, codebook_size, dtype=dtype, name="level_heads")

        # === Functional Model ===
        inputs = {
            "semantic_tokens": keras.Input((None,), dtype="int32", name="semantic_tokens"),
            "acoustic_tokens": keras.Input(
                (None, num_levels), dtype="int32", name="acoustic_tokens"
            ),
            "level": keras.Input((), dtype="int32", name="level"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
        }
        mask = inputs["padding_mask"]
        x = self.frame_embedding(inputs["semantic_tokens"], inputs["acoustic_tokens"], mask)
        for block in self.conformer_blocks:
            x = block(x, padding_mask=mask)
        logits = self.level_heads(x, inputs["level"])
        super().__init__(inputs=inputs, outputs=logits, dtype=dtype, **kwargs)

        # === Config ===
        self.semantic_vocabulary_size = semantic_vocabulary_size
        self.num_levels = num_levels
        self.codebook_size = codebook_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.kernel_size = kernel_size
        self.dropout = dropout
        self._decode_pass = make_decode_pass(self)

    def generate(
        self,
        semantic_tokens,
        prompt_semantic=None,
        prompt_acoustic=None,
        iterations: Sequence[int] | None = None,
        temperature: float = 1.0,
        seed: int | Sequence[int] | None = None,
        padding_mask=None,
        pad_to: int | None = None,
        guidance_scale: float = 1.0,
    ) -> np.ndarray:
        """Acoustic tokens for semantic tokens.

        Args:
            semantic_tokens: int (batch, time) or (time,), at 25 Hz.
            prompt_semantic: int (batch, prompt) or (prompt,), semantic tokens of a
                recording of the voice to speak in; one for all, or one an example.
            prompt_acoustic: int (batch, 2 prompt, levels) or (2 prompt, levels), the
                acoustic tokens of the same recording. They stay as they are.
            iterations: passes of each level. Defaults to 16 for the first and 1 for
                each other (section 3.3).
            temperature: float, at least 0. Of the samples in all but a level's last
                pass, which takes the likeliest tokens. Defaults to `1.0`.
            seed: int, or one for each example. With one int, every example draws the
                same numbers, so that a window's tokens are the same alone and in any
                batch. Defaults to `None`: drawn afresh for each example.
            padding_mask: bool, as `semantic_tokens`, `True` at real tokens, so that a
                batch may hold different lengths. Defaults to `None`: all real.
            pad_to: int. Tokens, prompt included, to fill the window up to: inputs of
                different lengths then share one compiled program. Defaults to `None`.
            guidance_scale: float, at least 0. How far each choice is drawn towards what the
                semantic tokens ask for: 1 is the model as it stands; more gives clearer
                words and less variety, for twice the work (classifier-free guidance, Ho
                and Salimans 2022). The model must have been trained with some of its
                semantic tokens hidden (`unconditional_share`). Defaults to `1.0`.

        Returns:
            int32 (batch, 2 time, levels), or (2 time, levels) for a single sequence:
            the content only, without the prompt; 0 at padding.

        Raises:
            ValueError: for shapes, ids or settings that do not fit.
        """
        request = read_request(
            self, semantic_tokens, prompt_semantic, prompt_acoustic, padding_mask, pad_to
        )
        iterations = _checked_iterations(iterations, self.num_levels)
        if not 0.0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a positive number, got {temperature}.")
        check_guidance_scale(guidance_scale)
        acoustic = decode_levels(
            self._decode_pass,
            request.semantic_tokens,
            request.acoustic_tokens,
            request.padding_mask,
            request.content_mask,
            iterations,
            float(temperature),
            _seeds(seed, len(request.semantic_tokens)),
            float(guidance_scale),
        )
        acoustic = np.where(request.content_mask[..., None], acoustic, 0)
        first = request.num_prompt * FRAMES_PER_TOKEN
        acoustic = acoustic[:, first : first + request.num_content * FRAMES_PER_TOKEN]
        return acoustic if request.batched else acoustic[0]

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            semantic_vocabulary_size=self.semantic_vocabulary_size,
            num_levels=self.num_levels,
            codebook_size=self.codebook_size,
            num_layers=self.num_layers,
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            intermediate_dim=self.intermediate_dim,
            kernel_size=self.kernel_size,
            dropout=self.dropout,
        )
        return config


def check_guidance_scale(guidance_scale: float) -> None:
    """Refuses what is no guidance scale."""
    if not 0.0 <= guidance_scale <= float(np.finfo("float32").max):
        raise ValueError(f"guidance_scale must be 0 or a positive number, got {guidance_scale}.")


def _checked_iterations(iterations, num_levels: int) -> tuple[int, ...]:
    if iterations is None:
        return (16,) + (1,) * (num_levels - 1)
    iterations = tuple(int(passes) for passes in np.atleast_1d(iterations))
    if len(iterations) != num_levels or min(iterations) < 1:
        raise ValueError(
            f"iterations must give one positive number for each of the {num_levels} levels, "
            f"got {iterations}."
        )
    return iterations


def _seeds(seed, batch: int) -> list[int]:
    """A seed for each example."""
    if seed is None:
        return [int(value) for value in np.random.SeedSequence().generate_state(batch)]
    seeds = [int(value) for value in np.atleast_1d(seed)]
    if len(seeds) == 1:
        seeds = seeds * batch
    if len(seeds) != batch or min(seeds) < 0:
        raise ValueError(
            f"seed must be a non-negative int or one for each of the {batch} examples, got {seed}."
        )
    return seeds
