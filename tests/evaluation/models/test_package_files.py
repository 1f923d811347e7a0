import hashlib

import pytest

from keras_speechssm.evaluation.models.package_files import package_file

pytestmark = pytest.mark.any_backend


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "weights_inside"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "data" / "model.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_file_is_found_without_importing_the_package(package):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    found = package_file("weights_inside", "data/model.bin", "weights-inside==1", sha256)
    assert found.read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("name", "file", "reason"),
    [
        ("weights_nowhere", "data/model.bin", "is not installed"),
        ("weights_inside", "data/other.bin", "has no file data/other.bin"),
        ("weights_inside", "data/model.bin", "is damaged or from another version"),
    ],
)
def test_the_error_names_what_to_install(package, name, file, reason):
    with pytest.raises(ValueError, match=f"{reason}.*weights-inside==1") as error:
        package_file(name, file, "weights-inside==1", sha256="0" * 64)
    assert "\n" not in str(error.value)
