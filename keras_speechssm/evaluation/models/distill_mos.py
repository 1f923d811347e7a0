"""DistillMOS, a small predictor of mean opinion scores for speech."""

import numpy as np

from keras_speechssm.evaluation.models.package_files import package_file

DISTILL_MOS = "distillmos"
REQUIREMENT = "distillmos==0.9.1"

_SHA256 = "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40"
_WINDOW = 122_880
_HOP = 16_000
_BATCH_SIZE = 4


class DistillMOSPredictor:
    """DistillMOS (4.1 M parameters): overall quality of speech, from 1 to 5.

    The weights are in the package `distillmos` 0.9.1 (Microsoft, MIT license). They are loaded
    into the network below, which needs PyTorch only: the package itself imports `torchaudio`
    and `xls_r_sqa`, which scoring does not use. Run PyTorch on the CPU.

    Recordings are scored in windows of 7.68 s that start at most one second apart; the score is
    the mean over the windows. Shorter recordings are padded with zeros.

    Raises:
        ValueError: The package with the weights is not installed, or is another version.

    Example:

    ```python
    from keras_speechssm.audio import read_audio
    from keras_speechssm.evaluation.models.distill_mos import DistillMOSPredictor

    predict = DistillMOSPredictor()
    score = predict(read_audio("examples/prompt.flac"))
    ```

    Reference:
        - [Stahl and Gamper 2025](https://arxiv.org/abs/2502.05356)
    """

    name = DISTILL_MOS

    def __init__(self):
        import torch

        path = package_file("distillmos", "weights/distill_mos_v7.pt", REQUIREMENT, _SHA256)
        self._network = build_network()
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
        self._network.load_state_dict(state)
        self._network.eval()

    def __call__(self, waveform: np.ndarray) -> float:
        import torch

        waveform = np.asarray(waveform, "float32")
        if not len(waveform):
            raise ValueError("A MOS predictor needs audio; the waveform is empty.")
        windows = torch.from_numpy(cut_windows(waveform))
        with torch.inference_mode():
            scores = [self._network(batch) for batch in windows.split(_BATCH_SIZE)]
        return float(torch.cat(scores).mean())


def cut_windows(waveform: np.ndarray) -> np.ndarray:
    """Cut a waveform into windows of 7.68 s, spread evenly, at most a second apart.

    Args:
        waveform: float32 (samples,) at 16 kHz.

    Returns:
        float32 (windows, 122880).
    """
    if len(waveform) <= _WINDOW:
        return np.pad(waveform, (0, _WINDOW - len(waveform)))[None]
    last = len(waveform) - _WINDOW
    starts = (np.linspace(0.0, 1.0, -(-last // _HOP) + 1) * last).astype("int64")
    return np.stack([waveform[start : start + _WINDOW] for start in starts])


def build_network():
    """Build the network of DistillMOS with random weights, as a `torch.nn.Module`.

    It maps windows (batch, 122880) to scores (batch,). The names of its parameters are those of
    the published weights.
    """
    import torch
    from torch import nn

    class SpectrumCNN(nn.Module):
        """Compressed complex spectrum (10 ms hop, 20 ms window) -> (batch, 384, 1024)."""

        def __init__(self):
            super().__init__()
            channels = (2, 64, 64, 128, 256, 256, 256)
            layers = []
            for n in range(6):
                stride = (2 if n >= 1 else 1, 2 if n == 5 else 1)
                layers.append(nn.Conv2d(channels[n], channels[n + 1], 3, stride, padding=(0, 1)))
                layers.append(nn.LeakyReLU(0.1))
            self.cnn = nn.Sequential(*layers)

        def forward(self, x):
            x = nn.functional.pad(x, (80, 80), mode="reflect")
            window = torch.hann_window(320, device=x.device)
            spectrum = torch.stft(x, 320, 160, 320, window, center=False, return_complex=True)
            magnitude = spectrum.abs().clip(1e-12)
            spectrum = torch.view_as_real(spectrum * magnitude**-0.7)
            return self.cnn(spectrum.permute(0, 3, 1, 2)).flatten(1, 2).transpose(1, 2)

    class Encoder(nn.Module):
        """Transformer over the frames; its position encoding is stored with the weights."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1024)
            self.position_encoding = nn.Module()
            self.position_encoding.register_buffer("pe", torch.zeros(1, 384, 200))
            self.linear_proj = nn.Linear(1024, 200)
            layer = nn.TransformerEncoderLayer(200, 8, 400, dropout=0.0, batch_first=True)
            self.transformer_encoder = nn.TransformerEncoder(layer, 7, enable_nested_tensor=False)

        def forward(self, x):
            x = self.linear_proj(self.norm(x.transpose(1, 2)).transpose(1, 2))
            return self.transformer_encoder(x + self.position_encoding.pe)

    class AttentionPooling(nn.Module):
        """Weighted mean over time, then one number."""

        def __init__(self):
            super().__init__()
            self.linear1 = nn.Linear(200, 400)
            self.linear2 = nn.Linear(400, 1)
            self.linear3 = nn.Linear(200, 1)

        def forward(self, x):
            weights = self.linear2(torch.relu(self.linear1(x))).softmax(dim=1)
            return self.linear3((weights * x).sum(dim=1))

    class Quality(nn.Module):
        """Frames -> quality from 0 to 1."""

        def __init__(self):
            super().__init__()
            self.norm_input = nn.BatchNorm1d(1024)
            self.transformer = Encoder()
            self.norm_trans = nn.BatchNorm1d(200)
            self.pool = AttentionPooling()

        def forward(self, x):
            x = self.transformer(self.norm_input(x.transpose(1, 2)).transpose(1, 2))
            x = self.norm_trans(x.transpose(1, 2)).transpose(1, 2)
            return torch.sigmoid(self.pool(x))

    class DistillMOS(nn.Module):
        def __init__(self):
            super().__init__()
            self.cnn = SpectrumCNN()
            self.transformer_pool_attn = Quality()

        def forward(self, x):
            x = x / (x.abs().amax(dim=1, keepdim=True) + 1e-8)
            return 1.0 + 4.0 * self.transformer_pool_attn(self.cnn(x))[:, 0]

    return DistillMOS()
