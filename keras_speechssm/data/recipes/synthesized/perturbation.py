"""More speakers than were recorded: recordings played faster and slower."""

import os
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio.io import read_audio, to_mono_16khz, write_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.shapes import SAMPLE_RATE


def prepare_perturbed(
    audio_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    speeds: Sequence[float] = (0.88, 0.94, 1.06, 1.12),
) -> list[Path]:
    """Writes every recording at other speeds; pitch and formants move along.

    To a model each speed is another speaker saying the same (Ko et al. 2015). Run again,
    it goes on where it stopped.

    Args:
        audio_folders: folders of audio files.
        output_folder: where the FLAC files go, one a recording and speed.
        speeds: factors from 0.5 to 2; 1.1 is a tenth faster and higher.

    Returns:
        The files.

    Raises:
        ValueError: a speed out of range, or two recordings of one name.
    """
    if not speeds or not all(0.5 <= speed <= 2 for speed in speeds):
        raise ValueError(f"speeds are {list(speeds)}; give factors from 0.5 to 2.")
    plan = {}
    for folder in map(Path, audio_folders):
        for path in find_audio([folder]):
            name = os.path.relpath(path, folder if folder.is_dir() else folder.parent)
            for speed in speeds:
                target = Path(output_folder) / f"{Path(name).with_suffix('')}@{speed:g}.flac"
                if target in plan:
                    raise ValueError(f"{path} and {plan[target][0]} would both become {target}.")
                plan[target] = path, speed
    for target, (path, speed) in plan.items():
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # As if it had been recorded at another rate.
            write_audio(target, to_mono_16khz(read_audio(path), SAMPLE_RATE * speed))
    return list(plan)
