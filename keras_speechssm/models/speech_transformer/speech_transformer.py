"""SpeechTransformer: the language model on a Transformer decoder, the baseline of SpeechSSM."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.layers.padding import gather_time, left_align_order
from keras_speechssm.models.checkpoint_weights import (
    build_without_init,
    copy_all_but_embeddings,
    draw_embeddings,
)
from keras_speechssm.models.preset_mixin import PresetMixin, check_arguments
from keras_speechssm.models.speech_language_model import SpeechLanguageModel
from keras_speechssm.models.speech_transformer.gemma_cache import (
    advance_cached,
    empty_cache,
    has_cache,
)
from keras_speechssm.models.speech_transformer.gemma_segments import (
    has_segments,
    number_segments,
    separate_segments,
)
from keras_speechssm.presets import hub_reason


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpeechTransformer(PresetMixin, SpeechLanguageModel, keras_hub.models.Task):
    """A language model of semantic tokens on a Transformer decoder of KerasHub.

    This is the paper's baseline. It has the interface of `SpeechSSM`, but its state contains
    every token so far, up to `max_length`, while the state of SpeechSSM has a fixed size.

    On Gemma (without sliding windows) the state is a cache of keys and values. On other backbones
    it is the tokens themselves, all of which `advance` reads again: that is correct for any
    causal backbone, and costs `max_length` tokens per call.

    `model(token_ids)` returns the logits of the token after each one, float32 (batch, time,
    vocabulary). A dictionary with `token_ids` may add `padding_mask`. In this call padding may
    be at either end of a row. On Gemma it may also add `reset_mask` (bool, `True` at the first
    token of each packed document): no token attends to another document, as the state of SpeechSSM
    restarts there. Other backbones train on rows of one document each.

    Args:
        backbone: A `keras_hub.models.GemmaBackbone`, or another causal backbone of KerasHub that
            takes `token_ids` and `padding_mask` and has a reversible `token_embedding`, such as
            OPT or Llama.
        max_length: Most tokens of a sequence, prompt and continuation together. Defaults to
            `2048`.
        preprocessor: A `SpeechSSMPreprocessor`, or another layer or function that `fit`,
            `evaluate` and `predict` apply to their inputs (presets leave out a function).
            Defaults to `None`: a `SpeechSSMPreprocessor` without a tokenizer.

    Example:

    ```python
    import keras_hub
    import numpy as np
    from keras_speechssm.models import SpeechTransformer

    backbone = keras_hub.models.GemmaBackbone(12, 1, 1, 1, 8, 16, 8)
    model = SpeechTransformer(backbone, max_length=1000)  # 40 s
    new_tokens = model.generate(np.array([[1, 2, 3]]), num_tokens=25, seed=0)  # (1, 25)
    ```

    Reference:
        Park et al. 2024, "Long-Form Speech Generation with Spoken Language Models", section 4.
    """

    preset_part = "speech_lm"
    supports_quantization = True
    backbone_cls = keras_hub.models.GemmaBackbone
    _input_names = ("token_ids", "padding_mask", "reset_mask")

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        max_length: int = 2048,
        preprocessor=None,
        **kwargs,
    ):
        # === Layers ===
        self.backbone = backbone
        if self.packs_sequences:
            separate_segments(backbone)
        self._set_preprocessor(preprocessor)

        # === Functional Model ===
        inputs = backbone.input
        logits = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=ops.cast(logits, "float32"), **kwargs)

        # === Config ===
        self.max_length = max_length

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        if kwargs.get("preprocessor") is not None:
            return super().from_preset(preset, load_weights, **kwargs)
        kwargs["preprocessor"] = cls.load_preprocessor(preset)
        model = super().from_preset(preset, load_weights, **kwargs)
        model.preprocessor.pack &= model.packs_sequences
        return model

    @property
    def packs_sequences(self) -> bool:
        """Whether a row may hold several documents."""
        return has_segments(self.backbone)

    @classmethod
    def from_text_preset(
        cls,
        preset: str,
        vocabulary_size: int = 32768,
        max_length: int = 2048,
        load_weights: bool = True,
        seed: int | None = None,
        preprocessor=None,
        **kwargs,
    ) -> "SpeechTransformer":
        """Builds a speech model that starts from the weights of a text model.

        All weights are those of the text model, except for the embeddings of its tokens: those
        of the semantic tokens are random. On Gemma this is the paper's baseline; on OPT or Llama
        it is TWIST (Hassid et al. 2023).

        Args:
            preset: Anything that `keras_hub.models.Backbone.from_preset` takes: a KerasHub
                preset, a folder of one or of a Hugging Face checkpoint, or a handle of either.
            vocabulary_size: Number of semantic tokens. Defaults to `32768`.
            max_length: Most tokens of a sequence. Defaults to `2048`.
            load_weights: If `False`, only the sizes are taken. Defaults to `True`.
            seed: Seed of the new embeddings. Defaults to `None`: drawn from the generator that
                `keras.utils.set_random_seed` seeds.
            preprocessor: See the class. Defaults to `None`.
            **kwargs: Further arguments of the backbone, such as `dtype`.

        Raises:
            ValueError: If the preset cannot be loaded, or the model is not a decoder of tokens.
        """
        dtype = {"dtype": kwargs["dtype"]} if kwargs.get("dtype") is not None else {}
        try:
            text = keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights, **dtype)
        except Exception as error:  # Each hub has its own errors.
            raise ValueError(
                f"The text model {preset!r} could not be loaded: {hub_reason(error)}."
            ) from error
        config = text.get_config()
        if not hasattr(text, "token_embedding") or "vocabulary_size" not in config:
            raise ValueError(
                f"{preset!r} is a {type(text).__name__}; expected a decoder of token ids."
            )
        check_arguments(type(text), kwargs, ("max_length", "preprocessor", "seed"))
        changes = {"vocabulary_size": vocabulary_size, **kwargs}

        def make_backbone():
            return type(text).from_config({**config, **changes})

        if not load_weights:
            backbone = make_backbone()
        else:
            backbone = build_without_init(make_backbone, draw_embeddings=True)
            copy_all_but_embeddings(text, backbone)
        if seed is not None:
            draw_embeddings(backbone, seed)
        return cls(backbone, max_length=max_length, preprocessor=preprocessor)

    @classmethod
    def _backbone_class(cls, config: dict) -> type:
        # KerasHub finds the task of a backbone by its class, which can be one of many here.
        found = keras.saving.get_registered_object(str(config.get("registered_name")))
        of_keras_hub = str(getattr(found, "__module__", "")).startswith("keras_hub.")
        if of_keras_hub and issubclass(found, keras_hub.models.Backbone):
            return found
        return cls.backbone_cls

    def _complete_inputs(self, inputs) -> dict:
        inputs = super()._complete_inputs(inputs)
        reset_mask = inputs.pop("reset_mask")
        if reset_mask is not None:
            if not self.packs_sequences:
                raise ValueError(
                    f"SpeechTransformer cannot keep packed documents apart on a "
                    f"{type(self.backbone).__name__}; pass rows of one document with a "
                    "padding_mask (pack=False)."
                )
            inputs["padding_mask"] = number_segments(reset_mask, inputs["padding_mask"])
        if inputs["padding_mask"] is None:
            inputs["padding_mask"] = ops.ones_like(inputs["token_ids"], dtype="int32")
        return inputs

    def initial_state(self, batch_size: int) -> dict:
        """Returns the state before any token.

        Args:
            batch_size: Number of sequences.

        Returns:
            `{"length": int32 (batch,)}`, the number of tokens so far, with `"cache"`, see
            `gemma_cache.empty_cache`, or `"token_ids"`, int32 (batch, max_length).
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
        """Like `advance`, but returns hidden states (batch, time, hidden_dim), not logits.

        Beyond `max_length` they are NaN; `generate`, `stream` and `score` raise instead.
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
        """Returns the logits float32 (..., vocabulary) of hidden states (..., hidden_dim)."""
        return ops.cast(self.backbone.token_embedding(hidden, reverse=True), "float32")

    def _check_capacity(self, state: dict, num_tokens: int) -> None:
        needed = int(ops.convert_to_numpy(state["length"]).max()) + num_tokens
        if needed > self.max_length:
            raise ValueError(
                f"The sequence would have {needed} tokens; this SpeechTransformer supports "
                f"{self.max_length}. Ask for fewer, or build it with a larger max_length."
            )

    def get_config(self) -> dict:
        return {**super().get_config(), "max_length": self.max_length}
