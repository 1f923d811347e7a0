import numpy as np
import pytest

from keras_speechssm.data.speaker_embedding import open_speaker_embedder

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    """A speaker verifier of WavLM's form, as it lies on a hub, of random weights."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("verifier")
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(20, 16),
        conv_kernel=(20, 16),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=(8, 8),
        tdnn_kernel=(3, 1),
        tdnn_dilation=(1, 1),
        xvector_output_dim=6,
    )
    transformers.WavLMForXVector(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(folder)
    return folder


def noise(seconds, seed=0):
    random = np.random.default_rng(seed)
    return 0.1 * random.standard_normal(round(seconds * 16000)).astype("float32")


def test_resemblyzer_is_the_one_without_a_hub():
    pytest.importorskip("resemblyzer")
    embed = open_speaker_embedder()
    assert embed.name == "resemblyzer"
    vector = embed(noise(3))
    assert vector.shape == (256,) and np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


def test_a_verifier_of_a_hub_goes_by_its_name(verifier):
    embed = open_speaker_embedder(str(verifier))
    assert embed.name == str(verifier)
    vector = embed(noise(2))
    assert vector.shape == (6,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(embed(noise(2)), vector, atol=1e-6)
    assert not np.allclose(embed(noise(2, seed=1)), vector, atol=1e-4)


def test_minutes_are_the_mean_of_their_windows(verifier):
    embed = open_speaker_embedder(str(verifier))
    first, second = noise(10), noise(5, seed=1)
    mean = 2 * embed(first) + embed(second)
    whole = np.concatenate([first, second])
    np.testing.assert_allclose(embed(whole), mean / np.linalg.norm(mean), atol=1e-5)
    # Half a second of a window is too short to identify a voice.
    longer = np.concatenate([first, noise(0.5, seed=2)])
    np.testing.assert_allclose(embed(longer), embed(first), atol=1e-6)


def test_an_unknown_name_is_one_clear_line(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match="Cannot load the speaker embedder") as error:
        open_speaker_embedder(str(tmp_path))
    assert "\n" not in str(error.value)
