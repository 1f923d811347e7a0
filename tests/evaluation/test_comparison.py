import json

import instruments as fakes
import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from keras_speechssm.audio import write_audio
from keras_speechssm.evaluation import comparison, item_measures
from keras_speechssm.evaluation.comparison import evaluate_continuations
from keras_speechssm.evaluation.judges import LikelihoodJudge

PROMPT = ["sea"] * 2
TRUE = ["sea", "ship", "gull"] * 4


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    """The fakes in place of the real instruments; counts what is measured."""
    calls = []
    real = comparison.measure_item

    def counted(*arguments):
        calls.append(arguments[0])
        return real(*arguments)

    monkeypatch.setattr(comparison, "measure_item", counted)
    monkeypatch.setattr(comparison, "open_transcriber", lambda name: fakes.Transcriber())
    monkeypatch.setattr(comparison, "open_text_model", lambda name: fakes.TextModel())
    monkeypatch.setattr(comparison, "open_embedder", lambda name: fakes.Embedder())
    monkeypatch.setattr(comparison, "SpeakerEmbedder", lambda: fakes.voice)
    monkeypatch.setattr(comparison, "DNSMOSPredictor", fakes.Loudness)
    judge = LikelihoodJudge(fakes.TextModel())
    monkeypatch.setattr(comparison, "open_judge", lambda name, model: judge)
    monkeypatch.setattr(
        item_measures, "speech_turns", lambda w: [(0, len(w) / 16000)] * bool(w.any())
    )
    return calls


def put(folder, name, words):
    path = folder / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, fakes.speak(words) if words else np.zeros(1600, "float32"))


@pytest.fixture
def folders(tmp_path):
    for name in ("61/a", "7/b"):
        put(tmp_path / "benchmark", name, PROMPT + TRUE)
        put(tmp_path / "good", name, TRUE)
        put(tmp_path / "jumpy", name, ["sea", "deck"] * 6)
    put(tmp_path / "whole", "61/a", PROMPT + TRUE)
    return tmp_path


def run(folders, systems=("good", "jumpy"), **options):
    return evaluate_continuations(
        [f"{name}={folders / name}" for name in systems],
        folders / "benchmark",
        folders / "out",
        prompt_seconds=2.0,
        **options,
    )


def test_the_truth_and_a_perfect_copy_are_alike_and_beat_what_jumps(folders):
    report = run(folders)
    truth, good, jumpy = (report["systems"][n] for n in ("ground truth", "good", "jumpy"))
    for name in ("nll_nats_per_unit", "semantic_similarity", "speaker_similarity"):
        assert good[name] == truth[name], name
    assert good["semantic_similarity"]["mean"] == pytest.approx(1.0)
    assert jumpy["semantic_similarity"]["mean"] < 0.9
    # Eight steps: "sea deck sea deck ..." is eight steps a word, the truth 1.25.
    assert jumpy["nll_nats_per_unit"]["mean"] == pytest.approx(8 * 11 / 12)
    assert truth["nll_nats_per_unit"]["mean"] == pytest.approx((8 + 3 * 2) / 12)
    assert jumpy["perplexity_per_unit"] == pytest.approx(np.exp(8 * 11 / 12))
    games = report["side_by_side"]
    assert games["against ground truth"]["good"]["win_rate"] == 50.0
    assert games["against ground truth"]["jumpy"]["win_rate"] == 0.0
    assert games["against good"]["jumpy"]["losses"] == 4
    assert games["against good"]["ground truth"]["ties"] == 4
    assert report["instruments"]["transcriber"] == "levels"


def test_what_is_written_can_be_read_and_heard(folders):
    run(folders, players=1)
    content = json.loads((folders / "out" / "report.json").read_text())
    assert content["num_items"] == 2 and set(content["systems"]) == {
        "good",
        "jumpy",
        "ground truth",
    }
    text = (folders / "out" / "report.md").read_text()
    assert "NLL (nats a unit)" in text and "| jumpy | 2 |" in text
    page = (folders / "out" / "report.html").read_text()
    assert page.count("<audio") == 3 and "data:audio/ogg;base64," in page
    assert "http" not in page.replace("http-equiv", "")  # one file, nothing from outside
    for name in ("sc_l", "n_mos_t", "failed", "non_speech_share"):
        assert (folders / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_second_run_measures_what_changed_only(folders, tools):
    written = folders / "out" / "report.json"
    run(folders)
    first = written.read_text()
    assert len(tools) == 6
    tools.clear()
    run(folders)
    assert written.read_text() == first and tools == []
    put(folders / "good", "7/b", ["rope"] * 12)
    run(folders)
    assert tools == ["7/b"] and written.read_text() != first


def test_a_prompt_in_the_audio_is_left_out_where_said(folders):
    report = run(folders, ["whole"], with_prompt=["whole"])
    assert report["systems"]["whole"]["num_items"] == 1 == report["num_items"]
    means = [entry["nll_nats_per_unit"]["mean"] for entry in report["systems"].values()]
    assert means[0] == means[1]
    # A game each way, of the same text.
    assert report["side_by_side"]["against ground truth"]["whole"]["ties"] == 2


def test_silent_and_short_systems_are_reported_not_a_crash(folders):
    put(folders / "mute", "61/a", [])
    report = run(folders, ["mute", "good"])
    mute = report["systems"]["mute"]
    assert mute["num_without_words"] == 1 and np.isnan(mute["nll_nats_per_unit"]["mean"])
    assert report["side_by_side"]["against ground truth"]["mute"]["ties"] == 2  # cut to nothing
    content = json.loads((folders / "out" / "report.json").read_text())
    assert content["systems"]["mute"]["nll_nats_per_unit"]["mean"] is None


def test_judged_is_up_to_where_it_was_asked(folders):
    report = run(folders, until_seconds=5.0)
    assert report["systems"]["jumpy"]["seconds"] == 6.0  # 3 s of each of two


@pytest.mark.parametrize(
    ("systems", "options", "message"),
    [
        (["nothing"], {}, "does not exist"),
        ([], {}, "at least one system"),
        (["good"], {"with_prompt": ["bad"]}, "'bad', which is no system"),
        (["good"], {"limit": 0}, "limit is 0"),
    ],
)
def test_wrong_options_write_nothing(folders, systems, options, message):
    with pytest.raises(ValueError, match=message):
        run(folders, systems, **options)
    assert not (folders / "out").exists()


def test_a_system_of_other_recordings_is_refused(folders):
    put(folders / "other", "99/z", TRUE)
    with pytest.raises(ValueError, match="has none of the benchmark's recordings, such as '61/a'"):
        run(folders, ["other"])
    for systems in ([f"{folders}/good", f"good={folders}/good"], [f"ground truth={folders}/good"]):
        with pytest.raises(ValueError, match="cannot name a system"):
            evaluate_continuations(systems, folders / "benchmark", folders / "out")
