"""S3Tokenizer: waveform -> the open semantic tokens of CosyVoice 2."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import waveform_array
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.s3_tokenizer.convert_s3_tokenizer import open_s3_tokenizer
from keras_speechssm.models.s3_tokenizer.s3_encoder import S3Encoder
from keras_speechssm.models.windowed_inference import run_in_windows
from keras_speechssm.shapes import SAMPLES_PER_TOKEN

LEVELS = 3
"""Values that each dimension of a code can have: -1, 0, and 1."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class S3Tokenizer(PresetMixin, keras_hub.models.Backbone):
    """S3TokenizerV2 of CosyVoice 2: speech to 25 semantic tokens per second, with open weights.

    An encoder that was trained to recognize speech, with a finite scalar quantizer in the middle:
    each of 8 dimensions is rounded to -1, 0, or 1, which gives 3^8 = 6,561 tokens. The tokens
    carry what is said and little of who says it, so they can replace those of `SemanticTokenizer`
    in every job. The defaults are the sizes of the published model. It is for inference: its
    training is not implemented.

    Args:
        num_layers: int. Transformer layers. Defaults to `6`.
        num_heads: int. Attention heads. Defaults to `20`.
        hidden_dim: int. Width. Defaults to `1280`.
        intermediate_dim: int. Width inside the feed-forwards. Defaults to `5120`.
        num_mels: int. Mel bands. Defaults to `128`.
        kernel_size: int. Taps of the memory next to each attention. Defaults to `31`.
        code_dim: int. Dimensions that are rounded. Defaults to `8`.

    Inputs:
        A dict: `waveform` float32 (batch, samples) in [-1, 1] at 16 kHz with samples a
        multiple of 640, and `padding_mask` bool (batch, samples / 640), `True` at real
        steps.

    Returns:
        A dict: `latents` float32 (batch, time, code_dim), the values before rounding, and
        `tokens` int32 (batch, time), 0 at padding.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.models import S3Tokenizer

    # S3Tokenizer.from_preset("hf://ResembleAI/s3tokenizer-v2") has the published weights.
    tokenizer = S3Tokenizer(num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32)
    tokens = tokenizer.tokenize(np.random.uniform(-0.1, 0.1, 16000))  # int32 (25,)
    ```

    Reference:
        - [Du et al., 2024](https://arxiv.org/abs/2412.10117)
    """

    preset_part = "semantic_tokenizer"
    _open_checkpoint = staticmethod(open_s3_tokenizer)

    def __init__(
        self,
        num_layers: int = 6,
        num_heads: int = 20,
        hidden_dim: int = 1280,
        intermediate_dim: int = 5120,
        num_mels: int = 128,
        kernel_size: int = 31,
        code_dim: int = 8,
        dtype=None,
        **kwargs,
    ):
        # === Layers ===
        self.encoder = S3Encoder(
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            num_mels=num_mels,
            kernel_size=kernel_size,
            code_dim=code_dim,
            dtype=dtype,
            name="encoder",
        )
        # === Config ===
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_mels = num_mels
        self.kernel_size = kernel_size
        self.code_dim = code_dim
        self.vocabulary_size = LEVELS**code_dim

        # === Functional Model ===
        waveform = keras.Input((None,), dtype="float32", name="waveform")
        padding_mask = keras.Input((None,), dtype="bool", name="padding_mask")
        latents = self.encoder(waveform, padding_mask=padding_mask)
        tokens = ops.where(padding_mask, self.to_tokens(latents), 0)
        super().__init__(
            inputs={"waveform": waveform, "padding_mask": padding_mask},
            outputs={"latents": latents, "tokens": tokens},
            dtype=dtype,
            **kwargs,
        )
        self._inference = CompiledFunctions(self)

    @property
    def codebook(self) -> np.ndarray:
        """The rounded vectors of the tokens, float32 (vocabulary_size, code_dim)."""
        digits = np.arange(self.vocabulary_size)[:, None] // LEVELS ** np.arange(self.code_dim)
        return (digits % LEVELS - 1).astype("float32")

    def tokenize(self, waveform, windows_per_batch: int = 4) -> np.ndarray:
        """Tokenize a recording, or a batch of equally long ones.

        Long recordings are cut into windows of 30 s that overlap by 4 s and merged in
        the middle of the overlaps. A window that reaches beyond the end continues with the
        beginning of the recording, never with silence.

        Args:
            waveform: float (samples,) or (batch, samples) in [-1, 1] at 16 kHz, at
                least one sample.
            windows_per_batch: int. Windows that run at once at most. Defaults to `4`.

        Returns:
            int32 (time,) or (batch, time), time = ceil(samples / 640).

        Raises:
            ValueError: The waveform is empty, not finite, or not float.
        """
        waveform = waveform_array(waveform)
        run = self._inference.get("tokens", lambda: self._tokens)
        num_tokens = -(-waveform.shape[-1] // SAMPLES_PER_TOKEN)
        return run_in_windows(run, waveform, num_tokens, SAMPLES_PER_TOKEN, windows_per_batch)

    def to_tokens(self, latents):
        """Round latents (batch, time, code_dim) to tokens int32 (batch, time)."""
        digits = ops.cast(ops.round(latents), "int32") + 1
        powers = ops.convert_to_tensor(LEVELS ** np.arange(self.code_dim), dtype="int32")
        return ops.sum(digits * powers, axis=-1)

    def _tokens(self, waveform):
        return self.to_tokens(self.encoder(waveform))

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            num_mels=self.num_mels,
            kernel_size=self.kernel_size,
            code_dim=self.code_dim,
        )
        return config
