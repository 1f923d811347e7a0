import json
import pickle
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import soundfile

pytest.importorskip("array_record")

from broken_runs import verify_last_epoch_is_repeated
from keras import ops

from keras_speechssm.data import prepare
from keras_speechssm.data.prepare import checksum_of_models, prepare_token_pairs
from keras_speechssm.data.token_store import TokenSequence, TokenStore, write_manifest, write_shard
from keras_speechssm.models.soundstorm.soundstorm import SoundStorm
from keras_speechssm.training import soundstorm as training

LEVELS, CODES, VOCABULARY = 2, 5, 6


class CountingTokenizer:
    """Stands for a SemanticTokenizer: tokens from the mean level of each 640 samples."""

    vocabulary_size = VOCABULARY

    codebook = np.random.default_rng(7).normal(size=(VOCABULARY, 3))

    def __init__(self):
        self.calls = 0

    def get_weights(self):
        return [np.zeros((2,), "float32")]

    def tokenize(self, waveform):
        self.calls += 1
        whole = np.pad(waveform, (0, -len(waveform) % 640)).reshape(-1, 640)
        return np.floor(np.abs(whole[:, 0]) * VOCABULARY * 0.999).astype("int32")


class FrameCodec:
    """Stands for a SoundStream: the codes of a frame come from its own samples."""

    num_quantizers, codebook_size = LEVELS, CODES
    codebooks = np.random.default_rng(8).normal(size=(LEVELS, CODES, 4))

    def __init__(self, weight=1.0):
        self.weight = weight

    def get_weights(self):
        return [np.full((2,), self.weight, "float32")]

    def encode(self, waveform):
        whole = np.pad(waveform, (0, -len(waveform) % 320)).reshape(-1, 320)
        coarse = np.floor(np.abs(whole[:, 0]) * CODES * 0.999).astype("int32")
        return np.stack([coarse, (coarse + 1) % CODES], axis=-1)


def train(**options):
    options = {"warmup_steps": 0, **options}
    return training.train_soundstorm(training.SoundStormTrainingConfig(**options))


def write_recordings(folder, seconds, seed=0):
    rng = np.random.default_rng(seed)
    for number, length in enumerate(seconds):
        # Constant over each token's samples.
        levels = np.repeat(rng.random(int(length * 25) + 1), 640)[: int(length * 16000)]
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "deep" / f"{number}.wav", levels.astype("float32"), 16000)
    return folder


def use_stand_ins(monkeypatch, weight=1.0):
    def load_part(preset, part, load_weights=True):
        return CountingTokenizer() if part == "semantic_tokenizer" else FrameCodec(weight)

    for module in (training, prepare):
        monkeypatch.setattr(module, "load_part", load_part)
    monkeypatch.setattr(prepare, "has_weights", lambda kind, preset: True)
    # Without the caches of the module, which would keep the stand-ins for other tests.
    monkeypatch.setattr(prepare, "_tokenizer", lambda preset: CountingTokenizer())
    monkeypatch.setattr(prepare, "_codec", lambda preset: FrameCodec(weight))


def test_token_pairs_cover_whole_recordings_and_resume(tmp_path, monkeypatch):
    folder = write_recordings(tmp_path / "speech", [1.21, 130.5, 0.02])
    use_stand_ins(monkeypatch)
    presets = {"tokenizer_preset": "tokenizer", "codec_preset": "codec"}
    counts = prepare_token_pairs([folder], tmp_path / "store", recordings_per_shard=1, **presets)
    assert (counts["sequences"], counts["unused"], counts["shards"]) == (3, 1, 3)
    store = TokenStore(tmp_path / "store")
    # The recording of more than two minutes is two sequences, and nothing is lost between them.
    assert [store[n].recording for n in range(3)] == ["deep/0", "deep/1", "deep/1"]
    assert store[1].start == 0 and store[1].stop == store[2].start and store[2].stop == 130.5
    for sequence in (store[n] for n in range(3)):
        waveform, _ = soundfile.read(folder / f"{sequence.recording}.wav", dtype="float32")
        piece = waveform[round(sequence.start * 16000) : round(sequence.stop * 16000)]
        count = len(piece) // 640
        assert len(sequence.tokens) == count and sequence.acoustic.dtype == np.int32
        np.testing.assert_array_equal(sequence.tokens, CountingTokenizer().tokenize(piece)[:count])
        np.testing.assert_array_equal(sequence.acoustic, FrameCodec().encode(piece)[: 2 * count])
    before = (tmp_path / "store" / "manifest.json").read_bytes()
    (tmp_path / "store" / "shard-00001.array_record").unlink()
    prepare_token_pairs([folder], tmp_path / "store", recordings_per_shard=1, **presets)
    assert (tmp_path / "store" / "manifest.json").read_bytes() == before
    use_stand_ins(monkeypatch, weight=2.0)
    with pytest.raises(ValueError, match="started with other models; give an empty folder"):
        prepare_token_pairs([folder], tmp_path / "store", recordings_per_shard=1, **presets)


