"""Griffin: gated linear recurrences mixed with local attention."""

from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.converters import open_recurrent_gemma
from keras_speechssm.layers.griffin_block import BLOCK_TYPES, GriffinBlock
from keras_speechssm.layers.padding import zero_padding
from keras_speechssm.layers.rms_normalization import RMSNormalization
from keras_speechssm.preset_registry import PresetMixin, fetch_folder
from keras_speechssm.speech_lm.checkpoint_weights import fill_from_checkpoint, make_blank
from keras_speechssm.speech_lm.griffin_adaptation import GriffinAdaptation
from keras_speechssm.speech_lm.optional_inputs import OptionalInputs


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GriffinBackbone(OptionalInputs, PresetMixin, GriffinAdaptation, keras_hub.models.Backbone):
    """The Griffin decoder: token ids -> hidden states, in constant memory.

    What is it for: it is the body of `SpeechSSM`. Most layers carry a recurrent state of
    fixed size, every third attends to a bounded window, so that a stream of any length
    costs the same for each token (De et al. 2024, arXiv 2402.19427). RecurrentGemma is
    this model on text.

    Called as a model it takes a dictionary:
        token_ids: int (batch, time).
        padding_mask: bool (batch, time), `True` at real tokens, or `None` when all are.
            Padding may lie anywhere and hold any ids.
        reset_mask: bool (batch, time), `True` at the first token of each packed document,
            or `None`. Nothing is seen across documents.
    and returns hidden states (batch, time, hidden_dim), after the last normalisation.

    Args:
        vocabulary_size: int.
        num_layers: int.
        hidden_dim: int. Width of the model.
        intermediate_dim: int. Width of one branch of the gated MLPs.
        num_heads: int. Query heads of the attention, and blocks of the recurrence's gates.
        lru_width: int. Width of the recurrences. Defaults to `hidden_dim`.
        attention_window: int. Tokens before itself that a query sees. Defaults to `2048`.
        use_rotary: bool. Rotary positions in the attention. Defaults to `True`; SpeechSSM
            uses no positions.
        block_pattern: the kinds of the layers, repeated over the depth. Defaults to
            `("recurrent", "recurrent", "attention")`.
        logit_soft_cap: float or `None`. Logits become `cap * tanh(logits / cap)`.
            Defaults to `30.0`.
        dtype: dtype policy of the model; gates, recurrent state and softmax are float32
            whatever it is. Train in `"mixed_bfloat16"`: in `"bfloat16"` Adam's `beta_2` of
            0.999 rounds to 1, and its steps to 0.

    Example:

    ```python
    backbone = keras_speechssm.models.GriffinBackbone(
        vocabulary_size=512, num_layers=3, hidden_dim=64, intermediate_dim=192, num_heads=4
    )
    state = backbone.initial_state(batch_size=1)
    hidden, state = backbone.advance(np.array([[1, 2, 3]]), state)
    ```

    Training on long sequences can keep the blocks' inputs only, and compute the rest again
    (gradient checkpointing):

    ```python
    blocks = [f"griffin_block_{number}" for number in range(26)]
    with keras.RematScope("list_of_layers", layer_names=blocks):
        backbone = keras_speechssm.models.GriffinBackbone.from_preset(folder)
    ```
    """

    preset_part = "speech_lm"
    preset_task = "keras_speechssm>SpeechSSM"
    _input_names = ("token_ids", "padding_mask", "reset_mask")

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        lru_width: int | None = None,
        attention_window: int = 2048,
        use_rotary: bool = True,
        block_pattern: Sequence[str] = ("recurrent", "recurrent", "attention"),
        logit_soft_cap: float | None = 30.0,
        dtype=None,
        **kwargs,
    ):
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        if not block_pattern or set(block_pattern) - set(BLOCK_TYPES):
            raise ValueError(f"block_pattern is {block_pattern}; give names among {BLOCK_TYPES}.")

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            # Scaled by sqrt(hidden_dim) on the way in, so both directions start at unit scale.
            embeddings_initializer=keras.initializers.RandomNormal(stddev=hidden_dim**-0.5),
            reverse_dtype="float32",
            logit_soft_cap=logit_soft_cap,
            dtype=dtype,
            name="token_embedding",
        )
        self.blank_padding = BlankPadding(dtype=dtype, name="blank_padding")
        self.griffin_blocks = [
            GriffinBlock(
                block_pattern[number % len(block_pattern)],
                hidden_dim,
                intermediate_dim,
                num_heads,
                num_layers=num_layers,
                lru_width=lru_width,
                attention_window=attention_window,
                use_rotary=use_rotary,
                dtype=dtype,
                name=f"griffin_block_{number}",
            )
            for number in range(num_layers)
        ]
        self.final_norm = RMSNormalization(dtype=dtype, name="final_norm")

        # === Functional Model ===
        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask", optional=True),
            "reset_mask": keras.Input((None,), dtype="bool", name="reset_mask", optional=True),
        }
        padding_mask, reset_mask = inputs["padding_mask"], inputs["reset_mask"]
        token_ids = self.blank_padding(inputs["token_ids"], padding_mask=padding_mask)
        x = self._scale(self.token_embedding(token_ids), hidden_dim)
        for block in self.griffin_blocks:
            x = block(x, padding_mask=padding_mask, reset_mask=reset_mask)
        super().__init__(inputs=inputs, outputs=self.final_norm(x), dtype=dtype, **kwargs)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.lru_width = lru_width or hidden_dim
        self.attention_window = attention_window
        self.use_rotary = use_rotary
        self.block_pattern = tuple(block_pattern)
        self.logit_soft_cap = logit_soft_cap

    @staticmethod
    def _scale(x, hidden_dim):
        # Rounded to the compute dtype first, as the reference does (50.5 at 2B in bfloat16).
        return x * ops.cast(np.sqrt(hidden_dim), x.dtype)

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs) -> "GriffinBackbone":
        """Builds the backbone from a preset of ours or from a RecurrentGemma checkpoint.

        Args:
            preset: a preset's name, a folder, or an `hf://` or `kaggle://` handle; the
                folder or what the handle names is a preset of ours, or RecurrentGemma as
                Hugging Face (safetensors), Kaggle Flax (orbax) or Kaggle torch (`.pt`,
                read without unpickling code) have it.
            load_weights: bool. `False` gives fresh weights. Defaults to `True`.
            **kwargs: arguments that override the preset's config. A foreign checkpoint
                keeps its own dtype unless `dtype` is given. Windows follow the Flax
                reference: a query sees `attention_window` tokens before itself, one
                more than in `transformers`.

        Raises:
            ValueError: unknown preset, or a tensor that is missing or misshapen; the
                message names it.
        """
        folder = fetch_folder(preset, cls.preset_part)
        checkpoint = open_recurrent_gemma(folder)
        if checkpoint is None:
            return super().from_preset(folder, load_weights=load_weights, **kwargs)
        config = {**checkpoint.config, "dtype": checkpoint.dtype, **kwargs}
        if not load_weights:
            return cls(**config)
        backbone = make_blank(lambda: cls(**config))
        fill_from_checkpoint(backbone, checkpoint)
        return backbone

    def initial_state(self, batch_size: int) -> list:
        """The state before any token: one entry a layer, arrays of fixed sizes."""
        return [block.initial_state(batch_size) for block in self.griffin_blocks]

    def advance(self, token_ids, state, padding_mask=None, reset_mask=None):
        """Continues from `state` over a chunk of any length.

        Args:
            token_ids: int (batch, time).
            state: from `initial_state` or an earlier call; it is not changed.
            padding_mask: bool (batch, time), `True` at real tokens, or `None`.
            reset_mask: bool (batch, time), `True` where a document starts, or `None`.

        Returns:
            Hidden states (batch, time, hidden_dim) and the new state.
        """
        token_ids = self.blank_padding(token_ids, padding_mask=padding_mask)
        x = self._scale(self.token_embedding(token_ids), self.hidden_dim)
        new_state = []
        for block, block_state in zip(self.griffin_blocks, state, strict=True):
            x, block_state = block.advance(
                x, block_state, padding_mask=padding_mask, reset_mask=reset_mask
            )
            new_state.append(block_state)
        return self.final_norm(x), new_state

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            vocabulary_size=self.vocabulary_size,
            num_layers=self.num_layers,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            num_heads=self.num_heads,
            lru_width=self.lru_width,
            attention_window=self.attention_window,
            use_rotary=self.use_rotary,
            block_pattern=list(self.block_pattern),
            logit_soft_cap=self.logit_soft_cap,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class BlankPadding(keras.layers.Layer):
    """Token ids with 0 where `padding_mask` is False: padding may hold ids out of range."""

    def call(self, token_ids, padding_mask=None):
        return zero_padding(ops.cast(token_ids, "int32"), padding_mask)

    def compute_output_spec(self, token_ids, padding_mask=None):
        return keras.KerasTensor(token_ids.shape, dtype="int32")
