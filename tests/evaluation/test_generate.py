import copy
import json
import types
from typing import ClassVar

import numpy as np
import pytest
from tiny_models import shared_tiny_pipeline, shared_tiny_preset, tiny_gemma

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.evaluation import generate as generation
from keras_speechssm.evaluation.generate import (
    SamplingOptions,
    generate_continuations,
    log_item,
    read_benchmark,
    read_log,
    read_real_time_factor,
)
from keras_speechssm.files import checksum, run_lock
from keras_speechssm.models import SpeechTransformer
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.speech_transformer.slide_and_prompt import SlideAndPrompt
from keras_speechssm.pipeline import Sampling

SHORT = {"prompt_seconds": 1.0, "until_seconds": 2.0}


class FakePipeline:
    """Continues with noise that depends on the seed and the prompt, without models."""

    synthesis = types.SimpleNamespace(window=50)
    sample_rate = 16_000
    sampling = Sampling(top_p=0.95)
    speech_lm = None
    batches: ClassVar[list] = []

    @classmethod
    def from_preset(cls, preset, speech_lm=None):
        return cls()

    def stream(self, prompt, seed, seconds, **sampling):
        if not prompt.any():
            raise ValueError("the prompt is all silence")
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 16000))
        yield (noise * np.abs(prompt).max()).astype("float32")

    def stream_batch(self, prompts, seeds, **options):
        self.batches.append(len(prompts))
        if not all(prompt.any() for prompt in prompts):
            raise ValueError("the prompt is all silence")
        pairs = zip(prompts, seeds, strict=True)
        return [self.stream(prompt, seed=seed, **options) for prompt, seed in pairs]


@pytest.fixture(autouse=True)
def fake_pipeline(monkeypatch):
    monkeypatch.setattr(generation, "SpeechContinuation", FakePipeline)


@pytest.fixture
def tiny_pipeline(monkeypatch):
    """The tiny models that all tests share, with the language model that is named."""

    class Shared:
        @staticmethod
        def from_preset(preset, speech_lm=None):
            speech = copy.copy(shared_tiny_pipeline())
            if speech_lm is not None:
                speech.speech_lm = load_part(speech_lm, "speech_lm")
            return speech

    monkeypatch.setattr(generation, "SpeechContinuation", Shared)


