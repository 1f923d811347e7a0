"""SpeechTransformer: the same language model on a Transformer decoder, to compare with."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.layers.padding import gather_time, left_align_order
from keras_speechssm.models.checkpoint_weights import copy_all_but_embeddings
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.speech_language_model import SpeechLanguageModel
from keras_speechssm.models.speech_transformer.gemma_cache import (
    advance_cached,
    empty_cache,
    has_cache,
)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpeechTransformer(PresetMixin, SpeechLanguageModel, keras_hub.models.Task):
    """A language model of semantic tokens on a Transformer decoder of KerasHub.

    What is it for: the paper's baseline. It has the interface of `SpeechSSM`, but its
    state holds every token so far, up to `max_length`: what SpeechSSM does without.

    On Gemma (without sliding windows) the state is a cache of keys and values, which a step
    reads and writes once. On other backbones it is the tokens themselves, all of which `advance`
    reads again: correct for any causal backbone, at a cost of `max_length` tokens a call.

    `model(token_ids)` gives the logits of the token after each one, float32 (batch, time,
    vocabulary); a dictionary may add `padding_mask`. In this whole call padding may lie at
    either end of a row.

    Args:
        backbone: a `keras_hub.models.GemmaBackbone`. Other causal backbones that take
            `token_ids` and `padding_mask` and have a reversible `token_embedding` work
            too, except in `from_preset`.
        max_length: int. Most tokens of a sequence, prompt and continuation together.
            Defaults to `2048`.
        preprocessor: a callable that `fit`, `evaluate` and `predict` apply to their
            inputs, or `None`. Presets leave out one that is no Keras layer.

    Example:

    ```python
    model = SpeechTransformer(backbone, max_length=1000)  # 40 s
    new_tokens = model.generate(tokens[None], num_tokens=250, seed=0)
    ```
    """

    preset_part = "speech_lm"
    backbone_cls = keras_hub.models.GemmaBackbone

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        max_length: int = 2048,
        preprocessor=None,
        **kwargs,
    ):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Functional Model ===
        inputs = backbone.input
        logits = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=ops.cast(logits, "float32"), **kwargs)

        # === Config ===
        self.max_length = max_length

    @classmethod
    def from_text_preset(
        cls,
        preset: str,
        vocabulary_size: int = 32768,
        max_length: int = 2048,
        load_weights: bool = True,
        **kwargs,
    ) -> "SpeechTransformer":
        """A speech model that begins with the weights of a text model.

        Everything is taken over but the embeddings of the text's tokens, in whose place
        come fresh ones for semantic tokens. On Gemma this is the paper's baseline; on OPT
        or Llama it is TWIST (Hassid et al. 2023).

        Args:
            preset: what `keras_hub.models.Backbone.from_preset` takes: a KerasHub preset,
                a folder of it or of a Hugging Face checkpoint, or a handle of either.
            vocabulary_size: int. Semantic tokens. Defaults to `32768`.
            max_length: int. Most tokens of a sequence. Defaults to `2048`.
            load_weights: bool. `False` takes the text model's sizes only.
            **kwargs: further arguments of the backbone, such as `dtype`.

        Raises:
            ValueError: a model that is no decoder of tokens.
        """
        text = keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights)
        config = text.get_config()
        if not hasattr(text, "token_embedding") or "vocabulary_size" not in config:
            raise ValueError(f"{preset!r} is a {type(text).__name__}, no decoder of tokens.")
        changes = {"vocabulary_size": vocabulary_size, **kwargs}
        backbone = type(text).from_config({**config, **changes})
        if load_weights:
            copy_all_but_embeddings(text, backbone)
        return cls(backbone, max_length=max_length)

    def _complete_inputs(self, inputs) -> dict:
        inputs = super()._complete_inputs(inputs)
        if inputs["padding_mask"] is None:
            inputs["padding_mask"] = ops.ones_like(inputs["token_ids"], dtype="int32")
        return inputs

    def initial_state(self, batch_size: int) -> dict:
        """The state before any token: what is known of the tokens so far, and their number.

        Returns:
            `{"length": int32 (batch,)}` with `"cache"`, see `gemma_cache.empty_cache`, or
            `"token_ids"`, int32 (batch, max_length).
        """
        length = ops.zeros((batch_size,), dtype="int32")
        if has_cache(self.backbone):
            return {
                "cache": empty_cache(self.backbone, batch_size, self.max_length),
                "length": length,
            }
        tokens = ops.zeros((batch_size, self.max_length), dtype="int32")
        return {"token_ids": tokens, "length": length}

    def advance_hidden(self, token_ids, state, padding_mask=None):
        """As `advance`, but returns hidden states (batch, time, hidden_dim), not logits.

        Past `max_length` they are NaN; `generate`, `stream` and `score` raise instead.
        """
        token_ids = ops.cast(token_ids, "int32")
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, dtype="bool")
        padding_mask = ops.cast(padding_mask, "bool")
        advance = self._advance_cache if "cache" in state else self._read_again
        hidden, state = advance(token_ids, state, padding_mask)
        fits = (state["length"] <= self.max_length)[:, None, None]
        return ops.where(fits, hidden, np.nan), state

    def _advance_cache(self, token_ids, state, padding_mask):
        hidden, cache, length = advance_cached(
            self.backbone, token_ids, state["cache"], state["length"], padding_mask
        )
        return hidden, {"cache": cache, "length": length}

    def _read_again(self, token_ids, state, padding_mask):
        count = ops.cumsum(ops.cast(padding_mask, "int32"), axis=1)
        old, length = state["length"], state["length"] + count[:, -1]
        slots = ops.arange(self.max_length, dtype="int32")[None]
        source = ops.clip(slots - old[:, None], 0, token_ids.shape[1] - 1)
        new = gather_time(gather_time(token_ids, left_align_order(padding_mask)[0]), source)
        real = slots < length[:, None]
        written = ops.logical_and(slots >= old[:, None], real)
        tokens = ops.where(written, new, state["token_ids"])
        hidden = self.backbone({"token_ids": tokens, "padding_mask": ops.cast(real, "int32")})
        places = ops.clip(old[:, None] + count - 1, 0, self.max_length - 1)
        return gather_time(hidden, places), {"token_ids": tokens, "length": length}

    def project(self, hidden):
        """Logits float32 (..., vocabulary) of hidden states (..., hidden_dim)."""
        return ops.cast(self.backbone.token_embedding(hidden, reverse=True), "float32")

    def _check_room(self, state: dict, num_tokens: int) -> None:
        needed = int(ops.convert_to_numpy(state["length"]).max()) + num_tokens
        if needed > self.max_length:
            raise ValueError(
                f"The sequence would have {needed} tokens; this SpeechTransformer holds "
                f"{self.max_length}: ask for fewer, or build it with a larger max_length."
            )

    def get_config(self) -> dict:
        return {**super().get_config(), "max_length": self.max_length}
