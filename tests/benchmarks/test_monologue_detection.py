import numpy as np
import pytest

from benchmarks.monologue_detection import KINDS, detect, format_rows, join_turns, summarize

pytestmark = pytest.mark.any_backend

# Each speaker's samples tell the speaker.
SPEAKERS = {str(level): [np.full(16000, level, "float32")] * 9 for level in (1, 2, 3)}


def levels(waveform):
    """The speakers' levels in the order of their turns."""
    changes = np.flatnonzero(np.diff(waveform, prepend=0.0))
    return [int(level) for level in waveform[changes] if level]


def test_turns_follow_their_pattern():
    for kind, order in KINDS.items():
        waveform = join_turns(kind, SPEAKERS, 8, np.random.default_rng(0))
        said = levels(waveform)
        chosen = list(dict.fromkeys(said))
        names = {who: chosen[place] for place, who in enumerate(dict.fromkeys(order))}
        assert said == [names[order[n % len(order)]] for n in range(8)]
        assert waveform[-1] > 0  # no pause at the end


def test_errors_are_counted_by_kind():
    def voice(waveform):
        return np.eye(3)[int(waveform.max()) - 1]

    rng = np.random.default_rng(0)
    found = {}
    for kind in KINDS:
        waveform = join_turns(kind, SPEAKERS, 8, rng)
        edges = np.flatnonzero(np.diff((waveform > 0).astype(int), prepend=0, append=0))
        turns = [(start / 16000, stop / 16000) for start, stop in edges.reshape(-1, 2)]
        found[kind] = [detect(waveform, turns, voice)]
    rows = summarize(found)
    assert all(row[kind] == 0.0 for row in rows for kind in KINDS)
    assert rows[0]["balanced_error"] == 0.0 and rows[0]["kept_of_monologues"] == 100.0
    swapped = summarize({**found, "monologue": found["dialog"], "dialog": found["monologue"]})
    assert swapped[0]["monologue"] == swapped[0]["dialog"] == 100.0
    assert swapped[0]["interview"] == 0.0
    assert swapped[0]["balanced_error"] == pytest.approx((100 + 100 / 3) / 2)
    table = format_rows(rows).splitlines()
    assert table[0].startswith("| same_voice | monologue_fraction | monologue | dialog")
    assert len(table) == 2 + len(rows)
