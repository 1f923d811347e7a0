"""Recordings with transcripts, such as LJ Speech, as a corpus with phonemes."""

from pathlib import Path

from keras_speechssm.audio.io import read_duration
from keras_speechssm.checks import shown
from keras_speechssm.data.corpora import find_audio, read_segments
from keras_speechssm.data.recipes.synthesized.texts import plain_text
from keras_speechssm.data.recipes.synthesized.voices import check_programs, pronounce
from keras_speechssm.data.transcripts import read_transcripts
from keras_speechssm.files import write_json


def prepare_transcribed(
    audio_folder: str | Path,
    transcripts_file: str | Path,
    output_folder: str | Path,
    *,
    separator: str = "|",
) -> dict[str, int]:
    """Link recordings into a folder and write words and phonemes next to each.

    `speechssm train tokenizer` then learns phonemes from them too, if a recording is not longer
    than a crop. The phonemes are flite's, without times. If interrupted, run it again to
    resume; changed transcripts are updated.

    Args:
        audio_folder: Folder of recordings.
        transcripts_file: One line `<name>|<text>` per recording, as in LJ Speech. If there are
            more columns, the last one (the normalized text) is used. With a space or a tab as the
            separator, as in LibriSpeech and MLS, all that follows the name is the text. Or a folder
            of LibriSpeech, MLS, Common Voice or VoxPopuli, whose transcript files are found.
        output_folder: Folder of the links and `.json` files.
        separator: Separator of the columns.

    Returns:
        `{"recordings", "without_transcript"}`.

    Raises:
        ValueError: If a line has no text, no recording has a transcript, two recordings have
            the same name, one is not audio, `output_folder` is inside `audio_folder`, or flite
            is not installed.
    """
    check_programs(("flite",))
    if Path(transcripts_file).is_dir():
        texts = read_transcripts(transcripts_file)
    else:
        texts = _read_transcripts(Path(transcripts_file), separator)
    recordings = find_audio([audio_folder])
    known = {path.stem: path for path in recordings if path.stem in texts}
    if not known:
        raise ValueError(f"No recording in {audio_folder} has a line in {transcripts_file}.")
    if len(known) < sum(path.stem in texts for path in recordings):
        raise ValueError(f"Two recordings in {audio_folder} have the same name.")
    output = Path(output_folder).resolve()
    if Path(audio_folder).resolve() in (output, *output.parents):
        raise ValueError(f"{output_folder} is inside {audio_folder}; give a folder outside of it.")
    output.mkdir(parents=True, exist_ok=True)
    for name, path in known.items():
        link, text = output / path.name, plain_text(texts[name])
        if link.is_symlink() and link.readlink() != path.resolve():
            link.unlink()  # The recordings were moved.
        if not link.is_symlink():
            link.symlink_to(path.resolve())
        sidecar = output / f"{name}.json"
        if sidecar.is_file() and [s.text for s in read_segments(sidecar) or ()] == [text]:
            continue
        end = round(read_duration(path), 4)
        segment = {"start": 0.0, "end": end, "text": text, "phonemes": pronounce(text)}
        write_json(sidecar, {"segments": [segment]})
    return {"recordings": len(known), "without_transcript": len(recordings) - len(known)}


def _read_transcripts(path: Path, separator: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name, _, rest = line.partition(separator)
        text = (rest if separator.isspace() else rest.rsplit(separator, 1)[-1]).strip()
        if text:
            texts[name] = text
        elif line.strip():
            raise ValueError(
                f"{path}, line {number}: expected <name>{separator}<text>, got {shown(line)}."
            )
    return texts
