"""The whole way from a prompt to speech: `speechssm bench synthesis` and `bench continue`."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.benchmarks.measurement import (
    check_output,
    measure_limits,
    peak_memory_mib,
    publish,
    resident_memory_mib,
)
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.synthesis import WindowSynthesis
from keras_speechssm.windows import StreamingWindows


def bench_synthesis(
    windows_at_once: Sequence[int] = (1, 2, 4),
    preset: str = DEFAULT_PRESET,
    num_windows: int = 4,
    output: str | Path | None = None,
) -> None:
    """Times SoundStorm and SoundStream on windows of random tokens, in batches.

    Prints a table of seconds a window and real-time factors. The first batch of each size
    compiles and is not counted.

    Args:
        windows_at_once: sizes of a batch, measured from the smallest on in one process, whose
            largest memory so far is `peak_gib`.
        preset: a pipeline preset.
        num_windows: whole windows that are timed, rounded up to whole batches.
        output: `.json` file to write the results to; a plot of the same name goes
            beside it. Defaults to neither.
    """
    check_output(output)
    if not windows_at_once or min(*windows_at_once, num_windows) < 1:
        raise ValueError("windows_at_once and num_windows are numbers from 1 on.")
    speech = SpeechContinuation.from_preset(preset)
    rng = np.random.default_rng(0)
    codes = speech.soundstorm.semantic_vocabulary_size
    levels = speech.soundstorm.num_levels
    voice = (
        rng.integers(0, codes, speech.voice_tokens, dtype="int32"),
        np.zeros((2 * speech.voice_tokens, levels), "int32"),
    )
    rows = []
    # From few on, since a process's largest memory does not fall again.
    for at_once in sorted(windows_at_once):
        synthesis = WindowSynthesis(
            speech.soundstorm,
            speech.soundstream,
            voice,
            temperature=1.0,
            guidance_scale=speech.synthesis_guidance_scale,
            iterations=speech.synthesis_iterations,
            windows_at_once=at_once,
        )
        batches = -(-num_windows // at_once)
        # One window goes alone, one batch compiles, the rest count; the last window is cut off.
        count = 1 + at_once * (batches + 1) + 1
        hop = speech.window - speech.overlap
        tokens = rng.integers(0, codes, speech.overlap + count * hop, dtype="int32")
        blocks = synthesis.speak([tokens], StreamingWindows(speech.window, speech.overlap), 0)
        for _ in range(1 + at_once):
            next(blocks)
        began = time.perf_counter()
        spoken = sum(len(next(blocks)) for _ in range(at_once * batches)) / SAMPLE_RATE
        seconds = time.perf_counter() - began
        rows.append(
            {
                "model": preset,
                "windows_at_once": at_once,
                "seconds_per_window": seconds / (at_once * batches),
                "real_time_factor": seconds / spoken,
                "tokens_per_second": 25 * spoken / seconds,
                "peak_gib": peak_memory_mib() / 1024,
            }
        )
    publish("synthesis", rows, measure_limits(), output, "windows_at_once")


def bench_continue(
    prompt: str | Path,
    minutes: float = 16.0,
    preset: str = DEFAULT_PRESET,
    seed: int = 0,
    output: str | Path | None = None,
) -> None:
    """Times a continuation from the call to the end and watches its memory.

    Prints the seconds until the first audio, compilation included, and a line for every minute
    of speech: the real-time factor of that minute and so far, the memory that is resident.

    Args:
        prompt: recording to continue.
        minutes: minutes of new speech, which is thrown away.
        preset: a pipeline preset.
        seed: of the samples.
        output: `.json` file to write the results to; a plot of the same name goes
            beside it. Defaults to neither.
    """
    check_output(output)
    speech = SpeechContinuation.from_preset(preset)
    began = last = time.perf_counter()
    spoken, counted, first, rows = 0.0, 0.0, None, []
    for block in speech.stream(str(prompt), seed=seed, seconds=60 * minutes):
        now = time.perf_counter()
        spoken += len(block) / SAMPLE_RATE
        if first is None:
            first = now - began
            print(f"first audio, {spoken:.0f} s of it, after {first:.1f} s", flush=True)
        if spoken // 60 > counted // 60 or spoken >= 60 * minutes - 0.01:
            row = {
                "model": preset,
                "minute": spoken / 60,
                "real_time_factor": (now - last) / (spoken - counted),
                "real_time_factor_so_far": (now - began) / spoken,
                "tokens_per_second": 25 * (spoken - counted) / (now - last),
                "resident_mib": resident_memory_mib(),
                "peak_mib": peak_memory_mib(),
            }
            rows.append(row)
            counted, last = spoken, now
    publish("continue", rows, measure_limits(), output, "minute", first_audio_seconds=first)
