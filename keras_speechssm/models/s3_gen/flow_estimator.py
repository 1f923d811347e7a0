"""The estimator of S3Gen's flow matching: where a noisy mel spectrum has to go."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.layers.padding import mask_padding
from keras_speechssm.layers.softmax import attend


@keras.saving.register_keras_serializable(package="keras_speechssm")
class FlowEstimator(keras.layers.Layer):
    """The velocity with which noise flows to the mel spectrum, at a time from 0 to 1.

    Stages of a causal convolutional unit and a few Transformer layers: one, then
    `num_middle_stages`, and one that gets the result of the first as well. The defaults are the
    published sizes.

    Args:
        num_mels: int. Mel bands. Defaults to `80`.
        channels: int. Width. Defaults to `256`.
        num_heads: int. Attention heads. Defaults to `8`.
        head_dim: int. Width of one head. Defaults to `64`.
        layers_per_stage: int. Transformer layers of each stage. Defaults to `4`.
        num_middle_stages: int. Stages between the first and the last one. Defaults to `12`.
        mean_flow: bool. Whether it estimates the mean velocity until `next_time` (MeanFlow),
            which needs fewer steps. Defaults to `False`.

    Call arguments:
        mel: float (batch, frames, num_mels), the noisy mel spectrum.
        mean: float (batch, frames, num_mels), result of `S3GenEncoder`.
        speaker: float (batch, num_mels), the voice.
        condition: float (batch, frames, num_mels), the mel spectrum where it is known, else 0.
        time: float (batch,), from 0 (noise) to 1.
        next_time: float (batch,), the end of the step, only with `mean_flow`.
        padding_mask: bool (batch, frames), `True` at real frames; padding comes last in each row.
            Defaults to `None`: every frame is real.

    Returns:
        float32 (batch, frames, num_mels), zeros at padding.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_speechssm.models.s3_gen.flow_estimator import FlowEstimator

    estimator = FlowEstimator(80, 8, num_heads=1, layers_per_stage=1, num_middle_stages=1)
    mel, speaker = keras.random.normal((3, 1, 20, 80)), keras.random.normal((1, 80))
    velocity = estimator(mel[0], mel[1], speaker, mel[2], np.array([0.5]))  # (1, 20, 80)
    ```

    Reference:
        - [Du et al., 2024](https://arxiv.org/abs/2412.10117)
        - [Geng et al., 2025](https://arxiv.org/abs/2505.13447) (MeanFlow)
    """

    def __init__(
        self,
        num_mels: int = 80,
        channels: int = 256,
        num_heads: int = 8,
        head_dim: int = 64,
        layers_per_stage: int = 4,
        num_middle_stages: int = 12,
        mean_flow: bool = False,
        **kwargs,
    ):
        # Inputs keep their precision: times and phases need more than that of bfloat16.
        super().__init__(autocast=False, **kwargs)
        # === Config ===
        self.num_mels = num_mels
        self.channels = channels
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.layers_per_stage = layers_per_stage
        self.num_middle_stages = num_middle_stages
        self.mean_flow = mean_flow

        # === Layers ===
        policy = self.dtype_policy

        def dense(width, name, **options):
            return keras.layers.Dense(width, dtype=policy, name=name, **options)

        def stage(prefix):
            unit = _ConvolutionalUnit(channels, dtype=policy, name=f"{prefix}_unit")
            blocks = [
                _AttentionBlock(
                    num_heads, head_dim, channels, dtype=policy, name=f"{prefix}_block_{i}"
                )
                for i in range(layers_per_stage)
            ]
            return [unit, *blocks]

        self.time_intermediate = dense(4 * channels, "time_intermediate")
        self.time_output = dense(4 * channels, "time_output")
        self.time_mixer = None
        if mean_flow:
            self.time_mixer = dense(4 * channels, "time_mixer", use_bias=False)
        self.stages = [stage("first")]
        self.stages += [stage(f"middle_{i}") for i in range(num_middle_stages)]
        self.stages += [stage("last")]
        self.first_convolution = _CausalConv(channels, dtype=policy, name="first_convolution")
        self.last_convolution = _CausalConv(channels, dtype=policy, name="last_convolution")
        self.output_block = _ConvolutionalBlock(channels, dtype=policy, name="output_block")
        self.output_dense = dense(num_mels, "output_dense")

    def build(
        self,
        mel_shape,
        mean_shape=None,
        speaker_shape=None,
        condition_shape=None,
        time_shape=None,
        next_time_shape=None,
        padding_mask_shape=None,
    ):
        width = (None, None, self.channels)
        self.time_intermediate.build((None, 4 * self.num_mels))
        self.time_output.build((None, 4 * self.channels))
        if self.mean_flow:
            self.time_mixer.build((None, 8 * self.channels))
        for i, (unit, *blocks) in enumerate(self.stages):
            inputs = 4 * self.num_mels if i == 0 else self.channels
            if i == len(self.stages) - 1:
                inputs = 2 * self.channels
            unit.build((None, None, inputs))
            for block in blocks:
                block.build(width)
        for layer in (
            self.first_convolution,
            self.last_convolution,
            self.output_block,
            self.output_dense,
        ):
            layer.build(width)
        self.built = True

    def call(self, mel, mean, speaker, condition, time, next_time=None, padding_mask=None):
        times = self._embed_time(time)
        if self.mean_flow:
            times = self.time_mixer(ops.concatenate([times, self._embed_time(next_time)], axis=-1))
        times = _mish(times)
        speaker = ops.broadcast_to(ops.expand_dims(speaker, axis=1), ops.shape(mel))
        x = ops.concatenate([mel, mean, speaker, condition], axis=-1)
        x = mask_padding(ops.cast(x, self.compute_dtype), padding_mask)
        x = skipped = self._run_stage(self.stages[0], x, times, padding_mask)
        x = self.first_convolution(mask_padding(x, padding_mask))
        for stage in self.stages[1:-1]:
            x = self._run_stage(stage, x, times, padding_mask)
        x = ops.concatenate([x, skipped], axis=-1)
        x = self._run_stage(self.stages[-1], x, times, padding_mask)
        x = self.last_convolution(mask_padding(x, padding_mask))
        x = self.output_dense(self.output_block(x, padding_mask))
        return ops.cast(mask_padding(x, padding_mask), "float32")

    def _run_stage(self, stage, x, times, padding_mask):
        unit, *blocks = stage
        x = unit(x, times, padding_mask)
        for block in blocks:
            x = block(x, padding_mask)
        return x

    def _embed_time(self, time):
        half = 2 * self.num_mels
        rates = 1000.0 * np.exp(np.arange(half) * (-np.log(10000.0) / (half - 1)))
        angles = ops.cast(time, "float32")[:, None] * ops.convert_to_tensor(rates.astype("float32"))
        embedding = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        embedding = ops.cast(embedding, self.compute_dtype)
        return self.time_output(ops.silu(self.time_intermediate(embedding)))

    def compute_output_spec(self, mel, *others, **more):
        return keras.KerasTensor(mel.shape, dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_mels=self.num_mels,
            channels=self.channels,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            layers_per_stage=self.layers_per_stage,
            num_middle_stages=self.num_middle_stages,
            mean_flow=self.mean_flow,
        )
        return config


class _CausalConv(keras.layers.Conv1D):
    """A convolution of three taps, the last of which meets the current frame."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(filters, 3, padding="causal", **kwargs)


class _ConvolutionalBlock(keras.layers.Layer):
    """Causal convolution, normalization, and Mish."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.channels = channels
        self.convolution = _CausalConv(channels, dtype=policy, name="convolution")
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="norm")

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.norm.build((*input_shape[:-1], self.channels))
        self.built = True

    def call(self, x, padding_mask=None):
        return _mish(self.norm(self.convolution(mask_padding(x, padding_mask))))


class _ConvolutionalUnit(keras.layers.Layer):
    """Two convolutional blocks, with the time between them, and a shortcut."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.channels = channels
        self.first = _ConvolutionalBlock(channels, dtype=policy, name="first")
        self.time_dense = keras.layers.Dense(channels, dtype=policy, name="time_dense")
        self.second = _ConvolutionalBlock(channels, dtype=policy, name="second")
        self.shortcut = keras.layers.Dense(channels, dtype=policy, name="shortcut")

    def build(self, input_shape):
        self.first.build(input_shape)
        self.time_dense.build((None, 4 * self.channels))
        self.second.build((*input_shape[:-1], self.channels))
        self.shortcut.build(input_shape)
        self.built = True

    def call(self, x, times, padding_mask=None):
        y = self.first(x, padding_mask) + ops.expand_dims(self.time_dense(times), axis=1)
        return self.second(y, padding_mask) + self.shortcut(x)


class _AttentionBlock(keras.layers.Layer):
    """A Transformer layer without positions."""

    def __init__(self, num_heads: int, head_dim: int, channels: int, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.channels = channels

        def dense(width, name, use_bias=True):
            return keras.layers.Dense(width, use_bias=use_bias, dtype=policy, name=name)

        def norm(name):
            return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)

        self.attention_norm = norm("attention_norm")
        self.query_dense = dense(num_heads * head_dim, "query_dense", use_bias=False)
        self.key_dense = dense(num_heads * head_dim, "key_dense", use_bias=False)
        self.value_dense = dense(num_heads * head_dim, "value_dense", use_bias=False)
        self.output_dense = dense(channels, "output_dense")
        self.feedforward_norm = norm("feedforward_norm")
        self.feedforward_intermediate = dense(4 * channels, "feedforward_intermediate")
        self.feedforward_output = dense(channels, "feedforward_output")

    def build(self, input_shape):
        for layer in (
            self.attention_norm,
            self.query_dense,
            self.key_dense,
            self.value_dense,
            self.feedforward_norm,
            self.feedforward_intermediate,
        ):
            layer.build(input_shape)
        self.output_dense.build((*input_shape[:-1], self.num_heads * self.head_dim))
        self.feedforward_output.build((*input_shape[:-1], 4 * self.channels))
        self.built = True

    def call(self, x, padding_mask=None):
        x = x + self._attend(self.attention_norm(x), padding_mask)
        y = self.feedforward_intermediate(self.feedforward_norm(x))
        return x + self.feedforward_output(keras.activations.gelu(y, approximate=False))

    def _attend(self, x, padding_mask):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        split = (batch, time, self.num_heads, self.head_dim)
        queries = ops.reshape(self.query_dense(x), split)
        keys = ops.reshape(self.key_dense(x), split)
        values = ops.reshape(self.value_dense(x), split)
        return self.output_dense(attend(queries, keys, values, padding_mask))


def _mish(x):
    return x * ops.tanh(ops.softplus(x))