class MemoryStore(list):
    """Stands for a `TokenStore`."""

    @property
    def lengths(self):
        return np.array([len(sequence.tokens) for sequence in self])


def make_pair(length, seed=0):
    """Tokens whose frames' codes follow from their semantic token."""
    first = np.random.default_rng(0).integers(0, CODES, (VOCABULARY, 2))
    semantic = np.random.default_rng((seed, length)).integers(0, VOCABULARY, length)
    coarse = first[semantic].reshape(-1)
    acoustic = np.stack([coarse, (coarse + 1) % CODES], axis=-1)
    return semantic.astype("int32"), acoustic.astype("int32")


def make_groups():
    def store(*lengths):
        return MemoryStore(TokenSequence(str(n), 0.0, n / 25, *make_pair(n)) for n in lengths)

    return [store(40, 3), store(20)]


def make_batches(groups, batch_size=4, seed=0, **settings):
    return training.SoundStormBatches(
        groups, VOCABULARY, CODES, batch_size, crop_tokens=8, seed=seed, **settings
    )


def test_batches_are_aligned_crops_and_repeatable():
    groups = make_groups()
    batches = make_batches(groups, batch_size=64, seed=3)
    inputs, target, weight = batches(5)
    assert inputs["semantic_tokens"].shape == (64, 8)
    assert inputs["acoustic_tokens"].shape == (64, 16, LEVELS)
    assert target.shape == weight.shape == (64, 16) and weight.dtype == np.float32
    np.testing.assert_allclose(weight.mean(), 1.0, rtol=1e-5)
    assert len(np.unique(weight)) == 2
    # The frames' codes follow from their semantic token, so misaligned crops would show.
    coarse = {}
    for sequence in [sequence for group in groups for sequence in group]:
        semantic, acoustic = sequence.tokens, sequence.acoustic
        coarse.update(zip(semantic, map(tuple, acoustic[:, 0].reshape(-1, 2)), strict=True))
    codes = np.array([[coarse[t] for t in row] for row in inputs["semantic_tokens"]])
    codes = codes.reshape(64, 16)
    true = (codes + inputs["level"][:, None]) % CODES
    real = inputs["padding_mask"]
    np.testing.assert_array_equal(target[real], true[real])
    assert not real.all() and not weight[~real].any()
    again = batches(5)
    np.testing.assert_array_equal(again[0]["acoustic_tokens"], inputs["acoustic_tokens"])
    assert (batches(6)[0]["semantic_tokens"] != inputs["semantic_tokens"]).any()


def test_group_weights_choose_the_source():
    groups = make_groups()
    groups[1][0].tokens[:] = 4
    batches = make_batches(groups, batch_size=16, store_weights=[0.0, 1.0])
    assert (batches(0)[0]["semantic_tokens"] == 4).all()
    with pytest.raises(ValueError, match="no recording as long as one token"):
        make_batches([groups[0], MemoryStore()])


