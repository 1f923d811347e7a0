"""Uploads to a hub on localhost, and what is loaded from there again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_hub import FakeHub
from huggingface_hub import constants, hf_api
from tiny_models import shared_tiny_pipeline, shared_tiny_preset

import keras_speechssm
from keras_speechssm.models import SoundStorm
from keras_speechssm.presets import PARTS, upload_preset

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def server():
    hub = FakeHub()
    yield hub
    hub.close()


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """What `HF_ENDPOINT` and `HF_HOME` set before `huggingface_hub` is imported."""
    server.files.clear()
    server.created.clear()
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return server


@pytest.fixture
def pipeline(tmp_path):
    return Path(shutil.copytree(shared_tiny_preset(), tmp_path / "pipeline"))


def weights_of(model):
    return np.concatenate([np.ravel(value) for value in model.get_weights()])


def card(text: str | bytes) -> tuple[dict, str]:
    text = text.decode() if isinstance(text, bytes) else text
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_a_pipeline_on_hugging_face_loads_with_one_line(hub, pipeline):
    keras_speechssm.upload_preset("hf://someone/my-voice", pipeline, license="apache-2.0")
    assert "speech_lm/model.weights.h5" in hub.files["someone/my-voice"]
    metadata, body = card(hub.files["someone/my-voice"]["README.md"])
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "keras-hub"
    assert metadata["pipeline_tag"] == "audio-to-audio" and "speech" in metadata["tags"]
    assert 'SpeechContinuation.from_preset("hf://someone/my-voice")' in body
    assert all(f"| {part} |" in body for part in PARTS)
    loaded = keras_speechssm.SpeechContinuation.from_preset("hf://someone/my-voice")
    for part in PARTS:
        expected = getattr(shared_tiny_pipeline(), part)
        np.testing.assert_array_equal(weights_of(getattr(loaded, part)), weights_of(expected))
    assert loaded.synthesis == shared_tiny_pipeline().synthesis


def test_a_model_on_hugging_face_loads_by_its_class(hub, pipeline):
    for _ in range(2):  # into a new repository, and into one that exists
        upload_preset("hf://someone/storm", pipeline / "soundstorm")
    metadata, body = card(hub.files["someone/storm"]["README.md"])
    assert metadata["license"] == "unknown"
    assert 'models.SoundStorm.from_preset("hf://someone/storm")' in body
    loaded = SoundStorm.from_preset("hf://someone/storm")
    expected = weights_of(shared_tiny_pipeline().soundstorm)
    np.testing.assert_array_equal(weights_of(loaded), expected)


def test_cards_are_kept(hub, pipeline):
    (pipeline / "README.md").write_text("---\nlicense: mit\n---\n\n# mine\n")
    upload_preset("hf://someone/mine", pipeline)
    assert card(hub.files["someone/mine"]["README.md"]) == ({"license": "mit"}, "\n# mine\n")
    assert (pipeline / "README.md").read_text().endswith("# mine\n")
    (pipeline / "README.md").unlink()
    upload_preset("hf://someone/mine", pipeline)  # the one that is there already
    assert card(hub.files["someone/mine"]["README.md"])[1] == "\n# mine\n"
    assert not (pipeline / "README.md").exists()


def test_a_pipeline_goes_to_kaggle_and_back(pipeline, monkeypatch):
    uploads = []

    def upload(handle, folder, license_name=None):
        assert card((Path(folder) / "README.md").read_text())[0]["license"] == "apache-2.0"
        uploads.append((handle, folder, license_name))

    monkeypatch.setattr("kagglehub.model_upload", upload)
    address = "someone/speech/keras/demo"
    upload_preset(f"kaggle://{address}", str(pipeline), license="apache-2.0")
    assert uploads == [(address, str(pipeline), "Apache 2.0")]
    monkeypatch.setattr("kagglehub.model_download", lambda handle: {address: pipeline}[handle])
    loaded = SoundStorm.from_preset(f"kaggle://{address}", dtype="bfloat16")
    assert loaded.compute_dtype == "bfloat16"


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "uri", ["someone/x", "s3://a/b", "hf://", "hf://a/b/c", "kaggle://a/b", "kaggle://a//b/c"]
)
def test_other_addresses_are_refused(pipeline, uri):
    with pytest.raises(ValueError, match=r"expected hf://user/name or kaggle://user/") as error:
        upload_preset(uri, pipeline)
    assert repr(uri) in one_line(error)


def test_nothing_is_uploaded_of_an_incomplete_preset(hub, pipeline):
    (pipeline / "soundstream" / "model.weights.h5").unlink()
    with pytest.raises(ValueError, match="has no weight file"):
        upload_preset("hf://someone/broken", pipeline)
    with pytest.raises(ValueError, match="'soundstorm_600m' is a configuration"):
        upload_preset("hf://someone/empty", "soundstorm_600m")
    with pytest.raises(ValueError, match="Unknown preset 'no_such'"):
        upload_preset("hf://someone/none", "no_such")
    assert not hub.created


def test_what_a_hub_says_to_an_upload_is_one_line(pipeline, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("401 Client Error\nInvalid credentials")

    monkeypatch.setattr("huggingface_hub.create_repo", fail)
    with pytest.raises(ValueError, match="could not be uploaded to 'hf://a/b': 401") as error:
        upload_preset("hf://a/b", pipeline)
    one_line(error)
