"""One long continuation, measured while it is generated: speed, memory, silence, voice."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import AudioWriter, read_audio, read_speech
from keras_speechssm.benchmarks.measurement import peak_memory_mib
from keras_speechssm.data.speaker_embedding import open_speaker_embedder
from keras_speechssm.evaluation.generate import DEFAULT_SAMPLING, SamplingOptions
from keras_speechssm.evaluation.metrics.silence import silence_fraction
from keras_speechssm.evaluation.metrics.similarity import speaker_similarity
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE


def evaluate_continuation(
    prompt: str | Path,
    output: str | Path,
    seconds: float,
    *,
    preset: str = DEFAULT_PRESET,
    prompt_seconds: float = 10.0,
    sampling: SamplingOptions = DEFAULT_SAMPLING,
    other_speakers: Sequence[str | Path] = (),
) -> dict:
    """Continue a prompt and measure speed, memory, silence and voice.

    Args:
        prompt: Recording to continue.
        output: Audio file to write.
        seconds: Length of the continuation.
        preset: Pipeline preset.
        prompt_seconds: Length of the prompt that is used.
        sampling: How tokens are sampled.
        other_speakers: Recordings of other speakers to compare the voice with.

    Returns:
        `load_seconds`, `first_audio_seconds`, `real_time_factor` (everything after loading,
        including compilation), `steady_real_time_factor` (after the first block),
        `peak_memory_mib` (of the process, at minutes 1, 4, 16 and at the end),
        `silence_fraction_per_minute`, `prompt_silence_fraction`, and with `other_speakers`
        `speaker_similarity` of the first minute.
    """
    waveform = read_speech(prompt, duration=prompt_seconds)
    start = time.monotonic()
    speech = SpeechContinuation.from_preset(preset)
    report: dict = {"load_seconds": round(time.monotonic() - start, 2)}
    others = [read_audio(path) for path in other_speakers]
    start = time.monotonic()  # `stream` itself tokenizes the prompt and compiles
    blocks = speech.stream(waveform, seed=sampling.seed, seconds=seconds, **sampling.given())
    report.update(_write_measured(blocks, output, start, speech.sample_rate))
    continuation = read_audio(output)
    report["silence_fraction_per_minute"] = [
        round(fraction, 3) for fraction in silence_fraction(continuation, 60.0)
    ]
    report["prompt_silence_fraction"] = round(silence_fraction(waveform)[0], 3)
    if others:
        report["speaker_similarity"] = speaker_similarity(
            waveform, continuation[: 60 * SAMPLE_RATE], others, open_speaker_embedder()
        )
    return report


def _write_measured(
    blocks: Iterable[np.ndarray], output: str | Path, start: float, sample_rate: int
) -> dict:
    """Write the blocks to a file and measures time and the process's peak memory."""
    samples, first = 0, (0.0, 0)
    memory: dict[str, float] = {}
    with AudioWriter(output, sample_rate) as writer:
        for block in blocks:
            writer.write(block)
            before, samples = samples, samples + len(block)
            if not before:
                first = (time.monotonic() - start, samples)
            for minute in (1, 4, 16):
                if before < 60 * minute * sample_rate <= samples:
                    memory[f"minute_{minute}"] = round(peak_memory_mib(), 1)
    elapsed, spoken = time.monotonic() - start, samples / sample_rate
    steady = (elapsed - first[0]) / max((samples - first[1]) / sample_rate, 1e-9)
    return {
        "first_audio_seconds": round(first[0], 2),
        "real_time_factor": round(elapsed / spoken, 3),
        "steady_real_time_factor": round(steady, 3) if samples > first[1] else None,
        "peak_memory_mib": {**memory, "end": round(peak_memory_mib(), 1)},
    }
