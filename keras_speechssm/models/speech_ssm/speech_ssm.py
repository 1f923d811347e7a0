"""SpeechSSM: a spoken language model with constant memory."""

import keras
import keras_hub

from keras_speechssm.models.griffin.convert_recurrent_gemma import open_recurrent_gemma
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone, projection_filter
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.speech_language_model import SpeechLanguageModel


# As a `CausalLM` it is found by `keras_hub.models.CausalLM.from_preset`. Compiling, generating and
# scoring are those of `SpeechLanguageModel`.
@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpeechSSM(PresetMixin, SpeechLanguageModel, keras_hub.models.CausalLM):
    """A language model of semantic tokens on a `GriffinBackbone`.

    It continues speech, given as semantic tokens at 25 Hz, for any length of time. Memory, and the
    time per token, do not grow with the length.

    `model(token_ids)` returns the logits of the token after each one, float32 (batch, time,
    vocabulary), soft-capped. Instead of an array it takes a dictionary with `token_ids` and,
    optionally, `padding_mask` (bool, `True` at real tokens) and `reset_mask` (bool, `True` at the
    first token of each packed document), also in `fit`.

    As in KerasHub, LoRA is enabled on the backbone: `model.backbone.enable_lora(rank)`.

    Args:
        backbone: A `GriffinBackbone`. The paper's has `use_rotary=False`.
        preprocessor: A `SpeechSSMPreprocessor`, or another layer or function that `fit`,
            `evaluate` and `predict` apply to their inputs (presets leave out a function).
            Defaults to `None`: a `SpeechSSMPreprocessor` without a tokenizer.

    Examples:

    Generate from the demo weights:

    ```python
    import numpy as np
    from keras_speechssm.models import SpeechSSM

    model = SpeechSSM.from_preset("speech_ssm_demo_en")
    prompt = np.array([[5, 17, 17, 40]])
    new_tokens = model.generate(prompt, num_tokens=25, seed=0)  # (1, 25)
    for block in model.stream(prompt, block_size=10, seed=0):  # without end
        break
    ```

    Train a small model on two documents, packed into one row:

    ```python
    import numpy as np
    from keras_speechssm.models import GriffinBackbone, SpeechSSM

    model = SpeechSSM(GriffinBackbone(12, 3, 8, 16, 2, use_rotary=False))
    tokens = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 9]])
    starts = np.array([[True, False, False, False, True, False, False, False, False]])
    weights = 1.0 - starts[:, 1:]  # the first token of a document is not a target
    inputs = {"token_ids": tokens[:, :-1], "reset_mask": starts[:, :-1]}
    model.fit(inputs, tokens[:, 1:], sample_weight=weights, verbose=0)
    ```

    Reference:
        Park et al. 2024, "Long-Form Speech Generation with Spoken Language Models" (arXiv
        2412.18603), section 3.
    """

    preset_part = "speech_lm"
    supports_quantization = True
    backbone_cls = GriffinBackbone
    _input_names = ("token_ids", "padding_mask", "reset_mask")

    def __init__(self, backbone: GriffinBackbone, preprocessor=None, **kwargs):
        # === Layers ===
        self.backbone = backbone
        self._set_preprocessor(preprocessor)

        # === Functional Model ===
        inputs = backbone.input
        logits = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        if kwargs.get("preprocessor") is None:
            kwargs["preprocessor"] = cls.load_preprocessor(preset)
        return super().from_preset(preset, load_weights, **kwargs)

    @classmethod
    def from_text_preset(
        cls,
        preset: str,
        vocabulary_size: int = 32768,
        use_rotary: bool = False,
        load_weights: bool = True,
        seed: int | None = None,
        preprocessor=None,
        **kwargs,
    ) -> "SpeechSSM":
        """Builds a speech model that starts from the weights of a text model.

        All weights are those of the text model, except for the embeddings of its tokens: those
        of the semantic tokens are random. By default there are no rotary positions (Park et al.
        2024, section 3: RecurrentGemma-2B-IT or 9B-IT, no positions).

        Args:
            preset: A RecurrentGemma checkpoint or a `GriffinBackbone` preset: anything that
                `GriffinBackbone.from_preset` takes.
            vocabulary_size: Number of semantic tokens. Defaults to `32768`.
            use_rotary: Whether the attention has rotary positions. Defaults to `False`.
            load_weights: If `False`, only the sizes are taken. Defaults to `True`.
            seed: Seed of the new embeddings. Defaults to `None`: drawn from the generator that
                `keras.utils.set_random_seed` seeds.
            preprocessor: See the class. Defaults to `None`.
            **kwargs: Further arguments of `GriffinBackbone`, such as `dtype`.

        Raises:
            ValueError: If the preset cannot be loaded, or an argument changes the shape of a
                weight.
        """
        backbone = GriffinBackbone.from_text_preset(
            preset,
            vocabulary_size,
            load_weights=load_weights,
            use_rotary=use_rotary,
            seed=seed,
            **kwargs,
        )
        return cls(backbone, preprocessor=preprocessor)

    @classmethod
    def _from_foreign_checkpoint(cls, folder: str, load_weights: bool, kwargs: dict):
        if open_recurrent_gemma(folder) is not None:
            raise ValueError(
                f"{folder!r} is a text model; start a speech model from it with "
                f"{cls.__name__}.from_text_preset({folder!r})."
            )

    def initial_state(self, batch_size: int) -> list:
        """Returns the state before any token: a nested structure of arrays of fixed sizes."""
        return self.backbone.initial_state(batch_size)

    def advance(self, token_ids, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk of a sequence, of any length.

        Args:
            token_ids: int (batch, time).
            state: From `initial_state` or an earlier call. It is not changed.
            padding_mask: bool (batch, time), `True` at real tokens. Padding may be anywhere and
                changes nothing. Defaults to `None`: all tokens are real.
            reset_mask: bool (batch, time), `True` at the first token of each packed document.
                Defaults to `None`.

        Returns:
            Logits float32 (batch, time, vocabulary) and the new state.
        """
        hidden, state = self.advance_hidden(token_ids, state, padding_mask, reset_mask)
        return self.project(hidden), state

    def advance_hidden(self, token_ids, state, padding_mask=None, reset_mask=None):
        """Like `advance`, but returns hidden states (batch, time, hidden_dim), not logits."""
        return self.backbone.advance(token_ids, state, padding_mask, reset_mask)

    def project(self, hidden):
        """Returns the logits float32 (..., vocabulary) of hidden states (..., hidden_dim)."""
        return self.backbone.token_embedding(hidden, reverse=True)

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """Quantizes the backbone's projections, in place; see `GriffinBackbone.quantize`."""
        super().quantize(mode, config=config, filters=projection_filter(filters), **kwargs)
        self.backbone.restore_dtype_policies()
