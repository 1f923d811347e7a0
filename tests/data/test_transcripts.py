import pytest

from keras_speechssm.data.corpora import PHONEMES, Segment
from keras_speechssm.data.transcripts import (
    CharacterLabels,
    PhonemeLabels,
    SentencePieceLabels,
    normalize_text,
    read_transcripts,
)

pytestmark = pytest.mark.any_backend

LAYOUTS = {
    "LibriSpeech": ("84/121/84-121.trans.txt", "84-121-0000 HE BEGAN A\n84-121-0001 NO\n"),
    "MLS": ("train/transcripts.txt", "84-121-0000\tHE BEGAN A\n84-121-0001\tNO\n"),
    "Common Voice": (
        "en/validated.tsv",
        "client_id\tpath\tsentence\tup_votes\n"
        "c\t84-121-0000.mp3\tHE BEGAN A\t2\nd\t84-121-0001.mp3\tNO\t2\n",
    ),
    "VoxPopuli": (
        "en/asr_train.tsv",
        "id\traw_text\tnormalized_text\tspeaker_id\n"
        "84-121-0000\tHe, began.\tHE BEGAN A\t1\n84-121-0001\tNO\t\t1\n",
    ),
}


def write(folder, layout):
    name, content = LAYOUTS[layout]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_four_corpora_are_read(tmp_path, layout):
    texts = read_transcripts(write(tmp_path, layout))
    assert texts == {"84-121-0000": "HE BEGAN A", "84-121-0001": "NO"}


def test_what_is_no_transcript_is_left_or_refused(tmp_path):
    folder = write(tmp_path, "Common Voice")
    (folder / "en" / "invalidated.tsv").write_text("path\tsentence\nbad.mp3\twrong\n")
    (folder / "en" / "clip_durations.tsv").write_text("clip\tduration[ms]\na.mp3\t100\n")
    (folder / "en" / "dev.tsv").write_text('path\tsentence\nq.mp3\tShe said "no\n')
    texts = read_transcripts([folder])
    assert sorted(texts) == ["84-121-0000", "84-121-0001", "q"]
    assert texts["q"] == 'She said "no'
    (folder / "fr").mkdir()
    (folder / "fr" / "dev.tsv").write_text("path\tsentence\nq.mp3\tnon\n")
    with pytest.raises(ValueError, match="another text for 'q'"):
        read_transcripts([folder])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1-2.trans.txt").write_text("1-2-0000\n")
    with pytest.raises(ValueError, match="line 1: expected a name and a text"):
        read_transcripts(tmp_path / "b")


def test_text_is_normalized_in_any_language():
    assert (
        normalize_text("  Don\u2019t\n\u201cGO\u201d \u2013 well-known!") == "don't go well-known"
    )
    assert normalize_text("E\u0301te\u0301, \u00fcber") == "\u00e9t\u00e9 \u00fcber"
    assert normalize_text("- 'tis -") == "tis"


def segment(text, phonemes=()):
    return Segment(0.0, 1.0, text, phonemes)


def test_characters_and_phonemes_become_ids():
    labels = CharacterLabels(["A cab.", "bad"])
    assert labels.names == (" ", "a", "b", "c", "d")
    assert labels.encode([segment("Cab!"), segment("xa d")]) == [4, 2, 3, 1, 2, 1, 5]
    assert labels.has(segment("a")) and not labels.has(segment(" ... "))
    phonemes = PhonemeLabels()
    found = phonemes.encode([segment("", ("hh", "ax")), segment("", ("hh",))])
    assert [PHONEMES[number - 1] for number in found] == ["hh", "ax", "hh"]


def test_sentence_pieces_become_ids(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["he began a confused complaint", "against the wizard"] * 4),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    labels = SentencePieceLabels(tmp_path / "pieces.model")
    ids = labels.encode([segment("He began"), segment("a wizard!")])
    assert (
        "".join(labels.names[number - 1] for number in ids)
        == "\u2581he\u2581began\u2581a\u2581wizard"
    )
    assert min(ids) >= 1 and max(ids) <= len(labels.names)
    (tmp_path / "not.model").write_bytes(b"no")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        SentencePieceLabels(tmp_path / "not.model")
    with pytest.raises(ValueError, match="labels is 'letters'; expected phonemes, characters, or"):
        SentencePieceLabels("letters")
