"""What a user of the wheel and a reader of the repository finds."""

import itertools
import json
import math
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_speechssm import models
from keras_speechssm.models.griffin.convert_recurrent_gemma import griffin_shapes
from keras_speechssm.presets import (
    PARTS,
    PRESETS,
    S3_GEN_PARTS,
    fetch_pipeline,
    pipeline_parts,
    preset_names,
    resolve_preset,
)
from keras_speechssm.synthesis import read_synthesis_config

pytestmark = pytest.mark.any_backend

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_public_models_know_their_part():
    for name in set(models.__all__) - {"SpeechSSMPreprocessor"}:
        part = getattr(models, name).preset_part
        known = part in (*PARTS, *S3_GEN_PARTS)
        assert known or (name == "GriffinBackbone" and part is not None)


EXTRAS = PROJECT["project"]["optional-dependencies"]
CORE = PROJECT["project"]["dependencies"]


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement).group().lower()


@pytest.mark.parametrize("requirement", [*CORE, *itertools.chain(*EXTRAS.values())])
def test_requirements_have_a_lower_bound(requirement):
    own = name_of(requirement) == "keras-speechssm"
    assert own or ">=" in requirement or "==" in requirement


def test_the_core_needs_no_heavy_packages():
    heavy = {"torch", "tensorflow", "apache-beam", "fastapi", "sentence-transformers"}
    assert not heavy & {name_of(requirement) for requirement in CORE}


def test_readme_s_links_and_files_exist():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text("utf-8"), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], link


@pytest.fixture
def offline(monkeypatch):
    def fail(name):
        raise OSError("no network")

    monkeypatch.setattr("kagglehub.model_download", fail)


@pytest.mark.parametrize(
    "name, part, cls",
    [
        ("soundstorm_600m", "soundstorm", "SoundStorm"),
        ("soundstream_16khz", "soundstream", "SoundStream"),
        ("semantic_tokenizer_600m", "semantic_tokenizer", "SemanticTokenizer"),
        ("speech_ssm_2b", "speech_lm", "GriffinBackbone"),
        ("speech_ssm_9b", "speech_lm", "GriffinBackbone"),
    ],
)
def test_paper_sizes_load_without_weights(name, part, cls, offline):
    shrink = {
        "soundstorm": {"num_layers": 1, "semantic_vocabulary_size": 64, "hidden_dim": 32},
        "soundstream": {"channels": (2, 2, 2, 2, 2)},
        "semantic_tokenizer": {"num_layers": 1, "num_decoder_layers": 1, "hidden_dim": 16},
        "speech_lm": {"vocabulary_size": 9, "num_layers": 1, "hidden_dim": 160, "lru_width": 160},
    }[part]
    assert name in preset_names()
    model = getattr(models, cls).from_preset(name, load_weights=False, **shrink)
    assert model.preset_part == part
    with pytest.raises(ValueError, match="load_weights=False"):
        getattr(models, cls).from_preset(name)


PUBLISHED = {"speech_ssm_2b": (2.7, 2.0), "speech_ssm_9b": (8.6, 7.5)}
"""Billions of parameters with the text's 256,000 tokens, and without their embeddings: the 2.0 is
what RecurrentGemma's report calls 2B (Botev et al. 2024, abstract)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_griffin_presets_have_the_published_size(name):
    folder = Path(resolve_preset(name))
    config = json.loads((folder / "config.json").read_text("utf-8"))["config"]

    def count(vocabulary_size):
        shapes = griffin_shapes({**config, "vocabulary_size": vocabulary_size})
        return sum(math.prod(shape) for shape in shapes.values())

    text, bare = PUBLISHED[name]
    assert round(count(256_000) / 1e9, 1) == text and round(count(0) / 1e9, 1) == bare
    card = (folder / "README.md").read_text("utf-8")
    assert f"{count(32_768):,} parameters" in card and f"has {count(256_000):,}." in card


def test_the_transformer_preset_is_a_gemma_for_16_minutes(offline):
    shrink = {"vocabulary_size": 9, "num_layers": 1, "hidden_dim": 32, "head_dim": 8}
    model = models.SpeechTransformer.from_preset(
        "speech_transformer_2b", load_weights=False, **shrink
    )
    assert model.max_length == 16 * 60 * 25
    assert model(np.array([[1, 2]])).shape == (1, 2, 9)
    with pytest.raises(ValueError, match="load_weights=False"):
        models.SpeechTransformer.from_preset("speech_transformer_2b")


def test_the_transformer_preset_has_gemma_s_size():
    folder = Path(resolve_preset("speech_transformer_2b"))
    config = json.loads((folder / "config.json").read_text("utf-8"))["config"]
    width, branch = config["hidden_dim"], config["intermediate_dim"] // 2
    heads = config["num_query_heads"] * 2 + config["num_key_value_heads"] * 2
    layer = 3 * width * branch + heads * config["head_dim"] * width + 2 * width
    count = config["num_layers"] * layer + (config["vocabulary_size"] + 1) * width
    assert count == 2_506_172_416 - (256_000 - 32_768) * width  # Gemma 2B's safetensors
    assert f"{count:,} parameters" in (folder / "README.md").read_text("utf-8")


def test_the_pipeline_of_the_paper_s_sizes_fits_together():
    folder, config = fetch_pipeline("speech_ssm_2b_paper")
    read_synthesis_config(config)
    parts, found = {part: Path(resolve_preset(folder, part)) for part in PARTS}, {}
    for part, path in parts.items():
        assert path.name == config["parts"][part]
        found[part] = json.loads((path / "config.json").read_text("utf-8"))["config"]
    assert found["semantic_tokenizer"]["vocabulary_size"] == 32_768
    assert found["speech_lm"]["vocabulary_size"] == 32_768
    assert found["soundstorm"]["semantic_vocabulary_size"] == 32_768
    assert found["soundstorm"]["num_levels"] == found["soundstream"]["num_quantizers"]
    assert found["soundstorm"]["codebook_size"] == found["soundstream"]["codebook_size"]
    total = sum(PRESETS[path.name]["params"] for path in parts.values())
    assert PRESETS["speech_ssm_2b_paper"]["params"] == total


def test_the_pipeline_of_open_parts_fits_together():
    folder, config = fetch_pipeline("speech_ssm_2b_s3")
    assert pipeline_parts(config) == S3_GEN_PARTS
    parts = {part: Path(resolve_preset(folder, part)) for part in S3_GEN_PARTS}
    found = {
        part: json.loads((path / "config.json").read_text("utf-8"))["config"]
        for part, path in parts.items()
    }
    sizes = {found[part]["vocabulary_size"] for part in ("speech_lm", "s3_gen")}
    assert sizes == {3 ** found["semantic_tokenizer"]["code_dim"]} == {6561}
    published = 123_714_568, 140_286_637  # counted where their parity is tested
    language_model = sum(math.prod(s) for s in griffin_shapes(found["speech_lm"]).values())
    counts = [PRESETS["speech_ssm_2b_s3"]["params"], language_model, *published]
    assert counts[0] == sum(counts[1:])
    card = (Path(folder) / "README.md").read_text("utf-8")
    assert all(f"{count:,}" in card for count in counts)


@pytest.mark.slow
def test_wheel_holds_presets_and_command(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"keras_speechssm/cli.py", "keras_speechssm/prompt.flac"} <= names
    for preset in preset_names():
        folder = Path(resolve_preset(preset))
        for path in folder.rglob("*"):
            if path.is_file():
                inner = path.relative_to(folder).as_posix()
                assert f"keras_speechssm/presets/{preset}/{inner}" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]
