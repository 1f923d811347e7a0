"""Agreement of tokens across voices: do they carry what is said, or who says it?"""

from pathlib import Path

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio, number_and_voice
from keras_speechssm.evaluation.metrics.token_agreement import token_agreement, without_repeats
from keras_speechssm.models import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET


def evaluate_token_agreement(
    parallel_folder: str | Path, *, preset: str = DEFAULT_PRESET, max_pairs: int = 2000
) -> dict:
    """Measure how well tokens of one sentence agree across voices.

    Args:
        parallel_folder: Folder of recordings named `<number>_<voice>.<suffix>`, with the number
            of the sentence.
        preset: Preset of the tokenizer, or of a pipeline.
        max_pairs: Maximal number of pairs of each kind.

    Returns:
        See `token_agreement`; runs of one token count once.
    """
    check_at_least(1, max_pairs=max_pairs)
    tokenizer = SemanticTokenizer.from_preset(preset)
    streams = {
        number_and_voice(path): without_repeats(tokenizer.tokenize(read_audio(path)))
        for path in find_audio([parallel_folder])
    }
    return token_agreement(streams, max_pairs)
