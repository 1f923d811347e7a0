"""Checkpoints by Orbax: kept, restored, damaged, of another model, and after one file."""

import keras
import numpy as np
import pytest
from fake_bucket import fake_bucket

pytest.importorskip("orbax.checkpoint")

from keras_speechssm.training import trainer
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.config import TrainingConfig
from keras_speechssm.training.sharded_checkpoints import ShardedCheckpoints, open_checkpoints
from keras_speechssm.training.trainer import fit_resumable

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="Orbax saves arrays of JAX"),
]


def make_model(seed=1, width=4):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((3,)), keras.layers.Dense(width), keras.layers.Dropout(0.5, seed=seed)]
    model = keras.Sequential(layers)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of three epochs, of which the last two are kept, and the last model."""
    checkpoints = ShardedCheckpoints(tmp_path / "c")
    for epoch in (1, 2, 3):
        model = make_model(epoch)
        model.optimizer.iterations.assign(10 * epoch)
        assert checkpoints.save(model, epoch, batch=epoch)
    checkpoints.wait()
    return checkpoints


def test_the_newest_are_kept_and_the_newest_is_restored(tmp_path, saved):
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["epoch_00002", "epoch_00003"]
    model, expected = make_model(9), make_model(3)
    about = ShardedCheckpoints(tmp_path / "c").restore(model)
    assert (about["epoch"], about["batch"]) == (3, 3)
    for found, wanted in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(found, wanted)  # the state of the dropout too
    assert int(model.optimizer.iterations) == 30
    # A run that was resumed from the second epoch does not keep the third.
    assert saved.save(model, 2)
    saved.wait()
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["epoch_00002"]


def test_processes_that_save_two_checkpoints_wait_by_different_names(tmp_path, monkeypatch):
    """With equal names a process that saves the last state answers one that saves the best."""
    from orbax.checkpoint._src.multihost import multihost

    names, name_of = [], multihost.unique_barrier_key

    def noted(*args, **options):
        names.append(name_of(*args, **options))
        return names[-1]

    def no_preemption(step):  # the number of the epoch, where JAX expects that of the batch
        raise AssertionError("Orbax asked JAX about SIGTERM.")

    monkeypatch.setattr(multihost, "unique_barrier_key", noted)
    monkeypatch.setattr(multihost.multihost_utils, "reached_preemption_sync_point", no_preemption)
    for folder in ("best", "checkpoints"):
        names.clear()
        checkpoints = ShardedCheckpoints(tmp_path / folder)
        assert checkpoints.save(make_model(), 1)
        checkpoints.close()
        assert len(names) > 5 and all(name.startswith(folder) for name in names)


def test_a_damaged_checkpoint_is_reported_and_passed_over(tmp_path, saved, caplog):
    for path in (tmp_path / "c" / "epoch_00003" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    model = make_model(9)
    assert ShardedCheckpoints(tmp_path / "c").restore(model)["epoch"] == 2
    assert "epoch_00003 is damaged and was skipped" in caplog.text
    np.testing.assert_array_equal(model.get_weights()[0], make_model(2).get_weights()[0])


def test_a_checkpoint_of_another_model_is_refused(tmp_path, saved):
    with pytest.raises(ValueError, match="epoch_00003 belongs to another model or optimizer"):
        ShardedCheckpoints(tmp_path / "c").restore(make_model(1, width=5))


def test_a_checkpoint_in_one_file_is_restored(tmp_path):
    assert ShardedCheckpoints(tmp_path / "none").restore(make_model()) == {}
    assert Checkpoints(tmp_path / "c").save(make_model(2), 7)
    assert isinstance(open_checkpoints(tmp_path / "c"), Checkpoints)
    model = make_model(9)
    checkpoints = ShardedCheckpoints(tmp_path / "c")
    assert checkpoints.restore(model)["epoch"] == 7
    np.testing.assert_array_equal(model.get_weights()[0], make_model(2).get_weights()[0])
    assert checkpoints.save(model, 8)
    checkpoints.wait()
    assert isinstance(open_checkpoints(tmp_path / "c"), ShardedCheckpoints)


def make_batch(step):
    x = np.random.default_rng((0, step)).normal(size=(8, 3)).astype("float32")
    return x, np.repeat(x.sum(axis=1, keepdims=True), 4, axis=1)


def test_a_run_in_a_bucket_resumes_and_leaves_no_local_folder(tmp_path, monkeypatch):
    asked = []

    def local_checkpoints(folder, keep=2):
        asked.append(str(folder))  # Orbax reaches buckets without epath
        return ShardedCheckpoints(tmp_path / "orbax" / folder.name, keep)

    monkeypatch.setattr(trainer, "open_checkpoints", local_checkpoints)
    monkeypatch.chdir(tmp_path)

    def run(total_steps):
        config = TrainingConfig(
            output_dir="gs://b/run", total_steps=total_steps, steps_per_epoch=2, warmup_steps=0
        )
        fit_resumable(make_model(), make_batch, config)
        return [line["step"] for line in read_metrics("gs://b/run/metrics.jsonl")]

    with fake_bucket(tmp_path / "bucket"):
        assert run(4) == [2, 4] and run(6) == [2, 4, 6]
    assert asked[:2] == ["gs://b/run/checkpoints", "gs://b/run/best"]
    names = sorted(path.name for path in (tmp_path / "bucket" / "run").iterdir())
    assert names == ["metrics.jsonl", "options.json", "sessions.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bucket", "orbax"]
