"""SoundStorm: acoustic tokens from semantic tokens, in the voice of a short prompt."""

from collections.abc import Sequence

import keras
import keras_hub
import numpy as np

from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.layers.conformer_block import ConformerBlock
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.soundstorm.decoding import decode_levels, make_decode_pass, read_request
from keras_speechssm.models.soundstorm.soundstorm_layers import FrameEmbedding, LevelHeads


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SoundStorm(PresetMixin, keras_hub.models.Backbone):
    """Predicts acoustic tokens from semantic tokens, in the voice of a prompt.

    A bidirectional Conformer sees all semantic tokens (25 Hz) and the known acoustic tokens (50
    Hz, several levels), and predicts the hidden tokens of one level. `generate` fills in level
    after level with a few passes each, for any length. The model looks ahead by design, so it
    works on windows of bounded length.

    It is a `keras_hub.models.Backbone` with an inference method. Called as a model it takes a
    dict:

    - `semantic_tokens`: int (batch, time); id `semantic_vocabulary_size` where hidden.
    - `acoustic_tokens`: int (batch, 2 * time, levels); id `codebook_size` where hidden.
    - `level`: int (batch,), the level to predict; 0 is the coarsest.
    - `padding_mask`: bool (batch, 2 * time), `True` at real frames. Padding can be anywhere and
      hold any ids.

    It returns the logits of that level, float32 (batch, 2 * time, codebook_size). See
    `keras_speechssm.training.soundstorm` for batches that `fit` takes.

    Args:
        semantic_vocabulary_size: int. Size of the semantic vocabulary.
        num_levels: int. Acoustic tokens per frame.
        codebook_size: int. Codes of each level.
        num_layers: int. Number of Conformer blocks.
        hidden_dim: int. Width of the model, a multiple of `2 * num_heads`.
        num_heads: int. Number of attention heads.
        intermediate_dim: int. Width of the feed-forward layers.
        kernel_size: int. Kernel size of the depthwise convolutions. Defaults to `5`.
        dropout: float. Dropout rate. Defaults to `0.0`.
        dtype: Dtype policy of the model.

    Example:

    ```python
    import keras_speechssm
    import numpy as np

    soundstorm = keras_speechssm.models.SoundStorm.from_preset("speech_ssm_demo_en")
    semantic_tokens = np.zeros(50, "int32")
    acoustic_tokens = soundstorm.generate(semantic_tokens, seed=0)  # (100, 6)
    ```

    Reference: Borsos et al. 2023, "SoundStorm: Efficient Parallel Audio Generation".
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
        self._inference = CompiledFunctions(self)

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
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> np.ndarray:
        """Generate acoustic tokens for semantic tokens.

        Args:
            semantic_tokens: int (batch, time) or (time,), at 25 Hz.
            prompt_semantic: int (batch, prompt) or (prompt,). Semantic tokens of a recording of
                the voice, one for all examples or one for each. Defaults to `None` (no prompt).
            prompt_acoustic: int (batch, 2 * prompt, levels) or (2 * prompt, levels). Acoustic
                tokens of the same recording. Required with `prompt_semantic`.
            iterations: Passes for each level. Defaults to `None`: 16 for the first level and 1
                for each other (section 3.3).
            temperature: float, at least 0. Temperature of all passes but the last of a level,
                which takes the most likely tokens. Defaults to `1.0`.
            seed: int, or one for each example. With one int, all examples draw the same numbers,
                so a window gets the same tokens alone and in any batch. Defaults to `None`:
                drawn from the generator that `keras.utils.set_random_seed` seeds.
            padding_mask: bool with the shape of `semantic_tokens`, `True` at real tokens.
                Defaults to `None` (all real).
            pad_to: int. Length in tokens, prompt included, to which windows are padded, so that
                different lengths share one compiled program. Defaults to `None`.
            guidance_scale: float, at least 0, or one for each level. Classifier-free guidance
                (Ho and Salimans 2022). Above 1, the choices follow the semantic tokens more
                closely: clearer words and less variety, at twice the work. Requires a model that
                was trained with some semantic tokens hidden. `[2.0, 2.0, 1.0, 1.0]` guides two
                of four levels. Defaults to `1.0` (off).

        Returns:
            int32 (batch, 2 * time, levels), or (2 * time, levels) for a single sequence: the
            content without the prompt; 0 at padding.

        Raises:
            ValueError: Shapes, ids, or settings are invalid.
        """
        request = read_request(
            self,
            semantic_tokens,
            prompt_semantic,
            prompt_acoustic,
            padding_mask,
            pad_to,
            seed=seed,
            iterations=iterations,
            temperature=temperature,
            guidance_scale=guidance_scale,
        )
        decode_pass = self._inference.get("decode_pass", lambda: make_decode_pass(self))
        acoustic = decode_levels(decode_pass, request)
        acoustic = np.where(request.content_mask[..., None], acoustic, 0)
        acoustic = acoustic[:, request.content_frames]
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