def test_a_share_of_the_crops_has_no_words():
    plain, *plain_rest = make_batches(make_groups(), batch_size=400)(5)
    batches = make_batches(make_groups(), batch_size=400, unconditional_fraction=0.25)
    inputs, *rest = batches(5)
    hidden = inputs["semantic_tokens"] == VOCABULARY
    assert (hidden.all(axis=1) | ~hidden.any(axis=1)).all()
    assert 0.18 < hidden.any(axis=1).mean() < 0.32
    expected = np.where(hidden, VOCABULARY, plain["semantic_tokens"])
    np.testing.assert_array_equal(inputs["semantic_tokens"], expected)
    for array, other in zip(rest, plain_rest, strict=True):
        np.testing.assert_array_equal(array, other)


def test_crops_have_the_prompt_and_the_masks_of_synthesis():
    settings = dict(batch_size=64, prompt_tokens=2, iterations=[1] * LEVELS)
    inputs, _, weight = make_batches(make_groups(), **settings)(0)
    real = inputs["padding_mask"]
    assert not weight[:, :4][real[:, 4]].any()
    np.testing.assert_array_equal(weight[:, 4:] > 0, real[:, 4:])


def test_workers_make_the_same_batches():
    batches = make_batches(make_groups(), iterations=(2, 1), prompt_tokens=2)
    again = pickle.loads(pickle.dumps(batches))(3)
    for found, expected in zip(*(keras.tree.flatten(x) for x in (again, batches(3))), strict=True):
        np.testing.assert_array_equal(found, expected)


def record_batches(monkeypatch):
    """The semantic tokens of every batch, a list for each `SoundStormBatches` that is made."""
    made = []

    class Recorded(training.SoundStormBatches):
        def __init__(self, *args):
            super().__init__(*args)
            made.append([])
            self.drawn = made[-1]

        def __call__(self, step):
            inputs, *rest = super().__call__(step)
            self.drawn.append(inputs["semantic_tokens"])
            return inputs, *rest

    monkeypatch.setattr(training, "SoundStormBatches", Recorded)
    return made


def test_a_preset_without_weights_gives_a_new_model_of_its_size(tmp_path):
    """As `soundstorm_600m` does; the sizes of the tokens are those of tokenizer and codec."""
    tokenizer, codec = CountingTokenizer(), FrameCodec()
    SoundStorm(
        semantic_vocabulary_size=3,
        num_levels=5,
        codebook_size=6,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
    ).save_to_preset(str(tmp_path))
    (tmp_path / "model.weights.h5").unlink()
    config = training.SoundStormTrainingConfig(
        audio_folders=[tmp_path], output_dir=tmp_path, preset=str(tmp_path), dtype="mixed_bfloat16"
    )
    model = training._initial_model(config, tokenizer, codec)
    assert (model.hidden_dim, model.num_layers) == (16, 1)
    assert model.semantic_vocabulary_size == tokenizer.vocabulary_size
    assert model.num_levels == codec.num_quantizers
    assert model.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.slow_to_compile
