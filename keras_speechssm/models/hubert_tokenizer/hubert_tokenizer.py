"""HubertTokenizer: waveform -> k-means clusters of HuBERT's features."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import waveform_array
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.layers.vector_quantizer import VectorQuantizer
from keras_speechssm.models.hubert_tokenizer.convert_hubert import open_hubert
from keras_speechssm.models.hubert_tokenizer.hubert_encoder import HubertEncoder
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.windowed_inference import run_in_windows
from keras_speechssm.shapes import SAMPLE_RATE

WINDOW_SECONDS, OVERLAP_SECONDS = 30, 4


@keras.saving.register_keras_serializable(package="keras_speechssm")
class HubertTokenizer(PresetMixin, keras_hub.models.Backbone):
    """HuBERT with k-means: the tokens of GSLM, TWIST, and SlamKit, for baselines.

    The features of one layer of HuBERT base are replaced by the nearest of a few hundred centers.
    The defaults are the sizes of mHuBERT-25Hz, layer 11, with 500 centers. HuBERT base gives 50
    tokens per second. The waveform is not normalized, as in fairseq. It is for inference: its
    training is not implemented.

    `from_preset` reads the checkpoints of `transformers` too. Pass `layer`, the number of the
    layer, and `kmeans`, the path of the centers: `.npy`, `.npz`, `.safetensors`, or the file of
    scikit-learn that GSLM and TWIST publish, which is read without unpickling it.

    Args:
        vocabulary_size: int. Number of centers. Defaults to `500`.
        num_layers: int. Transformer layers up to the one that is clustered. Defaults to `11`.
        num_heads: int. Attention heads. Defaults to `12`.
        hidden_dim: int. Width. Defaults to `768`.
        intermediate_dim: int. Width inside the feed-forwards. Defaults to `3072`.
        conv_channels: tuple of int. Channels of each convolution.
        conv_kernels: tuple of int. Kernel size of each convolution.
        conv_strides: tuple of int. Stride of each convolution; their product is the number of
            samples per token.
        position_kernel: int. Kernel size of the convolution for the positions. Defaults to `128`.
        position_groups: int. Groups of that convolution. Defaults to `16`.

    Inputs:
        A dict: `waveform` float32 (batch, samples) in [-1, 1] at 16 kHz with samples a
        multiple of `samples_per_token`, and `padding_mask` bool (batch, samples /
        samples_per_token), `True` at real steps.

    Returns:
        A dict: `features` float (batch, time, hidden_dim), and `tokens` int32 (batch, time), 0
        at padding.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.models import HubertTokenizer

    # HubertTokenizer.from_preset("hf://slprl/mhubert-base-25hz", layer=11, kmeans="km500.bin")
    # has the published weights.
    tokenizer = HubertTokenizer(
        10, 1, 2, 16, 32, (8, 8), (320, 4), (160, 4), position_kernel=4, position_groups=2
    )
    tokens = tokenizer.tokenize(np.random.uniform(-0.1, 0.1, 16000))  # int32 (25,)
    ```

    Reference:
        - [Hsu et al., 2021](https://arxiv.org/abs/2106.07447)
        - [Hassid et al., 2023](https://arxiv.org/abs/2305.13009)
    """

    preset_part = "semantic_tokenizer"
    _open_checkpoint = staticmethod(open_hubert)

    def __init__(
        self,
        vocabulary_size: int = 500,
        num_layers: int = 11,
        num_heads: int = 12,
        hidden_dim: int = 768,
        intermediate_dim: int = 3072,
        conv_channels=(512, 512, 512, 512, 512, 512, 512, 512),
        conv_kernels=(10, 3, 3, 3, 3, 2, 2, 2),
        conv_strides=(5, 2, 2, 2, 2, 2, 2, 2),
        position_kernel: int = 128,
        position_groups: int = 16,
        dtype=None,
        **kwargs,
    ):
        # === Layers ===
        self.encoder = HubertEncoder(
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            conv_channels,
            conv_kernels,
            conv_strides,
            position_kernel=position_kernel,
            position_groups=position_groups,
            dtype=dtype,
            name="encoder",
        )
        self.quantizer = VectorQuantizer(vocabulary_size, dtype="float32", name="quantizer")

        # === Functional Model ===
        waveform = keras.Input((None,), dtype="float32", name="waveform")
        padding_mask = keras.Input((None,), dtype="bool", name="padding_mask")
        features = self.encoder(waveform, padding_mask=padding_mask)
        _, tokens = self.quantizer(features, padding_mask=padding_mask)
        super().__init__(
            inputs={"waveform": waveform, "padding_mask": padding_mask},
            outputs={"features": features, "tokens": ops.where(padding_mask, tokens, 0)},
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.conv_channels = tuple(conv_channels)
        self.conv_kernels = tuple(conv_kernels)
        self.conv_strides = tuple(conv_strides)
        self.position_kernel = position_kernel
        self.position_groups = position_groups
        self.samples_per_token = self.encoder.samples_per_step
        self._inference = CompiledFunctions(self)

    @property
    def codebook(self) -> np.ndarray:
        """The centers, float32 (vocabulary_size, hidden_dim)."""
        return ops.convert_to_numpy(self.quantizer.codebook)

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
            int32 (time,) or (batch, time), time = ceil(samples / samples_per_token).

        Raises:
            ValueError: The waveform is empty, not finite, or not float.
        """
        waveform = waveform_array(waveform)
        size = self.samples_per_token
        return run_in_windows(
            self._inference.get("tokens", lambda: self._tokens),
            waveform,
            -(-waveform.shape[-1] // size),
            size,
            windows_per_batch,
            extra=self.encoder.extra_samples,
            window=WINDOW_SECONDS * SAMPLE_RATE // size,
            overlap=OVERLAP_SECONDS * SAMPLE_RATE // size,
        )

    def _tokens(self, waveform):
        return self.quantizer.encode(self.encoder.encode(waveform))

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            vocabulary_size=self.vocabulary_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            conv_channels=self.conv_channels,
            conv_kernels=self.conv_kernels,
            conv_strides=self.conv_strides,
            position_kernel=self.position_kernel,
            position_groups=self.position_groups,
        )
        return config
