"""S3Gen: S3 tokens and a voice -> mel spectrum -> waveform at 24 kHz."""

from typing import NamedTuple

import keras
import keras_hub
import numpy as np
import soxr
from keras import ops

from keras_speechssm.audio.mel import kaldi_log_mel, slaney_mel_filters
from keras_speechssm.checks import token_array, waveform_array
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.s3_gen.cam_plus_plus import CAMPlusPlus
from keras_speechssm.models.s3_gen.convert_s3_gen import open_s3_gen
from keras_speechssm.models.s3_gen.flow_estimator import FlowEstimator
from keras_speechssm.models.s3_gen.hift_vocoder import (
    NUM_SINES,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    HiFTVocoder,
    source_sines,
)
from keras_speechssm.models.s3_gen.s3_gen_encoder import S3GenEncoder
from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.shapes import SAMPLE_RATE as INPUT_SAMPLE_RATE

GUIDANCE = 0.7
"""Strength of guidance: how far the velocity is moved away from that of no voice and no tokens."""

STEPS = 10
"""Steps of the flow."""

MEAN_FLOW_STEPS = 2
"""Steps of the flow with MeanFlow, which needs no guidance."""

_FFT = 1920
_SPEAKER_SECONDS = 10.0
_CONTEXT = 10
"""Tokens of the voice prompt that the vocoder gets first: its convolutions reach 0.3 s."""


_PROMPT, _MEL, _SOURCE, _PHASES = range(4)  # Kinds of noise.


class S3GenVoice(NamedTuple):
    """The voice that `S3Gen` speaks in.

    Attributes:
        semantic_tokens: int32 (time,) at 25 Hz.
        mel: float32 (2 * time, num_mels), the mel spectrum of the same recording at 50 Hz.
        speaker: float32 (speaker_dim,), the vector of the speaker encoder.
    """

    semantic_tokens: np.ndarray
    mel: np.ndarray
    speaker: np.ndarray


