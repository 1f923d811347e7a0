"""The commands of the guide to a 2B model on S3 tokens, with tiny checkpoints of the same form."""

import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
from original_parts import make_s3_tokenizer, speech
from original_s3_gen import make_flow, make_speaker_encoder, make_vocoder, save_original

from keras_speechssm import cli
from keras_speechssm.audio.io import write_audio
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.models.griffin.convert_recurrent_gemma import save_as_hugging_face
from keras_speechssm.training.callbacks import read_metrics

pytestmark = pytest.mark.slow_to_compile
pytest.importorskip("grain")
pytest.importorskip("array_record")

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "train_2b_on_s3.md"
TEXT_MODEL = "hf://google/recurrentgemma-2b-it"
SMALLER = {
    "prepare": {"--drop-last-seconds": "0"},
    "train": {
        "--text-preset": "text_model",
        "--total-steps": "2",
        "--steps-per-epoch": "1",
        "--warmup-steps": "1",
        "--sequence-length": "32",
        "--batch-size": "2",
        "--gradient-accumulation-steps": "1",
    },
    "continue": {"--seconds": "2"},
}
"""Options that make the commands cheap, by verb. They replace those of the guide."""


def commands():
    blocks = re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("speechssm ")]


def make_smaller(words):
    words = list(words)
    for option, value in SMALLER.get(words[0], {}).items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the first step of the guide downloads, and recordings."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "chatterbox").mkdir()
    save_original(
        folder / "chatterbox" / "s3gen.safetensors",
        make_flow(6561, 16, 16, 1, 1, 1, 8, 1, 1, 1),
        make_vocoder(8, 4),
        make_speaker_encoder(1, 8, (1, 1, 1)),
        make_s3_tokenizer(1, 1, 64),
    )
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "hidden_dim": 64, "intermediate_dim": 64, "num_heads": 2}
    text = GriffinBackbone(11, **sizes, attention_window=16)
    save_as_hugging_face(text, folder / "text_model")
    for name, number in (("train", 3), ("held_out", 1)):
        (folder / "recordings" / name).mkdir(parents=True)
        for i in range(number):
            path = folder / "recordings" / name / f"{i}.wav"
            write_audio(path, speech(4 * 16_000, seed=i))
    write_audio(folder / "recording.wav", speech(4 * 16_000, seed=9))
    return folder


def test_the_commands_run(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    found = commands()
    assert [words[0] for words in found] == [
        *("prepare", "prepare", "train", "train", "assemble", "continue", "resynthesize")
    ]
    losses = []
    for words in found:
        if "--lora-rank" in words:  # The guide offers one or the other.
            words[words.index("--output-dir") + 1] = "run_lora"
        assert cli.main(make_smaller(words)) == 0, f"{words}: {capfd.readouterr().err}"
        if words[0] == "train":
            output = words[words.index("--output-dir") + 1]
            losses.append([line["val_loss"] for line in read_metrics(f"{output}/metrics.jsonl")])
    assert np.isfinite(losses).all() and np.shape(losses) == (2, 2)
    for name, seconds in (("continuation.wav", 2), ("resynthesized.wav", 4)):
        waveform, rate = soundfile.read(name)
        assert rate == 24_000 and np.abs(waveform).max() > 0
        assert len(waveform) == seconds * rate, name
    for run in ("run", "run_lora"):
        model = SpeechSSM.from_preset(f"{run}/preset")
        assert model.backbone.vocabulary_size == 6561 and not model.backbone.use_rotary


def test_the_recipe_starts_from_the_text_model_of_the_guide():
    """The test above replaces it."""
    from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig

    options = {"token_folders": ["store"], "output_dir": "run"}
    config = SpeechLMTrainingConfig.from_recipe("paper-4min", **options)
    assert config.text_preset == TEXT_MODEL and config.batch_size * config.sequence_length == 46_080
