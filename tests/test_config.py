import random
from pathlib import Path

import keras
import pytest

from keras_speechssm import config, files, layers


def test_the_recurrence_implementation_is_set_for_the_process():
    assert config.recurrence_implementation() == "auto"
    assert layers.set_recurrence_implementation is config.set_recurrence_implementation
    try:
        config.set_recurrence_implementation("scan")
        assert config.recurrence_implementation() == "scan"
    finally:
        config.set_recurrence_implementation("auto")


def test_an_unknown_implementation_changes_nothing():
    with pytest.raises(ValueError, match="got 'parallel'; on .* choose one of"):
        config.set_recurrence_implementation("parallel")
    if keras.config.backend() != "jax":
        with pytest.raises(ValueError, match="choose one of"):
            config.set_recurrence_implementation("pallas")
    assert config.recurrence_implementation() == "auto"


def test_seeds_follow_keras():
    keras.utils.set_random_seed(3)
    first = [config.draw_seed() for _ in range(3)]
    keras.utils.set_random_seed(3)
    assert [config.draw_seed() for _ in range(3)] == first
    assert len(set(first)) == 3 and all(0 <= seed < 2**63 for seed in first)
    random.seed()


@pytest.fixture
def cache_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.delenv("KERAS_SPEECHSSM_COMPILATION_CACHE", raising=False)
    return files.compilation_cache_settings


def test_compiled_programs_are_in_the_cache_folder_of_the_user(cache_settings, tmp_path):
    folder = Path(cache_settings()["jax_compilation_cache_dir"])
    assert folder.parent == tmp_path / "keras_speechssm" / "compiled" and folder.is_dir()
    assert cache_settings() == cache_settings()


def test_another_processor_has_other_programs(cache_settings, monkeypatch):
    own = cache_settings()["jax_compilation_cache_dir"]
    monkeypatch.setattr(files.platform, "machine", lambda: "riscv64")
    assert cache_settings()["jax_compilation_cache_dir"] != own


def test_the_cache_can_be_moved_and_switched_off(cache_settings, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_SPEECHSSM_COMPILATION_CACHE", str(tmp_path / "other"))
    assert Path(cache_settings()["jax_compilation_cache_dir"]).parent == tmp_path / "other"
    (tmp_path / "file").touch()
    for off in ("off", "0", str(tmp_path / "file")):  # nor below a file
        monkeypatch.setenv("KERAS_SPEECHSSM_COMPILATION_CACHE", off)
        assert cache_settings() == {}


def test_a_user_without_a_home_folder_keeps_no_programs(cache_settings, monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA")
    monkeypatch.setattr(files.Path, "home", no_home)
    assert cache_settings() == {}
    with pytest.raises(ValueError, match="no home folder .* set .* to a folder"):
        files.cache_folder()
    monkeypatch.setenv("KERAS_SPEECHSSM_COMPILATION_CACHE", str(tmp_path / "other"))
    assert cache_settings()


def test_a_program_switches_the_cache_on(cache_settings, monkeypatch):
    if keras.config.backend() != "jax":
        assert config.enable_compilation_cache() is None
        return
    import jax

    names = list(cache_settings())
    before = {name: getattr(jax.config, name) for name in names}
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert config.enable_compilation_cache() == cache_settings()["jax_compilation_cache_dir"]
        monkeypatch.setenv("KERAS_SPEECHSSM_COMPILATION_CACHE", "off")
        jax.config.update("jax_compilation_cache_dir", "chosen")  # by the program
        assert config.enable_compilation_cache() == "chosen"
        jax.config.update("jax_compilation_cache_dir", None)
        assert config.enable_compilation_cache() is None
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
