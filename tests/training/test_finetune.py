"""Fine-tuning from a folder of recordings to a preset that speaks."""

import json
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from tiny_models import shared_tiny_preset

from keras_speechssm import cli
from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.token_store import TokenStore
from keras_speechssm.models import SemanticTokenizer, SpeechSSM
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import PARTS
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training import finetune as module
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.finetune import finetune_pipeline, split_recordings

pytestmark = pytest.mark.any_backend  # what trains is tested on every backend elsewhere
pytest.importorskip("grain")
pytest.importorskip("array_record")
TINY = dict(total_steps=3, steps_per_epoch=2, warmup_steps=1, batch_size=2, sequence_length=32)
VOICE = {**TINY, "crop_seconds": 0.4, "validation_steps": 1, "learning_rate": 1e-2}
del VOICE["sequence_length"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Twelve recordings of a second, of one rising tone each."""
    folder = tmp_path_factory.mktemp("recordings")
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    for number in range(12):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * number + 300 * time) * time)
        write_audio(folder / f"{number:02d}.wav", tone.astype("float32"))
    return folder


@pytest.fixture(scope="module")
def finished(recordings, tmp_path_factory):
    """A finished run, and what it returned."""
    folder = tmp_path_factory.mktemp("finished")
    options = dict(preset=shared_tiny_preset(), speech_lm_options=TINY)
    result = finetune_pipeline([recordings], folder / "mine", **options)
    return folder, result


def test_the_split_is_by_recording_and_stays_the_same(recordings):
    paths = find_audio(recordings)
    train, held_out = split_recordings(paths, 0.1)
    assert [path.name for path in held_out] == ["06.wav"]
    assert len(train) == 11 and not set(train) & set(held_out)
    assert split_recordings(paths, 0.1) == (train, held_out)
    train, held_out = split_recordings(paths, 0.5)
    assert len(train) == len(held_out) == 6
    train, held_out = split_recordings(paths[:2], 0.1)
    assert len(train) == len(held_out) == 1


def changed_parts(folder):
    speech, original = map(SpeechContinuation.from_preset, (str(folder), shared_tiny_preset()))
    changed = []
    for part in PARTS:
        pairs = zip(*(getattr(p, part).get_weights() for p in (speech, original)), strict=True)
        if not all(np.allclose(*pair, atol=1e-3) for pair in pairs):  # stored as float16
            changed.append(part)
    return changed, speech


def test_the_result_is_a_pipeline_of_the_trained_part(finished):
    folder, result = finished
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "mine.run"]
    changed, speech = changed_parts(folder / "mine")
    assert changed == ["speech_lm"]
    assert speech.metadata["fine_tuning"]["recordings"] == result["recordings"] == 11
    assert str(folder) not in json.dumps(speech.metadata)


def test_the_losses_are_those_of_the_held_out_rows(finished):
    folder, result = finished
    lines = read_metrics(folder / "mine.run" / "speech_lm" / "metrics.jsonl")
    assert result["steps"] == lines[-1]["step"] == 4  # 3, rounded up to whole epochs
    assert result["held_out_loss"] == pytest.approx(min(li["val_loss"] for li in lines), abs=1e-4)
    store = TokenStore(folder / "mine.run" / "tokens" / "held_out")
    assert [sequence.recording for sequence in store] == ["06"]
    tokens = store[0].tokens
    scores = SpeechSSM.from_preset(shared_tiny_preset()).score(tokens[None])
    expected = -np.asarray(keras.ops.convert_to_numpy(scores)).sum() / (len(tokens) - 1)
    assert result["held_out_loss_before"] == pytest.approx(expected, abs=1e-3)
    assert result["held_out_loss"] < result["held_out_loss_before"]


@pytest.mark.slow
def test_soundstorm_is_trained_as_well_and_the_preset_speaks(finished, recordings, tmp_path):
    shutil.copytree(finished[0] / "mine.run", tmp_path / "mine.run")
    options = dict(preset=shared_tiny_preset(), speech_lm_options=TINY)
    options |= dict(soundstorm=True, soundstorm_options=VOICE)
    finetune_pipeline([recordings], tmp_path / "mine", **options)
    changed, speech = changed_parts(tmp_path / "mine")
    assert changed == ["speech_lm", "soundstorm"]
    assert speech.continue_speech(recordings / "00.wav", seconds=1, seed=0).shape == (SAMPLE_RATE,)


def test_a_finished_run_can_be_trained_further(finished, recordings, monkeypatch):
    folder, result = finished
    monkeypatch.setattr(SemanticTokenizer, "tokenize", None)  # nothing is tokenized again
    options = dict(preset=shared_tiny_preset(), speech_lm_options={**TINY, "total_steps": 6})
    again = finetune_pipeline([recordings], folder / "mine", **options)
    assert again["held_out_loss_before"] == result["held_out_loss_before"]
    lines = read_metrics(folder / "mine.run" / "speech_lm" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]


@pytest.mark.parametrize(
    "stage", ["prepare_sequences", "initial_loss", "train_speech_lm", "_assemble"]
)
def test_an_interrupt_at_any_stage_writes_no_preset(
    finished, recordings, tmp_path, monkeypatch, stage
):
    folder, _ = finished
    shutil.copytree(folder / "mine.run", tmp_path / "mine.run")
    options = dict(preset=shared_tiny_preset(), speech_lm_options=TINY)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    if stage == "initial_loss":
        (tmp_path / "mine.run" / "before.json").unlink()
    monkeypatch.setattr(module, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune_pipeline([recordings], tmp_path / "mine", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.run"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["no/such"], "no/such does not exist"),
        (["empty"], "No audio in"),
        (["one"], "only one recording"),
    ],
)
def test_bad_folders_are_refused_in_one_line(names, message, recordings, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    shutil.copy(recordings / "00.wav", tmp_path / "one")
    before = sorted(tmp_path.rglob("*"))
    argv = ["finetune", *(str(tmp_path / name) for name in names), "-o", str(tmp_path / "mine")]
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said, said
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_cannot_become_a_preset_is_refused_first(recordings, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for output, message in (("full", "is not a preset"), ("file", "it is a file")):
        with pytest.raises(ValueError, match=message):
            finetune_pipeline([recordings], tmp_path / output, preset=shared_tiny_preset())
    with pytest.raises(ValueError, match="holds a single model"):
        finetune_pipeline([recordings], tmp_path / "mine", preset="speech_ssm_2b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_a_run_of_other_recordings_is_refused(finished, recordings, tmp_path):
    folder, _ = finished
    shutil.copytree(recordings, tmp_path / "other")
    (tmp_path / "other" / "00.wav").unlink()
    with pytest.raises(ValueError, match=r"was started with .*recordings.*same options"):
        finetune_pipeline([tmp_path / "other"], folder / "mine", preset=shared_tiny_preset())


def test_the_command_hands_its_options_on(recordings, tmp_path, monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(
        module, "finetune_pipeline", lambda *args, **options: given.update(options) or {}
    )
    argv = ["finetune", str(recordings), "-o", "mine", "--total-steps", "7", "--lora-rank", "4"]
    assert cli.main([*argv, "--soundstorm", "--soundstorm-steps", "9", "--workers", "2"]) == 0
    assert given["speech_lm_options"] == {"total_steps": 7, "lora_rank": 4}
    assert given["soundstorm"] and given["soundstorm_options"] == {"total_steps": 9}
    assert given["workers"] == 2
    assert "speechssm continue" in capsys.readouterr().err


@pytest.mark.slow
def test_kills_at_every_stage_are_resumed(recordings, tmp_path):
    """The same command after SIGKILL gives the losses of a run that was never killed."""
    code = (
        "import sys; from keras_speechssm.training.finetune import finetune_pipeline as finetune\n"
        f"finetune([sys.argv[1]], sys.argv[2], preset=sys.argv[3], speech_lm_options={TINY})"
    )
    command = [sys.executable, "-c", code, str(recordings)]
    run = tmp_path / "killed.run"
    for reached in ("options.json", "tokens/train/manifest.json", "speech_lm/metrics.jsonl"):
        process = subprocess.Popen([*command, tmp_path / "killed", shared_tiny_preset()])
        while process.poll() is None and not (run / reached).exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed").exists()
    for name in ("killed", "whole"):
        subprocess.run([*command, tmp_path / name, shared_tiny_preset()], check=True)
    logs = [
        tmp_path / f"{name}.run" / "speech_lm" / "metrics.jsonl" for name in ("killed", "whole")
    ]
    losses = [[line["val_loss"] for line in read_metrics(log)] for log in logs]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "killed",
        "killed.run",
        "whole",
        "whole.run",
    ]
