import os
import pickle

import numpy as np
import pytest

from keras_speechssm.models.hubert_tokenizer.kmeans_file import read_kmeans

pytestmark = pytest.mark.any_backend

CENTERS = np.random.default_rng(0).normal(size=(7, 5))


class KMeans:
    """Has the attributes of scikit-learn's class."""

    def __init__(self):
        self.n_clusters = 7
        self.verbose, self.tol, self.names = False, 1e-4, ["a", ("b", 2), None]
        self.labels_ = np.arange(9)
        self.cluster_centers_ = CENTERS
        self.random_state = np.random.RandomState(0)
        self._same = self.cluster_centers_


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_parsed(tmp_path, protocol):
    (tmp_path / "km.bin").write_bytes(pickle.dumps(KMeans(), protocol))
    np.testing.assert_array_equal(read_kmeans(tmp_path / "km.bin"), CENTERS.astype("float32"))


def test_the_file_of_scikit_learn(tmp_path):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    data = np.random.default_rng(0).normal(size=(60, 5))
    for number, kind in enumerate((cluster.KMeans, cluster.MiniBatchKMeans)):
        kmeans = kind(4, n_init=1, random_state=0).fit(data)
        path = tmp_path / f"{number}.bin"
        joblib.dump(kmeans, path)
        expected = kmeans.cluster_centers_.astype("float32")
        np.testing.assert_array_equal(read_kmeans(path), expected)
        kmeans.cluster_centers_ = np.asfortranarray(kmeans.cluster_centers_)
        joblib.dump(kmeans, path)
        np.testing.assert_array_equal(read_kmeans(path), expected)


def test_arrays_without_pickle(tmp_path):
    from safetensors.numpy import save_file

    np.save(tmp_path / "km.npy", CENTERS)
    np.savez(tmp_path / "km.npz", cluster_centers_=CENTERS, counts=np.ones(7))
    save_file({"centers": CENTERS}, tmp_path / "km.safetensors")
    for name in ("km.npy", "km.npz", "km.safetensors"):
        np.testing.assert_array_equal(read_kmeans(tmp_path / name), CENTERS.astype("float32"))


def test_nothing_in_a_file_is_executed(tmp_path):
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(Attack(made)))
    made.rmdir()
    kmeans = KMeans()
    kmeans.names = Attack(made)
    (tmp_path / "km.bin").write_bytes(pickle.dumps(kmeans))
    assert read_kmeans(tmp_path / "km.bin").shape == (7, 5)
    (tmp_path / "km.bin").write_bytes(pickle.dumps(Attack(made)))
    with pytest.raises(ValueError, match="does not hold the centers of a k-means"):
        read_kmeans(tmp_path / "km.bin")
    np.save(tmp_path / "km.npy", np.array([Attack(made)], object))
    with pytest.raises(ValueError, match="cannot be read as a k-means"):
        read_kmeans(tmp_path / "km.npy")
    np.save(tmp_path / "km.npy", np.full((2, 3), 1e39))
    with pytest.raises(ValueError, match="2 centers; expected at least 2, all finite"):
        read_kmeans(tmp_path / "km.npy")
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a k-means"),
        (b"x\x9c compressed", "cannot be read as a k-means"),
        (pickle.dumps(KMeans())[:-400], "cannot be read as a k-means"),
        (pickle.dumps({"a": 1}), "does not hold the centers"),
        (pickle.dumps(np.ones(3)), "does not hold the centers"),
        (pickle.dumps(np.full((3, 2), np.nan)), "expected at least 2, all finite"),
    ],
)
def test_a_bad_file_gets_one_clear_line(tmp_path, content, message):
    (tmp_path / "km.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_kmeans(tmp_path / "km.bin")
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="is missing"):
        read_kmeans(tmp_path / "km.bin")
