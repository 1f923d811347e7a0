import errno
import json
import os
import shutil
import stat
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_speechssm.training.checkpoints import Checkpoints


def make_model(seed=1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def saved(folder, epochs=(1, 2, 3)):
    """A model for each epoch, all saved."""
    checkpoints, models = Checkpoints(folder), {}
    for epoch in epochs:
        models[epoch] = make_model(epoch)
        models[epoch].optimizer.iterations.assign(10 * epoch)
        assert checkpoints.save(models[epoch], epoch)
    return checkpoints, models


def same(a, b):
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_the_newest_are_kept_and_the_newest_is_restored(tmp_path):
    checkpoints, models = saved(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["epoch-00002", "epoch-00003"]
    model = make_model(9)
    assert checkpoints.restore(model)["epoch"] == 3
    assert same(model, models[3])
    assert int(model.optimizer.iterations) == 30


def test_nothing_to_restore_changes_nothing(tmp_path):
    model = make_model()
    assert Checkpoints(tmp_path / "c").restore(model) == {}
    assert same(model, make_model())


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no json", "half a json"])
def test_a_damaged_checkpoint_is_said_and_passed_over(tmp_path, caplog, damage):
    checkpoints, models = saved(tmp_path / "c")
    state = tmp_path / "c" / "epoch-00003" / "state.weights.h5"
    about = state.with_name("checkpoint.json")
    content = bytearray(state.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "cut":
        state.write_bytes(content[:-1])
    elif damage == "gone":
        state.unlink()
    elif damage == "no json":
        about.unlink()
    else:
        about.write_text(about.read_text()[:20])
    model = make_model(9)
    assert checkpoints.restore(model)["epoch"] == 2
    assert same(model, models[2])
    assert "epoch-00003 is damaged" in caplog.text
    # It is replaced when the run comes there again.
    assert checkpoints.save(models[3], 3)
    assert checkpoints.restore(make_model(9))["epoch"] == 3


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints, _ = saved(tmp_path / "c")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    other.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    with pytest.raises(ValueError, match="epoch-00003 belongs to another model") as error:
        checkpoints.restore(other)
    assert "\n" not in str(error.value)


def test_what_a_kill_left_is_no_checkpoint(tmp_path):
    checkpoints, models = saved(tmp_path / "c", epochs=(1,))
    partial = tmp_path / "c" / ".epoch-00002.partial"
    partial.mkdir()
    (partial / "state.weights.h5").write_bytes(b"half")
    assert checkpoints.restore(make_model(9))["epoch"] == 1
    assert checkpoints.save(models[1], 2)
    assert not partial.exists()


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path, caplog, monkeypatch):
    checkpoints, models = saved(tmp_path / "c", epochs=(1,))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**19))
        assert not checkpoints.save(make_model(2), 2)
    assert "0 MiB free, 1 needed" in caplog.text
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["epoch-00001"]
    model = make_model(9)
    assert checkpoints.restore(model)["epoch"] == 1 and same(model, models[1])


def test_what_is_asked_of_the_disk_is_enough(tmp_path, monkeypatch):
    asked = []
    usage = shutil.disk_usage(tmp_path)

    class Asked(int):
        def __lt__(self, needed):
            asked.append(needed)
            return False

    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=Asked(2**40)))
    model = keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(300) for _ in range(12))])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    assert Checkpoints(tmp_path / "c").save(model, 1)
    about = json.loads((tmp_path / "c" / "epoch-00001" / "checkpoint.json").read_text())
    assert 0.5 * asked[0] < about["bytes"] < asked[0]


def test_says_what_it_was_told(tmp_path):
    Checkpoints(tmp_path / "c").save(make_model(), 4, val_loss=0.5)
    about = json.loads((tmp_path / "c" / "epoch-00004" / "checkpoint.json").read_text())
    assert about["epoch"] == 4 and about["val_loss"] == 0.5 and len(about["sha256"]) == 64


def test_the_newest_is_that_of_the_largest_number(tmp_path):
    checkpoints, _ = saved(tmp_path / "c", epochs=(99_999, 100_000))
    assert checkpoints.restore(make_model(9))["epoch"] == 100_000


def test_that_none_is_intact_is_said(tmp_path, caplog):
    checkpoints, _ = saved(tmp_path / "c", epochs=(1,))
    (tmp_path / "c" / "epoch-00001" / "checkpoint.json").unlink()
    assert checkpoints.restore(make_model(9)) == {}
    assert "No checkpoint in" in caplog.text


def test_a_run_that_begins_anew_keeps_its_own(tmp_path):
    """Damaged checkpoints of larger numbers are not the newest."""
    checkpoints, _ = saved(tmp_path / "c", (11, 12))
    for state in (tmp_path / "c").glob("*/state.weights.h5"):
        state.write_bytes(b"damaged")
    model = make_model(5)
    assert checkpoints.restore(model) == {}
    for epoch in (1, 2, 3):
        assert checkpoints.save(model, epoch)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["epoch-00002", "epoch-00003"]
    assert checkpoints.restore(make_model(6))["epoch"] == 3

    best = Checkpoints(tmp_path / "best", keep=1)
    assert best.save(make_model(7), 12) and best.save(model, 1)
    restored = make_model(8)
    assert best.restore(restored)["epoch"] == 1 and same(restored, model)


@pytest.mark.parametrize("system", ["smb", "windows"])
def test_checkpoints_are_kept_where_folders_cannot_be_flushed(tmp_path, monkeypatch, system):
    fsync, open_ = os.fsync, os.open

    def no_fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    def no_open(path, *arguments, **options):
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_(path, *arguments, **options)

    with monkeypatch.context() as patched:
        if system == "smb":
            patched.setattr(os, "fsync", no_fsync)
        else:
            patched.setattr(os, "open", no_open)
            # `rmtree` opens folders, unlike on Windows.
            patched.setattr(shutil, "rmtree", _remove)
        checkpoints, models = saved(tmp_path / "c")  # each save returns True
        model = make_model(9)
        assert checkpoints.restore(model)["epoch"] == 3 and same(model, models[3])
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["epoch-00002", "epoch-00003"]


def _remove(folder, ignore_errors=True):
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.unlink()
    if Path(folder).exists():
        Path(folder).rmdir()


def test_lora_matrices_are_restored_and_a_damaged_file_of_them_is_noticed(tmp_path):
    """Keras merges them into the weights, and loads zeros, which are never trained."""

    def adapt(value):
        model = make_model(1)
        model.layers[0].enable_lora(2)
        model.layers[0].lora_kernel_b.assign(np.full((2, 4), value))
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model

    checkpoints, model, other = Checkpoints(tmp_path), adapt(0.5), adapt(0.0)
    assert checkpoints.save(model, 1) and checkpoints.save(adapt(0.7), 2)
    (tmp_path / "epoch-00002" / "lora.npz").write_bytes(b"")
    assert checkpoints.restore(other)["epoch"] == 1
    assert same(model, other) and other.layers[0].lora_kernel_b[0, 0] == 0.5
