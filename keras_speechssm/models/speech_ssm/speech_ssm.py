"""SpeechSSM: a spoken language model of constant memory."""

import keras
import keras_hub

from keras_speechssm.models.checkpoint_weights import (
    build_without_init,
    copy_all_but_embeddings,
    load_checkpoint_weights,
)
from keras_speechssm.models.griffin.convert_recurrent_gemma import open_recurrent_gemma
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone, projection_filter
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.speech_language_model import SpeechLanguageModel
from keras_speechssm.presets import fetch_folder


# Not a CausalLM of KerasHub: that class generates through text preprocessors and a cache
# as long as the sequence.
@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpeechSSM(PresetMixin, SpeechLanguageModel, keras_hub.models.Task):
    """A language model of semantic tokens on a `GriffinBackbone`.

    What is it for: it continues speech, given as semantic tokens at 25 Hz, for as long as
    wanted; memory and the time for each token do not grow (Park et al. 2024, "Long-Form
    Speech Generation with Spoken Language Models", section 3).

    `model(token_ids)` gives the logits of the token after each one, float32 (batch, time,
    vocabulary), soft-capped. Besides an array it takes a dictionary with `token_ids` and
    optionally `padding_mask` and `reset_mask` (`True` at the first token of each packed
    document), in `fit` too:

    ```python
    inputs = {"token_ids": tokens[:, :-1], "reset_mask": starts[:, :-1]}
    model.fit(inputs, tokens[:, 1:], sample_weight=weights)
    ```

    Args:
        backbone: a `GriffinBackbone`; the paper's has `use_rotary=False`.
        preprocessor: a callable that `fit`, `evaluate` and `predict` apply to their
            inputs, or `None`. Presets leave out one that is no Keras layer.

    Example:

    ```python
    model = keras_speechssm.models.SpeechSSM.from_preset("speech_ssm_demo_en")
    new_tokens = model.generate(tokens[None], num_tokens=250, seed=0)
    for block in model.stream(tokens[None], seed=0):  # without end
        ...
    ```
    """

    preset_part = "speech_lm"
    backbone_cls = GriffinBackbone
    _input_names = ("token_ids", "padding_mask", "reset_mask")

    def __init__(self, backbone: GriffinBackbone, preprocessor=None, **kwargs):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Functional Model ===
        inputs = backbone.input
        logits = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)

    @classmethod
    def from_text_preset(
        cls,
        preset: str,
        vocabulary_size: int = 32768,
        use_rotary: bool = False,
        load_weights: bool = True,
        **kwargs,
    ) -> "SpeechSSM":
        """A speech model that begins with the weights of a text model.

        Everything is taken over but the embeddings of the text's tokens, in whose place
        come fresh ones for semantic tokens, and, unless asked for, the rotary positions
        (Park et al. 2024, section 3: RecurrentGemma-2B-IT or 9B-IT, no positions).

        Args:
            preset: a RecurrentGemma checkpoint or a `GriffinBackbone` preset, as
                `GriffinBackbone.from_preset` takes it.
            vocabulary_size: int. Semantic tokens. Defaults to `32768`.
            use_rotary: bool. Rotary positions in the attention. Defaults to `False`.
            load_weights: bool. `False` takes the text model's sizes only.
            **kwargs: further arguments of `GriffinBackbone`, such as `dtype`.
        """
        changes = {"vocabulary_size": vocabulary_size, "use_rotary": use_rotary, **kwargs}
        folder = fetch_folder(preset, cls.preset_part)
        checkpoint = open_recurrent_gemma(folder)
        if checkpoint is not None:
            config = {**checkpoint.config, "dtype": checkpoint.dtype, **changes}
            if not load_weights:
                return cls(GriffinBackbone(**config))
            backbone = build_without_init(lambda: GriffinBackbone(**config), draw_embeddings=True)
            load_checkpoint_weights(backbone, checkpoint, skip_embeddings=True)
            return cls(backbone)
        text = GriffinBackbone.from_preset(folder, load_weights=load_weights)
        backbone = GriffinBackbone.from_config({**text.get_config(), **changes})
        if load_weights:
            copy_all_but_embeddings(text, backbone)
        return cls(backbone)

    def initial_state(self, batch_size: int) -> list:
        """The state before any token: a nested structure of arrays of fixed sizes."""
        return self.backbone.initial_state(batch_size)

    def advance(self, token_ids, state, padding_mask=None, reset_mask=None):
        """Continues from `state` over a chunk of any length.

        Args:
            token_ids: int (batch, time).
            state: from `initial_state` or an earlier call; it is not changed.
            padding_mask: bool (batch, time), True = real, or `None`. Padding anywhere
                changes nothing.
            reset_mask: bool (batch, time), True at the first token of each packed document,
                or `None`.

        Returns:
            Logits float32 (batch, time, vocabulary) and the new state.
        """
        hidden, state = self.advance_hidden(token_ids, state, padding_mask, reset_mask)
        return self.project(hidden), state

    def advance_hidden(self, token_ids, state, padding_mask=None, reset_mask=None):
        """As `advance`, but returns hidden states (batch, time, hidden_dim), not logits."""
        return self.backbone.advance(token_ids, state, padding_mask, reset_mask)

    def project(self, hidden):
        """Logits float32 (..., vocabulary) of hidden states (..., hidden_dim)."""
        return self.backbone.token_embedding(hidden, reverse=True)

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """Quantizes the backbone's projections, in place; see `GriffinBackbone.quantize`."""
        super().quantize(mode, config=config, filters=projection_filter(filters), **kwargs)
        self.backbone.keep_policies()