@keras.saving.register_keras_serializable(package="keras_speechssm")
class S3Gen(PresetMixin, keras_hub.models.Backbone):
    """S3Gen of Chatterbox: S3 tokens and a voice prompt to a waveform at 24 kHz.

    It replaces `SoundStorm` and `SoundStream` together, and has open weights. An encoder maps the
    tokens to a first mel spectrum; flow matching turns noise into a detailed one that continues
    the prompt's; HiFT is the vocoder; CAM++ gives the vector of the speaker. CosyVoice 2 has the
    same architecture. The defaults are the published sizes. It is for inference: its training is
    not implemented.

    All noise is drawn for absolute positions, so windows of the same speech agree where they
    overlap.

    Args:
        vocabulary_size: int. Semantic tokens. Defaults to `6561`.
        hidden_dim: int. Width of the encoder. Defaults to `512`.
        intermediate_dim: int. Width inside its feed-forwards. Defaults to `2048`.
        num_heads: int. Its attention heads. Defaults to `8`.
        num_layers: int. Its layers at 25 Hz. Defaults to `6`.
        num_upsampled_layers: int. Its layers at 50 Hz. Defaults to `4`.
        flow_channels: int. Width of the flow's estimator. Defaults to `256`.
        flow_num_heads: int. Its attention heads, of 64 dimensions. Defaults to `8`.
        flow_layers_per_stage: int. Transformer layers of each stage. Defaults to `4`.
        flow_num_stages: int. Stages between the first and the last one. Defaults to `12`.
        mean_flow: bool. Whether the weights are those of MeanFlow, which needs 2 steps instead of
            10, and no guidance. Defaults to `False`.
        vocoder_channels: int. Channels of the vocoder. Defaults to `512`.
        f0_channels: int. Channels of its predictor of the fundamental frequency. Defaults to
            `512`.
        speaker_dim: int. Dimension of the speaker's vector. Defaults to `192`.
        speaker_channels: int. Channels of the speaker encoder. Defaults to `128`.
        speaker_growth: int. Channels that each of its layers appends. Defaults to `32`.
        speaker_stack_sizes: tuple of int. Layers of its stacks. Defaults to `(12, 24, 16)`.

    Inputs:
        A dict: `token_ids` int32 (batch, time); `padding_mask` bool (batch, 2 * time), `True` at
        real frames, padding last; `speaker_log_mel` float32 (batch, frames, 80); `mel` float32
        (batch, 2 * time, 80), the noisy mel spectrum; `condition` float32 (batch, 2 * time, 80);
        `time` float32 (batch, 2), where the flow is and the end of its step; `sines` float32
        (batch, 960 * time, 9).

    Returns:
        A dict: `velocity` float32 (batch, 2 * time, 80), one evaluation of the flow, and
        `waveform` float32 (batch, 960 * time), `mel` through the vocoder.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.models import S3Gen

    # S3Gen.from_preset("chatterbox") has the published weights, from s3gen.safetensors.
    model = S3Gen(
        20, hidden_dim=8, intermediate_dim=8, num_heads=1, num_layers=1, num_upsampled_layers=1,
        flow_channels=8, flow_num_heads=1, flow_layers_per_stage=1, flow_num_stages=1,
        vocoder_channels=8, f0_channels=4, speaker_growth=1, speaker_stack_sizes=(1, 1, 1),
    )
    recording = np.random.uniform(-0.1, 0.1, 16000)
    voice = model.encode_voice(recording, np.arange(20))
    waveform = model.generate(np.arange(10), voice, seed=0)  # float32 (9600,) at 24 kHz
    ```

    Reference:
        - [Du et al., 2024](https://arxiv.org/abs/2412.10117) (CosyVoice 2)
    """

    preset_part = "s3_gen"
    _open_checkpoint = staticmethod(open_s3_gen)
    sample_rate = SAMPLE_RATE
    """Samples of a generated waveform per second."""

    num_mels = 80
    voice_class = S3GenVoice

    def __init__(
        self,
        vocabulary_size: int = 6561,
        hidden_dim: int = 512,
        intermediate_dim: int = 2048,
        num_heads: int = 8,
        num_layers: int = 6,
        num_upsampled_layers: int = 4,
        flow_channels: int = 256,
        flow_num_heads: int = 8,
        flow_layers_per_stage: int = 4,
        flow_num_stages: int = 12,
        mean_flow: bool = False,
        vocoder_channels: int = 512,
        f0_channels: int = 512,
        speaker_dim: int = 192,
        speaker_channels: int = 128,
        speaker_growth: int = 32,
        speaker_stack_sizes=(12, 24, 16),
        dtype=None,
        **kwargs,
    ):
        # === Layers ===
        self.encoder = S3GenEncoder(
            vocabulary_size,
            self.num_mels,
            num_layers,
            num_upsampled_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dtype=dtype,
            name="encoder",
        )
        self.estimator = FlowEstimator(
            self.num_mels,
            flow_channels,
            num_heads=flow_num_heads,
            layers_per_stage=flow_layers_per_stage,
            num_middle_stages=flow_num_stages,
            mean_flow=mean_flow,
            dtype=dtype,
            name="estimator",
        )
        self.vocoder = HiFTVocoder(
            vocoder_channels, self.num_mels, f0_channels, dtype=dtype, name="vocoder"
        )
        # It runs once per voice, so it is float32 whatever the policy.
        self.speaker_encoder = CAMPlusPlus(
            speaker_dim,
            self.num_mels,
            channels=speaker_channels,
            growth=speaker_growth,
            stack_sizes=speaker_stack_sizes,
            dtype="float32",
            name="speaker_encoder",
        )
        self.speaker_dense = keras.layers.Dense(
            self.num_mels, dtype="float32", name="speaker_dense"
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.num_upsampled_layers = num_upsampled_layers
        self.flow_channels = flow_channels
        self.flow_num_heads = flow_num_heads
        self.flow_layers_per_stage = flow_layers_per_stage
        self.flow_num_stages = flow_num_stages
        self.mean_flow = mean_flow
        self.vocoder_channels = vocoder_channels
        self.f0_channels = f0_channels
        self.speaker_dim = speaker_dim
        self.speaker_channels = speaker_channels
        self.speaker_growth = speaker_growth
        self.speaker_stack_sizes = tuple(speaker_stack_sizes)

        # === Functional Model ===
        def frames(name, width):
            return keras.Input((None, width), dtype="float32", name=name)

        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
            "speaker_log_mel": frames("speaker_log_mel", self.num_mels),
            "mel": frames("mel", self.num_mels),
            "condition": frames("condition", self.num_mels),
            "time": keras.Input((2,), dtype="float32", name="time"),
            "sines": frames("sines", NUM_SINES),
        }
        frame_mask = inputs["padding_mask"]
        speaker = self._project_speaker(self.speaker_encoder(inputs["speaker_log_mel"]))
        velocity = self.estimator(
            inputs["mel"],
            self.encoder(inputs["token_ids"], padding_mask=frame_mask[:, ::FRAMES_PER_TOKEN]),
            speaker,
            inputs["condition"],
            inputs["time"][:, 0],
            inputs["time"][:, 1],
            padding_mask=frame_mask,
        )
        waveform = self.vocoder(inputs["mel"], inputs["sines"], padding_mask=frame_mask)
        super().__init__(
            inputs=inputs,
            outputs={"velocity": velocity, "waveform": waveform},
            dtype=dtype,
            **kwargs,
        )
        self._inference = CompiledFunctions(self)

    @property
    def samples_per_token(self) -> int:
        """Samples of a generated waveform per semantic token (960)."""
        return FRAMES_PER_TOKEN * SAMPLES_PER_FRAME

    def encode_voice(self, waveform, semantic_tokens) -> S3GenVoice:
        """Create the voice prompt from a recording.

        Args:
            waveform: float (samples,) in [-1, 1] at 16 kHz. Its first 10 s give the vector of the
                speaker.
            semantic_tokens: int (time,), the tokens of its beginning; at most
                `len(waveform) // 640`. The model continues this part: 3 to 10 s are usual.

        Returns:
            An `S3GenVoice`.
        """
        waveform = waveform_array(waveform, min_seconds=0.1)
        tokens = token_array(
            semantic_tokens, vocabulary_size=self.vocabulary_size, shapes=("(time,)",)
        )
        length = len(tokens) * SAMPLES_PER_TOKEN
        if waveform.ndim != 1 or len(waveform) < length:
            raise ValueError(
                f"waveform has shape {waveform.shape}; expected (samples,) with at least {length} "
                f"samples for {len(tokens)} tokens."
            )
        prompt = soxr.resample(waveform[:length], INPUT_SAMPLE_RATE, SAMPLE_RATE)
        features = kaldi_log_mel(waveform[: round(_SPEAKER_SECONDS * INPUT_SAMPLE_RATE)])
        encode = self._inference.get("speaker", lambda: self.speaker_encoder.call)
        speaker = encode((features - features.mean(axis=0))[None])
        return S3GenVoice(tokens, prompt_mel(prompt), ops.convert_to_numpy(speaker)[0])

    def generate(
        self,
        semantic_tokens,
        voice: S3GenVoice,
        seed=0,
        steps: int | None = None,
        guidance: float = GUIDANCE,
        padding_mask=None,
        starts=0,
        seams=None,
        pad_to: int | None = None,
    ) -> np.ndarray:
        """Speak semantic tokens in a voice.

        Args:
            semantic_tokens: int (batch, time) or (time,).
            voice: An `S3GenVoice`.
            seed: int. The same seed gives the same speech. Defaults to `0`.
            steps: int. Steps of the flow. Defaults to `None`: 10, or 2 with MeanFlow.
            guidance: float. Strength of guidance; 0 is half the work. Not used with MeanFlow.
                Defaults to `0.7`.
            padding_mask: bool (batch, time), `True` at real tokens; padding comes last in each
                row. Defaults to `None`: every token is real.
            starts: int or int (batch,). Position of each row's first token in the whole speech,
                which decides its noise. Defaults to `0`.
            seams: int (batch, 2), two tokens of each row in increasing order, at whose beginning
                the phase of the voice is that of any other row with a seam there. Rows that
                overlap can be cut and joined there. Defaults to `None`.
            pad_to: int. Length in tokens, with the voice prompt, to which the rows are padded, so
                that few shapes have to be compiled. Defaults to `None` (not padded).

        Returns:
            float32 (batch, 960 * time) or (960 * time,) at 24 kHz, in [-1, 1].
        """
        tokens = token_array(semantic_tokens, vocabulary_size=self.vocabulary_size)
        batched = np.atleast_2d(tokens)
        mask = np.ones(batched.shape, bool) if padding_mask is None else np.asarray(padding_mask)
        starts = np.broadcast_to(starts, len(batched))
        num_prompt, length = len(voice.semantic_tokens), batched.shape[1]
        fill = max(0, (pad_to or 0) - num_prompt - length)
        mel = self._generate_mel(
            np.pad(batched, ((0, 0), (0, fill))),
            np.pad(mask, ((0, 0), (0, fill))),
            voice,
            [_prompt_and_window_noise(seed, num_prompt, start, length + fill) for start in starts],
            (MEAN_FLOW_STEPS if self.mean_flow else STEPS) if steps is None else steps,
            guidance,
        )
        # The vocoder gets the end of the prompt, so that the speech does not start at its border.
        context = min(_CONTEXT, num_prompt)
        mel = mel[:, FRAMES_PER_TOKEN * (num_prompt - context) :]
        mask = np.pad(mask, ((0, 0), (context, 0)), constant_values=True)
        mask = np.pad(mask, ((0, 0), (0, fill)))
        if seams is not None:
            seams = np.array(seams)
            # The speech may end here: nothing is joined.
            ends = seams[:, 1] >= np.sum(mask, axis=1) - context
            seams[ends, 1] = seams[ends, 0]
            seams = (seams + context) * self.samples_per_token
        waveform = self._decode(mel, mask, seed, starts - context, seams)
        waveform = waveform[:, context * self.samples_per_token :]
        waveform = waveform[:, : length * self.samples_per_token]
        return waveform if tokens.ndim == 2 else waveform[0]

    def _generate_mel(self, tokens, mask, voice, noise, steps, guidance):
        """The mel spectra of the voice prompt and of the tokens after it."""
        num_rows, num_prompt = len(tokens), len(voice.semantic_tokens)
        prompt = np.broadcast_to(voice.semantic_tokens, (num_rows, num_prompt))
        condition = np.zeros((num_rows, FRAMES_PER_TOKEN * (num_prompt + tokens.shape[1]), 80))
        condition[:, : len(voice.mel)] = voice.mel
        if self.mean_flow:
            guidance = 0.0
        run = self._inference.get(
            ("flow", steps, guidance), lambda: lambda *x: self._flow(*x, steps, guidance)
        )
        mel = run(
            np.concatenate([prompt, tokens], axis=1).astype("int32"),
            np.pad(mask, ((0, 0), (num_prompt, 0)), constant_values=True),
            condition.astype("float32"),
            np.broadcast_to(voice.speaker, (num_rows, self.speaker_dim)).astype("float32"),
            np.stack(noise),
        )
        return ops.convert_to_numpy(mel)

    def _flow(self, token_ids, padding_mask, condition, speaker, noise, steps, guidance):
        """Follow the flow from noise to the mel spectrum, in Euler steps."""
        mean = self.encoder(token_ids, padding_mask=padding_mask)
        mask = ops.repeat(padding_mask, FRAMES_PER_TOKEN, axis=1)
        speaker = self._project_speaker(speaker)
        times = np.linspace(0.0, 1.0, steps + 1)
        if not self.mean_flow:
            times = 1.0 - np.cos(0.5 * np.pi * times)
        times = ops.convert_to_tensor(times.astype("float32"))
        inputs, input_mask = (mean, speaker, condition), mask
        if guidance:  # Once more without tokens and voice.
            inputs = [ops.concatenate([x, ops.zeros_like(x)]) for x in inputs]
            input_mask = ops.concatenate([mask, mask])

        def step(i, mel):
            x = ops.concatenate([mel, mel]) if guidance else mel
            now, following = (ops.broadcast_to(times[j], (ops.shape(x)[0],)) for j in (i, i + 1))
            velocity = self.estimator(x, *inputs, now, following, padding_mask=input_mask)
            if guidance:
                guided, free = ops.split(velocity, 2)
                velocity = (1.0 + guidance) * guided - guidance * free
            return mel + (times[i + 1] - times[i]) * velocity

        return ops.fori_loop(0, steps, step, ops.convert_to_tensor(noise))

    def _project_speaker(self, speaker):
        return self.speaker_dense(ops.normalize(speaker, axis=-1))

    def _decode(self, mel, mask, seed, starts, seams):
        """The waveforms of mel spectra whose first tokens are at `starts` in the whole speech."""
        mask = np.repeat(mask, FRAMES_PER_TOKEN, axis=1)
        predict = self._inference.get("f0", lambda: self.vocoder.predict_f0)
        f0 = ops.convert_to_numpy(predict(mel, mask))
        phases = np.random.default_rng([seed, _PHASES]).uniform(-np.pi, np.pi, NUM_SINES)
        phases[0] = 0.0
        width = SAMPLES_PER_FRAME * NUM_SINES
        noise = [_noise(seed, _SOURCE, start, mel.shape[1], width) for start in starts]
        noise = np.reshape(noise, (len(mel), -1, NUM_SINES))
        sines = source_sines(f0, phases, noise, seams)
        decode = self._inference.get("waveform", lambda: self.vocoder.call)
        return ops.convert_to_numpy(decode(mel, sines, mask))

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            vocabulary_size=self.vocabulary_size,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            num_upsampled_layers=self.num_upsampled_layers,
            flow_channels=self.flow_channels,
            flow_num_heads=self.flow_num_heads,
            flow_layers_per_stage=self.flow_layers_per_stage,
            flow_num_stages=self.flow_num_stages,
            mean_flow=self.mean_flow,
            vocoder_channels=self.vocoder_channels,
            f0_channels=self.f0_channels,
            speaker_dim=self.speaker_dim,
            speaker_channels=self.speaker_channels,
            speaker_growth=self.speaker_growth,
            speaker_stack_sizes=self.speaker_stack_sizes,
        )
        return config


