"""Documents, docstrings, comments and messages are in plain American English.

    python tests/test_english.py    # lists what is found, and counts it by folder

Each pattern is one that readers stumbled over. If a use is legitimate, reword it, or add it to
`EXCEPTIONS` with its file.
"""

import collections
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_backend

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("keras_speechssm", "tests", "docs", "examples", "presets", "benchmarks", ".ci")
SUFFIXES = (".py", ".md", ".sh", ".jinja", ".html", ".toml", ".yml", ".yaml", ".cff")

QUANTITY = (
    r"nats|tokens|frames|bytes|bits|samples|seconds|milliseconds|minutes|hours|steps|passes|windows"
    r"|words|phonemes|batches|rows|times|kB|MB|GB|ms|s"
)
UNIT = r"token|second|minute|hour|step|word|unit|frame|row|window|batch|call|recording|parameter"
"""What people measure, and what they measure it per."""

IDIOMS = {
    r"\b(go|goes|going|gone|went) on\b": "continue, resume",
    r"\bbegun\b": "started",
    r"\banew\b": "again; restart, recompute",
    r"\bin place of\b": "instead of",
    r"(?<!there )\b(is|are|be|was|were) no (?!\w+er\b|more\b|less\b|worse\b)": "is not a",
    r"(?<!there )\b(is|are) (?-i:none)\b": "is neither, is not a",
    r"\bwhole or not at all\b": "atomically",
    r"\bforet(old|ells?|elling)\b": "predict",
    r"\btold\b": "reported, logged",
    r"\btells? of\b": "reports, warns about",
    r"(?<!what )\bis said (at once|in one line|so)\b": "is reported",
    rf"\b({QUANTITY}) an? ({UNIT})s?\b": "per",
    r"\bwhat is it for\b": "(drop it: the first line says it)",
    r"\basked (were|was|for at|within)\b|\basked:": "target",
    r"\b(stand|stands|stood|lie|lies|lay) (in|beside|there|under|within|by)\b": "is in, is next to",
    r"\bby (itself|themselves)\b": "alone",
    r"(?<!instead )\bof (its|their|one's|our) own\b": "own, separate",
    r"\b(a|the) share of\b": "a fraction of",
    r"(?<!if )\b(killed|stopped half ?-?way|interrupted), (it|they)\b": "If interrupted, ...",
    r"\bhalf way\b": "halfway",
    r"\bmended\b": "fixed",
    r"\bquickly had\b": "fast to compute",
    r"\bby heart\b": "memorizes, overfits",
    r"\bwants (a|an|the|its)\b": "needs",
    r"\bbut for (a|an|the|its|their|what|those|one|two)\b": "except for",
    r"\banother number of\b": "a different number of",
    r"\bshare[sd]? out\b": "distribute",
}
"""What we do not write, and what to write instead."""

BRITISH = (
    r"(tokeni|quanti|normali|recogni|optimi|initiali|seriali|materiali|regulari|parametri"
    r"|generali|minimi|maximi|summari|organi|memori|randomi|discreti|vectori|standardi|locali"
    r"|visuali|categori|customi|prioriti|stabili|utili|speciali|equali|synchroni|emphasi|characteri"
    r"|penali|finali|paralleli|linear?i|factori|capitali|apologi|criticis)s(e|ed|es|er|ers|ing|ation"
    r"|ations|able)\b",
    r"synthesis(e|ed|er|ers|ing)\b",
    r"analys(ed|ing|er)\b",
    r"(neighb|col|behavi|fav|hon|lab|flav|vap|rum|hum)our(?!g)",
    r"\blicen[c]e[ds]?\b",
    r"\bdefence\b|\boffence\b|\bartefacts?\b|\bgrey\b|\bprogrammes?\b|\bwhilst\b|\bamongst\b",
    r"\bcentre[ds]?\b|\bcentring\b|\b(milli|centi|kilo)?metres?\b|\bfibres?\b|\btheatres?\b",
    r"\b(label|model|signal|cancel|travel|channel|level|total)l(ed|ing|er|ers)\b",
    r"\b(learnt|spelt|burnt|dreamt|judgement|ageing|acknowledgement)\b",
)

