"""Long continuations measured while they are made: speed, memory, silence, voice."""

import time
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio.io import AudioWriter, read_audio, read_speech
from keras_speechssm.benchmarks.measurement import peak_memory_mib
from keras_speechssm.data.speaker_embedding import open_speaker_embedder
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
    temperature: float = 1.0,
    seed: int = 0,
    other_speakers: Sequence[str | Path] = (),
) -> dict:
    """Continues a prompt and measures the result and the making of it.

    Args:
        prompt: recording to continue.
        output: audio file to write.
        seconds: length of the continuation.
        preset: a pipeline preset.
        prompt_seconds: how much of the prompt is used.
        temperature: of the language model's samples.
        seed: of the samples.
        other_speakers: recordings of other speakers, to compare the voice with.

    Returns:
        dict of `load_seconds`, `first_audio_seconds`, `real_time_factor` (everything after
        loading, compilation too), `steady_real_time_factor` (after the first block),
        `peak_memory_mib` (of the process, at minutes 1, 4, 16 and at the end),
        `silent_share_per_minute`, `prompt_silent_share`, and, with `other_speakers`,
        `speaker_similarity` (of the first minute).
    """
    waveform = read_speech(prompt, duration=prompt_seconds)
    began = time.monotonic()
    speech = SpeechContinuation.from_preset(preset)
    report: dict = {"load_seconds": round(time.monotonic() - began, 2)}
    others = [read_audio(path) for path in other_speakers]
    began = time.monotonic()  # the call itself tokenizes the prompt and compiles
    blocks = speech.stream(waveform, seed=seed, temperature=temperature, seconds=seconds)
    report.update(_write_measured(blocks, output, began))
    continuation = read_audio(output)
    report["silent_share_per_minute"] = [round(s, 3) for s in silence_fraction(continuation, 60.0)]
    report["prompt_silent_share"] = round(silence_fraction(waveform)[0], 3)
    if others:
        report["speaker_similarity"] = speaker_similarity(
            waveform, continuation[: 60 * SAMPLE_RATE], others, open_speaker_embedder()
        )
    return report


def _write_measured(blocks, output: str | Path, began: float) -> dict:
    """Writes the blocks to a file; times them and looks at the process's peak memory."""
    samples, first = 0, None
    memory: dict[str, float] = {}
    with AudioWriter(output) as writer:
        for block in blocks:
            writer.write(block)
            before, samples = samples, samples + len(block)
            if first is None:
                first = (time.monotonic() - began, samples)
            for minute in (1, 4, 16):
                if before < 60 * minute * SAMPLE_RATE <= samples:
                    memory[f"minute_{minute}"] = round(peak_memory_mib(), 1)
    elapsed, spoken = time.monotonic() - began, samples / SAMPLE_RATE
    steady = (elapsed - first[0]) / max((samples - first[1]) / SAMPLE_RATE, 1e-9)
    return {
        "first_audio_seconds": round(first[0], 2),
        "real_time_factor": round(elapsed / spoken, 3),
        "steady_real_time_factor": round(steady, 3) if samples > first[1] else None,
        "peak_memory_mib": {**memory, "end": round(peak_memory_mib(), 1)},
    }
