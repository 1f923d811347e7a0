"""Slide-and-prompt: continues beyond the longest sequence that a language model supports."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_speechssm.config import draw_seed
from keras_speechssm.models.speech_language_model import read_count, read_prompts
from keras_speechssm.shapes import TOKEN_RATE

PROMPT_TOKENS = 3 * TOKEN_RATE
"""Default number of tokens that each later sequence starts from: 3 s."""


class SlideAndPrompt:
    """Extends a model by generating again from the end of what it has generated.

    This is the paper's baseline for models that fail beyond the length that they were trained
    on, or do not support it. The model continues the prompt up to `limit` tokens, then the last
    3 s of that, and so on. Everything before is forgotten.

    Args:
        model: A `SpeechTransformer` or another model with its `stream`.
        limit: Most tokens of a sequence, prompt and continuation together. Defaults to the
            model's `max_length`.
        prompt_tokens: Number of tokens that each later sequence starts from. Defaults to `75`,
            which is 3 s.

    Raises:
        ValueError: If there is no limit, or it is not above `prompt_tokens`.

    Example:

    ```python
    import keras_hub
    import numpy as np
    from keras_speechssm.models import SpeechTransformer
    from keras_speechssm.models.speech_transformer.slide_and_prompt import SlideAndPrompt

    backbone = keras_hub.models.GemmaBackbone(12, 1, 1, 1, 8, 16, 8)
    model = SlideAndPrompt(SpeechTransformer(backbone, max_length=20), prompt_tokens=5)
    blocks = list(model.stream(np.array([[1, 2, 3]]), block_size=10, num_tokens=50, seed=0))
    ```

    Reference:
        Park et al. 2024, "Long-Form Speech Generation with Spoken Language Models", section 7;
        Borsos et al. 2023, "SoundStorm".
    """

    def __init__(self, model: Any, limit: int | None = None, prompt_tokens: int = PROMPT_TOKENS):
        limit = getattr(model, "max_length", None) if limit is None else limit
        if limit is None or not 0 < prompt_tokens < limit:
            raise ValueError(
                f"SlideAndPrompt got limit={limit}; it needs a limit above the {prompt_tokens} "
                "tokens of its prompts."
            )
        self.model = model
        self.limit = int(limit)
        self.prompt_tokens = prompt_tokens

    @property
    def backbone(self):
        """The backbone of the extended model."""
        return self.model.backbone

    def stream(
        self,
        token_ids,
        block_size: int = 250,
        seed: int | None = None,
        num_tokens: int | None = None,
        **sampling,
    ) -> Iterator[np.ndarray]:
        """Continues prompts of one length block by block, without end or for `num_tokens`.

        Of a prompt of more than `limit - 1` tokens only the last `prompt_tokens` are read.

        Args:
            token_ids: int (batch, time) or (time,), the prompts.
            block_size: Number of tokens per block. Defaults to `250`, which is 10 s.
            seed: The same seed gives the same tokens. Defaults to `None`: a new seed that
                `keras.utils.set_random_seed` determines.
            num_tokens: Defaults to `None`: without end.
            **sampling: `temperature`, `top_k` and `top_p` of the model's `stream`.

        Returns:
            Iterator of int32 (batch, block_size), or (block_size,) for a single prompt. The last
            block may be shorter.
        """
        block_size = read_count("block_size", block_size)
        if num_tokens is not None:
            num_tokens = read_count("num_tokens", num_tokens)
        prompts = read_prompts(token_ids, None, None)  # The model checks the range of the ids.
        seed = draw_seed() if seed is None else seed
        sequences = self._sequences(prompts.token_ids, seed, sampling)
        blocks = self._blocks(sequences, block_size, num_tokens)
        return blocks if prompts.batched else (block[0] for block in blocks)

    def _blocks(self, sequences, block_size: int, num_tokens: int | None) -> Iterator[np.ndarray]:
        pending = next(sequences)
        while num_tokens is None or num_tokens > 0:
            wanted = block_size if num_tokens is None else min(block_size, num_tokens)
            while pending.shape[1] < wanted:
                pending = np.concatenate([pending, next(sequences)], axis=1)
            yield pending[:, :wanted]
            pending = pending[:, wanted:]
            num_tokens = None if num_tokens is None else num_tokens - wanted

    def _sequences(self, context: np.ndarray, seed: int, sampling: dict) -> Iterator[np.ndarray]:
        """Yields new tokens in blocks, one sequence of the model after the other."""
        number = 0
        if context.shape[1] >= self.limit:
            context = context[:, -self.prompt_tokens :]
        while True:
            blocks = self.model.stream(
                context,
                num_tokens=self.limit - context.shape[1],
                seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0]),
                **sampling,
            )
            for block in blocks:
                context = np.concatenate([context, np.asarray(block)], axis=1)
                yield np.asarray(block)
            context = context[:, -self.prompt_tokens :]
            number += 1
