"""Loss against position: does a model get worse beyond its training length?

The paper's claim for SpeechSSM is that it does not (sections 1 and 7.2).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_speechssm.data.token_store import open_tokens
from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval
from keras_speechssm.evaluation.metrics.token_perplexity import (
    check_vocabulary,
    extend_max_length,
)
from keras_speechssm.evaluation.report import plot_curves
from keras_speechssm.files import atomic_write, write_json
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.shapes import TOKEN_RATE


def evaluate_loss_by_position(
    speech_lms: Sequence[str],
    token_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    bin_tokens: int = 500,
    max_tokens: int = 24_000,
) -> dict:
    """Measure the loss on held-out recordings against the position in the recording.

    Writes `positions.json` and `positions.png`.

    Args:
        speech_lms: `name=preset` each, or presets: language models over the same tokens.
        token_folders: Held-out stores or folders of tokens.
        output_folder: Folder to write.
        bin_tokens: Positions per bin (500 tokens are 20 s).
        max_tokens: Last position to read.

    Returns:
        `bin_seconds`, `num_streams`, and `models`: intervals in nats per token by name.
    """
    if not 2 <= bin_tokens <= max_tokens:
        raise ValueError(f"bin_tokens is {bin_tokens}; expected 2 to max_tokens, {max_tokens}.")
    if Path(output_folder).is_file():
        raise ValueError(f"The output folder {output_folder} is a file; choose another name.")
    named = [str(entry).partition("=") for entry in speech_lms]
    if len({name for name, _, _ in named}) < len(named):
        raise ValueError("Two speech_lms have the same name; write name=preset.")
    source = open_tokens(token_folders)
    streams = [source.read(number)[:max_tokens] for number in range(len(source.lengths))]
    streams = [stream for stream in streams if len(stream) >= bin_tokens]
    if not streams:
        raise ValueError(f"No recording has {bin_tokens} tokens; use longer recordings.")
    curves = {}
    for name, sign, preset in named:
        model = load_part(preset if sign else name, "speech_lm")
        check_vocabulary(model, source, name)
        curves[name] = loss_by_position(model, streams, bin_tokens)
    report = {
        "bin_seconds": bin_tokens / TOKEN_RATE,
        "num_streams": len(streams),
        "models": curves,
    }
    output = Path(output_folder)
    write_json(output / "positions.json", report)
    title = "Nats per token against position"
    image = plot_curves(curves, title, f"position / {bin_tokens} tokens")
    with atomic_write(output / "positions.png") as temporary:
        temporary.write_bytes(image)
    return report


def loss_by_position(
    model: Any, streams: Sequence[np.ndarray], bin_tokens: int
) -> list[dict[str, float]]:
    """Compute the nats per token in each bin of positions, as the mean over streams.

    Args:
        model: A `SpeechSSM` or `SpeechTransformer`. The latter's `max_length` is raised to the
            longest stream.
        streams: int (time,) each, read from their starts.
        bin_tokens: Positions per bin; the last, incomplete bin of a stream is left out.

    Returns:
        `mean_interval` of each bin, over the streams that reach its end.
    """
    longest = max(map(len, streams))
    extend_max_length(model, longest)
    rows = []
    for stream in streams:
        nats = -model.log_probabilities(np.asarray(stream, "int32")[None])[0].astype("float64")
        whole = len(stream) // bin_tokens
        means = nats[: whole * bin_tokens].reshape(whole, bin_tokens).mean(axis=1)
        if whole:
            # The first token has no likelihood.
            means[0] *= bin_tokens / (bin_tokens - 1)
        rows.append(means)
    return [
        mean_interval([row[place] for row in rows if place < len(row)])
        for place in range(longest // bin_tokens)
    ]
