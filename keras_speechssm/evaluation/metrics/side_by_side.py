"""Side by side: which of two transcripts is better, asked both ways round (paper, section 6.2).

The prompt is the paper's (appendix D), word for word, since another one would be another
measure. A reply's verdict is read as Arena-Hard does: upper case, the last `[[...]]`.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from keras_speechssm.evaluation.metrics.confidence_intervals import bootstrap_interval

TEMPLATE = """# Instructions

Please act as an impartial judge and evaluate the quality of two texts which occur in the context of a book. These texts are transcribed from audio recordings that were truncated to a fixed duration. Your job is to consider the following criteria to evaluate which text is better:
- Fluency: How grammatically correct is the text?
- Coherence: How well do the sentences of the text fit together?
- Logicality: How much does the text obey common sense?
- Interestingness: How enjoyable is the text to read?

First, read text A and consider its fluency, coherence, logicality, and interestingness. Do not penalize the text for ending mid-sentence or mid-paragraph.

Then, read text B and consider its fluency, coherence, logicality, and interestingness. Do not penalize the text for ending mid-sentence or mid-paragraph.

Afterwards, compare the fluency, coherence, logicality, and interestingness of the two texts. Do not penalize either text for ending mid-sentence or mid-paragraph.

Finally, after providing your explanations, you must output only one of the following choices as your final verdict with a label:
1. Text A is significantly better: [[A>>B]]
2. Text A is slightly better: [[A>B]]
3. Tie, relatively the same: [[A=B]]
4. Text B is slightly better: [[B>A]]
5. Text B is significantly better: [[B>>A]]

Example output: "My final verdict is tie: [[A=B]]."

# Comparison task

## ----- Text A -----

{text_a}

## ----- Text B -----

{text_b}

## ----- Detailed Comparison of Continuations -----
"""  # noqa: E501

VERDICTS = {"A>>B": 2, "A>B": 1, "A=B": 0, "B>A": -1, "B>>A": -2}
"""Labels, and how much better text A is."""


class Judge(Protocol):
    """Two texts -> a reply that holds a verdict, or does not."""

    name: str

    def __call__(self, text_a: str, text_b: str) -> str: ...


def parse_verdict(reply: str) -> int | None:
    """How much better A is, -2 .. 2, by the last label of a reply; `None` without a known one.

    A label is what stands in double brackets and is made of A, B, <, = and >.
    """
    found = re.findall(r"\[\[([AB<>=]+)\]\]", reply.upper())
    return VERDICTS.get(found[-1]) if found else None


def truncate_to_shorter(first: str, second: str) -> tuple[str, str]:
    """Both transcripts cut to the words of the shorter one (paper, section 7.1)."""
    one, other = first.split(), second.split()
    length = min(len(one), len(other))
    return " ".join(one[:length]), " ".join(other[:length])


def judge_pairs(
    judge: Judge, ours: Sequence[str], theirs: Sequence[str], prompts: Sequence[str] | None = None
) -> list[tuple[int | None, int | None]]:
    """Two games an item, each text first once, both cut to the words of the shorter one.

    Who says nothing loses both to who speaks, without a game: cut to nothing they would be alike.

    Args:
        judge: from `judges.open_judge`.
        ours, theirs: transcripts of the continuations, item by item.
        prompts: transcripts of their prompts, put before both. Defaults to `None`.

    Returns:
        for each item the verdicts of both games, as how much better ours is, -2 .. 2; `None`
        where a reply held none.
    """
    prompts = [""] * len(ours) if prompts is None else prompts
    if not len(ours) == len(theirs) == len(prompts):
        raise ValueError(f"Games need pairs; got {len(ours)} and {len(theirs)} texts.")
    games: list[tuple[int | None, int | None]] = []
    for one, other, prompt in zip(ours, theirs, prompts, strict=True):
        if not one.split() or not other.split():
            verdict = 2 * (bool(one.split()) - bool(other.split()))
            games.append((verdict, verdict))
            continue
        texts = [f"{prompt} {text}".strip() for text in truncate_to_shorter(one, other)]
        first, second = parse_verdict(judge(*texts)), parse_verdict(judge(*reversed(texts)))
        games.append((first, None if second is None else -second))
    return games


def win_rates(games: Sequence[tuple[int | None, int | None]], seed: int = 0) -> dict:
    """How often ours wins, in percent. The paper tells neither ties nor weights: all are here.

    Both games of an item are dropped where one held no verdict, as in Arena-Hard.

    Returns:
        dict of `win_rate` (a tie is half a win) with its 95 % bootstrap interval over items,
        `win_rate_weighted` (a significant verdict counts three times, as in Arena-Hard),
        `win_rate_without_ties` (NaN if there are only ties), `wins`, `ties`, `losses`,
        `num_items`, `num_dropped`.
    """
    kept = [(a, b) for a, b in games if a is not None and b is not None]
    verdicts = np.array(kept, "int64").reshape(-1, 2)
    points = np.where(verdicts == 0, 0.5, (verdicts > 0).astype("float64"))
    weights = np.where(np.abs(verdicts) == 2, 3.0, 1.0)
    wins, losses = int((verdicts > 0).sum()), int((verdicts < 0).sum())
    nan = float("nan")
    low, high = bootstrap_interval(100 * points.mean(axis=1) if len(kept) else [], seed=seed)
    return {
        "win_rate": 100 * float(points.mean()) if len(kept) else nan,
        "interval_95": [low, high],
        "win_rate_weighted": 100 * float((points * weights).sum() / weights.sum())
        if len(kept)
        else nan,
        "win_rate_without_ties": 100 * wins / (wins + losses) if wins + losses else nan,
        "wins": wins,
        "ties": int((verdicts == 0).sum()),
        "losses": losses,
        "num_items": len(kept),
        "num_dropped": len(games) - len(kept),
    }
