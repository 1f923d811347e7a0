"""Make `prompt.flac` next to this file: ten seconds of speech that can be redistributed.

    python examples/make_prompt.py

This needs the synthesizer flite (`apt-get install flite`) with its free voice slt. The text is
our own.
"""

import subprocess
import tempfile
from pathlib import Path

import soundfile

TEXT = (
    "The road went down to the river, and there we stopped to rest. It was late in the "
    "afternoon, and nobody had spoken for a long time. At last the old man looked up, and "
    "began to tell us what he had seen."
)


def main() -> None:
    """Synthesize the prompt and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "prompt.wav"
        subprocess.run(["flite", "-voice", "slt", "-t", TEXT, "-o", str(wave)], check=True)
        samples, rate = soundfile.read(wave, dtype="int16")
    path = Path(__file__).with_name("prompt.flac")
    soundfile.write(path, samples, rate, subtype="PCM_16")
    print(f"{path}: {len(samples) / rate:.1f} s at {rate} Hz")


if __name__ == "__main__":
    main()
