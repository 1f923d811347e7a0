import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.studies.zero_speech import (
    contrast_accuracy,
    evaluate_zero_speech,
    pair_score,
    read_gold,
    read_scores,
    score_recordings,
)

pytestmark = pytest.mark.any_backend

LEXICAL = """id,filename,voice,frequency,word,phones,length,correct
1,aa,A,4.2,brick,b r ih k,4,1
1,ab,A,4.2,blick,b l ih k,4,0
1,ac,B,4.2,brick,b r ih k,4,1
1,ad,B,4.2,blick,b l ih k,4,0
2,ae,A,0,grox,g r aa k s,5,0
2,af,A,0,grots,g r aa t s,5,1
"""

SYNTACTIC = """id,filename,voice,type,subtype,transcription,correct
7,sa,A,agreement,plain,the dogs bark,1
7,sb,A,agreement,plain,the dogs barks,0
7,sc,A,agreement,plain,the cats purrs,0
7,sd,A,agreement,plain,the cats purr,1
8,se,B,npi,plain,nobody ever came,1
8,sf,B,npi,plain,somebody ever came,0
"""


def gold(tmp_path, text, task):
    path = tmp_path / "gold.csv"
    path.write_text(text, encoding="utf-8-sig")
    return read_gold(path, task)


def test_a_pair_gives_one_a_half_or_nothing():
    assert [pair_score(2.0, 1.0), pair_score(1.0, 1.0), pair_score(0.0, 1.0)] == [1.0, 0.5, 0.0]
    assert pair_score(float("nan"), 1.0) == pair_score(1.0, float("nan")) == 0.0


def test_swuggy_is_averaged_over_voices_then_over_words(tmp_path):
    pairs = gold(tmp_path, LEXICAL, "lexical")
    scores = {"aa": -1, "ab": -2, "ac": -3, "ad": -3, "ae": -4, "af": -5}
    found = contrast_accuracy(pairs, scores)
    # Word 1: right in one voice, a tie in the other; word 2: wrong, and out of vocabulary.
    assert found["accuracy"] == pytest.approx((0.75 + 0.0) / 2)
    assert (found["in_vocabulary"], found["out_of_vocabulary"]) == (0.75, 0.0)
    assert found["num_pairs"] == 3


@pytest.mark.parametrize("task", ["lexical", "syntactic"])
def test_marks_other_than_one_and_nought_are_refused(tmp_path, task):
    text = LEXICAL if task == "lexical" else SYNTACTIC
    text = "\n".join(
        line[:-1] + {"1": "True", "0": "False"}.get(line[-1], line[-1])
        for line in text.strip().split("\n")
    )
    with pytest.raises(ValueError, match="correct is 'True'; expected 1 or 0"):
        gold(tmp_path, text, task)


def test_recordings_that_are_lacking_are_named_before_anything_is_scored(tmp_path):
    (tmp_path / "gold.csv").write_text(LEXICAL)
    (tmp_path / "audio").mkdir()
    write_audio(tmp_path / "audio" / "aa.wav", np.zeros(1600))
    with pytest.raises(ValueError, match="lacks 5 recordings of .*, such as 'ab'"):
        evaluate_zero_speech(
            tmp_path / "gold.csv",
            "lexical",
            submission_file=tmp_path / "scores.txt",
            audio_folder=tmp_path / "audio",
            preset="no such preset",
        )
    assert not (tmp_path / "scores.txt").exists()


