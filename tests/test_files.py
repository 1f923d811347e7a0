import errno
import json
import os
from pathlib import Path

import pytest
from fake_bucket import fake_bucket

from keras_speechssm import files
from keras_speechssm.files import (
    atomic_write,
    cached_json,
    check_local,
    flush_to_disk,
    is_bucket,
    open_path,
    remove_partial_files,
    replace_folder,
    run_lock,
    save_run_config,
    write_json,
)

pytestmark = pytest.mark.any_backend


def test_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "inner" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_removes_what_a_kill_left(tmp_path):
    (tmp_path / ".a.txt.0123.partial").write_text("half")
    (tmp_path / "b.txt").write_text("whole")
    remove_partial_files(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_what_is_no_finite_number_is_null(tmp_path):
    content = {"a": [1.5, float("nan")], "b": {"c": float("inf"), "d": (2, None)}}
    write_json(tmp_path / "x.json", content)
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": [1.5, None], "b": {"c": None, "d": [2, None]}}


def test_what_was_made_for_a_key_is_made_once(tmp_path):
    made = []

    def make():
        made.append(float("nan"))
        return (len(made), made[-1])

    path = tmp_path / "inner" / "x.json"
    # As the file has it, the first time too.
    assert cached_json(path, {"a": 1}, make) == cached_json(path, {"a": 1}, make) == [1, None]
    assert cached_json(path, {"a": 2}, make) == [2, None]
    for damage in ("{", "[]", "{}"):
        path.write_text(damage)
        assert cached_json(path, {"a": 2}, make) == [len(made), None]
    assert len(made) == 5


def test_a_reader_of_the_old_file_never_sees_a_part_of_the_new_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old content")
    with open(path, encoding="utf-8") as reader:
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent  # else the replacement may cross file systems
            temporary.write_text("new")
        assert reader.read() == "old content"  # of the file that was replaced, not overwritten
    assert path.read_text() == "new"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, caplog, code):
    """As NFS and Lustre may be mounted."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run_lock(tmp_path):
        (tmp_path / "made.txt").touch()
    assert "has no locks" in caplog.text and os.strerror(code) in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == ["made.txt"]


def test_errors_of_a_locked_run_are_its_own(tmp_path):
    for error in (OSError(errno.ENOLCK, "mine"), NotImplementedError("mine")):
        with pytest.raises(type(error), match="mine"), run_lock(tmp_path):
            raise error
    with run_lock(tmp_path):
        pass  # released


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_keeps_what_is_written(tmp_path, monkeypatch, code):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    flush_to_disk(tmp_path)


def test_a_full_disk_is_not_a_missing_flush(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["gs://b/run", "s3://b/run", Path("gs://b/run"), Path("az://b")])
def test_buckets_are_recognized_even_after_pathlib(path):
    assert is_bucket(path)
    with pytest.raises(ValueError, match="output is (gs|s3|az)://b.*; expected a local path"):
        check_local("output", path)


@pytest.mark.parametrize("path", ["gs/b", "/gs:/b", "run", "C:/run", "hf://user/name", Path("a:b")])
def test_other_paths_are_no_buckets(path):
    assert not is_bucket(path)
    check_local("output", path)


def test_the_package_that_reads_a_bucket_is_named(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    for path, package in (("gs://b", "gcsfs"), ("s3://b", "s3fs"), ("az://b", "adlfs")):
        with pytest.raises(ModuleNotFoundError) as error:
            open_path(path)
        assert error.value.name == package


def test_files_in_a_bucket_are_complete_and_no_local_folder_appears(tmp_path, monkeypatch):
    pytest.importorskip("etils.epath")
    monkeypatch.chdir(tmp_path)
    with fake_bucket(tmp_path / "bucket"):
        with pytest.raises(FileNotFoundError), atomic_write("gs://b/x/a.txt"):
            pass  # nothing was written
        assert not any(tmp_path.iterdir())
        with atomic_write(Path("gs://b/x/a.txt")) as temporary:
            temporary.write_text("all")
        assert open_path("gs://b/x/a.txt").read_text() == "all"
        for name in ("model.weights.h5", "model_00000.weights.h5"):
            with replace_folder("gs://b/preset") as folder:
                (folder / name).write_text(name)
                (folder / "config.json").write_text("{}")
        for _ in range(2):
            save_run_config("gs://b/run", seed=1)
        with pytest.raises(ValueError, match="gs://b/run was started with seed 1"):
            save_run_config("gs://b/run", seed=2)
    names = sorted(path.name for path in (tmp_path / "bucket" / "preset").iterdir())
    assert names == ["config.json", "model_00000.weights.h5"]  # no weights of the old model
    assert [path.name for path in tmp_path.iterdir()] == ["bucket"]
