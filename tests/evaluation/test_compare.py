import dataclasses
import json

import instruments as fakes
import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation import compare as comparison
from keras_speechssm.evaluation import report as report_module
from keras_speechssm.evaluation.compare import (
    GROUND_TRUTH,
    ComparisonOptions,
    EvaluationModelNames,
    JudgeOptions,
    compare_folders,
    evaluate_continuations,
)
from keras_speechssm.evaluation.metrics.naturalness import minute_spans
from keras_speechssm.evaluation.models.judges import LikelihoodJudge
from keras_speechssm.evaluation.report import plot_curves
from keras_speechssm.files import run_lock

pytestmark = pytest.mark.any_backend

PROMPT = ["sea"] * 2
TRUE = ["sea", "ship", "gull"] * 4


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    """The fakes instead of the real models; counts what is measured."""
    calls = []
    real = comparison.measure_item

    def counted(*arguments):
        calls.append(len(arguments[1]) // 16000)
        return real(*arguments)

    monkeypatch.setattr(comparison, "measure_item", counted)
    monkeypatch.setattr(comparison, "load_transcriber", lambda name: fakes.Transcriber())
    monkeypatch.setattr(comparison, "load_text_model", lambda name: fakes.TextModel())
    monkeypatch.setattr(
        comparison, "load_sentence_embedder", lambda name, prompt=None: fakes.Embedder()
    )
    monkeypatch.setattr(comparison, "open_speaker_embedder", lambda name: fakes.Voice())
    monkeypatch.setattr(comparison, "load_mos_predictor", lambda name: fakes.Loudness())
    judge = LikelihoodJudge(fakes.TextModel())
    monkeypatch.setattr(comparison, "load_judge", lambda name, model, template: judge)
    monkeypatch.setattr(comparison, "speech_turns", lambda w: [(0, len(w) / 16000)] * bool(w.any()))
    # Drawing takes most of the time of a comparison.
    monkeypatch.setattr(report_module, "plot_curves", lambda *_: b"no plot")
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
    put(tmp_path / "whole", "99/x", TRUE)  # no recording of the benchmark
    return tmp_path


def run(folders, systems=("good", "jumpy"), models=None, judge=None, players=3, **options):
    return evaluate_continuations(
        [f"{name}={folders / name}" for name in systems],
        folders / "benchmark",
        folders / "out",
        comparison=ComparisonOptions(prompt_seconds=2.0, **options),
        models=models or EvaluationModelNames(),
        judge=judge or JudgeOptions(),
        players=players,
    )


def test_the_truth_and_a_perfect_copy_are_alike_and_beat_what_jumps(folders):
    report = run(folders)
    truth, good, jumpy = (report["systems"][n] for n in ("ground truth", "good", "jumpy"))
    for name in ("nll_nats_per_unit", "semantic_similarity", "speaker_similarity"):
        assert good[name] == truth[name], name
    assert good["semantic_similarity"]["mean"] == pytest.approx(1.0)
    assert jumpy["semantic_similarity"]["mean"] < 0.9
    # Eight steps: "sea deck sea deck ..." is eight steps per word, the truth 1.25.
    assert jumpy["nll_nats_per_unit"]["mean"] == pytest.approx(8 * 11 / 12)
    assert truth["nll_nats_per_unit"]["mean"] == pytest.approx((8 + 3 * 2) / 12)
    assert jumpy["perplexity_per_unit"] == pytest.approx(np.exp(8 * 11 / 12))
    games = report["side_by_side"]
    assert games["against ground truth"]["good"]["win_rate"] == 50.0
    assert games["against ground truth"]["jumpy"]["win_rate"] == 0.0
    assert games["against good"]["jumpy"]["losses"] == 4
    assert games["against good"]["ground truth"]["ties"] == 4
    assert report["instruments"]["transcriber"] == "levels"


def test_judges_read_prompt_and_continuation_together_and_short_form_as_it_is(folders, monkeypatch):
    seen = []

    def judged(judge, ours, theirs, truncated):
        seen.append((ours, truncated))
        return [(0, 0)] * len(ours)

    monkeypatch.setattr(comparison, "judge_pairs", judged)
    run(folders, systems=["good"])
    run(folders, systems=["good"], judge=JudgeOptions(truncate_short_form=True))
    assert [text.split() for text in seen[0][0]] == [PROMPT + TRUE] * 2
    assert [truncated for _, truncated in seen] == [[False] * 2] * 2 + [[True] * 2] * 2
    compared, _ = compare_folders(
        [f"good={folders / 'good'}"], folders / "benchmark", ComparisonOptions(prompt_seconds=2.0)
    )
    longer = dataclasses.replace(compared[0], prompt_seconds=10.0, until_seconds=25.1)
    assert longer.is_long_form


def test_what_is_written_can_be_read_and_heard(folders, monkeypatch):
    monkeypatch.setattr(report_module, "plot_curves", plot_curves)
    run(folders, players=1)
    content = json.loads((folders / "out" / "report.json").read_text())
    assert content["num_items"] == 2 and set(content["systems"]) == {
        "good",
        "jumpy",
        "ground truth",
    }
    text = (folders / "out" / "report.md").read_text()
    assert "NLL (nats per unit)" in text and "| jumpy | 2 |" in text
    # Twelve words have no span of 100, but minutes that may have failed.
    assert "## SC-L" not in text
    # Minutes that nobody speaks in have no column, and the title says what the columns are.
    for title in (
        "minutes that failed, by minute of the",
        "by minute from the start of the prompt",
    ):
        header = text.split(title)[1].splitlines()[2]
        assert header == "| system | 1 |"
    page = (folders / "out" / "report.html").read_text()
    # The prompt, both systems, the truth.
    assert page.count("<audio") == 4 and "data:audio/ogg;base64," in page
    assert "http" not in page.replace("http-equiv", "")  # one file, nothing from outside
    for name in ("sc_l", "n_mos_t", "failed", "non_speech_fraction"):
        assert (folders / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_second_run_measures_what_changed_only(folders, tools):
    written = folders / "out" / "report.json"
    run(folders)
    first = written.read_text()
    assert len(tools) == 6
    tools.clear()
    run(folders)
    assert written.read_text() == first and tools == []
    put(folders / "good", "7/b", ["rope"] * 11)
    run(folders)
    assert tools == [11] and written.read_text() != first


def test_a_prompt_in_the_audio_is_left_out_where_said(folders):
    report = run(folders, ["whole"], with_prompt=["whole"])
    assert report["systems"]["whole"]["num_items"] == 1 == report["num_items"]
    assert report["systems"]["whole"]["num_missing"] == 1
    means = [entry["nll_nats_per_unit"]["mean"] for entry in report["systems"].values()]
    assert means[0] == means[1]
    # A game each way, of the same text.
    assert report["side_by_side"]["against ground truth"]["whole"]["ties"] == 2


def test_silent_and_short_systems_are_reported_not_a_crash(folders):
    put(folders / "mute", "61/a", [])
    (folders / "mute" / "7").mkdir()
    write_audio(folders / "mute" / "7" / "b.flac", np.zeros(0, "float32"))
    report = run(folders, ["mute", "good"])
    mute = report["systems"]["mute"]
    assert mute["num_without_words"] == 2 and np.isnan(mute["nll_nats_per_unit"]["mean"])
    assert mute["over_time"]["failed"][0]["mean"] == 1.0
    # Nothing is not as good as the truth cut to nothing.
    assert report["side_by_side"]["against ground truth"]["mute"]["losses"] == 4
    assert "without a word" in (folders / "out" / "report.md").read_text()
    content = json.loads((folders / "out" / "report.json").read_text())
    assert content["systems"]["mute"]["nll_nats_per_unit"]["mean"] is None


def test_all_are_compared_on_what_all_have(folders):
    (folders / "good" / "7" / "b.flac").unlink()
    report = run(folders)
    assert [entry["num_items"] for entry in report["systems"].values()] == [1, 1, 1]
    assert (
        report["systems"]["good"]["num_missing"] == 1
        and report["systems"]["jumpy"]["num_missing"] == 0
    )


def test_the_same_spans_are_judged_of_all_and_the_truth_only_where_it_is(folders):
    compared, _ = compare_folders(
        [f"good={folders / 'good'}"],
        folders / "benchmark",
        ComparisonOptions(prompt_seconds=2.0, until_seconds=100.0),
    )
    # In four minutes the last span ends where the truth does, for everybody.
    spans = compared[0].spans("good")
    assert spans == minute_spans("61/a", 2.0, 14.0) == compared[0].spans(GROUND_TRUTH)
    # For 16 min there is no truth to share spans with.
    longer = dataclasses.replace(compared[0], until_seconds=960.0)
    spans = longer.spans("good")
    assert spans == minute_spans("61/a", 2.0, 960.0) and len(spans) == 16
    truth = longer.spans(GROUND_TRUTH)
    assert truth == [span if span and span[1] <= 14.0 else None for span in spans]


def test_beyond_the_truth_nothing_is_compared_with_it(folders):
    assert "against ground truth" in run(folders, until_seconds=74.0)["side_by_side"]
    report = run(folders, until_seconds=75.0)
    assert list(report["side_by_side"]) == ["against good"]
    assert list(report["side_by_side"]["against good"]) == ["jumpy"]
    assert np.isnan(report["systems"]["good"]["semantic_similarity"]["mean"])
    assert "similarity to the true text" not in (folders / "out" / "report.md").read_text()


def test_another_embedder_prompt_measures_anew(folders, tools, monkeypatch):
    class Prompted(fakes.Embedder):
        def __init__(self, prompt):
            self.name = f"counts {prompt!r}"

    monkeypatch.setattr(
        comparison, "load_sentence_embedder", lambda name, prompt=None: Prompted(prompt)
    )
    run(folders)
    run(folders, models=EvaluationModelNames(embedder_prompt="search results: "))
    assert len(tools) == 12


def test_a_subset_is_drawn_from_what_was_generated(folders):
    put(folders / "benchmark", "8/c", PROMPT + TRUE[:3])  # too short for short form
    for system in ("good", "jumpy"):
        (folders / system / "options.json").write_text(
            '{"prompt_seconds": 2.0, "until_seconds": 14.0, "least_reference": 5.0}'
        )
    systems = [f"{name}={folders / name}" for name in ("good", "jumpy")]
    drawn = {
        compare_folders(
            systems,
            folders / "benchmark",
            ComparisonOptions(prompt_seconds=2.0, subset=1, subset_seed=seed),
        )[0][0].item.name
        for seed in range(8)
    }
    assert drawn == {"61/a", "7/b"}


def test_a_log_that_a_kill_has_cut_costs_no_report(folders):
    (folders / "good" / "generation.jsonl").write_text(
        '{"item": "a", "seconds": 10, "wall_seconds": 5}\n{"id": 3}\n[]\n{"item": "b", "sec'
    )
    assert run(folders)["systems"]["good"]["real_time_factor"] == 0.5


def test_continuations_of_other_prompts_or_shorter_ones_are_refused(folders):
    options = folders / "jumpy" / "options.json"
    options.write_text('{"prompt_seconds": 3.0, "until_seconds": 8.0}')
    with pytest.raises(
        ValueError, match=r"jumpy continues prompts of 3 s, .* set --prompt-seconds 3"
    ):
        run(folders)
    options.write_text('{"prompt_seconds": 2.0, "until_seconds": 8.0}')
    with pytest.raises(ValueError, match=r"jumpy ends at 8 s, .* set --until-seconds 8"):
        run(folders)
    # Further than the recordings, too: what was not generated is not silence.
    options.write_text('{"prompt_seconds": 2.0, "until_seconds": 14.0}')
    with pytest.raises(ValueError, match=r"jumpy ends at 14 s, .* set --until-seconds 14"):
        run(folders, until_seconds=100.0)
    options.write_text('{"prompt_seconds": 2.0, "until_seconds": 8.0}')
    assert not (folders / "out").exists()
    assert run(folders, until_seconds=8.0)["num_items"] == 2
    options.write_text("[")
    with pytest.raises(ValueError, match=r"options.json is damaged"):
        run(folders)


def test_judged_is_up_to_where_it_was_asked(folders):
    report = run(folders, until_seconds=5.0)
    assert report["systems"]["jumpy"]["seconds"] == 6.0  # 3 s of each of two


@pytest.mark.parametrize(
    ("systems", "options", "message"),
    [
        (["nothing"], {}, "does not exist"),
        ([], {}, "at least one system"),
        (["good"], {"with_prompt": ["bad"]}, "'bad'; expected one of good"),
        (["good"], {"subset": 0}, "subset is 0"),
        (["good"], {"until_seconds": 1.0}, "above the prompt's 2"),
        (["good"], {"until_seconds": float("inf")}, "expected a finite number"),
        (["good"], {"until_seconds": float("nan")}, "expected a finite number"),
        (["good"], {"min_reference_seconds": 100.0}, "has 100 s after a prompt"),
    ],
)
def test_wrong_options_write_nothing(folders, systems, options, message):
    with pytest.raises(ValueError, match=message):
        run(folders, systems, **options)
    assert not (folders / "out").exists()


def test_a_system_of_other_recordings_is_refused(folders):
    put(folders / "other", "99/z", TRUE)
    with pytest.raises(ValueError, match="'other' lacks 2 of 2, such as '61/a'"):
        run(folders, ["other"])
    folder = folders / "good"
    for systems in (
        [f"{folder}", f"good={folder}"],
        [f"ground truth={folder}"],
        [f"prompt={folder}"],
        [f"Ground_Truth={folder}"],
        [f"a b={folder}", f"a_b={folder}"],
        [f"../x={folder}"],
        [f"/x={folder}"],
        [f"a$^$={folder}"],
        [f"={folder}"],
    ):
        with pytest.raises(ValueError, match="cannot be the name of a system"):
            evaluate_continuations(systems, folders / "benchmark", folders / "out")
    assert not (folders / "out").exists()


def test_a_folder_with_an_equals_sign_is_a_folder(folders):
    (folders / "good").rename(folders / "lr=1")
    with pytest.raises(ValueError, match="'lr=1' cannot be the name of a system"):
        run_plain(folders, str(folders / "lr=1"))
    assert run_plain(folders, f"good={folders / 'lr=1'}")["num_items"] == 2


def run_plain(folders, system):
    return evaluate_continuations(
        [system],
        folders / "benchmark",
        folders / "out",
        comparison=ComparisonOptions(prompt_seconds=2.0),
    )


def test_two_at_one_report_are_refused(folders):
    (folders / "out").mkdir()
    with (
        run_lock(folders / "out"),
        pytest.raises(ValueError, match="Another run|another run|in use"),
    ):
        run(folders)


def test_a_file_in_the_reports_place_is_said_at_once(folders, tools):
    (folders / "out").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        run(folders)
    assert tools == []


def test_the_question_to_the_judge_can_be_read_from_a_file(folders, monkeypatch):
    templates = []
    judge = LikelihoodJudge(fakes.TextModel())

    def load(name, model, template):
        templates.append(template)
        return judge

    monkeypatch.setattr(comparison, "load_judge", load)
    path = folders / "question.txt"
    path.write_text("A: {text_a} B: {text_b}")
    run(folders, judge=JudgeOptions(judge_template=str(path)))
    assert templates == ["A: {text_a} B: {text_b}"]
    with pytest.raises(ValueError, match="does not exist"):
        run(folders, judge=JudgeOptions(judge_template=str(folders / "nothing.txt")))