def test_sblimp_pairs_the_nth_correct_with_the_nth_incorrect(tmp_path):
    pairs = gold(tmp_path, SYNTACTIC, "syntactic")
    assert [(a["filename"], b["filename"]) for a, b in pairs] == [
        ("sa", "sb"),
        ("sd", "sc"),
        ("se", "sf"),
    ]
    scores = {"sa": 0, "sb": -1, "sc": 0, "sd": -1, "se": 0, "sf": -1}
    found = contrast_accuracy(pairs, scores)
    assert found["accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["by_type"] == {"agreement": 0.5, "npi": 1.0}


def test_sblimp_contrasts_of_one_id_are_told_apart_by_type(tmp_path):
    text = """id,filename,voice,type,subtype,transcription,correct
1,a,A,agreement,x,t,1
1,c,A,binding,y,t,1
2,e,A,binding,y,t,1
1,b,A,agreement,x,t,0
1,d,A,binding,y,t,0
2,f,A,binding,y,t,0
"""
    scores = {"a": 1, "b": 0, "c": 0, "d": 1, "e": 0, "f": 1}
    found = contrast_accuracy(gold(tmp_path, text, "syntactic"), scores)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["by_type"] == {"agreement": 1.0, "binding": 0.0}


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        (LEXICAL.replace("af,A,0,grots,g r aa t s,5,1", "af,A,0,g,g,5,0"), "lexical", "not a pair"),
        (SYNTACTIC.replace("7,sb", "9,sb"), "syntactic", "sa, sb are not a pair"),
        (SYNTACTIC.replace("came,0", "came,1"), "syntactic", "4 correct and 2 incorrect rows"),
        ("id,filename\n1,a\n", "lexical", "lacks the columns"),
        ("id,filename,voice,correct\n", "lexical", "has no rows"),
        (LEXICAL, "semantic", "expected one of lexical"),
    ],
)
def test_broken_benchmarks_are_refused(tmp_path, text, task, message):
    with pytest.raises(ValueError, match=message):
        gold(tmp_path, text, task)


def test_missing_double_and_broken_scores_are_refused(tmp_path):
    path = tmp_path / "lexical.txt"
    path.write_text("aa -1.5\n\nab 2\n", encoding="utf-8-sig")
    assert read_scores(path) == {"aa": -1.5, "ab": 2.0}
    with pytest.raises(ValueError, match="no score for ac"):
        contrast_accuracy(gold(tmp_path, LEXICAL, "lexical"), read_scores(path))
    for text in ("aa\n", "aa one\n", "aa 1\naa 2\n", "aa 1 2\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="line"):
            read_scores(path)


def test_recordings_are_scored_into_a_submission(tmp_path):
    for stem, level in (("a", 0.1), ("b", 0.4)):
        write_audio(tmp_path / f"{stem}.wav", np.full(16000, level, "float32"))
    scores = score_recordings(
        tmp_path,
        lambda tokens: -np.asarray(tokens, "float64").sum(axis=1),
        lambda waveform: np.array([round(float(waveform[0]) * 10)]),
        tmp_path / "out.txt",
    )
    assert scores == {"a": -1.0, "b": -4.0} == read_scores(tmp_path / "out.txt")


def test_two_recordings_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_audio(tmp_path / folder / "a.wav", np.zeros(1600, "float32"))
    with pytest.raises(ValueError, match="are named a"):
        score_recordings(tmp_path, lambda t: [0.0], lambda w: np.zeros(2, int), tmp_path / "o.txt")
    assert not (tmp_path / "o.txt").exists()


def test_a_frequency_that_is_no_number_is_named(tmp_path):
    pairs = gold(tmp_path, LEXICAL.replace("A,4.2", "A,often"), "lexical")
    with pytest.raises(ValueError, match="'often'; expected a number"):
        contrast_accuracy(pairs, dict.fromkeys("aa ab ac ad ae af".split(), 0.0))


def test_another_systems_submission_is_judged(tmp_path):
    (tmp_path / "gold.csv").write_text(
        "id,filename,voice,correct\n1,x_correct.wav,A,1\n1,x_incorrect.wav,A,0\n"
    )
    (tmp_path / "s.txt").write_text("x_correct 1\nx_incorrect 0\n")
    found = evaluate_zero_speech(
        tmp_path / "gold.csv", "storycloze", submission_file=tmp_path / "s.txt"
    )
    assert found == {"accuracy": 1.0, "num_pairs": 1}
