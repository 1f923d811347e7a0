"""A SoundStream that speaks as a voice does: a source, then a filter."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.audio.mel import mel_filters
from keras_speechssm.checks import check_between
from keras_speechssm.layers.dense import PointwiseDense
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.shapes import SAMPLE_RATE

LOWEST_PITCH, HIGHEST_PITCH = 60.0, 500.0
"""Range of the pitch bins in Hz."""

NUM_PITCH_BINS = 80

NUM_BANDS = 80
"""Number of mel bands of the filters' gains."""

NOISE_SAMPLES = 2**16
"""Length of the noise source in samples; it repeats after 4.1 s."""


SHORT_WINDOW = 256
"""Samples of the short window, for fast changes up to 8 kHz."""

LONG_WINDOW, LONG_FFT, LONG_BINS = 640, 1024, 128
"""Samples of the long window, which resolves the harmonics of low voices up to 2 kHz."""

SHORTEST_LAG, LONGEST_LAG = 32, 267
"""Range of autocorrelation lags in samples: periods of voices from 500 to 60 Hz."""

FLOOR = 1e-4
"""Amplitude below which everything is silence: 80 dB below a full-scale tone."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SourceFilterSoundStream(SoundStream):
    """A `SoundStream` whose outermost layers are a spectral analysis and a vocoder.

    The encoder starts with `SpectralAnalysis` and the decoder ends with `SourceFilterSynthesis`
    instead of convolutions. This is not in the paper; it suits models that are too small to learn
    phase. Between them are SoundStream's layers.

    Called as a model it maps a waveform (batch, samples) to a dict of the decoded `waveform`
    (batch, samples), of `pitch_logits` (batch, samples / stem_stride, 80) and of `log_gains`
    (batch, samples / stem_stride, 160), those of `SourceFilterSynthesis`. See
    `keras_speechssm.training.codec` for the losses of all three.

    Args:
        strides: tuple of int. Rate reduction of each encoder block. Defaults to `(4,)`.
        channels: tuple of int. Channels after the stem and after each block.
            Defaults to `(192, 384)`.
        stem_stride: int. Samples per step of the outermost layers, from 40 to 160.
            Defaults to `80`.
        lookahead: int. Samples after a frame that the encoder sees too, a multiple of
            `stem_stride`. The spectrum at the end of a frame depends on them, so a codec that
            need not encode live should have about 320 (20 ms). The decoder is causal in any
            case. Defaults to `0`: the encoder is causal, too.
        sharpness: float. How much clearer formants become in the decoded speech, see
            `SourceFilterSynthesis`. Filters that are learned are smoother than those of speech; 1.4
            makes up for that. It changes nothing in training. Defaults to `1.0`: as they are.
        **kwargs: Arguments of `SoundStream`.

    Example:

    ```python
    import keras_speechssm
    import numpy as np

    codec = keras_speechssm.models.SourceFilterSoundStream(num_quantizers=6)
    tokens = codec.encode(np.random.uniform(-0.1, 0.1, 16000))  # int32 (50, 6)
    decoded = codec.decode(tokens)  # float32 (16000,)
    ```
    """

    def __init__(
        self,
        strides=(4,),
        channels=(192, 384),
        stem_stride: int = 80,
        lookahead: int = 0,
        sharpness: float = 1.0,
        **kwargs,
    ):
        check_between(0.0, 4.0, sharpness=sharpness)
        if not 40 <= stem_stride <= 160:
            raise ValueError(f"stem_stride must be 40 to 160 samples, got {stem_stride}.")
        if lookahead < 0 or lookahead % stem_stride:
            raise ValueError(
                f"lookahead must be a multiple of stem_stride, {stem_stride} samples, or 0; got "
                f"{lookahead}."
            )
        self.lookahead = lookahead
        self.sharpness = sharpness
        super().__init__(strides=strides, channels=channels, stem_stride=stem_stride, **kwargs)

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        # Through the base class, because older presets are registered as `SoundStream`.
        codec = SoundStream.from_preset(preset, load_weights=load_weights, **kwargs)
        if not isinstance(codec, cls):
            raise ValueError(
                f"Preset {preset!r} is a {type(codec).__name__}, not a {cls.__name__}; load it "
                f"with `SoundStream.from_preset({preset!r})`."
            )
        return codec

    def _make_stems(self, channels, stride, kernel_size, dtype):
        return (
            SpectralAnalysis(channels, stride, self.lookahead, dtype=dtype, name="encoder_stem"),
            SourceFilterSynthesis(stride, self.sharpness, dtype=dtype, name="decoder_stem"),
        )

    def _make_outputs(self, x):
        waveform, pitch_logits, log_gains = x
        waveform = ops.squeeze(waveform, axis=-1)
        return {"waveform": waveform, "pitch_logits": pitch_logits, "log_gains": log_gains}

    def _decode(self, tokens):
        return super()._decode(tokens)["waveform"]

    def get_config(self) -> dict:
        config = {"lookahead": self.lookahead, "sharpness": self.sharpness}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpectralAnalysis(keras.layers.Layer):
    """Computes log spectra and autocorrelation at every hop, mapped to channels.

    The first layer of a `SourceFilterSoundStream`. Signals that differ only in phase sound alike
    and have the same features. Windows end `lookahead` samples after the end of their hop.

    Args:
        filters: int. Output channels.
        hop: int. Samples from one output step to the next.
        lookahead: int. Samples after a hop that its windows reach, a multiple of `hop`; after
            the end there is silence. Defaults to `0`: the layer is causal.

    Call arguments:
        x: float (batch, samples, 1), samples a multiple of `hop`.

    Returns:
        float (batch, samples / hop, filters).
    """

    def __init__(self, filters: int, hop: int, lookahead: int = 0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # Spectra are float32 in any policy.
        self.filters = filters
        self.hop = hop
        self.lookahead = lookahead
        self.dense = PointwiseDense(filters, dtype=self.dtype_policy, name="dense")

    def build(self, input_shape):
        lags = LONGEST_LAG - SHORTEST_LAG + 1
        self.dense.build((None, None, SHORT_WINDOW // 2 + 1 + LONG_BINS + lags))
        self.built = True

    def call(self, x):
        waveform = ops.cast(ops.squeeze(x, axis=-1), "float32")
        waveform = ops.pad(waveform, ((0, 0), (0, self.lookahead)))[:, self.lookahead :]
        short = self._power(waveform, SHORT_WINDOW, SHORT_WINDOW)
        long = self._power(waveform, LONG_WINDOW, LONG_FFT)
        features = [_level(short), _level(long[..., :LONG_BINS]), self._periodicity(long)]
        features = ops.concatenate(features, axis=-1)
        return self.dense(ops.cast(features, self.compute_dtype))

    def _power(self, waveform, length: int, fft_length: int):
        """Compute power spectra of the `length` samples up to the end of each hop."""
        # Pad whole hops, so that frames are slices of one reshape.
        parts = -(-length // self.hop)
        padded = ops.pad(waveform, ((0, 0), ((parts - 1) * self.hop, 0)))
        hops = ops.reshape(padded, (ops.shape(waveform)[0], -1, self.hop))
        steps = ops.shape(hops)[1] - parts + 1
        frames = ops.concatenate([hops[:, i : i + steps] for i in range(parts)], axis=-1)
        window = ops.convert_to_tensor(_late_window(length, self.hop))
        real, imaginary = ops.rfft(frames[..., parts * self.hop - length :] * window, fft_length)
        return real**2 + imaginary**2

    def _periodicity(self, power):
        """Compute the autocorrelation, 2 at lag 0, at voice periods: (batch, time, lags)."""
        correlation = ops.irfft((power, ops.zeros_like(power)), LONG_FFT)
        # The window's own autocorrelation falls with the lag, which would favor high voices.
        window = np.abs(np.fft.rfft(_late_window(LONG_WINDOW, self.hop), LONG_FFT)) ** 2
        own = np.fft.irfft(window)[: LONGEST_LAG + 1]
        gain = ops.convert_to_tensor((own[0] / own)[SHORTEST_LAG:].astype("float32"))
        energy = correlation[..., :1] + LONG_WINDOW * FLOOR**2
        return 2.0 * gain * correlation[..., SHORTEST_LAG : LONGEST_LAG + 1] / energy

    def compute_output_spec(self, x):
        steps = None if x.shape[1] is None else x.shape[1] // self.hop
        return keras.KerasTensor((x.shape[0], steps, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = {"filters": self.filters, "hop": self.hop, "lookahead": self.lookahead}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SourceFilterSynthesis(keras.layers.Layer):
    """Synthesizes a waveform from pulses and noise, through predicted filters.

    The last layer of a `SourceFilterSoundStream`. The source is a train of band-limited pulses at
    a predicted pitch, and white noise. Each passes a minimum-phase filter with predicted gains in
    mel bands. Such a voice is harmonic by construction and its phase is not coded, so a small
    codec can spend its bits on what is audible, and a small SoundStorm has less to predict. The
    idea is that of source-filter vocoders (WORLD, Morise et al. 2016) controlled by a network
    (DDSP, Engel et al. 2020).

    The layer is causal: the hop at step t depends on the inputs up to t. The pitch does not get
    a gradient from the waveform; it is trained by `keras_speechssm.training.codec.PitchLoss`.

    Args:
        hop: int. Samples per input step.
        sharpness: float. Factor of what remains of the spectral envelope in nats, over the bands,
            without its mean and its tilt (its first two cosines). The sum of the power of all
            bands stays. Defaults to `1.0`.

    Call arguments:
        x: float (batch, time, channels).
        training: bool. In training the envelope stays as it is, so that the gains learn what was
            heard and not what makes up for `sharpness`.

    Returns:
        `(waveform, pitch_logits, log_gains)`: float32 (batch, time * hop, 1); float32
        (batch, time, 80) over pitches from 60 to 500 Hz on a logarithmic scale; and float32
        (batch, time, 160), the natural logarithm of the gains of 80 mel bands for the pulses and
        of 80 for the noise, before they are sharpened. Step t has the pitch and the gains at
        the end of hop t.
    """

    def __init__(self, hop: int, sharpness: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.hop = hop
        self.sharpness = sharpness
        # The source of two hops, and the filter's impulse response for six more.
        self.fft_length = 8 * hop
        self.gains = PointwiseDense(2 * NUM_BANDS, dtype=self.dtype_policy, name="gains")
        self.pitch = PointwiseDense(NUM_PITCH_BINS, dtype=self.dtype_policy, name="pitch")
        self._fade = np.hanning(2 * hop + 1)[:-1].astype("float32")
        self._bands = band_interpolation(self.fft_length)
        self._fold = _minimum_phase_fold(self.fft_length)
        self._trend = _first_cosines(NUM_BANDS)
        self._noise = np.random.default_rng(0).standard_normal(NOISE_SAMPLES, dtype="float32")

    def build(self, input_shape):
        self.gains.build(input_shape)
        self.pitch.build(input_shape)
        self.built = True

    def call(self, x, training=None):
        logits = ops.cast(self.pitch(x), "float32")
        log_gains = 8.0 * ops.tanh(ops.cast(self.gains(x), "float32") / 4.0) - 5.0
        pulses, noise = ops.split(log_gains, 2, axis=-1)
        if not training:
            pulses, noise = self._sharpened(pulses, noise)
        pitch = expected_pitch(ops.stop_gradient(logits))
        voiced = self._filtered(self._pulse_train(pitch), pulses)
        unvoiced = self._filtered(self._noise_frames(pitch), noise)
        spectrum = [a + b for a, b in zip(voiced, unvoiced, strict=True)]
        waveform = self._overlap_add(ops.irfft(tuple(spectrum), self.fft_length))
        return waveform[..., None], logits, log_gains

    def _sharpened(self, pulses, noise):
        """Return both log gains with clearer formants: (batch, time, bands) each."""
        if self.sharpness == 1.0:
            return pulses, noise
        power = ops.logaddexp(2.0 * pulses, 2.0 * noise)
        cosines = ops.convert_to_tensor(self._trend)
        formants = power - ops.matmul(ops.matmul(power, cosines), ops.transpose(cosines))
        change = (self.sharpness - 1.0) * formants
        before, after = (ops.logsumexp(x, axis=-1, keepdims=True) for x in (power, power + change))
        change = 0.5 * (change + before - after)
        return pulses + change, noise + change

    def _pulse_train(self, pitch):
        """Make windowed pulses of unit power: (batch, time, 2 * hop)."""
        before = ops.concatenate([pitch[:, :1], pitch[:, :-1]], axis=1)
        cycles = 0.5 * (before + pitch) * (self.hop / SAMPLE_RATE)
        # The float32 sum is exact to a thousandth of a cycle over a minute.
        start = ops.cumsum(cycles % 1.0, axis=1)
        start = (start - cycles % 1.0) % 1.0
        ramp = (ops.arange(self.hop, dtype="float32") + 0.5) / self.hop
        rate = self.hop / SAMPLE_RATE
        slope = (pitch - before)[..., None] * (0.5 * ramp**2)
        phase = start[..., None] + rate * (before[..., None] * ramp + slope)
        phase = self._with_next(phase - ops.round(phase))
        harmonics = ops.floor(0.475 * SAMPLE_RATE / pitch)[..., None]
        # The sum of cosines 1 .. n in closed form (Dirichlet's kernel).
        near = ops.abs(phase) < 1e-5
        denominator = ops.where(near, 1.0, ops.sin(np.pi * phase))
        kernel = ops.sin((2.0 * harmonics + 1.0) * np.pi * phase) / denominator
        kernel = ops.where(near, 2.0 * harmonics + 1.0, kernel) - 1.0
        return kernel / ops.sqrt(2.0 * harmonics) * ops.convert_to_tensor(self._fade)

    def _noise_frames(self, pitch):
        """Make windowed white noise of unit power, the same for every example."""
        places = ops.arange(ops.shape(pitch)[1])[:, None] * self.hop + ops.arange(2 * self.hop)
        frames = ops.take(ops.convert_to_tensor(self._noise), places % NOISE_SAMPLES)
        return (frames * ops.convert_to_tensor(self._fade))[None]

    def _with_next(self, hops):
        """Concatenate each hop with the next one; the last is repeated."""
        following = ops.concatenate([hops[:, 1:], hops[:, -1:]], axis=1)
        return ops.concatenate([hops, following], axis=-1)

    def _filtered(self, frames, log_gains):
        """Filter `frames` by the minimum-phase filter of the gains: (real, imaginary) spectrum."""
        log_magnitude = ops.matmul(log_gains, ops.convert_to_tensor(self._bands))
        cepstrum = ops.irfft((log_magnitude, ops.zeros_like(log_magnitude)), self.fft_length)
        real, phase = ops.rfft(cepstrum * ops.convert_to_tensor(self._fold))
        magnitude = ops.exp(real)
        response = ops.irfft((magnitude * ops.cos(phase), magnitude * ops.sin(phase)))
        # Truncate the response: a longer one would wrap around to before its cause.
        filter_real, filter_imaginary = ops.rfft(response[..., : -2 * self.hop], self.fft_length)
        source_real, source_imaginary = ops.rfft(frames, self.fft_length)
        return (
            source_real * filter_real - source_imaginary * filter_imaginary,
            source_real * filter_imaginary + source_imaginary * filter_real,
        )

    def _overlap_add(self, frames):
        """Overlap-add frames (batch, time, fft_length) to (batch, time * hop)."""
        parts = ops.reshape(frames, (*ops.shape(frames)[:2], -1, self.hop))
        steps = ops.shape(frames)[1]
        total = parts[:, :, 0]
        for i in range(1, self.fft_length // self.hop):
            total = total + ops.pad(parts[:, :, i], ((0, 0), (i, 0), (0, 0)))[:, :steps]
        return ops.reshape(total, (ops.shape(frames)[0], -1))

    def compute_output_spec(self, x, training=None):
        batch, time = x.shape[:2]
        samples = None if time is None else time * self.hop
        return (
            keras.KerasTensor((batch, samples, 1), dtype="float32"),
            keras.KerasTensor((batch, time, NUM_PITCH_BINS), dtype="float32"),
            keras.KerasTensor((batch, time, 2 * NUM_BANDS), dtype="float32"),
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "hop": self.hop, "sharpness": self.sharpness}


def pitch_bins() -> np.ndarray:
    """Return the frequency in Hz of each pitch bin, float32 (80,)."""
    return np.geomspace(LOWEST_PITCH, HIGHEST_PITCH, NUM_PITCH_BINS).astype("float32")


def expected_pitch(logits):
    """Compute the pitch in Hz: the logarithmic mean of the best bin and its neighbors.

    Args:
        logits: float (..., 80).

    Returns:
        float (...), within 60 to 500.
    """
    best = ops.argmax(logits, axis=-1)
    places = ops.arange(NUM_PITCH_BINS, dtype="int32")
    distance = ops.abs(places - ops.cast(best, "int32")[..., None])
    weights = ops.softmax(ops.where(distance <= 2, logits, -1e9), axis=-1)
    return ops.exp(ops.sum(weights * ops.convert_to_tensor(np.log(pitch_bins())), axis=-1))


def band_interpolation(fft_length: int) -> np.ndarray:
    """Return the weights from bands to bins, float32 (80, fft_length / 2 + 1); columns sum to 1."""
    filters = mel_filters(NUM_BANDS, fft_length)
    weights = filters / np.maximum(filters.sum(axis=1, keepdims=True), 1e-6)
    weights[0, 0] = weights[-1, -1] = 1.0  # No band peaks at 0 or 8000 Hz.
    return weights.T.copy()


def _first_cosines(size: int) -> np.ndarray:
    """The first two vectors of the discrete cosine transform, float32 (size, 2)."""
    slow = np.cos(np.pi * (np.arange(size) + 0.5) / size)
    return np.stack([np.full(size, size**-0.5), slow * (2.0 / size) ** 0.5], 1).astype("float32")


def _minimum_phase_fold(length: int) -> np.ndarray:
    """Weights that fold the cepstrum of a magnitude into that of its minimum-phase filter."""
    fold = np.zeros(length, dtype="float32")
    fold[0] = fold[length // 2] = 1.0
    fold[1 : length // 2] = 2.0
    return fold


def _level(power):
    """Compute the logarithm of power, about -5 to 5 from the floor to full scale."""
    return 0.5 * ops.log(power + FLOOR**2) - 0.5 * float(np.log(FLOOR))


def _late_window(length: int, hop: int) -> np.ndarray:
    """Make a window that rises slowly and falls within `hop`, so most weight is near its end.

    It is scaled so that the spectral peak of a tone is its amplitude.
    """
    rise = np.hanning(2 * (length - hop) + 1)[: length - hop]
    fall = np.hanning(2 * hop + 1)[hop : 2 * hop]
    window = np.concatenate([rise, fall])
    return (2.0 * window / window.sum()).astype("float32")
