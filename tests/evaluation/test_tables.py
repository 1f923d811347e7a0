import pytest

from keras_speechssm.evaluation.tables import read_table

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(
    "text",
    ["clip,rating\na,4.5\n", "\ufeffClip; Rating\r\na; 4.5\r\n\r\n;\r\n", 'clip, rating\n"a",4.5'],
)
def test_tables_are_read_as_people_save_them(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "t.csv") == (
        {"clip", "rating"},
        [{"clip": "a", "rating": "4.5"}],
    )


def test_a_long_row_is_no_row(tmp_path):
    """4,5 is half a rating more than 4 to some: that half must not fall off."""
    (tmp_path / "t.csv").write_text("clip,rating\na,4,5\n")
    with pytest.raises(ValueError, match="line 2: more cells than columns: a,4,5"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("clip,rating\na,4,,\n")
    assert read_table(tmp_path / "t.csv")[1] == [{"clip": "a", "rating": "4"}]


def test_a_short_row_has_empty_cells(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1\n")
    assert read_table(tmp_path / "t.csv")[1] == [{"a": "1", "b": "", "c": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"\xff\xfe1\x002\x00", "not UTF-8 text"), (b"", None)],
)
def test_what_is_no_table_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    if message is None:
        assert read_table(path) == (set(), [])
        return
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_a_quote_that_never_ends_is_no_crash(tmp_path):
    (tmp_path / "t.csv").write_text('clip,rating\n"' + "x" * 200_000)
    with pytest.raises(ValueError, match="is not a table"):
        read_table(tmp_path / "t.csv")
