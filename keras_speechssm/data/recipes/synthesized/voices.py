"""The voices that flite and espeak-ng lend us, and how to make them speak.

Both are small formant, diphone or statistical synthesizers from Debian: fast (60 and
800 times real time on one core) and free, and every word they say is known. One voice
here is a program, a voice of it and one fixed set of its settings, so that a few
voices of each program become a crowd of speakers.
"""

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

# The pitch in Hz that each flite voice is at home with. rms keeps its own pitch.
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


@dataclass(frozen=True)
class Voice:
    """One speaker: a program, a voice of it, and settings that stay the same.

    Attributes:
        name: What the speaker is called, for instance "flite-slt-07".
        program: "flite" or "espeak-ng".
        base: The program's own name for the voice.
        pitch: Hz for flite, 0..99 for espeak-ng.
        slowness: Durations are this many times the program's own.
        timbre: The speech is played this many times faster, which raises pitch and
            formants together: a shorter vocal tract.
        level: Loudness of its recordings, root mean square in dB of full scale.
        reverberation: Seconds in which the echo of its room falls by 60 dB; 0 is no room.
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
        """Roughly how much text it speaks in a second, to plan with."""
        return 14.0 / self.duration_scale * self.timbre


def make_voices(seed: int, program: str, heldout: bool = False) -> list[Voice]:
    """The speakers of one program, the same ones for the same seed.

    Args:
        seed: Decides each speaker's settings.
        program: "flite" (12 speakers for each of its voices) or "espeak-ng" (2 for each
            variant).
        heldout: False for the speakers that training data may use, True for those that
            it never does (other voices and variants, not just other settings).
    """
    rng = np.random.default_rng((seed, int(heldout), ("flite", "espeak-ng").index(program)))
    if program == "flite":
        bases = [base for base in FLITE_PITCHES if (base in HELDOUT_FLITE) == heldout]
        return [_flite_voice(base, number, rng) for number in range(12) for base in bases]
    variants = HELDOUT_VARIANTS if heldout else ESPEAK_VARIANTS
    return [_espeak_voice(variant, number, rng) for number in range(2) for variant in variants]


def _flite_voice(base: str, number: int, rng: np.random.Generator) -> Voice:
    # Number 0 is the voice as its makers meant it.
    spread = min(number, 1)
    return Voice(
        f"flite-{base}-{number:02d}",
        "flite",
        base,
        pitch=round(FLITE_PITCHES[base] * 2 ** (spread * rng.uniform(-0.3, 0.3)), 1),
        duration_scale=round(1 + spread * rng.uniform(-0.12, 0.2), 3),
        timbre=round(1 + spread * rng.uniform(-0.1, 0.12), 3),
        level=round(rng.uniform(-26, -14), 1),
        reverberation=spread * _reverberation(rng),
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
        reverberation=min(number, 1) * _reverberation(rng),
    )


def _reverberation(rng: np.random.Generator) -> float:
    # Half of the rooms are dry; the others range from a closet to a living room.
    return round(max(0.0, rng.uniform(-0.35, 0.45)), 2)


def add_reverberation(waveform: np.ndarray, reverberation: float) -> np.ndarray:
    """Adds the echo of a simple room: noise that decays, 8 dB below the direct sound.

    Args:
        waveform: float (samples,) at 16 kHz.
        reverberation: Seconds in which the echo falls by 60 dB; 0 changes nothing.

    Returns:
        float32 (samples,), the same length: an echo that outlasts it is cut.
    """
    if reverberation == 0:
        return waveform
    from scipy.signal import oaconvolve  # jax brings it; half a second that others save

    times = np.arange(int(reverberation * SAMPLE_RATE)) / SAMPLE_RATE
    # Every room has the same noise: rooms differ by how long it lasts.
    echo = np.random.default_rng(0).standard_normal(len(times)) * 10 ** (-3 * times / reverberation)
    echo[times < 0.002] = 0.0
    response = echo * 10 ** (-8 / 20) / np.linalg.norm(echo)
    response[0] = 1.0
    return oaconvolve(waveform, response)[: len(waveform)].astype("float32")


def missing_programs() -> list[str]:
    """The names of the synthesizers that are not installed here; empty if all are."""
    return [program for program in ("flite", "espeak-ng") if shutil.which(program) is None]


@dataclass(frozen=True)
class Utterance:
    """What a voice made of a text.

    Attributes:
        waveform: float32 (samples,) at 16 kHz, at the program's own level.
        phonemes: Names out of `PHONEMES`, without pauses.
        phoneme_spans: Start and end of each in seconds; empty for espeak-ng, which does not
            tell.
    """

    waveform: np.ndarray
    phonemes: tuple[str, ...]
    phoneme_spans: tuple[tuple[float, float], ...]


def speak(text: str, voice: Voice) -> Utterance:
    """One voice says a text.

    The phonemes are flite's, by its dictionary and rules. They stand for espeak-ng's speech
    too, whose own notation is finer and differs by accent.

    Args:
        text: A few sentences of plain ASCII English.
        voice: Who speaks.

    Raises:
        RuntimeError: If the program fails.
    """
    with tempfile.TemporaryDirectory(prefix="speak-") as folder:
        path = Path(folder) / "speech.wav"
        if voice.program == "flite":
            settings = (
                f"int_f0_target_mean={voice.pitch}",
                f"duration_stretch={voice.slowness}",
            )
            options = [part for setting in settings for part in ("--setf", setting)]
            located = _flite(text, voice.base, str(path), options)
            phonemes = tuple(name for name, _, _ in located)
            spans = tuple((a / voice.timbre, b / voice.timbre) for _, a, b in located)
        else:
            speed = str(round(165 / voice.duration_scale))
            options = ["-v", voice.base, "-s", speed, "-p", str(voice.pitch), "-w", str(path)]
            _run(["espeak-ng", *options, "--stdin"], text)
            phonemes, spans = pronounce(text), ()
        waveform, rate = soundfile.read(path, dtype="float32")
    if rate * voice.timbre != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate * voice.timbre, SAMPLE_RATE)
    return Utterance(waveform, phonemes, spans)


def pronounce(text: str) -> tuple[str, ...]:
    """The phonemes of a text as flite's dictionary and rules give them, without pauses."""
    return tuple(name for name, _, _ in _flite(text, "kal16", "none"))  # its fastest voice


def _flite(text: str, voice: str, path: str, options=()) -> list[tuple[str, float, float]]:
    """Has flite speak; the phonemes with their start and end in seconds."""
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
