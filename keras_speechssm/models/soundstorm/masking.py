"""Which acoustic tokens are hidden: the training masks and the decoding schedule.

NumPy only: masks are drawn where batches are made, and the schedule is a table.
"""

from collections.abc import Sequence

import numpy as np


def mask_for_training(
    acoustic_tokens: np.ndarray,
    padding_mask: np.ndarray,
    codebook_size: int,
    rng: np.random.Generator,
    level_shares: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hides tokens as SoundStorm's training does (Borsos et al. 2023, section 3.2).

    For each example by itself: a prompt boundary t, uniform over the real frames,
    before which everything stays visible; a level q, uniform by default; a share p = cos(u), u
    uniform in [0, pi/2]. At or after t, tokens of level q are hidden with
    probability p each (at least one), all finer levels are hidden, all coarser ones
    stay visible. The loss is on the hidden tokens of level q alone: a loss on finer
    levels too would ask for tokens whose coarser ones are not known.

    Args:
        acoustic_tokens: int (batch, frames, levels), ids below `codebook_size`.
        padding_mask: bool (batch, frames), `True` at real frames; each example needs
            at least one.
        codebook_size: int. Codes of a level; also the id that stands for "hidden".
        rng: source of all draws.
        level_shares: how often each level is drawn as q, in any unit. Defaults to
            `None`: all alike, as in the paper.

    Returns:
        `(masked, level, target, loss_mask)`: the tokens with hidden ones replaced,
        int32 (batch, frames, levels); the level q, counted from 0, int32 (batch,);
        the true tokens of level q, int32 (batch, frames); and bool (batch, frames),
        `True` at the hidden tokens of level q.
    """
    batch, frames, levels = acoustic_tokens.shape
    num_real = padding_mask.sum(axis=1)
    if not num_real.all():
        raise ValueError(
            "padding_mask has an example without a real frame; give each at least one."
        )
    rows = np.arange(batch)
    # Position among the real frames, so that padding may lie anywhere.
    order = np.cumsum(padding_mask, axis=1) - 1
    boundary = rng.integers(0, num_real)
    shares = np.ones(levels) if level_shares is None else np.asarray(level_shares, dtype=float)
    level = rng.choice(levels, size=batch, p=shares / shares.sum())
    share = np.cos(rng.uniform(0.0, np.pi / 2, size=batch))
    after = padding_mask & (order >= boundary[:, None])
    loss_mask = after & (rng.random((batch, frames)) < share[:, None])
    spare = np.argmax(padding_mask & (order == rng.integers(boundary, num_real)[:, None]), axis=1)
    loss_mask[rows, spare] |= ~loss_mask.any(axis=1)

    finer = np.arange(levels)[None, None, :] > level[:, None, None]
    current = np.arange(levels)[None, None, :] == level[:, None, None]
    hidden = (finer & after[:, :, None]) | (current & loss_mask[:, :, None])
    masked = np.where(hidden, codebook_size, acoustic_tokens).astype("int32")
    target = np.take_along_axis(acoustic_tokens, level[:, None, None], axis=2)[..., 0]
    target = np.where(padding_mask, target, 0)
    return masked, level.astype("int32"), target.astype("int32"), loss_mask


def remask_counts(num_passes: int, num_masked: np.ndarray) -> np.ndarray:
    """Tokens that stay hidden after each pass: the cosine schedule of MaskGIT.

    After pass i (from 0) of N, floor(cos(pi (i + 1) / (2 N)) n) tokens are hidden
    again, n being the number hidden before the first pass; none after the last.

    Args:
        num_passes: int, N.
        num_masked: int (batch,), n of each example.

    Returns:
        int32 (num_passes, batch).
    """
    share = np.cos(np.pi * np.arange(1, num_passes + 1) / (2 * num_passes))
    share[-1] = 0.0
    return np.floor(share[:, None] * np.asarray(num_masked)[None, :]).astype("int32")
