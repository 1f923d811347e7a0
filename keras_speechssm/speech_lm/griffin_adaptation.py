"""What KerasHub users do to a backbone, for Griffin: LoRA, quantisation, model parallelism."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import keras
from keras.dtype_policies import DTypePolicyMap

from keras_speechssm.layers.projection import Projection


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
        """Quantises the projections, in place: the weights that inference spends its memory on.

        The gates of the recurrences, the token embeddings, the convolutions and the norms keep
        their dtype (`projections_only` says why).

        Args:
            mode: `"int8"`, `"int4"` or `"float8"`; see `keras.Model.quantize`.
            config: a `keras.quantizers.QuantizationConfig` in place of `mode`.
            filters: a regular expression of layer names, a list of them or a function
                `layer -> bool` that leaves out further projections. Defaults to `None`.
        """
        super().quantize(mode, config=config, filters=projections_only(filters), **kwargs)
        self.keep_policies()

    def keep_policies(self) -> None:
        """Records each quantised layer's policy on the model, where `get_config` finds it.

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
        """The backbone of that config; a quantised one is built quantised."""
        backbone = super().from_config(config)
        policies = backbone.dtype_policy
        if isinstance(policies, DTypePolicyMap):
            for layer in backbone._flatten_layers(include_self=False):
                if layer.quantization_mode is not None:
                    # Keras 3.15 cannot save a quantised layer that holds the whole map (it
                    # asks the map itself for the mode), and its setter would keep the map.
                    layer._dtype_policy = policies[layer.path]
        return backbone

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        """As KerasHub's, which forgets that a backbone was quantised (keras-hub #1705)."""
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


def projections_only(filters=None) -> Callable:
    """A filter for `keras.Model.quantize` that lets plain projections through and nothing else.

    The gates set how fast a state that lives for minutes decays, an error that compounds from
    step to step, and int8 would round their inputs too. They are 1 % of the weights and float32
    always; over 500 tokens of the demo preset, quantised gates changed the logits no further,
    so this is for long speech and for the promise, not a loss that was measured.
    The embedding is read as the output projection too, whose logits Keras' quantised layer
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