EXCEPTIONS: set[tuple[str, str]] = {
    # (file, phrase as found, in lower case)
    ("tests/evaluation/metrics/test_word_error.py", "colour"),  # a recognizer's spelling
    ("pyproject.toml", "colour"),
    ("keras_speechssm/serve/page.html", "analyser"),  # a name of the Web Audio API
    *(
        # Sentences of stories.
        ("keras_speechssm/data/recipes/stories/scenes.py", phrase)
        for phrase in ("told", "went on", "go on", "is no ")
    ),
}


def files() -> list[Path]:
    """Returns every text that people read or that is shown to them."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in SUFFIXES]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
        found += (ROOT / folder).glob("run")
    return sorted(path for path in found if path != Path(__file__).resolve())


def phrases(text: str, name: str = "") -> Iterator[tuple[int, str, str]]:
    """Yields line, phrase and advice for each thing that we do not write; phrases may wrap."""
    # A line break, with a comment's mark or a quotation's bar, is a space to a reader.
    flat = re.sub(r"\n[ \t]*[#>]?[ \t]*", lambda match: " " + "\0" * (len(match[0]) - 1), text)
    flat = flat.replace("\0", "")
    starts, position = [], 0
    for match in re.finditer(r"\n[ \t]*[#>]?[ \t]*", text):
        position += match.start() - (starts[-1][1] if starts else 0)
        starts.append((position, match.end()))
        position += 1
    patterns = {**IDIOMS, **dict.fromkeys(BRITISH, "American spelling")}
    for pattern, advice in patterns.items():
        for match in re.finditer(pattern, flat, re.IGNORECASE):
            phrase = match[0].lower()
            if (name, phrase) not in EXCEPTIONS:
                line = 1 + sum(start <= match.start() for start, _ in starts)
                yield line, phrase, advice


def phrases_of(path: Path) -> list[tuple[int, str, str]]:
    """Returns what `phrases` finds in a file, by line."""
    return sorted(phrases(path.read_text("utf-8"), path.relative_to(ROOT).as_posix()))


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_plain_american_english(path):
    name = path.relative_to(ROOT)
    found = [f"{name}:{line}: {phrase!r}: {advice}" for line, phrase, advice in phrases_of(path)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "run again, it goes on where it stopped",
        "was begun anew",
        "8 in place of 16",
        "a folder is none of both",
        "the preset is no pipeline",
        "written whole or\n    # not at all",
        "the tokens that are foretold",
        "a full disk is told",
        "25 tokens a second",
        "What is it for: the alphabet",
        "Asked: 1.5",
        "the weights lie in shares",
        "loads by itself",
        "a share of the peak",
        "Killed, it resumes",
        "tokenises the neighbouring colours",
        "the licence",
        "synthesised",
    ],
)
def test_idioms_are_found(text):
    assert list(phrases(text))


@pytest.mark.parametrize(
    "text",
    [
        "x is None and there is no other",
        "is no longer than before, is no more than that, and the answer is no.",
        "sorted in place",
        "If interrupted, it resumes.",
        "nothing was said as a token of it",
        "precise noise is a promise otherwise",
        "what is said, and an analysis of synthesis",
        "stands for the hour, four colors, our tour",
        "modeling, labeled, canceled, the parameters and a perimeter",
    ],
)
def test_good_english_is_not_found(text):
    assert not list(phrases(text))


def test_the_line_is_that_of_the_phrase():
    lines = [line for line, *_ in phrases("one\n\n    # two, goes\n    # on\nanew")]
    assert sorted(lines) == [3, 5]
    assert [line for line, *_ in phrases("a\nb\nanew")] == [3]


if __name__ == "__main__":
    counts: collections.Counter = collections.Counter()
    for each in files():
        for number, words, instead in phrases_of(each):
            relative = each.relative_to(ROOT)
            counts["/".join(relative.parts[:2]) if len(relative.parts) > 1 else "."] += 1
            print(f"{relative}:{number}: {words!r}: {instead}")
    for place, count in sorted(counts.items()):
        print(f"{count:6} {place}")
