import json

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.studies import long_form
from keras_speechssm.evaluation.studies.long_form import (
    MEASURES,
    evaluate_long_form,
    measure_minutes,
    minutes_table,
    summarize_minutes,
    trend,
)
from tests import instruments

pytestmark = pytest.mark.any_backend

MINUTE = 60 * 16000

NAMES = (*MEASURES, "dnsmos")


@pytest.fixture(autouse=True)
def loud_is_speech(monkeypatch):
    monkeypatch.setattr(long_form, "speech_turns", lambda x: [(0.0, 1.0)] * bool(x.any()))


def tokenize(waveform):
    """A token tells the level of its 40 ms, in hundredths."""
    return np.round(100 * waveform[: len(waveform) // 640 * 640 : 640]).astype(int)


def test_each_minute_is_measured_by_itself():
    varied = np.repeat(np.random.default_rng(0).integers(10, 90, 1500) / 100, 640)
    stuck = np.repeat(np.tile([0.2, 0.3], 750), 640)
    silent = np.zeros(MINUTE)
    waveform = np.concatenate([varied, stuck, silent, varied[:5000]]).astype("float32")
    found = measure_minutes(
        np.full(16000, 0.25, "float32"),
        waveform,
        tokenize,
        instruments.Voice(),
        {"dnsmos": instruments.Loudness()},
    )
    assert all(len(found[name]) == 3 for name in NAMES)
    assert found["silence_fraction"] == [0.0, 0.0, 1.0]
    assert found["repeated_4_grams"][0] < 0.01 < 0.99 < found["repeated_4_grams"][1]
    assert found["token_entropy"][1] == pytest.approx(np.log(2), abs=1e-3)
    assert found["token_entropy"][0] > 4 and found["token_entropy"][2] == 0
    assert found["speaker_similarity"][:2] == pytest.approx([np.cos(0.25), 1.0], abs=0.05)
    assert found["speaker_similarity"][2] is None  # nobody's voice
    assert found["dnsmos"][1:] == pytest.approx([1 + 4 * 0.3, 1.0])
    nobody = measure_minutes(
        silent[:16000], stuck, tokenize, instruments.Voice(), {"dnsmos": instruments.Loudness()}
    )
    assert nobody["speaker_similarity"] == [None]
    said_nothing = measure_minutes(
        stuck, silent, tokenize, instruments.Voice(), {"dnsmos": lambda _: 4.0}
    )
    assert said_nothing["dnsmos"] == [1.0]  # whatever a predictor says of silence
    short = measure_minutes(
        varied[:8000],
        varied[:32000],
        tokenize,
        instruments.Voice(),
        {"dnsmos": instruments.Loudness()},
    )
    assert all(len(short[name]) == 1 for name in NAMES)


def test_trends_are_slopes_of_the_late_minutes():
    assert trend([9, 9, 1, 2, 3, 4], 2) == pytest.approx(1.0)
    assert trend([1, 2, 3], 1) is None and trend([1, None, 3, None], 0) is None
    assert trend([1, None, 3, 4], 0) == pytest.approx(1.0)
    rows = [{name: [0.0, 0.0, n, 2.0 * n, 3.0 * n] for name in NAMES} for n in (1, 3)]
    report = summarize_minutes({"continuation": rows, "truth": []}, 2)
    assert report["trends"]["dnsmos"]["mean"] == pytest.approx(2.0)
    assert [minute["mean"] for minute in report["continuation"]["dnsmos"]] == [0, 0, 2, 4, 6]
    assert report["truth"]["dnsmos"] == [] and report["num_recordings"] == 2


def test_table_of_minutes():
    ours = [{name: [0.1, 0.3, n, 2.0 * n, 3.0 * n] for name in NAMES} for n in (1, 3)]
    truth = [{name: [0.25, 0.15, 9.0][:last] for name in NAMES} for last in (2, 3)]
    for row, last in zip(ours, (3, 4), strict=True):
        row["speaker_similarity"][last:] = [None] * (5 - last)
    report = summarize_minutes({"continuation": ours, "truth": truth}, 2)
    lines = minutes_table(report, 2).splitlines()
    assert lines[0] == (
        "| minute | 1-2 | 3-4 | 5 | truth, minutes 1 to 2 | slope per minute, 99 % interval |"
        " single minutes | single minutes of the truth |"
    )
    assert lines[1] == "|" + 8 * "---|"
    slope = "+2.00000 ± 63.65674"  # of 1 and 3, with Student's 63.66 of one degree of freedom
    ends = "0.100 to 9.00 | 0.150 to 9.00"
    assert (
        lines[2]
        == f"| silence fraction | 0.200 | 3.00 | 6.00 | 0.150 to 0.250 | {slope} | {ends} |"
    )
    ends = "0.100 to 6.00 | 0.150 to 9.00"
    assert lines[5] == f"| speaker similarity | 0.200 | 4.00 | - | 0.150 to 0.250 | - | {ends} |"
    surer = summarize_minutes({"continuation": ours, "truth": truth}, 2, confidence=0.95)
    assert "+2.00000 ± 12.70620 |" in minutes_table(surer)
    alone = minutes_table(summarize_minutes({"continuation": ours, "truth": []}, 2)).splitlines()
    assert "| 5 | truth | slope" in alone[0]
    assert alone[2].startswith(
        "| silence fraction | 0.100 | 0.300 | 2.00 | 4.00 | 6.00 | - | +2.00000"
    )


def test_report_and_plots_of_folders(tmp_path, monkeypatch, caplog):
    class Tokenizer:
        @classmethod
        def from_preset(cls, preset):
            return cls()

        preset_part = "semantic_tokenizer"
        tokenize = staticmethod(tokenize)

    monkeypatch.setattr(long_form, "SemanticTokenizer", Tokenizer)
    prints = ["tokens"]
    monkeypatch.setattr(long_form, "fetch_folder", lambda *_: "")
    monkeypatch.setattr(long_form, "fingerprint", lambda _: prints[-1])
    monkeypatch.setattr(long_form, "open_speaker_embedder", instruments.Voice)
    monkeypatch.setattr(long_form, "load_mos_predictor", lambda name: instruments.Loudness())
    monkeypatch.setattr(long_form, "installed_mos_predictors", lambda: ("dnsmos",))
    for folder in ("truth", "ours"):
        (tmp_path / folder).mkdir()
    truth = np.repeat([0.9, 0.5], [16000, 32000])  # the prompt is louder
    write_audio(tmp_path / "truth" / "a.wav", truth)
    write_audio(tmp_path / "ours" / "a.wav", np.full(5 * 16000, 0.25))
    arguments = tmp_path / "ours", tmp_path / "truth", tmp_path / "report"
    report = evaluate_long_form(*arguments, prompt_seconds=1.0)
    assert report["continuation"]["dnsmos"][0]["mean"] == pytest.approx(2.0, abs=1e-3)
    assert report["truth"]["dnsmos"][0]["mean"] == pytest.approx(3.0, abs=1e-3)
    assert "No continuation has 7 complete minutes" in caplog.text
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files == {
        "items",
        "long-form.json",
        "long-form.md",
        *(f"{name}.png" for name in NAMES),
    }
    # What is there is not measured again, unless it is of another tokenizer.
    measure = long_form.measure_minutes
    monkeypatch.setattr(long_form, "measure_minutes", lambda *_, **__: 1 / 0)
    again = evaluate_long_form(*arguments, prompt_seconds=1.0)
    assert again["continuation"]["dnsmos"][0]["mean"] == report["continuation"]["dnsmos"][0]["mean"]
    prints.append("others")
    with pytest.raises(ZeroDivisionError):
        evaluate_long_form(*arguments, prompt_seconds=1.0)
    monkeypatch.setattr(long_form, "measure_minutes", measure)
    with pytest.raises(ValueError, match="is a file"):
        evaluate_long_form(*arguments[:2], tmp_path / "ours" / "a.wav", prompt_seconds=1.0)
    for confidence in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="confidence is"):
            evaluate_long_form(*arguments, confidence=confidence)
    kept = json.loads((tmp_path / "report" / "long-form.json").read_text())
    assert kept["num_recordings"] == 1
    write_audio(tmp_path / "ours" / "b.wav", np.full(16000, 0.25))
    with pytest.raises(ValueError, match="b.wav has no recording of this name"):
        evaluate_long_form(*arguments)