def prompt_mel(waveform: np.ndarray) -> np.ndarray:
    """Compute the mel spectrum that `S3Gen` continues.

    Args:
        waveform: float (samples,) in [-1, 1] at 24 kHz; samples a multiple of 480.

    Returns:
        float32 (samples / 480, 80): natural logarithms, of frequencies up to 8 kHz.
    """
    margin = (_FFT - SAMPLES_PER_FRAME) // 2
    padded = np.pad(np.asarray(waveform, "float32"), margin, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::SAMPLES_PER_FRAME]
    spectrum = np.fft.rfft(frames * np.hanning(_FFT + 1)[:-1], axis=-1)
    magnitudes = np.sqrt(np.abs(spectrum) ** 2 + 1e-9)
    mel = magnitudes @ slaney_mel_filters(80, _FFT, SAMPLE_RATE, highest=8000.0)
    return np.log(np.maximum(mel, 1e-5)).astype("float32")


def _prompt_and_window_noise(seed: int, num_prompt: int, start: int, length: int) -> np.ndarray:
    """The noise of the mel spectrum: the same for the prompt of each window of one speech."""
    prompt = _noise(seed, _PROMPT, 0, FRAMES_PER_TOKEN * num_prompt, 80)
    return np.concatenate([prompt, _noise(seed, _MEL, start, FRAMES_PER_TOKEN * length, 80)])


def _noise(seed: int, kind: int, start: int, num_frames: int, width: int) -> np.ndarray:
    """Standard normal noise of the frames from token `start` on, float32 (num_frames, width).

    Each second has a generator, so a frame has the same noise whichever window it is drawn for.
    """
    rate = FRAMES_PER_TOKEN * TOKEN_RATE
    first = FRAMES_PER_TOKEN * int(start)
    seconds = range(first // rate, (first + num_frames - 1) // rate + 1)
    drawn = [
        # The context of the first window is before 0.
        np.random.default_rng([seed, kind, second % 2**32]).standard_normal(
            (rate, width), dtype="float32"
        )
        for second in seconds
    ]
    offset = first - rate * seconds.start
    return np.concatenate(drawn)[offset : offset + num_frames]
