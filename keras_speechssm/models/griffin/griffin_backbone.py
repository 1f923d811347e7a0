"""Griffin: gated linear recurrences mixed with local attention."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import keras_hub
import numpy as np
from keras import ops
from keras.dtype_policies import DTypePolicyMap

from keras_speechssm.layers.dense import Projection
from keras_speechssm.layers.griffin_block import BLOCK_TYPES, GriffinBlock
from keras_speechssm.layers.padding import mask_padding
from keras_speechssm.layers.rms_normalization import RMSNormalization
from keras_speechssm.models.checkpoint_weights import build_without_init, load_checkpoint_weights
from keras_speechssm.models.griffin.convert_recurrent_gemma import open_recurrent_gemma
from keras_speechssm.models.optional_inputs import OptionalInputs
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.presets import fetch_folder


class GriffinAdaptation:
    """Mixin before `keras_hub.models.Backbone` that knows which weights of Griffin are which."""

    def default_lora_layer_names(self) -> list[str]:
        """Queries and values, as in all of KerasHub, and the projections around the recurrences.

        Two layers of three have no attention: without `linear_*` they could not adapt. The
        recurrence's own gates are left alone: low-rank changes of a state space model's inner
        parameters do worse than those of its projections (Galim et al. 2024, arXiv 2410.09016).
        """
        return [*super().default_lora_layer_names(), "linear_x", "linear_y", "linear_out"]

    def enable_lora(self, rank: int, target_layer_names: list[str] | None = None) -> None:
        """Freezes the backbone and adds low-rank matrices that train in its place.

        The token embeddings are frozen too: where they are fresh, as after
        `SpeechSSM.from_text_preset`, train them first or set `token_embedding.trainable`
        afterwards. `save_lora_weights` keeps the low-rank matrices only; `save_to_preset`
        merges them into the weights.

        Args:
            rank: int, at least 1. Rank of the matrices.
            target_layer_names: names of the layers that get them. Defaults to
                `default_lora_layer_names()`.

        Raises:
            ValueError: a rank below 1, or LoRA has been enabled before.
        """
        if rank < 1:
            raise ValueError(f"enable_lora got rank={rank}; give an integer of at least 1.")
        super().enable_lora(rank, target_layer_names)
        # KerasHub thaws each target as a whole, but `save_lora_weights` keeps no biases.
        for variable in self.trainable_variables:
            variable.trainable = "lora" in variable.name

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """Quantizes the projections, in place: the weights that inference spends its memory on.

        The gates of the recurrences, the token embeddings, the convolutions and the norms keep
        their dtype (`projection_filter` says why).

        Args:
            mode: `"int8"`, `"int4"` or `"float8"`; see `keras.Model.quantize`.
            config: a `keras.quantizers.QuantizationConfig` in place of `mode`.
            filters: a regular expression of layer names, a list of them or a function
                `layer -> bool` that leaves out further projections. Defaults to `None`.
        """
        super().quantize(mode, config=config, filters=projection_filter(filters), **kwargs)
        self.keep_policies()

    def keep_policies(self) -> None:
        """Records each quantized layer's policy on the model, where `get_config` finds it.

        KerasHub's own record leaves the dtype of all other layers to whatever is the default
        when the preset is loaded (and takes the names off the layers' policies): a bfloat16
        model would come back as a float32 one with other outputs.
        """
        layers = self._flatten_layers(include_self=False)
        found = {x.path: x.dtype_policy for x in layers if x.quantization_mode is not None}
        if not isinstance(self.dtype_policy, DTypePolicyMap) and found:
            self.dtype_policy = DTypePolicyMap(default_policy=self.dtype_policy.name)
        for path, policy in found.items():
            if path not in self.dtype_policy:
                self.dtype_policy[path] = policy

    @classmethod
    def from_config(cls, config: dict):
        """The backbone of that config; a quantized one is built quantized."""
        backbone = super().from_config(config)
        policies = backbone.dtype_policy
        if isinstance(policies, DTypePolicyMap):
            for layer in backbone._flatten_layers(include_self=False):
                if layer.quantization_mode is not None:
                    # Keras 3.15 cannot save a quantized layer that holds the whole map (it
                    # asks the map itself for the mode), and its setter would keep the map.
                    layer._dtype_policy = policies[layer.path]
        return backbone

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        """As KerasHub's, which forgets that a backbone was quantized (keras-hub #1705)."""
        path = Path(preset) / "config.json"
        if kwargs.get("dtype") is None and path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8")).get("config", {}).get("dtype")
            if isinstance(saved, dict) and saved.get("class_name") == "DTypePolicyMap":
                kwargs["dtype"] = saved
        return super().from_preset(preset, load_weights=load_weights, **kwargs)

    @staticmethod
    def get_layout_map(
        device_mesh: keras.distribution.DeviceMesh,
        model_parallel_dim_name: str = "model",
        data_parallel_dim_name: str = "data",
    ) -> keras.distribution.LayoutMap:
        """The layout of the weights on a mesh of devices, for `keras.distribution.ModelParallel`.

        Args:
            device_mesh: a `keras.distribution.DeviceMesh` with both axes. The sizes of
                `hidden_dim`, `intermediate_dim`, `lru_width` and the vocabulary must be
                multiples of its axes.
            model_parallel_dim_name: the axis that splits each layer. Defaults to `"model"`.
            data_parallel_dim_name: the axis that splits the batch and, in the other dimension,
                the weights. Defaults to `"data"`.

        Returns:
            `keras.distribution.LayoutMap`. Weights that it does not name are on every device.

        Raises:
            ValueError: `device_mesh` is no mesh or lacks an axis.

        Example:

        ```python
        mesh = keras.distribution.DeviceMesh((1, 8), ("data", "model"))
        layout_map = GriffinBackbone.get_layout_map(mesh)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="data")
        )
        backbone = GriffinBackbone.from_preset(folder)
        ```
        """
        if not isinstance(device_mesh, keras.distribution.DeviceMesh):
            raise ValueError(
                f"device_mesh is a {type(device_mesh).__name__}; give a "
                "keras.distribution.DeviceMesh."
            )
        model, data = model_parallel_dim_name, data_parallel_dim_name
        for name in (model, data):
            if name not in device_mesh.axis_names:
                raise ValueError(
                    f"The mesh has the axes {list(device_mesh.axis_names)}, not {name!r}: name "
                    "two of them as model_parallel_dim_name and data_parallel_dim_name."
                )
        layout_map = keras.distribution.LayoutMap(device_mesh)
        layout_map[r"^token_embedding/embeddings$"] = (model, data)
        for pattern, axes in _block_layout(model, data).items():
            layout_map[rf"^griffin_block_\d+/{pattern}$"] = axes
        return layout_map


def projection_filter(filters=None) -> Callable:
    """A filter for `keras.Model.quantize` that lets plain projections through and nothing else.

    The gates set how fast a state that lives for minutes decays, an error that compounds from
    step to step, and int8 would round their inputs too. They are 1 % of the weights and float32
    always; over 500 tokens of the demo preset, quantized gates changed the logits no further,
    so this is for long speech and for the promise, not a loss that was measured.
    The embedding is read as the output projection too, whose logits Keras' quantized layer
    leaves in the compute dtype, bfloat16 perhaps, where ours are float32 always; and it made
    the logits' error a fifth larger in int8, a half in int4.

    Args:
        filters: what `keras.Model.quantize` takes, to let fewer through. Defaults to `None`.
    """

    def keep(layer):
        if not isinstance(layer, Projection):
            return False
        if filters is None or callable(filters):
            return filters is None or bool(filters(layer))
        patterns = [filters] if isinstance(filters, str) else filters
        return any(re.search(pattern, layer.name) for pattern in patterns)

    return keep


def _block_layout(model: str, data: str) -> dict[str, tuple]:
    """Patterns of the variables in a block -> the mesh axis of each of their dimensions.

    Projections into a branch are split by their outputs, those out of it by their inputs, so
    that a block needs one exchange between devices a branch. Replicated, and so not named:
    norms, biases of the outputs and the gates, small and of as many blocks as there are heads
    (10 in the 2B model, which no common mesh divides).
    """
    return {
        "temporal_block/linear_[xy]/kernel": (data, model),
        "temporal_block/linear_[xy]/bias": (model,),
        "temporal_block/conv_1d/kernel": (None, model),
        "temporal_block/conv_1d/bias": (model,),
        "temporal_block/rg_lru/a_param": (model,),
        "temporal_block/linear_out/kernel": (model, data),
        "temporal_block/query_dense/kernel": (data, model),
        # One head of keys and values serves all query heads: each device needs it whole.
        "temporal_block/(key|value)_dense/kernel": (data, None),
        "temporal_block/output_dense/kernel": (model, data),
        "mlp_block/(gate|up)_dense/kernel": (data, model),
        "mlp_block/(gate|up)_dense/bias": (model,),
        "mlp_block/down_dense/kernel": (model, data),
    }


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
    and returns hidden states (batch, time, hidden_dim), after the last normalization.

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
        self.blank_padding = MaskedIds(dtype=dtype, name="blank_padding")
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
        backbone = build_without_init(lambda: cls(**config))
        load_checkpoint_weights(backbone, checkpoint)
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
class MaskedIds(keras.layers.Layer):
    """Token ids with 0 where `padding_mask` is False: padding may hold ids out of range."""

    def call(self, token_ids, padding_mask=None):
        return mask_padding(ops.cast(token_ids, "int32"), padding_mask)

    def compute_output_spec(self, token_ids, padding_mask=None):
        return keras.KerasTensor(token_ids.shape, dtype="int32")
