"""Speed perturbation: recordings played faster and slower."""

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
    """Write every recording at other speeds, which shifts pitch and formants too.

    For a model each speed is another speaker who says the same (Ko et al. 2015). If
    interrupted, run it again to resume.

    Args:
        audio_folders: Folders of recordings.
        output_folder: Folder of the FLAC files, one per recording and speed.
        speeds: Factors from 0.5 to 2; 1.1 is a tenth faster and higher.

    Returns:
        The paths of the files.

    Raises:
        ValueError: If a speed is out of range, or two recordings have the same name.
    """
    if not speeds or not all(0.5 <= speed <= 2 for speed in speeds):
        raise ValueError(f"`speeds` must be factors from 0.5 to 2. Received: {list(speeds)}.")
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
            # Resample as if it had been recorded at another rate.
            write_audio(target, to_mono_16khz(read_audio(path), SAMPLE_RATE * speed))
    return list(plan)
