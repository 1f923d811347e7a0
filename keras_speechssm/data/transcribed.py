"""Recordings whose words are known, as a corpus with phonemes: LJ Speech, say."""

from pathlib import Path

import soundfile

from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.voices import missing_programs, pronounce
from keras_speechssm.whole_files import write_json


def prepare_transcribed(
    audio_folder: str | Path,
    transcripts_file: str | Path,
    output_folder: str | Path,
    *,
    separator: str = "|",
) -> dict[str, int]:
    """Links recordings into a folder, each with its words and flite's phonemes beside it.

    `speechssm train tokenizer` then learns from them what it learns from synthesised speech,
    less the phonemes' times. Run again, it goes on where it stopped.

    Args:
        audio_folder: folder of recordings.
        transcripts_file: a line `<name>|<text>` for each, as LJ Speech has it; of more columns
            the last counts (its normalised text).
        output_folder: where the links and the `.json` files go.
        separator: between the columns.

    Returns:
        `{"recordings", "without_transcript"}`.

    Raises:
        ValueError: a line has no text, no recording has a transcript, or flite is not installed.
    """
    if "flite" in missing_programs():
        raise ValueError(
            "flite, which knows the phonemes, is not installed; apt-get install flite."
        )
    texts: dict[str, str] = {}
    lines = Path(transcripts_file).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(filter(None, lines), start=1):
        name, _, rest = line.partition(separator)
        texts[name] = rest.rsplit(separator, 1)[-1].strip()
        if not texts[name]:
            raise ValueError(
                f"{transcripts_file}, line {number}: expected <name>{separator}<text>, "
                f"got {line!r}."
            )
    recordings = find_audio([audio_folder])
    known = [path for path in recordings if path.stem in texts]
    if not known:
        raise ValueError(f"No recording in {audio_folder} has a line in {transcripts_file}.")
    output = Path(output_folder)
    output.mkdir(parents=True, exist_ok=True)
    for path in known:
        sidecar, link = output / f"{path.stem}.json", output / path.name
        if not sidecar.is_file():
            text = texts[path.stem]
            end = round(soundfile.info(path).duration, 4)
            segment = {"start": 0.0, "end": end, "text": text, "phonemes": pronounce(text)}
            write_json(sidecar, {"segments": [segment]})
        if not link.exists():
            link.symlink_to(path.resolve())
    return {"recordings": len(known), "without_transcript": len(recordings) - len(known)}