@pytest.fixture
def benchmark(tmp_path):
    folder = tmp_path / "benchmark"
    random = np.random.default_rng(0)
    for name, seconds in (("61/a", 7.0), ("61/b", 6.5), ("7/c", 6.2), ("7/short", 2.0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        waveform = 0.1 * random.normal(size=round(seconds * 16000)).astype("float32")
        write_audio(folder / f"{name}.flac", waveform)
    return folder


def test_items_are_those_with_a_reference_long_enough(benchmark):
    assert [i.name for i in read_benchmark(benchmark, 1.0)] == ["61/a", "61/b", "7/c", "7/short"]
    assert [i.name for i in read_benchmark(benchmark, 1.0, min_reference_seconds=5.0)] == [
        "61/a",
        "61/b",
        "7/c",
    ]
    # A second is the least, whatever the protocol says.
    assert [i.name for i in read_benchmark(benchmark, 5.4)] == ["61/a", "61/b"]
    with pytest.raises(ValueError, match="has 5 s after a prompt of 3 s"):
        read_benchmark(benchmark, 3.0, min_reference_seconds=5.0)


def test_a_subset_is_drawn_once_for_all(benchmark):
    two = read_benchmark(benchmark, 1.0, subset=2)
    assert two == read_benchmark(benchmark, 1.0, subset=2) and len(two) == 2
    draws = {
        tuple(item.name for item in read_benchmark(benchmark, 1.0, subset=2, subset_seed=seed))
        for seed in range(20)
    }
    assert len(draws) > 2
    assert len(read_benchmark(benchmark, 1.0, subset=9)) == 4


def test_a_killed_run_goes_on_and_nothing_is_generated_twice(benchmark, tmp_path, monkeypatch):
    options = {"preset": shared_tiny_preset(), "protocol": "short-form", **SHORT}
    whole = tmp_path / "whole"
    report = generate_continuations(benchmark, whole, **options)
    # Its reference must last 5 s: the short one is left out.
    assert (report["generated"], report["items"]) == (3, 3)
    assert len(read_audio(whole / "61" / "a.flac")) == 16000

    broken = tmp_path / "broken"
    real = generation._write_continuation

    def killed(blocks, sample_rate, path):
        if path.name == "b.flac":
            (broken / "61" / ".b.flac.123.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(blocks, sample_rate, path)

    monkeypatch.setattr(generation, "_write_continuation", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_continuations(benchmark, broken, **options)
    assert sorted(path.name for path in broken.rglob("*.flac")) == ["a.flac"]
    monkeypatch.setattr(generation, "_write_continuation", real)
    assert generate_continuations(benchmark, broken, **options)["generated"] == 2
    assert generate_continuations(benchmark, broken, **options) == {
        "generated": 0,
        "items": 3,
        "real_time_factor": None,
    }
    assert not list(broken.rglob(".*.partial"))
    lines = (broken / "generation.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["item"] for line in lines) == ["61/a", "61/b", "7/c"]
    assert read_real_time_factor(broken) > 0
    for path in whole.rglob("*.flac"):
        same = broken / path.relative_to(whole)
        np.testing.assert_array_equal(read_audio(path), read_audio(same))


def test_other_weights_of_the_same_name_are_other_options(benchmark, tmp_path):
    """A training run that continues overwrites its preset."""
    options = {"preset": shared_tiny_preset(), "protocol": "short-form", **SHORT}
    language_model = shared_tiny_pipeline().speech_lm
    path = str(tmp_path / "run" / "preset")
    language_model.save_to_preset(path)
    generate_continuations(benchmark, tmp_path / "out", speech_lm=path, **options)
    before = [weight.copy() for weight in language_model.get_weights()]
    try:
        language_model.set_weights([weight + 0.01 for weight in before])
        language_model.save_to_preset(path)
    finally:
        language_model.set_weights(before)
    with pytest.raises(ValueError, match="was started with weights"):
        generate_continuations(benchmark, tmp_path / "out", speech_lm=path, **options)


def checksums(folder):
    return {path.relative_to(folder): checksum(path) for path in sorted(folder.rglob("*.flac"))}


def test_batches_and_processes_write_the_same_files(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(FakePipeline, "batches", [])
    options = {"preset": shared_tiny_preset(), **SHORT}
    generate_continuations(benchmark, tmp_path / "one", **options)
    generate_continuations(benchmark, tmp_path / "batches", batch_size=3, **options)
    assert FakePipeline.batches == [1, 1, 1, 1, 3, 1]
    for process in (1, 0):
        report = generate_continuations(
            benchmark, tmp_path / "shared", num_processes=2, process_id=process, **options
        )
        assert (report["generated"], report["items"]) == (2, 4)
    assert len(read_log(tmp_path / "shared")) == 4
    # One process alone finds that all is done.
    assert generate_continuations(benchmark, tmp_path / "shared", **options)["generated"] == 0
    for other in ("batches", "shared"):
        assert checksums(tmp_path / other) == checksums(tmp_path / "one")


def test_a_process_leaves_the_unfinished_files_of_the_others(benchmark, tmp_path):
    (tmp_path / "out" / "61").mkdir(parents=True)
    partial = tmp_path / "out" / "61" / ".b.flac.123.partial"
    partial.write_bytes(b"half")
    options = {"preset": shared_tiny_preset(), "num_processes": 2, **SHORT}
    generate_continuations(benchmark, tmp_path / "out", process_id=0, **options)
    assert partial.exists()
    with run_lock(tmp_path / "out", ".lock-0"):
        with pytest.raises(ValueError, match="Another run is at work"):
            generate_continuations(benchmark, tmp_path / "out", process_id=0, **options)
        generate_continuations(benchmark, tmp_path / "out", process_id=1, **options)
    assert not partial.exists()


@pytest.mark.slow_to_compile("tensorflow")
def test_a_batch_of_real_prompts_says_what_each_says_alone(benchmark, tmp_path, tiny_pipeline):
    options = {"preset": shared_tiny_preset(), "subset": 2, **SHORT}
    generate_continuations(benchmark, tmp_path / "one", **options)
    generate_continuations(benchmark, tmp_path / "both", batch_size=2, **options)
    for path in checksums(tmp_path / "one"):
        alone, together = (read_audio(tmp_path / name / path) for name in ("one", "both"))
        np.testing.assert_allclose(together, alone, atol=1e-4)  # 16 bits


def test_two_at_once_are_refused(benchmark, tmp_path):
    options = {"preset": shared_tiny_preset(), "subset": 1, **SHORT}
    (tmp_path / "out").mkdir()
    with run_lock(tmp_path / "out"):
        with pytest.raises(ValueError, match="Another run is at work"):
            generate_continuations(benchmark, tmp_path / "out", **options)
    assert generate_continuations(benchmark, tmp_path / "out", **options)["generated"] == 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_silent_prompt_is_named_and_the_others_are_continued(benchmark, tmp_path, batch_size):
    write_audio(benchmark / "61" / "a.flac", np.zeros(7 * 16000, "float32"))
    options = {"preset": shared_tiny_preset(), "protocol": "short-form", **SHORT}
    options["batch_size"] = batch_size
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1 of 3 .*61/a\.flac: .*all silence"):
            generate_continuations(benchmark, tmp_path / "out", **options)
        assert [line["item"] for line in read_log(tmp_path / "out")] == ["61/b", "7/c"]


def test_a_line_that_a_kill_has_cut_does_not_spoil_the_next(tmp_path):
    (tmp_path / "generation.jsonl").write_text('{"item": "61/a", "reco')
    for item in ("61/b", "61/c"):
        log_item(tmp_path / "generation.jsonl", item, "0", 1.0, 2.0)
    assert [line["item"] for line in read_log(tmp_path)] == ["61/b", "61/c"]


def test_another_benchmarks_continuations_are_not_taken_for_its_own(benchmark, tmp_path):
    options = {"preset": shared_tiny_preset(), "subset": 1, **SHORT}
    generate_continuations(benchmark, tmp_path / "out", **options)
    (done,) = (tmp_path / "out").rglob("*.flac")
    recording = benchmark / done.relative_to(tmp_path / "out")
    write_audio(recording, 0.1 * np.sin(np.arange(7 * 16000)).astype("float32"))
    with pytest.raises(ValueError, match="continues another recording"):
        generate_continuations(benchmark, tmp_path / "out", **options)


def test_the_output_is_no_part_of_the_benchmark(benchmark):
    for folder in (benchmark, benchmark / "out"):
        with pytest.raises(ValueError, match="is inside the benchmark"):
            generate_continuations(benchmark, folder, preset=shared_tiny_preset(), **SHORT)
    assert not (benchmark / "out").exists()


def test_an_item_depends_on_its_name_and_seed_alone(benchmark, tmp_path):
    options = {"preset": shared_tiny_preset(), **SHORT}
    generate_continuations(benchmark, tmp_path / "all", **options)
    generate_continuations(benchmark, tmp_path / "one", subset=1, **options)
    (one,) = (tmp_path / "one").rglob("*.flac")
    same = tmp_path / "all" / one.relative_to(tmp_path / "one")
    np.testing.assert_array_equal(read_audio(one), read_audio(same))
    generate_continuations(
        benchmark, tmp_path / "seed", subset=1, sampling=SamplingOptions(seed=1), **options
    )
    other = tmp_path / "seed" / one.relative_to(tmp_path / "one")
    assert np.abs(read_audio(one) - read_audio(other)).max() > 0


def test_another_language_model_and_slide_and_prompt(benchmark, tmp_path, monkeypatch):
    own = shared_tiny_pipeline().speech_lm
    own.save_to_preset(str(tmp_path / "other"))
    used = []

    class Pipeline(FakePipeline):
        @classmethod
        def from_preset(cls, preset, speech_lm=None):
            used.append(speech_lm)
            pipeline = cls()
            pipeline.speech_lm = own
            return pipeline

        def stream(self, prompt, **options):
            used.append((type(self.speech_lm), self.speech_lm.model, self.speech_lm.limit))
            return super().stream(prompt, **options)

    monkeypatch.setattr(generation, "SpeechContinuation", Pipeline)
    options = {"preset": shared_tiny_preset(), "subset": 1, "prompt_seconds": 1.0}
    options["speech_lm"] = str(tmp_path / "other")
    report = generate_continuations(
        benchmark, tmp_path / "slide", slide_and_prompt_seconds=3.5, until_seconds=6.0, **options
    )
    assert report["generated"] == 1
    assert used == [str(tmp_path / "other"), (SlideAndPrompt, own, 88)]
    (path,) = (tmp_path / "slide").rglob("*.flac")
    assert len(read_audio(path)) == 5 * 16000
    with pytest.raises(ValueError, match="started with .*slide_and_prompt_seconds 3.5"):
        generate_continuations(benchmark, tmp_path / "slide", until_seconds=6.0, **options)


def test_a_transformer_goes_on_past_its_length(benchmark, tmp_path, tiny_pipeline):
    backbone = tiny_gemma()
    SpeechTransformer(backbone, max_length=30).save_to_preset(str(tmp_path / "twin"))
    report = generate_continuations(
        benchmark,
        tmp_path / "out",
        preset=shared_tiny_preset(),
        speech_lm=str(tmp_path / "twin"),
        subset=1,
        prompt_seconds=1.0,
        until_seconds=4.0,
    )
    assert report["generated"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "middle-form"}, "expected one of short-form"),
        ({"prompt_seconds": 0.1}, "prompt_seconds is 0.1"),
        ({"prompt_seconds": 5.0, "until_seconds": 5.0}, "above the prompt's 5"),
        ({"subset": 0}, "subset is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_processes": 2, "process_id": 2}, "process_id is 2"),
        ({"slide_and_prompt_seconds": 2.0}, "needs a limit above"),
    ],
)
def test_wrong_options_write_nothing(benchmark, tmp_path, options, message):
    options = {"preset": shared_tiny_preset(), **SHORT, **options}
    with pytest.raises(ValueError, match=message):
        generate_continuations(benchmark, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_language_model_is_refused_before_the_pipeline_is_loaded(benchmark, tmp_path):
    names = {"preset": "no_such_pipeline", "speech_lm": "no_such_language_model"}
    with pytest.raises(ValueError, match="no_such_language_model"):
        generate_continuations(benchmark, tmp_path / "out", **names, **SHORT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_sampling_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)


def test_sampling_options_reach_the_language_model(benchmark, tmp_path, monkeypatch):
    calls = []

    def stream(self, prompt, seed, seconds, **sampling):
        calls.append(sampling)
        yield np.zeros(round(seconds * 16000), "float32")

    monkeypatch.setattr(FakePipeline, "stream", stream)
    options = {"preset": shared_tiny_preset(), "subset": 1, **SHORT}
    generate_continuations(benchmark, tmp_path / "default", **options)
    sampling = SamplingOptions(temperature=0.8, top_k=25, top_p=0.9)
    generate_continuations(benchmark, tmp_path / "given", sampling=sampling, **options)
    # What is not given is left to the preset.
    sampled = {"temperature": 0.8, "top_k": 25, "top_p": 0.9}
    assert calls == [{"windows": "paper"}, {"windows": "paper", **sampled}]
    # A run resumes with the same sampling only, whether it is given or the preset's.
    other = SamplingOptions(temperature=0.8, top_k=25)
    with pytest.raises(ValueError, match=r"top_p 0\.9"):
        generate_continuations(benchmark, tmp_path / "given", sampling=other, **options)
    with pytest.raises(ValueError, match=r"top_p 0\.95"):
        generate_continuations(benchmark, tmp_path / "default", sampling=sampling, **options)


def test_the_windows_are_the_paper_s_unless_chosen(benchmark, tmp_path, monkeypatch):
    used = []

    class Pipeline(FakePipeline):
        def stream(self, prompt, **options):
            used.append(options["windows"])
            return super().stream(prompt, **options)

    monkeypatch.setattr(generation, "SpeechContinuation", Pipeline)
    options = {"preset": shared_tiny_preset(), "subset": 1, **SHORT}
    generate_continuations(benchmark, tmp_path / "paper", **options)
    generate_continuations(benchmark, tmp_path / "growing", windows="growing", **options)
    assert used == ["paper", "growing"]
    with pytest.raises(ValueError, match="started with windows 'paper'"):
        generate_continuations(benchmark, tmp_path / "paper", windows="growing", **options)
