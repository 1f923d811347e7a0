"""Plot the mel spectrogram of a prompt and its continuation.

python examples/plot_continuation.py examples/prompt.flac continuation.wav picture.png
"""

import argparse

import matplotlib
import numpy as np

from keras_speechssm.audio import mel
from keras_speechssm.audio.io import read_audio
from keras_speechssm.shapes import SAMPLE_RATE

WINDOW, HOP, BANDS = 1024, 256, 80


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram in dB (bands, frames) of a waveform (samples,)."""
    power = mel.spectrogram(waveform, WINDOW, HOP, power=2.0)
    return 10 * mel.log_mel(power, BANDS, floor=1e-5, base=10).T


def plot(prompt: np.ndarray, continuation: np.ndarray, path: str) -> None:
    """Write a picture with the prompt, a line, and the continuation."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    both = log_mel(np.concatenate([prompt, continuation]))
    end, seconds = len(prompt) / SAMPLE_RATE, (len(prompt) + len(continuation)) / SAMPLE_RATE
    figure, axis = plt.subplots(figsize=(12, 3), dpi=100)
    axis.imshow(
        both, origin="lower", aspect="auto", extent=(0, seconds, 0, BANDS), vmin=both.max() - 70
    )
    axis.axvline(end, color="white", linewidth=2)
    axis.text(end - 0.3, BANDS - 8, "prompt", color="white", ha="right")
    axis.text(end + 0.3, BANDS - 8, "continuation", color="white", ha="left")
    axis.set(xlabel="seconds", ylabel="mel band")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("continuation")
    parser.add_argument("picture", help="the PNG file to write")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the continuation")
    arguments = parser.parse_args(argv)
    continuation = read_audio(arguments.continuation, duration=arguments.seconds)
    plot(read_audio(arguments.prompt), continuation, arguments.picture)


if __name__ == "__main__":
    main()
