"""Slide-and-prompt: any language model with a longest sequence goes on beyond it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_speechssm.models.speech_language_model import read_count, read_tokens
from keras_speechssm.shapes import TOKEN_RATE

PROMPT_TOKENS = 3 * TOKEN_RATE


class SlideAndPrompt:
    """Extends a model by generating anew from the end of what it has generated.

    What is it for: the paper's baseline for models that fail, or may not go, beyond the length
    that they were trained on. The model continues the prompt up to `limit` tokens, then the
    last 3 s of that, and so on; everything before is forgotten.

    Args:
        model: a `SpeechTransformer` or another model with its `stream`.
        limit: int. Most tokens of a sequence, prompt and continuation together. Defaults to
            the model's `max_length`.
        prompt_tokens: int. Tokens that each later sequence begins with. Defaults to `75`, 3 s.

    Source: SpeechSSM, section 7; Borsos et al. 2023, "SoundStorm".
    """

    def __init__(self, model: Any, limit: int | None = None, prompt_tokens: int = PROMPT_TOKENS):
        limit = getattr(model, "max_length", None) if limit is None else limit
        if limit is None or not 0 < prompt_tokens < limit:
            raise ValueError(
                f"SlideAndPrompt needs a limit above its {prompt_tokens} tokens of prompt; got "
                f"{limit}."
            )
        self.model = model
        self.limit = int(limit)
        self.prompt_tokens = prompt_tokens

    @property
    def backbone(self):
        """The extended model's."""
        return self.model.backbone

    def stream(
        self,
        token_ids,
        block_size: int = 250,
        seed: int | None = None,
        num_tokens: int | None = None,
        **sampling,
    ) -> Iterator[np.ndarray]:
        """Continues prompts of one length without end, or for `num_tokens`, block by block.

        A prompt of more than `limit - 1` tokens is read from its last `prompt_tokens` on.

        Args:
            token_ids: int (batch, time), the prompts.
            block_size: int. Tokens of a block, whatever sequences they come from.
            seed: int; the same one gives the same tokens. Defaults to `None`.
            num_tokens: int. Defaults to `None`: without end.
            **sampling: `temperature`, `top_k`, `top_p` of the model's `stream`.

        Returns:
            Iterator of int32 (batch, block_size), the last one shorter.
        """
        block_size = read_count("block_size", block_size)
        if num_tokens is not None:
            num_tokens = read_count("num_tokens", num_tokens)
        # Which ids there are, the model knows.
        token_ids, _ = read_tokens(token_ids, None, np.iinfo("int32").max)
        seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        return self._blocks(self._sequences(token_ids, seed, sampling), block_size, num_tokens)

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
        """New tokens, one sequence of the model after the other, in blocks."""
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
