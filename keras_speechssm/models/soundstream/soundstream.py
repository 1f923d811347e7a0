"""SoundStream: the causal convolutional codec with a residual vector quantizer."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import validate_waveform
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.layers.causal_conv import CausalConv1D, CausalConv1DTranspose
from keras_speechssm.layers.residual_vector_quantizer import ResidualVectorQuantizer
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.soundstream.soundstream_layers import (
    ResidualUnit,
    read_activation,
    serialize_activation,
)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SoundStream(PresetMixin, keras_hub.models.Backbone):
    """A neural audio codec: 16 kHz waveform to 50 frames of codes per second, and back.

    Causal strided convolutions with residual units, a residual vector quantizer, and the mirrored
    decoder. The defaults are the paper's 16 kHz layout with SoundStorm's twelve levels of 1024
    codes. `stem_stride=16` and `separable=True` give a cheaper layout similar to Lyra V2.

    It is a `keras_hub.models.Backbone` with inference methods. Called as a model it maps a
    waveform (batch, samples) to the decoded waveform of the same shape, through the quantizer,
    for training; see `keras_speechssm.training.codec` for the losses.

    Args:
        strides: tuple of int. Rate reduction of each encoder block. The product of all strides
            and `stem_stride` is the hop; 320 samples give 50 frames per second.
        channels: tuple of int. Channels after the stem and after each block.
        stem_stride: int. Stride of the first convolution. Defaults to `1`.
        stem_kernel_size: int. Kernel size of the first convolution, a multiple of `stem_stride`.
            Defaults to `7`.
        dilations: tuple of int. Dilations of the residual units before each stride.
        frame_dilations: tuple of int. Dilations of further residual units at the frame rate,
            where they are cheap. Defaults to `()`, as in the paper.
        residual_kernel_size: int. Kernel size of the residual units. Defaults to `7`.
        separable: bool. Whether residual units are depthwise-separable. Defaults to `False`.
        activation: Keras activation: a name, function, layer such as
            `keras.layers.LeakyReLU(0.3)`, or config. Defaults to `"elu"`.
        latent_dim: int. Width of the vectors that are quantized. Defaults to `128`.
        num_quantizers: int. Levels of the quantizer. Defaults to `12`.
        codebook_size: int. Codes of each level. Defaults to `1024`.
        quantizer_dropout: float. See `ResidualVectorQuantizer`. Defaults to `0.5`.
        dtype: Dtype policy of the model.

    Example:

    ```python
    import keras_speechssm
    import numpy as np

    codec = keras_speechssm.models.SoundStream.from_preset("speech_ssm_demo_en")
    tokens = codec.encode(np.random.uniform(-0.1, 0.1, 16000))  # int32 (50, 6)
    decoded = codec.decode(tokens)  # float32 (16000,)
    ```

    Reference: Zeghidour et al. 2021, "SoundStream: An End-to-End Neural Audio Codec", section III.
    """

    preset_part = "soundstream"

    def __init__(
        self,
        strides=(2, 4, 5, 8),
        channels=(32, 64, 128, 256, 512),
        stem_stride: int = 1,
        stem_kernel_size: int = 7,
        dilations=(1, 3, 9),
        frame_dilations=(),
        residual_kernel_size: int = 7,
        separable: bool = False,
        activation="elu",
        latent_dim: int = 128,
        num_quantizers: int = 12,
        codebook_size: int = 1024,
        quantizer_dropout: float = 0.5,
        dtype=None,
        **kwargs,
    ):
        if len(channels) != len(strides) + 1:
            raise ValueError(
                f"channels needs one entry for the stem and one for each stride, "
                f"{len(strides) + 1}; got {len(channels)}."
            )
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        activation = serialize_activation(activation)
        unit = dict(
            kernel_size=residual_kernel_size,
            separable=separable,
            activation=activation,
            dtype=dtype,
        )

        # === Layers ===
        layout = (strides, channels, dilations, frame_dilations, unit)
        encoder_stem, decoder_stem = self._make_stems(
            channels[0], stem_stride, stem_kernel_size, dtype
        )
        self.encoder_layers = [encoder_stem, *_encoder_layers(*layout, latent_dim)]
        self.quantizer = ResidualVectorQuantizer(
            num_quantizers,
            codebook_size,
            quantizer_dropout=quantizer_dropout,
            dtype=dtype,
            name="quantizer",
        )
        self.decoder_layers = [*_decoder_layers(*layout), decoder_stem]

        # === Functional Model ===
        waveform = keras.Input(shape=(None,), dtype="float32", name="waveform")
        x = ops.expand_dims(waveform, axis=-1)
        for layer in self.encoder_layers:
            x = layer(x)
        x, _ = self.quantizer(x)
        for layer in self.decoder_layers:
            x = layer(x)
        outputs = self._make_outputs(x)
        super().__init__(inputs=waveform, outputs=outputs, dtype=dtype, **kwargs)

        # === Config ===
        self.strides = tuple(strides)
        self.channels = tuple(channels)
        self.stem_stride = stem_stride
        self.stem_kernel_size = stem_kernel_size
        self.dilations = tuple(dilations)
        self.frame_dilations = tuple(frame_dilations)
        self.residual_kernel_size = residual_kernel_size
        self.separable = separable
        self.activation = activation
        self.latent_dim = latent_dim
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.quantizer_dropout = quantizer_dropout
        self.samples_per_frame = stem_stride * int(np.prod(strides))
        self._inference = CompiledFunctions(self)

    @property
    def codebooks(self) -> np.ndarray:
        """The codes of all levels, float32 (levels, codebook_size, latent_dim)."""
        return np.stack([ops.convert_to_numpy(q.codebook) for q in self.quantizer.levels])

    def encode(self, waveform) -> np.ndarray:
        """Encode a waveform to acoustic tokens.

        Args:
            waveform: float (batch, samples) or (samples,), in [-1, 1]. An incomplete last frame is
                padded with zeros.

        Returns:
            int32 (batch, frames, levels) or (frames, levels), frames = ceil(samples / 320).
        """
        waveform = validate_waveform(waveform)
        batched = np.atleast_2d(waveform)
        fill = -batched.shape[1] % self.samples_per_frame
        encode = self._inference.get("encode", lambda: self._encode)
        tokens = ops.convert_to_numpy(encode(np.pad(batched, ((0, 0), (0, fill)))))
        return tokens if waveform.ndim == 2 else tokens[0]

    def decode(self, tokens) -> np.ndarray:
        """Decode acoustic tokens to a waveform.

        Args:
            tokens: int (batch, frames, n) or (frames, n), the first n levels, with n from 1 to
                `num_quantizers`.

        Returns:
            float32 (batch, frames * 320) or (frames * 320,), in [-1, 1].
        """
        tokens = np.asarray(tokens)
        if (
            tokens.ndim not in (2, 3)
            or not tokens.size
            or not np.issubdtype(tokens.dtype, np.integer)
        ):
            raise ValueError(
                "SoundStream.decode takes integer tokens (frames, levels) or (batch, frames, "
                f"levels), at least one frame; got shape {tokens.shape}, dtype {tokens.dtype}."
            )
        if not 1 <= tokens.shape[-1] <= self.num_quantizers:
            raise ValueError(
                f"SoundStream.decode takes 1 to {self.num_quantizers} levels; "
                f"got {tokens.shape[-1]}."
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.codebook_size:
            raise ValueError(
                f"Acoustic tokens must be in 0 .. {self.codebook_size - 1}; got "
                f"{tokens.min()} .. {tokens.max()}."
            )
        batched = tokens if tokens.ndim == 3 else tokens[None]
        decode = self._inference.get("decode", lambda: self._decode)
        waveform = ops.convert_to_numpy(decode(batched.astype("int32")))
        waveform = np.clip(waveform, -1.0, 1.0)
        return waveform if tokens.ndim == 3 else waveform[0]

    def _encode(self, waveform):
        x = ops.expand_dims(ops.convert_to_tensor(waveform), axis=-1)
        for layer in self.encoder_layers:
            x = layer(x)
        return self.quantizer.encode(x)

    def _decode(self, tokens):
        x = self.quantizer.decode(ops.convert_to_tensor(tokens))
        for layer in self.decoder_layers:
            x = layer(x)
        return self._make_outputs(x)

    def _make_stems(self, channels, stride, kernel_size, dtype):
        """Make the outermost layers: waveform to channels at the rate of the stem, and back."""
        encoder = CausalConv1D(channels, kernel_size, stride, dtype=dtype, name="encoder_stem")
        if stride == 1:
            decoder = CausalConv1D(1, kernel_size, dtype=dtype, name="decoder_stem")
        else:
            decoder = CausalConv1DTranspose(
                1, kernel_size, stride, dtype=dtype, name="decoder_stem"
            )
        return encoder, decoder

    def _make_outputs(self, x):
        """Return the model's output from that of the last decoder layer."""
        return ops.cast(ops.squeeze(x, axis=-1), "float32")

    @classmethod
    def from_config(cls, config: dict) -> "SoundStream":
        own = {name: value for name, value in config.items() if name != "stem"}
        kind = cls._saved_class({"config": config})
        return super().from_config(own) if kind is cls else kind.from_config(own)

    @classmethod
    def _saved_class(cls, config: dict) -> type:
        # Older presets name the kind of the outermost layers.
        if config.get("config", {}).get("stem") == "source_filter" and cls is SoundStream:
            from keras_speechssm.models.soundstream import source_filter_soundstream

            return source_filter_soundstream.SourceFilterSoundStream
        return super()._saved_class(config)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            strides=self.strides,
            channels=self.channels,
            stem_stride=self.stem_stride,
            stem_kernel_size=self.stem_kernel_size,
            dilations=self.dilations,
            frame_dilations=self.frame_dilations,
            residual_kernel_size=self.residual_kernel_size,
            separable=self.separable,
            activation=self.activation,
            latent_dim=self.latent_dim,
            num_quantizers=self.num_quantizers,
            codebook_size=self.codebook_size,
            quantizer_dropout=self.quantizer_dropout,
        )
        return config