def test_train_soundstorm_learns_writes_a_preset_and_resumes(tmp_path, monkeypatch):
    speech = write_recordings(tmp_path / "train" / "speech", [4.0] * 6)
    held_out = write_recordings(tmp_path / "held_out" / "speech", [2.0] * 2, seed=1)
    use_stand_ins(monkeypatch)
    arguments = dict(
        audio_folders=[speech],
        output_dir=tmp_path / "run",
        tokenizer_preset="tokenizer",
        codec_preset="codec",
        validation_folders=[held_out],
        model_config=dict(num_layers=1, hidden_dim=16, intermediate_dim=32, dropout=0.1),
        batch_size=16,
        crop_seconds=0.4,
        steps_per_epoch=20,
        learning_rate=1e-2,
    )
    drawn = record_batches(monkeypatch)
    train(**arguments, total_steps=20, unconditional_fraction=0.3)
    (learned, held_out_batches) = drawn
    assert any((tokens == VOCABULARY).all(axis=1).any() for tokens in learned)
    assert len(held_out_batches) == 8
    assert not any((tokens == VOCABULARY).any() for tokens in held_out_batches)
    model = train(**arguments, total_steps=60)
    verify_last_epoch_is_repeated(tmp_path / "run", lambda: train(**arguments, total_steps=60))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["val_loss"] for line in lines]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * np.log(CODES)
    loaded = type(model).from_preset(str(tmp_path / "run" / "preset"))
    for saved, kept in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, kept)
    assert (loaded.num_levels, loaded.codebook_size) == (LEVELS, CODES)
    assert loaded.semantic_vocabulary_size == VOCABULARY

    # A second run that begins with these weights is where the first one ended.
    del arguments["model_config"]
    further = {**arguments, "output_dir": tmp_path / "further", "learning_rate": 1e-4}
    preset = str(tmp_path / "run" / "preset")
    train(**further, total_steps=20, preset=preset)
    line = json.loads((tmp_path / "further" / "metrics.jsonl").read_text().splitlines()[0])
    np.testing.assert_allclose(line["val_loss"], min(losses), rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(level_weights=[1.0]), "for each of the 2 levels"),
        (dict(level_weights=[1.0, -1.0]), "0 or more, for each"),
        (dict(level_weights=[0.0, 0.0]), "all zero"),
        (dict(unconditional_fraction=1.0), "unconditional_fraction"),
        (dict(unconditional_fraction=-0.1), "unconditional_fraction"),
        (dict(iterations=[4]), "iterations must give one positive number for each of the 2"),
        (dict(iterations=[4, 0]), "iterations must give one positive number for each of the 2"),
        (dict(prompt_seconds=30.0), "prompt_seconds is 30.0; expected more than 0"),
        (dict(preset="speech_ssm_demo_en", model_config={"num_layers": 1}), "both given"),
        (dict(model_config={"num_levels": 2}), "'num_levels', which follows from the data"),
        (dict(preset="speech_ssm_demo_en"), "tokenizer and codec need"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, monkeypatch, settings, message):
    use_stand_ins(monkeypatch)
    presets = dict(tokenizer_preset="tokenizer", codec_preset="codec")
    with pytest.raises(ValueError, match=message):
        train(audio_folders=[tmp_path], output_dir=tmp_path / "run", **presets, **settings)
    assert not (tmp_path / "run").exists()


def test_a_store_is_used_as_it_is_and_must_be_of_the_same_models(tmp_path, monkeypatch):
    speech = write_recordings(tmp_path / "speech", [2.0, 1.0])
    use_stand_ins(monkeypatch)
    prepare_token_pairs([speech], tmp_path / "store", tokenizer_preset="t", codec_preset="c")
    for path in (speech / "deep").iterdir():
        path.unlink()  # the store is enough
    config = dict(audio_folders=[tmp_path / "store"], output_dir=tmp_path / "run")
    batches = training._batches(
        training.SoundStormTrainingConfig(**config),
        config["audio_folders"],
        CountingTokenizer(),
        FrameCodec(),
    )
    inputs, target, _ = batches(0)
    assert batches.crop_tokens == 50  # the longest recording; not 30 s of padding
    assert inputs["acoustic_tokens"].shape == (8, 100, LEVELS) and target.shape == (8, 100)
    assert not (tmp_path / "run").exists()
    use_stand_ins(monkeypatch, weight=2.0)
    with pytest.raises(ValueError, match="not made by this tokenizer and codec"):
        train(**config)


def test_crops_are_as_long_as_what_is_spoken_at_a_time(tmp_path):
    """The voice prompt and the part of a window that is new: 3 s + 27 s."""
    config = training.SoundStormTrainingConfig(audio_folders=[tmp_path], output_dir=tmp_path)
    assert config.crop_seconds == 30.0


def test_a_store_is_read_on_demand(tmp_path, monkeypatch):
    """A batch reads no more than its crops' sequences, so that memory does not grow."""
    sequences = [TokenSequence(str(n), 0.0, 0.4, *make_pair(10)) for n in range(50)]
    shard = write_shard(tmp_path / "shard-00000.array_record", sequences, VOCABULARY, CODES)
    write_manifest(tmp_path, {"vocabulary_size": VOCABULARY}, [shard])
    store, read = TokenStore(tmp_path), []
    monkeypatch.setattr(
        TokenStore, "__getitem__", lambda self, n: read.append(int(n)) or sequences[int(n)]
    )
    make_batches([store])(0)
    assert len(read) == 4


