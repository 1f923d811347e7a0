import csv
import json

import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm import cli
from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.evaluation.compare import ComparisonOptions
from keras_speechssm.evaluation.listening_test import (
    ISSUES,
    score_listening_test,
    write_boundary_listening_test,
    write_clips,
    write_listening_test,
)

pytestmark = pytest.mark.any_backend


def clips():
    return [
        (system, "item", span, np.full(1600, level, "float32"))
        for system, level in (("ours", 0.1), ("theirs", 0.5))
        for span in range(2)
    ]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def fill(folder, rate, name="filled.csv"):
    key = {row["clip"]: row for row in rows(folder / "key.csv")}
    path = folder / name
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "rating"])
        writer.writerows((clip, rate(row)) for clip, row in key.items())
    return path


def test_the_sheet_is_blind_and_the_key_tells(tmp_path):
    assert write_clips(clips(), tmp_path) == 4
    sheet = rows(tmp_path / "sheet.csv")
    assert [row["clip"] for row in sheet] == [f"000{n}.wav" for n in range(1, 5)]
    assert "ours" not in (tmp_path / "sheet.csv").read_text()
    assert "(very unnatural) to 5 (very natural)" in (tmp_path / "instructions.txt").read_text()
    for row in rows(tmp_path / "key.csv"):
        level = np.abs(read_audio(tmp_path / "clips" / row["clip"])).max()
        assert level == pytest.approx({"ours": 0.1, "theirs": 0.5}[row["system"]], abs=1e-3)


def test_clips_are_shuffled_and_a_sheet_is_never_overwritten(tmp_path):
    write_clips(clips() * 5, tmp_path, seed=1)
    systems = [row["system"] for row in rows(tmp_path / "key.csv")]
    assert systems != sorted(systems)
    with pytest.raises(ValueError, match="contains clips or a sheet already"):
        write_clips(clips(), tmp_path)
    (tmp_path / "sheet.csv").unlink()  # as a kill leaves it: its clips would lie among the others
    with pytest.raises(ValueError, match="contains clips or a sheet already"):
        write_clips(clips(), tmp_path)
    with pytest.raises(ValueError, match="no clips"):
        write_clips([], tmp_path / "other")


def test_ratings_come_back_by_system_and_span(tmp_path):
    write_clips(clips(), tmp_path)
    one = fill(tmp_path, lambda row: 4.5 if row["system"] == "ours" else 1, "one.csv")
    two = fill(tmp_path, lambda row: "" if row["span"] == "0" else 3.5, "two.csv")
    found = score_listening_test(tmp_path / "key.csv", [one, two])
    assert found["ours"]["all"]["mean"] == pytest.approx((4.5 + 4.5 + 3.5) / 3)
    assert found["ours"]["all"]["num"] == 3
    assert found["ours"]["spans"]["0"]["mean"] == 4.5
    assert found["theirs"]["spans"]["1"]["mean"] == pytest.approx(2.25)
    assert found["theirs"]["spans"]["1"]["half_width"] > 1


@pytest.mark.parametrize("rating", ["5.5", "0.5", "1.2", "good", "nan"])
def test_what_is_no_rating_is_refused(tmp_path, rating):
    write_clips(clips(), tmp_path)
    with pytest.raises(ValueError, match="expected 1, 1.5, ... 5"):
        score_listening_test(tmp_path / "key.csv", [fill(tmp_path, lambda row: rating)])


def test_foreign_and_empty_sheets_are_refused(tmp_path):
    write_clips(clips(), tmp_path)
    (tmp_path / "foreign.csv").write_text("clip,rating\n9999.wav,3\n")
    with pytest.raises(ValueError, match="9999.wav"):
        score_listening_test(tmp_path / "key.csv", [tmp_path / "foreign.csv"])
    with pytest.raises(ValueError, match="No clip is rated"):
        score_listening_test(tmp_path / "key.csv", [tmp_path / "sheet.csv"])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks one of the columns"):
        score_listening_test(tmp_path / "key.csv", [tmp_path / "other.csv"])
    with pytest.raises(ValueError, match="does not exist"):
        score_listening_test(tmp_path / "key.csv", [tmp_path / "none.csv"])


