"""Draws the mel spectrogram of a prompt and what follows it.

python examples/plot_continuation.py examples/prompt.flac continuation.wav picture.png
"""

import argparse

import matplotlib
import numpy as np

from keras_speechssm.audio import read_audio
from keras_speechssm.shapes import SAMPLE_RATE

WINDOW, HOP, BANDS = 1024, 256, 80


def mel_filters(bands: int = BANDS) -> np.ndarray:
    """Triangles (bands, frequencies) that are evenly spaced on the mel scale."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram in dB (bands, frames) of a waveform (samples,)."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=-1)) ** 2
    return 10 * np.log10(mel_filters() @ power.T + 1e-5)


def plot(prompt: np.ndarray, continuation: np.ndarray, path: str) -> None:
    """Writes the picture, the prompt to the left of a line and its continuation after it."""
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("continuation")
    parser.add_argument("picture", help="the PNG file to write")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the continuation")
    arguments = parser.parse_args(argv)
    continuation = read_audio(arguments.continuation, duration=arguments.seconds)
    plot(read_audio(arguments.prompt), continuation, arguments.picture)


if __name__ == "__main__":
    main()
