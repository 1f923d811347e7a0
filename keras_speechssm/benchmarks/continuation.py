"""Time the pipeline: `speechssm bench synthesis` and `speechssm bench continue`."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.benchmarks.measurement import (
    check_output,
    measure_limits,
    peak_memory_mib,
    resident_memory_mib,
    write_report,
)
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.synthesis import Synthesizer


def bench_synthesis(
    windows_per_batch: Sequence[int] = (1, 2, 4),
    preset: str = DEFAULT_PRESET,
    num_windows: int = 4,
    output: str | Path | None = None,
) -> None:
    """Time SoundStorm and SoundStream on windows of random tokens, in batches.

    Prints a table of the seconds per window and the real-time factor. The first batch of each
    size compiles and is not counted.

    Args:
        windows_per_batch: Sizes of a batch. They are measured in one process in increasing order;
            `peak_gib` is its largest memory so far.
        preset: Pipeline preset.
        num_windows: Number of timed windows, rounded up to whole batches.
        output: `.json` file for the results; a plot with the same name is written next to it.
            Defaults to neither.
    """
    check_output(output)
    if not windows_per_batch or min(*windows_per_batch, num_windows) < 1:
        raise ValueError("windows_per_batch and num_windows must be at least 1.")
    speech = SpeechContinuation.from_preset(preset)
    rng = np.random.default_rng(0)
    codes = speech.semantic_tokenizer.vocabulary_size
    voice_tokens = speech.synthesis.voice_tokens
    noise = rng.normal(0.0, 0.1, voice_tokens * SAMPLES_PER_TOKEN).astype("float32")
    voice = speech.synthesizer.encode_voice(
        noise, rng.integers(0, codes, voice_tokens, dtype="int32")
    )
    rows = []
    # In increasing order, because the largest memory of a process does not decrease.
    for size in sorted(windows_per_batch):
        config = dataclasses.replace(
            speech.synthesis,
            windows="paper",
            temperature=1.0,
            windows_per_batch=size,
        )
        models = speech.soundstorm, speech.soundstream
        synthesizer = Synthesizer(*models, config, speech.s3_gen)
        batches = -(-num_windows // size)
        # One window alone, one batch that compiles, the timed ones, and the last window.
        count = 1 + size * (batches + 1) + 1
        hop = config.window - config.overlap
        tokens = rng.integers(0, codes, config.overlap + count * hop, dtype="int32")
        blocks = synthesizer.stream([tokens], voice, seed=0)
        for _ in range(1 + size):
            next(blocks)
        start = time.perf_counter()
        spoken = sum(len(next(blocks)) for _ in range(size * batches)) / speech.sample_rate
        seconds = time.perf_counter() - start
        rows.append(
            {
                "model": preset,
                "windows_per_batch": size,
                "seconds_per_window": seconds / (size * batches),
                "real_time_factor": seconds / spoken,
                "tokens_per_second": TOKEN_RATE * spoken / seconds,
                "peak_gib": peak_memory_mib() / 1024,
            }
        )
    write_report("synthesis", rows, measure_limits(), output, "windows_per_batch")


def bench_continue(
    prompt: str | Path,
    minutes: float = 16.0,
    preset: str = DEFAULT_PRESET,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    output: str | Path | None = None,
) -> None:
    """Time a continuation from the call to its end, and measure its memory.

    Prints the seconds until the first audio (compilation included), and a row for every minute of
    speech with its real-time factor, the one so far, and the resident memory.

    Args:
        prompt: Recording to continue.
        minutes: Minutes of new speech, which is discarded.
        preset: Pipeline preset.
        temperature: Temperature of the language model. Defaults to the preset's.
        top_k: Sample from the k most probable tokens only. Defaults to the preset's.
        top_p: Sample from the smallest set of tokens whose probabilities sum to `top_p`. Defaults
            to the preset's.
        seed: Seed of the samples.
        output: `.json` file for the results; a plot with the same name is written next to it.
            Defaults to neither.
    """
    check_output(output)
    speech = SpeechContinuation.from_preset(preset)
    start = last = time.perf_counter()
    spoken, counted, first, rows = 0.0, 0.0, None, []
    blocks = speech.stream(
        str(prompt),
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seconds=60 * minutes,
    )
    for block in blocks:
        now = time.perf_counter()
        spoken += len(block) / speech.sample_rate
        if first is None:
            first = now - start
            print(f"first audio ({spoken:.0f} s) after {first:.1f} s", flush=True)
        if spoken // 60 > counted // 60 or spoken >= 60 * minutes - 0.01:
            row = {
                "model": preset,
                "minute": spoken / 60,
                "real_time_factor": (now - last) / (spoken - counted),
                "real_time_factor_so_far": (now - start) / spoken,
                "tokens_per_second": TOKEN_RATE * (spoken - counted) / (now - last),
                "resident_mib": resident_memory_mib(),
                "peak_mib": peak_memory_mib(),
            }
            rows.append(row)
            counted, last = spoken, now
    write_report("continue", rows, measure_limits(), output, "minute", first_audio_seconds=first)