def test_ratings_count_once(tmp_path):
    write_clips(clips(), tmp_path)
    sheet = fill(tmp_path, lambda row: "4,5")
    assert score_listening_test(tmp_path / "key.csv", [sheet])["ours"]["all"]["mean"] == 4.5
    with pytest.raises(ValueError, match="given twice"):
        score_listening_test(tmp_path / "key.csv", [sheet, tmp_path / "." / "filled.csv"])
    sheet.write_text(sheet.read_text() + "0001.wav,3\n")
    with pytest.raises(ValueError, match="0001.wav is rated twice"):
        score_listening_test(tmp_path / "key.csv", [sheet])


def test_who_has_stopped_is_silent_in_the_clips(tmp_path):
    for name, seconds in (("benchmark", 70), ("ours", 10)):
        (tmp_path / name).mkdir()
        write_audio(tmp_path / name / "x.flac", np.full(seconds * 16000, 0.5, "float32"))
    out = tmp_path / "sheets"
    write_listening_test([f"ours={tmp_path / 'ours'}"], tmp_path / "benchmark", out)
    late = [
        row["clip"]
        for row in rows(out / "key.csv")
        if (row["system"], row["span"]) == ("ours", "1")
    ]
    assert len(late) == 1 and np.abs(read_audio(out / "clips" / late[0])).max() == 0
    none = {"comparison": ComparisonOptions(subset=0)}
    for options, message in ((none, "subset is 0"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(ValueError, match=message):
            write_listening_test(
                [f"ours={tmp_path / 'ours'}"], tmp_path / "benchmark", tmp_path / "no", **options
            )
    assert not (tmp_path / "no").exists()


def test_systems_are_cut_at_the_same_spans(tmp_path):
    benchmark, ours = tmp_path / "benchmark", tmp_path / "ours"
    benchmark.mkdir()
    ours.mkdir()
    ramp = np.linspace(0, 0.9, 70 * 16000, dtype="float32")
    write_audio(benchmark / "x.flac", ramp)
    write_audio(ours / "x.flac", ramp[10 * 16000 :])
    found = write_listening_test([f"ours={ours}"], benchmark, tmp_path / "sheets")
    assert found == {"clips": 4}
    spans = {}
    for row in rows(tmp_path / "sheets" / "key.csv"):
        heard = read_audio(tmp_path / "sheets" / "clips" / row["clip"])
        assert len(heard) == 5 * 16000
        spans.setdefault(row["span"], []).append(heard)
    for first, second in spans.values():
        np.testing.assert_allclose(first, second, atol=1e-4)


def test_short_form_is_heard_as_a_whole_by_the_command(tmp_path, capsys):
    for name, seconds in (("benchmark", 10), ("ours", 7)):
        (tmp_path / name).mkdir()
        write_audio(tmp_path / name / "x.flac", np.full(seconds * 16000, 0.5, "float32"))
    arguments = ["evaluate", "listening-test", "--systems", f"ours={tmp_path / 'ours'}", "--whole"]
    arguments += ["--benchmark-folder", str(tmp_path / "benchmark"), "--prompt-seconds", "3"]
    assert cli.main([*arguments, "--output-folder", str(tmp_path / "sheets")]) == 0
    clips = sorted((tmp_path / "sheets" / "clips").iterdir())
    assert [len(read_audio(clip)) for clip in clips] == [7 * 16000] * 2
    sheet = fill(tmp_path / "sheets", lambda row: "4.5")
    arguments = [
        "evaluate",
        "listening-test-scores",
        "--key-file",
        str(tmp_path / "sheets" / "key.csv"),
    ]
    capsys.readouterr()
    assert cli.main([*arguments, "--sheets", str(sheet)]) == 0
    assert json.loads(capsys.readouterr().out)["ours"]["all"]["mean"] == 4.5


def test_what_was_not_generated_is_no_silence_to_rate(tmp_path):
    for name in ("benchmark", "ours"):
        (tmp_path / name).mkdir()
        write_audio(tmp_path / name / "x.flac", np.full(70 * 16000, 0.5, "float32"))
    (tmp_path / "ours" / "options.json").write_text('{"prompt_seconds": 10, "until_seconds": 30}')
    with pytest.raises(ValueError, match="ends at 30 s"):
        write_listening_test(
            [f"ours={tmp_path / 'ours'}"], tmp_path / "benchmark", tmp_path / "sheets"
        )
    assert not (tmp_path / "sheets").exists()


def test_other_instructions_can_be_read_from_a_file(tmp_path):
    for name in ("benchmark", "ours"):
        (tmp_path / name).mkdir()
        write_audio(tmp_path / name / "x.flac", np.full(70 * 16000, 0.5, "float32"))
    arguments = [f"ours={tmp_path / 'ours'}"], tmp_path / "benchmark", tmp_path / "sheets"
    with pytest.raises(ValueError, match="do not exist"):
        write_listening_test(*arguments, instructions=tmp_path / "nothing.txt")
    (tmp_path / "paper.txt").write_text("Listen.")
    write_listening_test(*arguments, instructions=tmp_path / "paper.txt")
    assert (tmp_path / "sheets" / "instructions.txt").read_text() == "Listen."


def test_the_boundary_study_is_blind_and_gives_the_paper_s_table(tmp_path):
    """Appendix A.2: 5 s around boundaries and centers, six flags, one row for each place."""
    ramp = np.linspace(0, 0.9, 80 * 16000, dtype="float32")  # a sample tells its time
    (tmp_path / "ours").mkdir()
    write_audio(tmp_path / "ours" / "x.flac", ramp)
    out = tmp_path / "study"
    # Windows of 30 s with a prompt of 3 s and overlaps of 4 s meet at 25, 48 and 71 s.
    assert write_boundary_listening_test([tmp_path / "ours"], out) == {"clips": 6}
    places = {"boundary": set(), "center": set()}
    for row in rows(out / "key.csv"):
        heard = read_audio(out / "clips" / row["clip"])
        assert len(heard) == 5 * 16000
        places[row["system"]].add(round(float(heard.mean()) / 0.9 * 80, 1))
    assert places == {"boundary": {25.0, 48.0, 71.0}, "center": {12.5, 36.5, 59.5}}
    sheet = rows(out / "sheet.csv")
    assert list(sheet[0]) == ["clip", "rating", *ISSUES] and len(ISSUES) == 6
    assert "boundary" not in (out / "sheet.csv").read_text()
    assert all(issue in (out / "instructions.txt").read_text() for issue in ISSUES)

    kinds = {row["clip"]: row["system"] for row in rows(out / "key.csv")}
    lines = [",".join(["clip", "rating", *ISSUES])]
    for clip, kind in kinds.items():
        lines.append(f"{clip},4,x,,,1,0," if kind == "boundary" else f"{clip},4.5,,,,,,X")
    (out / "one.csv").write_text("\n".join(lines))
    scores = score_listening_test(out / "key.csv", [out / "one.csv"], table=out / "table.md")
    assert scores["boundary"]["issues"] == dict.fromkeys(ISSUES, 0) | {"artifacts": 3, "prosody": 3}
    assert scores["center"]["issues"]["other"] == 3 and scores["center"]["all"]["mean"] == 4.5
    header, _, *lines_of_table = (out / "table.md").read_text().splitlines()
    assert header == f"| clips | MOS | ratings | {' | '.join(ISSUES)} |"
    assert lines_of_table == [
        "| boundary | 4.00 ± 0.00 | 3 | 3 | 0 | 0 | 3 | 0 | 0 |",
        "| center | 4.50 ± 0.00 | 3 | 0 | 0 | 0 | 0 | 0 | 3 |",
    ]
    (out / "one.csv").write_text("\n".join(lines).replace(",x,", ",maybe,"))
    with pytest.raises(ValueError, match="artifacts of .* is 'maybe'; expected an x or nothing"):
        score_listening_test(out / "key.csv", [out / "one.csv"])
    write_audio(tmp_path / "ours" / "x.flac", ramp[:16000])
    with pytest.raises(ValueError, match="has a boundary"):
        write_boundary_listening_test([tmp_path / "ours"], tmp_path / "short")
