"""Compare the open parts with the packages that they come from, with random weights at full size.

python benchmarks/open_parts.py parity --backends jax tensorflow torch
python benchmarks/open_parts.py speed --components s3_tokenizer --cores 1
python benchmarks/open_parts.py convert parity speed --output all.json

Each component is written as the checkpoint that its authors publish, and loaded by this package and
by the original: PyPI's `s3tokenizer`, `chatterbox-light`, and `transformers`. `parity` reports the
largest differences of each part, `speed` the seconds per second of audio of both in turn, and
`convert` the seconds and the memory of loading a checkpoint and saving it as a preset.

Requires the extras `torch` and `parity`, and `pip install --no-deps s3tokenizer chatterbox-light`
with `pip install einops omegaconf diffusers`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from keras_speechssm.benchmarks.measurement import (
    check_output,
    describe_machine,
    format_table,
    peak_memory_mib,
    resident_memory_mib,
    run_in_subprocess,
)
from keras_speechssm.files import write_json

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

PROMPT_SECONDS = 3
"""Length of the voice prompt of S3Gen, which is not counted as audio."""

_THREADS = ("OMP_NUM_THREADS", "NPROC", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
"""Numbers of threads: of PyTorch and NumPy, XLA, and TensorFlow."""


class Work(NamedTuple):
    """The same work of the original and of this package.

    Attributes:
        part: Its name.
        original: Calls the original.
        ours: Calls this package.
    """

    part: str
    original: Callable[[], object]
    ours: Callable[[], object]


class S3TokenizerPair:
    """`S3Tokenizer` and PyPI's `s3tokenizer`."""

    def __init__(self, folder: Path):
        from original_parts import make_s3_tokenizer, save_s3_tokenizer

        self.folder = folder
        self.model = make_s3_tokenizer(6, 20, 1280, scale=0.02)
        save_s3_tokenizer(self.model, folder / "model.safetensors")

    @staticmethod
    def load(folder: Path, **options):
        """Load the checkpoint with this package."""
        from keras_speechssm.models import S3Tokenizer

        return S3Tokenizer.from_preset(str(folder), **options)

    def compared(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works whose results are arrays to compare."""
        from original_parts import s3_latents, speech

        from keras_speechssm.compilation import compile_inference

        waveform = speech(1, 16_000 * seconds)
        encode = compile_inference(ours, lambda x: ours.encoder(x))
        mel = self._log_mel(waveform)
        yield Work(
            "latents",
            lambda: s3_latents(self.model, mel, [mel.shape[-1]]),
            lambda: encode(waveform),
        )

    def timed(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works to time."""
        import torch
        from original_parts import speech

        waveform = speech(1, 16_000 * seconds)

        def original():
            mel = self._log_mel(waveform)
            with torch.inference_mode():
                return self.model.quantize(mel, torch.tensor([mel.shape[-1]]))[0].numpy()

        yield Work("tokenize", original, lambda: ours.tokenize(waveform))

    def _log_mel(self, waveform):
        import torch
        from original_parts import s3_tokenizer_module

        return s3_tokenizer_module().log_mel_spectrogram(torch.tensor(waveform))


class HubertPair:
    """`HubertTokenizer` with the sizes of mHuBERT-25Hz, and `transformers.HubertModel`."""

    layer = 11

    def __init__(self, folder: Path):
        from original_parts import make_base_hubert

        self.folder = folder
        self.model = make_base_hubert(folder)
        # The rest is not needed for the features of this layer.
        self.model.encoder.layers = self.model.encoder.layers[: self.layer]
        self.centers = np.random.default_rng(0).normal(size=(500, 768)).astype("float32")
        np.save(folder / "km.npy", self.centers)

    @classmethod
    def load(cls, folder: Path, **options):
        """Load the checkpoint with this package."""
        from keras_speechssm.models import HubertTokenizer

        kmeans = folder / "km.npy"
        return HubertTokenizer.from_preset(str(folder), layer=cls.layer, kmeans=kmeans, **options)

    def _waveform(self, ours, seconds):
        from original_parts import speech

        return np.pad(speech(1, 16_000 * seconds), ((0, 0), (0, ours.encoder.extra_samples)))

    def compared(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works whose results are arrays to compare."""
        from original_parts import hidden_states

        from keras_speechssm.compilation import compile_inference

        waveform = self._waveform(ours, seconds)
        encode = compile_inference(ours, lambda x: ours.encoder.encode(x))
        yield Work(
            f"layer {self.layer}",
            lambda: hidden_states(self.model, waveform, self.layer),
            lambda: encode(waveform),
        )

    def timed(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works to time."""
        import torch

        waveform, centers = self._waveform(ours, seconds), torch.tensor(self.centers)
        unpadded = waveform[:, : 16_000 * seconds]

        def original():
            with torch.inference_mode():
                features = self.model(torch.tensor(waveform)).last_hidden_state
                return torch.cdist(features, centers[None]).argmin(dim=-1).numpy()

        yield Work("tokenize", original, lambda: ours.tokenize(unpadded))


class DescriptPair:
    """`DescriptAudioCodec` with the sizes of DAC for 16 kHz, and `transformers.DacModel`."""

    def __init__(self, folder: Path):
        from original_parts import make_base_dac

        self.folder = folder
        self.model = make_base_dac(folder)

    @staticmethod
    def load(folder: Path, **options):
        """Load the checkpoint with this package."""
        from keras_speechssm.models import DescriptAudioCodec

        return DescriptAudioCodec.from_preset(str(folder), **options)

    def _codes(self, seconds):
        return np.random.default_rng(0).integers(0, 1024, (1, 50 * seconds, 12))

    def _decode(self, codes):
        import torch

        with torch.inference_mode():
            codes = torch.tensor(codes.transpose(0, 2, 1))
            return self.model.decode(audio_codes=codes).audio_values.numpy()

    def compared(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works whose results are arrays to compare."""
        import torch
        from original_parts import speech

        from keras_speechssm.compilation import compile_inference

        waveform, codes = speech(1, 16_000 * seconds), self._codes(seconds)
        encode = compile_inference(ours, lambda x: ours._run(ours.encoder_layers, x))

        def original():
            with torch.inference_mode():
                return self.model.encoder(torch.tensor(waveform)[:, None]).numpy()

        yield Work(
            "encoder", lambda: original().transpose(0, 2, 1), lambda: encode(waveform[..., None])
        )
        yield Work("decoder", lambda: self._decode(codes), lambda: ours.decode(codes)[:, :-8])

    def timed(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works to time."""
        import torch
        from original_parts import speech

        waveform, codes = speech(1, 16_000 * seconds), self._codes(seconds)

        def original():
            with torch.inference_mode():
                return self.model.encode(torch.tensor(waveform)[:, None]).audio_codes.numpy()

        yield Work("encode", original, lambda: ours.encode(waveform))
        yield Work("decode", lambda: self._decode(codes), lambda: ours.decode(codes))


class S3GenPair:
    """`S3Gen` and PyPI's `chatterbox-light`."""

    mean_flow = False
    steps = 10

    def __init__(self, folder: Path):
        import original_s3_gen as original

        original.use_diffusers = True
        sizes = 6561, 512, 2048, 8, 6, 4, 256, 8, 4, 12
        self.folder = folder
        self.flow = original.make_flow(*sizes, mean_flow=self.mean_flow)
        self.vocoder = original.make_vocoder(512, 512)
        self.speaker_encoder = original.make_speaker_encoder(32, 128, (12, 24, 16))
        name = "s3gen_meanflow.safetensors" if self.mean_flow else "s3gen.safetensors"
        original.save_original(folder / name, self.flow, self.vocoder, self.speaker_encoder)

    @staticmethod
    def load(folder: Path, **options):
        """Load the checkpoint with this package."""
        from keras_speechssm.models import S3Gen

        return S3Gen.from_preset(str(folder), **options)

    def _flow(self, ours, seconds: int, steps: int) -> Work:
        import torch
        from original_s3_gen import normal

        from keras_speechssm.models.s3_gen.s3_gen import GUIDANCE

        num_prompt, length = 25 * PROMPT_SECONDS, 25 * seconds
        tokens = np.random.default_rng(0).integers(0, 6561, (1, num_prompt + length))
        condition = normal(2 * num_prompt, 80)
        noise, speaker = normal(2 * (num_prompt + length), 80, seed=1), normal(192, seed=2)
        mask = np.ones((1, length), bool)

        def original():
            with torch.inference_mode():
                mel, _ = self.flow.inference(
                    token=torch.tensor(tokens[:, num_prompt:]),
                    token_len=torch.tensor([length]),
                    prompt_token=torch.tensor(tokens[:, :num_prompt]),
                    prompt_token_len=torch.tensor([num_prompt]),
                    prompt_feat=torch.tensor(condition[None]),
                    prompt_feat_len=None,
                    embedding=torch.tensor(speaker),
                    finalize=True,
                    n_timesteps=steps,
                    noised_mels=torch.tensor(noise.T[None]),
                    meanflow=self.mean_flow,
                )
            return mel.numpy().transpose(0, 2, 1)

        def generate():
            voice = ours.voice_class(tokens[0, :num_prompt], condition, speaker)
            mel = ours._generate_mel(tokens[:, num_prompt:], mask, voice, [noise], steps, GUIDANCE)
            return mel[:, 2 * num_prompt :]

        return Work(f"mel, {steps} steps", original, generate)

    def compared(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works whose results are arrays to compare."""
        import torch
        from original_s3_gen import normal

        from keras_speechssm.compilation import compile_inference

        def inference(function, *inputs):
            with torch.inference_mode():
                return function(*map(torch.tensor, inputs)).numpy()

        yield self._flow(ours, seconds, 2)
        if self.mean_flow:  # The rest is the same.
            return
        features, mel = normal(1, 100 * seconds, 80), normal(1, 50 * seconds, 80)
        sines = 0.1 * normal(1, 24_000 * seconds, 9)
        channels_first = mel.transpose(0, 2, 1)
        source = self.vocoder.m_source
        vocode = compile_inference(ours, lambda *x: ours.vocoder(*x))
        encode = compile_inference(ours, lambda x: ours.speaker_encoder(x))
        predict = compile_inference(ours, lambda x: ours.vocoder.predict_f0(x))

        def waveform(mel, sines):
            merged = source.l_tanh(source.l_linear(sines)).transpose(1, 2)
            return self.vocoder.decode(x=mel, s=merged)

        yield Work(
            "speaker vector",
            lambda: inference(self.speaker_encoder, features),
            lambda: encode(features),
        )
        yield Work(
            "f0 in Hz",
            lambda: inference(self.vocoder.f0_predictor, channels_first),
            lambda: predict(mel),
        )
        yield Work(
            "waveform",
            lambda: inference(waveform, channels_first, sines),
            lambda: vocode(mel, sines),
        )

    def timed(self, ours, seconds: int) -> Iterator[Work]:
        """Yield works to time."""
        import torch
        from original_s3_gen import normal

        yield self._flow(ours, seconds, self.steps)
        if self.mean_flow:
            return
        mel, mask = normal(1, 50 * seconds, 80), np.ones((1, 25 * seconds), bool)

        def original():
            with torch.inference_mode():
                return self.vocoder.inference(torch.tensor(mel.transpose(0, 2, 1)))[0].numpy()

        yield Work("vocoder", original, lambda: ours._decode(mel, mask, 0, [0], None))


class MeanFlowPair(S3GenPair):
    """`S3Gen` with MeanFlow, and PyPI's `chatterbox-light`."""

    mean_flow = True
    steps = 2


COMPONENTS = {
    "s3_tokenizer": (S3TokenizerPair, 30),
    "hubert_tokenizer": (HubertPair, 30),
    "descript_audio_codec": (DescriptPair, 10),
    "s3_gen": (S3GenPair, 10),
    "s3_gen_mean_flow": (MeanFlowPair, 10),
}
"""Name on the command line -> the pair, and the seconds of audio of `speed`."""


def measure_parity(pair, ours) -> list[dict]:
    """Return the largest difference of each part of a component."""
    from keras import ops

    rows = []
    for work in pair.compared(ours, seconds=2):
        expected = np.asarray(work.original())
        found = ops.convert_to_numpy(ops.cast(work.ours(), "float32"))
        rows.append(
            {
                "part": work.part,
                "max_difference": float(np.abs(found - expected).max()),
                "mean_difference": float(np.abs(found - expected).mean()),
                "largest_value": float(np.abs(expected).max()),
            }
        )
    return rows


def measure_speed(pair, ours, seconds: int, repeats: int) -> list[dict]:
    """Return the seconds per second of audio of each part of a component."""
    rows = []
    for work in pair.timed(ours, seconds):
        times: dict[str, list] = {"original": [], "ours": []}
        for repeat in range(repeats + 1):
            for side, calls in times.items():
                start = time.process_time(), time.perf_counter()
                getattr(work, side)()
                if repeat:  # The first call compiles.
                    stop = time.process_time(), time.perf_counter()
                    calls.append(np.subtract(stop, start) / seconds)
        (cpu, wall), (original_cpu, original_wall) = (
            [float(median(column)) for column in zip(*times[side], strict=True)]
            for side in ("ours", "original")
        )
        rows.append(
            {
                "part": work.part,
                "audio_seconds": seconds,
                "cpu_seconds": cpu,
                "original_cpu_seconds": original_cpu,
                "cpu_ratio": cpu / original_cpu,
                "seconds": wall,
                "original_seconds": original_wall,
            }
        )
    return rows


def measure_conversion(kind: type, folder: Path, dtype: str) -> list[dict]:
    """Return the seconds and the memory of reading the checkpoint in `folder` and saving it."""
    import keras_speechssm.models  # noqa: F401 (imports are not counted)

    before = resident_memory_mib()
    start = time.perf_counter(), time.process_time()
    model = kind.load(folder, dtype=dtype)
    loaded = time.perf_counter(), time.process_time()
    peak = peak_memory_mib()
    model.save_to_preset(str(folder / "preset"))
    saved = time.perf_counter(), time.process_time()
    files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    return [
        {
            "parameters_m": model.count_params() / 1e6,
            "file_mib": sum(path.stat().st_size for path in files) / 2**20,
            "load_seconds": loaded[0] - start[0],
            "load_cpu_seconds": loaded[1] - start[1],
            "save_seconds": saved[0] - loaded[0],
            "save_cpu_seconds": saved[1] - loaded[1],
            "imports_mib": before,
            "peak_mib": peak,
            "peak_with_saving_mib": peak_memory_mib(),
        }
    ]


def run_task(task: dict) -> dict[str, list[dict]]:
    """Measure one component in this process, and return the rows of each work."""
    folder, dtype = Path(task["folder"]), task["dtype"]
    kind, seconds = COMPONENTS[task["component"]]
    if task["works"] == ["convert"]:
        return {"convert": measure_conversion(kind, folder, dtype)}
    pair, rows = kind(folder), {}
    if task["works"]:
        ours = kind.load(folder, dtype=dtype)
    for work in task["works"]:
        if work == "parity":
            rows[work] = measure_parity(pair, ours)
        else:
            rows[work] = measure_speed(pair, ours, task["seconds"] or seconds, task["repeats"])
    return rows


def bench_open_parts(
    works: Sequence[str],
    components: Sequence[str] = tuple(COMPONENTS),
    backends: Sequence[str] = ("jax",),
    dtype: str = "float32",
    seconds: int | None = None,
    repeats: int = 3,
    cores: int | None = None,
    timeout: float = 3600.0,
    output: str | Path | None = None,
) -> None:
    """Measure components, each in a separate process, and print tables; see the module.

    Args:
        works: Any of `parity`, `speed`, and `convert`.
        components: Subset of `COMPONENTS`.
        backends: Backends of this package.
        dtype: Dtype policy of this package; the originals compute in float32.
        seconds: Seconds of audio of `speed`. Defaults to `None`: those of `COMPONENTS`.
        repeats: Timed calls of `speed`; the median counts.
        cores: Threads of each library. Defaults to `None`: one for each core.
        timeout: Time limit of each process in seconds.
        output: `.json` file for the results. Defaults to `None` (none).

    Raises:
        ValueError: An argument is out of range, or a measurement failed.
    """
    check_output(output, plotted=False)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # Waiting is not counted as work.
    if cores is not None:
        environment |= dict.fromkeys(_THREADS, str(cores))
    tables: dict[str, list] = {work: [] for work in works}
    together = [work for work in works if work != "convert"]
    for component in components:
        for backend in backends:
            task = dict(component=component, dtype=dtype, seconds=seconds, repeats=repeats)
            with tempfile.TemporaryDirectory() as folder:
                task["folder"] = folder
                environment["KERAS_BACKEND"] = backend
                found = _run({**task, "works": together}, environment, timeout)
                if "convert" in works:  # Alone, because its memory is measured.
                    found |= _run({**task, "works": ["convert"]}, environment, timeout)
            about = {"component": component, "backend": backend, "dtype": dtype}
            for work, rows in found.items():
                tables[work] += [{**about, **row} for row in rows]
                print(f"{work}: {tables[work][-len(rows) :]}", file=sys.stderr, flush=True)
    machine = {**describe_machine(), "load": os.getloadavg()}
    for work, rows in tables.items():
        print(f"{work}\n\n{format_table(rows)}\n")
    print(f"machine: {machine}")
    if output is not None:
        write_json(Path(output), {"machine": machine, **tables})


def _run(task: dict, environment: dict, timeout: float) -> dict[str, list[dict]]:
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    found = run_in_subprocess(command, timeout, environment)
    if "failed" in found:
        raise ValueError(f"{task['component']} could not be measured: {found['failed']}")
    return found


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="+", choices=["parity", "speed", "convert"])
    parser.add_argument("--components", nargs="+", choices=COMPONENTS, default=list(COMPONENTS))
    parser.add_argument("--backends", nargs="+", default=["jax"])
    parser.add_argument("--dtype", default="float32", help="of this package")
    parser.add_argument("--seconds", type=int, help="audio of speed; 10 or 30 by default")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; the median counts")
    parser.add_argument("--cores", type=int, help="threads of each library; defaults to all cores")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds per process")
    parser.add_argument("--output", help=".json file")
    try:
        bench_open_parts(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--task"]:
        print(json.dumps(run_task(json.loads(sys.argv[2]))))
    else:
        main()
