"""Memory of a long continuation, at every few minutes of its audio.

python benchmarks/soak.py                              # a small model with random weights
python benchmarks/soak.py --preset speech_ssm_demo_en --seconds 3600 --every 300

Linux only. Ends with status 1 if memory grew by more than 20 MiB after the first report.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from keras_speechssm import SpeechContinuation
from keras_speechssm.data import example_prompt

ROOT = Path(__file__).resolve().parents[1]


def resident_memory() -> float:
    """Return the memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages / 256


def main() -> int:
    """Continue the example prompt and print the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--every", type=float, default=300.0)
    options = parser.parse_args()
    if options.preset is None:
        sys.path.insert(0, str(ROOT / "tests"))
        from tiny_models import shared_tiny_pipeline

        speech = shared_tiny_pipeline()
    else:
        speech = SpeechContinuation.from_preset(options.preset)
    memory: list[float] = []
    done, start = 0, time.process_time()  # samples
    print("| minutes of audio | MiB | CPU seconds |\n|---|---|---|")
    for block in speech.stream(example_prompt(), seed=0, seconds=options.seconds):
        assert np.isfinite(block).all()
        done += len(block)
        if done >= len(memory) * options.every * speech.sample_rate:
            memory.append(resident_memory())
            seconds = time.process_time() - start
            minutes = done / speech.sample_rate / 60
            print(f"| {minutes:.1f} | {memory[-1]:.1f} | {seconds:.0f} |", flush=True)
    # The first report may be before all lengths of windows were compiled.
    return int(len(memory) > 2 and memory[-1] - memory[1] > 20)


if __name__ == "__main__":
    sys.exit(main())
