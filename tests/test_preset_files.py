"""Folders replaced atomically, half-size weight files, and checks before loading."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from keras_speechssm.checks import first_line
from keras_speechssm.files import replace_folder
from keras_speechssm.presets import check_weight_files, store_weights_as_float16

pytestmark = pytest.mark.any_backend


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replace_folder_swaps_and_keeps_other_files(tmp_path):
    old = tmp_path / "preset"
    old.mkdir()
    (old / "config.json").write_text("old")
    (old / "README.md").write_text("card")
    with replace_folder(old) as partial:
        (partial / "config.json").write_text("new")
        assert (old / "config.json").read_text() == "old"
    assert (old / "config.json").read_text() == "new"
    assert (old / "README.md").read_text() == "card"
    assert names(tmp_path) == ["preset"]


def test_replace_folder_leaves_the_old_after_an_error(tmp_path):
    old = tmp_path / "preset"
    old.mkdir()
    (old / "config.json").write_text("old")

    def interrupted():
        with replace_folder(old) as partial:
            (partial / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (old / "config.json").read_text() == "old"
    assert names(tmp_path) == ["preset"]


def test_replace_folder_brings_the_old_back_when_interrupted_between_names(tmp_path, monkeypatch):
    old = tmp_path / "preset"
    old.mkdir()
    (old / "weights").write_text("old")
    (old / "card").write_text("kept")
    rename = Path.rename

    def interrupted(path, target):
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replace_folder(old) as partial:
        (partial / "weights").write_text("new")
    assert {path.name: path.read_text() for path in old.iterdir()} == {
        "weights": "old",
        "card": "kept",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["preset"]


def test_replace_folder_drops_the_old_model_s_files(tmp_path):
    """KerasHub would load `model.weights.h5` before the new shards, `task.json` for a backbone."""
    old = tmp_path / "preset"
    old.mkdir()
    for name in ("model.weights.h5", "model_00000.weights.h5", "task.json", "mine.weights.h5"):
        (old / name).write_text("old")
    with replace_folder(old) as partial:
        (partial / "model.weights.json").write_text("new")
    assert names(old) == ["mine.weights.h5", "model.weights.json"]


def test_replace_folder_keeps_what_is_open_and_follows_links(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with open(target / "log", "w") as log:
        log.write("a")
        with replace_folder(tmp_path / "link") as partial:
            (partial / "config.json").write_text("new")
        log.write("b")
    assert (target / "log").read_text() == "ab" and names(target) == ["config.json", "log"]
    assert (tmp_path / "link").is_symlink() and names(tmp_path) == ["link", "target"]


def test_replace_folder_refuses_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for folder in (".", "..", tmp_path / "a"):
        with pytest.raises(ValueError, match="cannot be renamed"):
            with replace_folder(folder):
                pass
    assert names(tmp_path) == ["a"]


def test_replace_folder_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        with replace_folder(tmp_path / "file"):
            pass


def test_float16_keeps_integers_attributes_and_large_values(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.linspace(-1, 1, 1000, dtype="float32")
        file["layers/dense/vars/1"] = np.array([1e6], "float32")
        file["layers/count/vars/0"] = np.array([70000], "int32")
        file["layers"].attrs["name"] = "layers"
    size = path.stat().st_size
    store_weights_as_float16(tmp_path)
    with h5py.File(path) as file:
        assert file["layers/dense/vars/0"].dtype == "float16"
        assert file["layers/dense/vars/1"][0] == np.float32(1e6)
        assert file["layers/count/vars/0"][0] == 70000
        assert file["layers"].attrs["name"] == "layers"
    assert path.stat().st_size < size
    assert names(tmp_path) == ["model.weights.h5"]


def test_check_weight_files(tmp_path):
    with pytest.raises(ValueError, match="has no weight file"):
        check_weight_files(tmp_path)
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(1000)
    check_weight_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or not an HDF5 file"):
        check_weight_files(tmp_path)


@pytest.mark.parametrize(
    "error, line",
    [(ValueError("one\ntwo"), "one"), (KeyError("name"), "'name'"), (OSError(), "OSError")]
    + [(ValueError("could not be loaded:\n\n 96 rows\nthree"), "could not be loaded: 96 rows")],
)
def test_first_line(error, line):
    assert first_line(error) == line
