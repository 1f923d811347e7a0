"""The four models of a pipeline, from one preset or several, and whether they fit together."""

import os
from pathlib import Path

from keras_speechssm.preset_registry import PARTS, fetch_pipeline, load_part, read_json_file


def load_parts(preset: str, **parts: str | None) -> tuple[dict, dict, dict | None]:
    """The models of a pipeline by their parts' names, its config, and its metadata.

    Args:
        preset: the pipeline's name, folder or handle.
        **parts: presets that give a part in place of the pipeline's own; `None` is none. The
            metadata, which tell where weights come from, then name them.

    Raises:
        ValueError: a preset is unknown or of another part, or the parts do not fit together:
            language model and SoundStorm need the tokenizer's vocabulary, SoundStorm the
            levels and codes of the SoundStream.
    """
    others = {part: os.fspath(given) for part, given in parts.items() if given}
    # First, since a name that is wrong costs nothing then.
    models = {part: load_part(given, part) for part, given in others.items()}
    folder, config = fetch_pipeline(preset)
    models = {part: models.get(part) or load_part(folder, part) for part in PARTS}
    _check_fit(**models)
    metadata = None
    if (Path(folder) / "metadata.json").is_file():
        metadata = read_json_file(Path(folder), "metadata.json")
        metadata |= {"parts_of_other_presets": others} if others else {}
    return models, config, metadata


def _check_fit(semantic_tokenizer, speech_lm, soundstorm, soundstream) -> None:
    tokens = semantic_tokenizer.vocabulary_size
    levels = (soundstream.num_quantizers, soundstream.codebook_size)
    for name, found, expected, what in (
        ("speech_lm", speech_lm.backbone.vocabulary_size, tokens, "tokens"),
        ("soundstorm", soundstorm.semantic_vocabulary_size, tokens, "tokens"),
        ("soundstorm", soundstorm.num_levels, levels[0], "levels"),
        ("soundstorm", soundstorm.codebook_size, levels[1], "codes"),
    ):
        if found != expected:
            raise ValueError(
                f"The {name} is of {found} {what}, the others of {expected}: train it on theirs."
            )