def _encoder_layers(strides, channels, dilations, frame_dilations, unit, latent_dim):
    """Make the encoder: for each stride, residual units and then a strided convolution."""
    dtype, activation = unit["dtype"], read_activation(unit["activation"])
    layers = []
    for i, stride in enumerate(strides):
        layers += [
            ResidualUnit(channels[i], dilation, name=f"encoder_{i}_unit_{j}", **unit)
            for j, dilation in enumerate(dilations)
        ]
        layers += [
            keras.layers.Activation(activation, dtype=dtype, name=f"encoder_{i}_activation"),
            CausalConv1D(
                channels[i + 1], 2 * stride, strides=stride, dtype=dtype, name=f"encoder_{i}_down"
            ),
        ]
    layers += [
        ResidualUnit(channels[-1], dilation, name=f"encoder_frame_unit_{j}", **unit)
        for j, dilation in enumerate(frame_dilations)
    ]
    return layers + [
        keras.layers.Activation(activation, dtype=dtype, name="encoder_activation"),
        CausalConv1D(latent_dim, 3, dtype=dtype, name="encoder_output"),
    ]


def _decoder_layers(strides, channels, dilations, frame_dilations, unit):
    """Make the decoder, which mirrors the encoder."""
    dtype, activation = unit["dtype"], read_activation(unit["activation"])
    layers = [CausalConv1D(channels[-1], 3, dtype=dtype, name="decoder_input")]
    layers += [
        ResidualUnit(channels[-1], dilation, name=f"decoder_frame_unit_{j}", **unit)
        for j, dilation in enumerate(frame_dilations)
    ]
    for i, stride in reversed(list(enumerate(strides))):
        layers += [
            keras.layers.Activation(activation, dtype=dtype, name=f"decoder_{i}_activation"),
            CausalConv1DTranspose(
                channels[i], 2 * stride, stride, dtype=dtype, name=f"decoder_{i}_up"
            ),
        ]
        layers += [
            ResidualUnit(channels[i], dilation, name=f"decoder_{i}_unit_{j}", **unit)
            for j, dilation in enumerate(dilations)
        ]
    return [
        *layers,
        keras.layers.Activation(activation, dtype=dtype, name="decoder_activation"),
    ]
