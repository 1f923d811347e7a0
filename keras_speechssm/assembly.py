"""A pipeline preset of parts from several presets: what one trained, with the rest of another."""

import os

from keras_speechssm.pipeline import SETTINGS, save_pipeline
from keras_speechssm.preset_registry import DEFAULT_PRESET, PARTS, fetch_pipeline, load_part


def assemble_pipeline(
    output_folder: str | os.PathLike, preset: str = DEFAULT_PRESET, **parts: str | None
) -> None:
    """Writes a pipeline preset, whole or not at all.

    Args:
        output_folder: folder to write.
        preset: the pipeline that gives what is not named below, and its settings.
        **parts: `semantic_tokenizer`, `speech_lm`, `soundstorm` and `soundstream`: presets of
            these parts, such as `preset/` of a training run, or `None` for the pipeline's own.

    Raises:
        ValueError: a preset is unknown or of another part, or the parts do not fit together:
            language model and SoundStorm need the tokenizer's vocabulary, SoundStorm the
            levels and codes of the SoundStream.

    Example:

    ```python
    assemble_pipeline("my_pipeline", speech_lm="run/preset")
    speech = SpeechContinuation.from_preset("my_pipeline")
    ```
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"No part is named {sorted(unknown)[0]!r}; expected {', '.join(PARTS)}.")
    folder, config = fetch_pipeline(preset)
    models = {part: load_part(parts.get(part) or folder, part) for part in PARTS}
    _check_fit(**models)
    settings = {name: config[name] for name in SETTINGS if name in config}
    save_pipeline(output_folder, **models, **settings)


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