def test_a_checksum_knows_its_models_whatever_the_order_of_their_weights():
    weights = [np.arange(3.0), np.ones((2, 2))]

    def model(*weights):
        return SimpleNamespace(get_weights=lambda: list(weights))

    expected = checksum_of_models(model(*weights), model(np.zeros(1)))
    assert checksum_of_models(model(*weights[::-1]), model(np.zeros(1))) == expected
    assert checksum_of_models(model(weights[0], weights[1] + 1), model(np.zeros(1))) != expected
    assert checksum_of_models(model(np.zeros(1)), model(*weights)) != expected


def test_another_vocabulary_changes_the_semantic_table_only():
    keras.utils.set_random_seed(0)
    model = training.SoundStorm(VOCABULARY, LEVELS, CODES, 1, 16, 2, 32)
    for weight in model.weights:
        if weight.trainable:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    codes = np.random.default_rng(1).normal(size=(VOCABULARY + 3, 4))
    tokenizer = SimpleNamespace(vocabulary_size=VOCABULARY + 3, codebook=codes)
    changed = training.change_vocabulary(model, tokenizer)
    assert changed.semantic_vocabulary_size == VOCABULARY + 3
    old, new = (
        {w.path: np.asarray(ops.convert_to_numpy(w)) for w in m.weights} for m in (model, changed)
    )
    differing = [path for path in old if old[path].shape != new[path].shape]
    (table,) = differing
    assert "semantic_embedding" in table and new[table].shape == (VOCABULARY + 3 + 1, 16)
    assert new[table][:-1].std() == pytest.approx(old[table][:-1].std(), rel=0.1)
    np.testing.assert_array_equal(new[table][-1], old[table][-1])
    for path in set(old) - {table}:
        np.testing.assert_array_equal(old[path], new[path])


def test_tables_start_with_the_geometry_of_the_codebooks():
    model = training.SoundStorm(VOCABULARY, LEVELS, CODES, 1, 16, 2, 32)
    branch = model.conformer_blocks[0].second_output.kernel
    before = np.array(ops.convert_to_numpy(branch))
    training.start_from_codebooks(model, CountingTokenizer(), FrameCodec())

    def distances(table):
        return np.linalg.norm(table[:, None] - table[None], axis=-1)

    def assert_same_geometry(table, codebook):
        ratio = distances(table)[~np.eye(len(table), dtype=bool)]
        ratio = ratio / distances(codebook)[~np.eye(len(table), dtype=bool)]
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)

    embedding = model.frame_embedding
    semantic = ops.convert_to_numpy(embedding.semantic_embedding.embeddings)
    assert not semantic[-1].any()  # nor does a hidden one here
    semantic = semantic[:-1]
    assert_same_geometry(semantic, CountingTokenizer.codebook)
    acoustic = ops.convert_to_numpy(embedding.acoustic_embedding.embeddings)
    kernel = ops.convert_to_numpy(model.level_heads.kernel)
    for level in range(LEVELS):
        rows = acoustic[level * (CODES + 1) : (level + 1) * (CODES + 1)]
        assert_same_geometry(rows[:CODES], FrameCodec.codebooks[level])
        assert_same_geometry(kernel[level].T, FrameCodec.codebooks[level])
        assert not rows[CODES].any()  # the hidden token stands for no code
        np.testing.assert_allclose(rows[:CODES].var(), 0.5 / LEVELS, rtol=1e-3)
    np.testing.assert_allclose(semantic.var(), 0.5, rtol=1e-3)
    np.testing.assert_allclose(ops.convert_to_numpy(branch), 0.1 * before, rtol=1e-5)


def test_the_loss_is_the_mean_over_hidden_tokens():
    _, target, weight = make_batches(make_groups())(0)
    logits = np.random.default_rng(0).normal(size=(*target.shape, CODES)).astype("float32")
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = -np.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = float(loss(target, logits, sample_weight=weight))
    np.testing.assert_allclose(found, picked[weight > 0].mean(), rtol=1e-5)
