"""Griffin: gated linear recurrences mixed with local attention."""

import contextlib
import re
from collections.abc import Callable, Sequence

import keras
import keras_hub
import numpy as np
from keras import ops
from keras.dtype_policies import DTypePolicyMap

from keras_speechssm.layers.dense import Projection
from keras_speechssm.layers.griffin_block import BLOCK_TYPES, GriffinBlock
from keras_speechssm.layers.padding import mask_padding
from keras_speechssm.layers.rms_normalization import RMSNormalization
from keras_speechssm.models.checkpoint_weights import (
    build_without_init,
    copy_all_but_embeddings,
    draw_embeddings,
)
from keras_speechssm.models.griffin.convert_recurrent_gemma import (
    load_checkpoint_weights,
    open_recurrent_gemma,
)
from keras_speechssm.models.optional_inputs import OptionalInputs
from keras_speechssm.models.preset_mixin import PresetMixin, check_arguments
from keras_speechssm.presets import PRESETS, fetch_folder

TEXT_VOCABULARY_SIZE = 256_000
"""Number of RecurrentGemma's text tokens."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GriffinBackbone(PresetMixin, OptionalInputs, keras_hub.models.Backbone):
    """Griffin without a language model head: the backbone of `SpeechSSM` and RecurrentGemma.

    The model embeds the tokens and scales them by the square root of `hidden_dim`, applies
    residual blocks of gated linear recurrences and local attention, and normalizes the result.

    It is called with int token ids (batch, time), or with a dictionary of `token_ids` and,
    optionally, `padding_mask` (bool, `True` at real tokens) and `reset_mask` (bool, `True` at the
    first token of each packed document). It returns hidden states (batch, time, hidden_dim) in the
    compute dtype. Padding may be anywhere and may contain any ids: it changes no real output.
    `initial_state` and `advance` run it chunk by chunk with the same result, see
    `keras_speechssm.layers.StreamingLayer`.

    `from_preset` also loads the text model RecurrentGemma from a Hugging Face folder (safetensors),
    a Kaggle Flax folder (orbax) or a Kaggle torch folder (`.pt`, read without unpickling code).
    Such a checkpoint keeps its own dtype unless `dtype` is given. As in the Flax reference, a
    query attends to `attention_window` tokens before itself, one more than in `transformers`.

    Args:
        vocabulary_size: Number of token ids.
        num_layers: Number of blocks.
        hidden_dim: Width of the model.
        intermediate_dim: Width of one branch of the gated MLPs.
        num_heads: Query heads of the attention, and blocks of the gates of the recurrence.
        lru_width: Width of the recurrence. Defaults to `hidden_dim`.
        attention_window: Tokens before itself that a query attends to. Defaults to `2048`.
        use_rotary: Whether the attention has rotary positions. Defaults to `True`; SpeechSSM uses
            no positions.
        block_pattern: Kinds of the blocks, repeated over the depth. Defaults to
            `("recurrent", "recurrent", "attention")`.
        logit_soft_cap: float or `None`. The logits of `token_embedding(x, reverse=True)` become
            `cap * tanh(logits / cap)`. Defaults to `30.0`.
        rematerialize: Whether training stores only the input of each block and recomputes the
            rest for the gradient (gradient checkpointing), which needs less memory and more
            time. Outputs and gradients are the same. Defaults to `False`.
        dtype: Dtype policy of the model. Gates, recurrent state and softmax are float32 in any
            policy. Train in `"mixed_bfloat16"`: in `"bfloat16"` a `beta_2` of 0.999 rounds to 1,
            and Adam stops.

    Raises:
        ValueError: If `block_pattern` is empty or contains another kind.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.models import GriffinBackbone

    backbone = GriffinBackbone(
        vocabulary_size=512, num_layers=3, hidden_dim=64, intermediate_dim=192, num_heads=4
    )
    state = backbone.initial_state(batch_size=1)
    hidden, state = backbone.advance(np.array([[1, 2, 3]]), state)  # (1, 3, 64)
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2; Botev et al. 2024,
        "RecurrentGemma" (arXiv 2404.07839).
    """

    preset_part = "speech_lm"
    preset_task = "keras_speechssm>SpeechSSM"
    supports_quantization = True
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
        rematerialize: bool = False,
        dtype=None,
        **kwargs,
    ):
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        if not block_pattern or set(block_pattern) - set(BLOCK_TYPES):
            raise ValueError(
                f"block_pattern is {block_pattern}; expected names from {BLOCK_TYPES}."
            )

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
        names = [f"griffin_block_{number}" for number in range(num_layers)]
        # A scope of `None` would turn off one that the caller has opened.
        scope = keras.RematScope("list_of_layers", layer_names=names)
        with scope if rematerialize else contextlib.nullcontext():
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
                    name=name,
                )
                for number, name in enumerate(names)
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
        self.rematerialize = rematerialize

    @staticmethod
    def _scale(x, hidden_dim):
        # Rounded to the compute dtype first, as the reference does (50.5 at 2B in bfloat16).
        return x * ops.cast(np.sqrt(hidden_dim), x.dtype)

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        if not load_weights and (sizes := PRESETS.get(preset, {}).get("sizes")):
            text = {"vocabulary_size": TEXT_VOCABULARY_SIZE, "use_rotary": True}
            return super().from_preset(sizes, load_weights=False, **{**text, **kwargs})
        return super().from_preset(preset, load_weights, **kwargs)

    @classmethod
    def _from_foreign_checkpoint(cls, folder: str, load_weights: bool, kwargs: dict):
        checkpoint = open_recurrent_gemma(folder)
        return (
            None if checkpoint is None else cls._from_checkpoint(checkpoint, load_weights, kwargs)
        )

    @classmethod
    def from_text_preset(
        cls,
        preset: str,
        vocabulary_size: int,
        load_weights: bool = True,
        seed: int | None = None,
        **kwargs,
    ) -> "GriffinBackbone":
        """Builds a backbone that starts from a text model and has another vocabulary.

        All weights are those of the text model, except for the token embeddings, which are
        random.

        Args:
            preset: Anything that `from_preset` takes: RecurrentGemma or a preset of this package.
            vocabulary_size: Number of token ids.
            load_weights: If `False`, only the sizes are taken. Defaults to `True`.
            seed: Seed of the new embeddings. Defaults to `None`: drawn from the generator that
                `keras.utils.set_random_seed` seeds.
            **kwargs: Further arguments that override the text model's, such as `use_rotary`.

        Raises:
            ValueError: If the preset cannot be loaded, or an argument changes the shape of a
                weight.
        """
        check_arguments(cls, kwargs)
        changes = {"vocabulary_size": vocabulary_size, **kwargs}
        if not load_weights:
            backbone = cls.from_preset(preset, load_weights=False, **changes)
        elif (checkpoint := open_recurrent_gemma(fetch_folder(preset, cls.preset_part))) is None:
            text = cls.from_preset(preset)
            backbone = cls.from_config({**text.get_config(), **changes})
            copy_all_but_embeddings(text, backbone)
        else:
            backbone = cls._from_checkpoint(checkpoint, True, changes, new_embeddings=True)
        if seed is not None:
            draw_embeddings(backbone, seed)
        return backbone

    @classmethod
    def _from_checkpoint(cls, checkpoint, load_weights, kwargs, new_embeddings=False):
        check_arguments(cls, kwargs)
        config = {**checkpoint.config, "dtype": checkpoint.dtype, **kwargs}
        if not load_weights:
            return cls(**config)
        backbone = build_without_init(lambda: cls(**config), draw_embeddings=new_embeddings)
        load_checkpoint_weights(backbone, checkpoint, skip_embeddings=new_embeddings)
        return backbone

    @classmethod
    def from_config(cls, config: dict) -> "GriffinBackbone":
        """Builds the backbone of a config; a quantized one is built quantized."""
        backbone = super().from_config(config)
        policies = backbone.dtype_policy
        if isinstance(policies, DTypePolicyMap):
            for layer in backbone._flatten_layers(include_self=False):
                if layer.quantization_mode is not None:
                    # Keras 3.15 cannot save a quantized layer that holds the whole map (it
                    # asks the map itself for the mode), and its setter would keep the map.
                    layer._dtype_policy = policies[layer.path]
        return backbone

    def initial_state(self, batch_size: int) -> list:
        """Returns the state before any token: one entry per block, arrays of fixed sizes."""
        return [block.initial_state(batch_size) for block in self.griffin_blocks]

    def advance(self, token_ids, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk of a sequence, of any length.

        Args:
            token_ids: int (batch, time).
            state: From `initial_state` or an earlier call. It is not changed.
            padding_mask: bool (batch, time), `True` at real tokens. Defaults to `None`: all are.
            reset_mask: bool (batch, time), `True` at the first token of each packed document.
                Defaults to `None`.

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
            rematerialize=self.rematerialize,
        )
        return config

    def default_lora_layer_names(self) -> list[str]:
        """Returns the names of the layers that `enable_lora` adapts by default.

        They are the queries and values, as in all of KerasHub, and the projections around the
        recurrences. Two blocks of three have no attention and could not adapt without `linear_*`.
        The gates of the recurrence are left out: low-rank changes of the inner parameters of a
        state space model work less well than those of its projections (Galim et al. 2024, arXiv
        2410.09016).
        """
        return [*super().default_lora_layer_names(), "linear_x", "linear_y", "linear_out"]

    def enable_lora(self, rank: int, target_layer_names: list[str] | None = None) -> None:
        """Freezes the backbone and adds low-rank matrices, which are trained instead.

        The token embeddings are frozen too. If they are random, as after `from_text_preset`, train
        them first, or set `token_embedding.trainable` after this call. `save_lora_weights` saves
        the low-rank matrices only; `save_to_preset` merges them into the weights.

        Args:
            rank: Rank of the matrices, at least 1.
            target_layer_names: Names of the layers to adapt. Defaults to
                `default_lora_layer_names()`.

        Raises:
            ValueError: If the rank is below 1, or LoRA is already enabled.
        """
        if rank < 1:
            raise ValueError(f"enable_lora got rank={rank}; expected an integer of at least 1.")
        super().enable_lora(rank, target_layer_names)
        # KerasHub unfreezes the target layers as a whole, but `save_lora_weights` has no biases.
        for variable in self.trainable_variables:
            variable.trainable = "lora" in variable.name

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """Quantizes the projections in place: most of the memory that inference reads.

        The gates of the recurrences, token embeddings, convolutions and norms keep their dtype;
        `projection_filter` explains why.

        Args:
            mode: `"int8"`, `"int4"` or `"float8"`; see `keras.Model.quantize`.
            config: A `keras.quantizers.QuantizationConfig` instead of `mode`.
            filters: A regular expression of layer names, a list of them, or a function
                `layer -> bool`, to quantize fewer projections. Defaults to `None`: all of them.
            **kwargs: Further arguments of `keras.Model.quantize`.
        """
        super().quantize(mode, config=config, filters=projection_filter(filters), **kwargs)
        self.restore_dtype_policies()

    def restore_dtype_policies(self) -> None:
        """Records the policy of each quantized layer on the model, for `get_config`.

        KerasHub's own record loads all other layers in the default dtype of the moment, and
        removes the names from the policies of the quantized ones: a bfloat16 model would come
        back as a float32 model with different outputs.
        """
        layers = self._flatten_layers(include_self=False)
        found = {x.path: x.dtype_policy for x in layers if x.quantization_mode is not None}
        if not isinstance(self.dtype_policy, DTypePolicyMap) and found:
            self.dtype_policy = DTypePolicyMap(default_policy=self.dtype_policy.name)
        for path, policy in found.items():
            if path not in self.dtype_policy:
                self.dtype_policy[path] = policy

    @staticmethod
    def get_layout_map(
        device_mesh: keras.distribution.DeviceMesh,
        model_parallel_dim_name: str = "model",
        data_parallel_dim_name: str = "data",
    ) -> keras.distribution.LayoutMap:
        """Returns the layout of the weights on a mesh, for `keras.distribution.ModelParallel`.

        Args:
            device_mesh: A `keras.distribution.DeviceMesh` with both axes. `hidden_dim`,
                `intermediate_dim`, `lru_width` and the vocabulary size must be multiples of the
                sizes of its axes.
            model_parallel_dim_name: Name of the axis that splits each layer. Defaults to
                `"model"`.
            data_parallel_dim_name: Name of the axis that splits the batch and, in the other
                dimension, the weights. Defaults to `"data"`.

        Returns:
            A `keras.distribution.LayoutMap`. Weights that it does not name are replicated.

        Raises:
            ValueError: If `device_mesh` is not a mesh or lacks an axis.

        Example:

        ```python
        import keras
        from keras_speechssm.models import GriffinBackbone

        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh((1, len(devices)), ("data", "model"), devices)
        layout_map = GriffinBackbone.get_layout_map(mesh)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="data")
        )
        backbone = GriffinBackbone(512, 3, 64, 192, 4)
        keras.distribution.set_distribution(None)
        ```
        """
        if not isinstance(device_mesh, keras.distribution.DeviceMesh):
            raise ValueError(
                f"device_mesh is a {type(device_mesh).__name__}; expected a "
                "keras.distribution.DeviceMesh."
            )
        model, data = model_parallel_dim_name, data_parallel_dim_name
        for name in (model, data):
            if name not in device_mesh.axis_names:
                raise ValueError(
                    f"The mesh has the axes {list(device_mesh.axis_names)}, but not {name!r}; pass "
                    "two of them as model_parallel_dim_name and data_parallel_dim_name."
                )
        layout_map = keras.distribution.LayoutMap(device_mesh)
        layout_map[r"^token_embedding/embeddings$"] = (model, data)
        for pattern, axes in _block_layout(model, data).items():
            layout_map[rf"^griffin_block_\d+/{pattern}$"] = axes
        return layout_map


@keras.saving.register_keras_serializable(package="keras_speechssm")
class MaskedIds(keras.layers.Layer):
    """Replaces token ids by 0 where `padding_mask` is `False`: padding may be out of range."""

    def call(self, token_ids, padding_mask=None):
        return mask_padding(ops.cast(token_ids, "int32"), padding_mask)

    def compute_output_spec(self, token_ids, padding_mask=None):
        return keras.KerasTensor(token_ids.shape, dtype="int32")


def projection_filter(filters=None) -> Callable[[keras.layers.Layer], bool]:
    """Returns a filter for `keras.Model.quantize` that accepts plain projections only.

    The gates set how fast a state that lives for minutes decays. An error there compounds from
    step to step, and int8 would round their inputs too. They are 1 % of the weights and always
    float32. (Over 500 tokens of the demo preset quantized gates did not change the logits more,
    so this protects long speech rather than against a measured loss.)

    The token embedding is also the output projection. Keras' quantized layer computes its logits
    in the compute dtype, possibly bfloat16, instead of float32, and it increased the error of
    the logits by a fifth in int8 and by half in int4.

    Args:
        filters: What `keras.Model.quantize` takes, to accept fewer. Defaults to `None`.
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

    Projections into a branch are split by their outputs and those out of it by their inputs, so
    that a block needs one exchange between devices per branch. Norms, output biases and gates
    are replicated, and not listed: they are small, and gates have one block per head (10 in
    the 2B model, which common meshes do not divide).
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
