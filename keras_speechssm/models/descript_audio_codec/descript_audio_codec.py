"""DescriptAudioCodec: an open codec with the rates and levels of the paper's SoundStream."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import token_array, waveform_array
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.models.descript_audio_codec.convert_descript_audio_codec import (
    open_descript_audio_codec,
)
from keras_speechssm.models.descript_audio_codec.descript_audio_codec_layers import (
    FactorizedQuantizer,
    Snake,
    SnakeResidualUnit,
    StridedConv1D,
    StridedConv1DTranspose,
)
from keras_speechssm.models.preset_mixin import PresetMixin

DILATIONS = (1, 3, 9)
"""Dilations of the residual units of each block."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class DescriptAudioCodec(PresetMixin, keras_hub.models.Backbone):
    """The Descript Audio Codec (DAC) at 16 kHz: 50 frames per second of 12 codes, and back.

    The defaults are the sizes of the published 16 kHz model, which has the numbers of the paper's
    SoundStream: 50 frames per second, 12 levels of 1,024 codes. It can replace `SoundStream` in
    every job. Unlike `SoundStream` it looks ahead: a frame depends on a few frames after it.

    Called as a model it maps a waveform (batch, samples) to the decoded waveform.

    Args:
        strides: tuple of int. Rate reduction of each encoder block. The product is the hop; 320
            samples give 50 frames per second.
        encoder_channels: int. Channels of the encoder before its first block; each block doubles
            them. Defaults to `64`.
        decoder_channels: int. Channels of the decoder before its first block; each block halves
            them. Defaults to `1536`.
        num_quantizers: int. Levels of the quantizer. Defaults to `12`.
        codebook_size: int. Codes of each level. Defaults to `1024`.
        code_dim: int. Dimension in which codes are looked up. Defaults to `8`.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.models import DescriptAudioCodec

    # DescriptAudioCodec.from_preset("hf://descript/dac_16khz") has the published weights.
    codec = DescriptAudioCodec(strides=(4, 8, 10), encoder_channels=2, decoder_channels=16)
    tokens = codec.encode(np.random.uniform(-0.1, 0.1, 16000))  # int32 (50, 12)
    decoded = codec.decode(tokens)  # float32 (16000,)
    ```

    Reference:
        - [Kumar et al., 2023](https://arxiv.org/abs/2306.06546)
    """

    preset_part = "soundstream"
    _open_checkpoint = staticmethod(open_descript_audio_codec)

    def __init__(
        self,
        strides=(2, 4, 5, 8),
        encoder_channels: int = 64,
        decoder_channels: int = 1536,
        num_quantizers: int = 12,
        codebook_size: int = 1024,
        code_dim: int = 8,
        dtype=None,
        **kwargs,
    ):
        if decoder_channels % 2 ** len(strides):
            raise ValueError(
                f"decoder_channels must be a multiple of {2 ** len(strides)}, since each of the "
                f"{len(strides)} blocks halves them; got {decoder_channels}."
            )
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        latent_dim = encoder_channels * 2 ** len(strides)

        # === Layers ===
        def convolution(filters, kernel_size, name):
            return keras.layers.Conv1D(filters, kernel_size, padding="same", dtype=dtype, name=name)

        def units(channels, prefix):
            return [
                SnakeResidualUnit(channels, dilation, dtype=dtype, name=f"{prefix}_unit_{i}")
                for i, dilation in enumerate(DILATIONS)
            ]

        def snake(prefix):
            return Snake(dtype=dtype, name=f"{prefix}_snake")

        self.encoder_layers = [convolution(encoder_channels, 7, "encoder_stem")]
        for i, stride in enumerate(strides):
            name = f"encoder_{i}"
            down = StridedConv1D(
                encoder_channels * 2 ** (i + 1), stride, dtype=dtype, name=f"{name}_down"
            )
            self.encoder_layers += [*units(encoder_channels * 2**i, name), snake(name), down]
        self.encoder_layers += [snake("encoder"), convolution(latent_dim, 3, "encoder_output")]
        self.quantizer = FactorizedQuantizer(
            num_quantizers, codebook_size, code_dim, dtype=dtype, name="quantizer"
        )
        self.decoder_layers = [convolution(decoder_channels, 7, "decoder_input")]
        for i, stride in enumerate(reversed(strides)):
            name, channels = f"decoder_{i}", decoder_channels // 2 ** (i + 1)
            up = StridedConv1DTranspose(channels, stride, dtype=dtype, name=f"{name}_up")
            self.decoder_layers += [snake(name), up, *units(channels, name)]
        self.decoder_layers += [snake("decoder"), convolution(1, 7, "decoder_stem")]

        # === Config ===
        self.strides = tuple(strides)
        self.encoder_channels = encoder_channels
        self.decoder_channels = decoder_channels
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.code_dim = code_dim
        self.latent_dim = latent_dim
        self.samples_per_frame = int(np.prod(strides))

        # === Functional Model ===
        waveform = keras.Input(shape=(None,), dtype="float32", name="waveform")
        quantized, _ = self.quantizer(self._run(self.encoder_layers, waveform[..., None]))
        outputs = self._to_waveform(self._run(self.decoder_layers, quantized))
        super().__init__(inputs=waveform, outputs=outputs, dtype=dtype, **kwargs)
        self._inference = CompiledFunctions(self)

    @property
    def codebooks(self) -> np.ndarray:
        """The codes of all levels, float32 (levels, codebook_size, code_dim)."""
        return np.stack([ops.convert_to_numpy(book) for book in self.quantizer.codebooks])

    def encode(self, waveform) -> np.ndarray:
        """Encode a waveform to acoustic tokens.

        Args:
            waveform: float (batch, samples) or (samples,), in [-1, 1]. An incomplete last frame is
                padded with zeros.

        Returns:
            int32 (batch, frames, levels) or (frames, levels), frames = ceil(samples / 320).
        """
        waveform = waveform_array(waveform)
        batched = np.atleast_2d(waveform)
        fill = -batched.shape[1] % self.samples_per_frame
        encode = self._inference.get("encode", lambda: self._encode)
        tokens = ops.convert_to_numpy(encode(np.pad(batched, ((0, 0), (0, fill)))))
        return tokens if waveform.ndim == 2 else tokens[0]

    def decode(self, tokens) -> np.ndarray:
        """Decode acoustic tokens to a waveform.

        The decoder gives a few samples less than whole frames, 8 at the published sizes; zeros
        are appended.

        Args:
            tokens: int (batch, frames, n) or (frames, n), the first n levels, with n from 1 to
                `num_quantizers`.

        Returns:
            float32 (batch, frames * 320) or (frames * 320,), in [-1, 1].
        """
        shapes = ("(frames, levels)", "(batch, frames, levels)")
        tokens = token_array(tokens, vocabulary_size=self.codebook_size, shapes=shapes)
        if tokens.shape[-1] > self.num_quantizers:
            raise ValueError(
                f"DescriptAudioCodec.decode takes 1 to {self.num_quantizers} levels; "
                f"got {tokens.shape[-1]}."
            )
        batched = tokens if tokens.ndim == 3 else tokens[None]
        decode = self._inference.get("decode", lambda: self._decode)
        waveform = ops.convert_to_numpy(decode(batched))
        missing = batched.shape[1] * self.samples_per_frame - waveform.shape[1]
        waveform = np.pad(waveform, ((0, 0), (0, missing)))
        return waveform if tokens.ndim == 3 else waveform[0]

    def _encode(self, waveform):
        x = ops.expand_dims(ops.convert_to_tensor(waveform), axis=-1)
        return self.quantizer.encode(self._run(self.encoder_layers, x))

    def _decode(self, tokens):
        x = self.quantizer.decode(ops.convert_to_tensor(tokens))
        return self._to_waveform(self._run(self.decoder_layers, x))

    def _run(self, layers, x):
        for layer in layers:
            x = layer(x)
        return x

    def _to_waveform(self, x):
        return ops.tanh(ops.cast(ops.squeeze(x, axis=-1), "float32"))

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            strides=self.strides,
            encoder_channels=self.encoder_channels,
            decoder_channels=self.decoder_channels,
            num_quantizers=self.num_quantizers,
            codebook_size=self.codebook_size,
            code_dim=self.code_dim,
        )
        return config
