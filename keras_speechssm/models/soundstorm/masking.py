"""Which acoustic tokens are hidden: training masks and the decoding schedule, in NumPy."""

from collections.abc import Sequence

import numpy as np


def mask_for_training(
    acoustic_tokens: np.ndarray,
    padding_mask: np.ndarray,
    codebook_size: int,
    rng: np.random.Generator,
    level_weights: Sequence[float] | None = None,
    iterations: Sequence[int] | None = None,
    boundary: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hide tokens as in SoundStorm's training (Borsos et al. 2023, section 3.2).

    For each example on its own:

    1. Draw a prompt boundary t, uniform over the real frames. Everything before t stays visible.
    2. Draw a level q, and a probability p = cos(u) with u uniform in [0, pi / 2].
    3. From t on, hide the tokens of level q with probability p each (at least one), hide all
       finer levels, and keep all coarser levels visible.

    The loss is on the hidden tokens of level q only, because finer levels depend on coarser ones
    that are hidden.

    Args:
        acoustic_tokens: int (batch, frames, levels), ids below `codebook_size`.
        padding_mask: bool (batch, frames), `True` at real frames; at least one per example.
        codebook_size: Codes of each level, and the id of a hidden token.
        rng: Source of all random numbers.
        level_weights: Weight of each level in the draw of q. Defaults to `None`: uniform, as in
            the paper.
        iterations: Passes for each level with which the model will decode. Then p is
            cos(pi i / (2 N)) with a pass i drawn from the N of level q: what pass i still has to
            fill in, and 1 for a level of one pass. Defaults to `None`: p as above.
        boundary: int (batch,), the prompt boundary t of each example. At least one real frame stays
            after it. Defaults to `None`: drawn as above.

    Returns:
        `(masked, level, target, loss_mask)`: the tokens with hidden ones replaced, int32 (batch,
        frames, levels); the level q from 0, int32 (batch,); the true tokens of level q, int32
        (batch, frames); and bool (batch, frames), `True` at the hidden tokens of level q.

    Raises:
        ValueError: An example does not have a real frame.
    """
    batch, frames, levels = acoustic_tokens.shape
    num_real = padding_mask.sum(axis=1)
    if not num_real.all():
        raise ValueError(
            "padding_mask has an example without a real frame; expected at least one in each."
        )
    rows = np.arange(batch)
    # Position among the real frames, because padding can be anywhere.
    order = np.cumsum(padding_mask, axis=1) - 1
    if boundary is None:
        boundary = rng.integers(0, num_real)
    boundary = np.minimum(boundary, num_real - 1)
    weights = np.ones(levels) if level_weights is None else np.asarray(level_weights, dtype=float)
    level = rng.choice(levels, size=batch, p=weights / weights.sum())
    done = rng.random(batch)  # fraction of the passes of level q
    if iterations is not None:
        passes = np.asarray(iterations)[level]
        done = np.floor(done * passes) / passes
    probability = np.cos(done * np.pi / 2)
    after = padding_mask & (order >= boundary[:, None])
    loss_mask = after & (rng.random((batch, frames)) < probability[:, None])
    fallback = np.argmax(
        padding_mask & (order == rng.integers(boundary, num_real)[:, None]), axis=1
    )
    loss_mask[rows, fallback] |= ~loss_mask.any(axis=1)

    finer = np.arange(levels)[None, None, :] > level[:, None, None]
    current = np.arange(levels)[None, None, :] == level[:, None, None]
    hidden = (finer & after[:, :, None]) | (current & loss_mask[:, :, None])
    masked = np.where(hidden, codebook_size, acoustic_tokens).astype("int32")
    target = np.take_along_axis(acoustic_tokens, level[:, None, None], axis=2)[..., 0]
    target = np.where(padding_mask, target, 0)
    return masked, level.astype("int32"), target.astype("int32"), loss_mask


def remask_counts(num_passes: int, num_masked: np.ndarray) -> np.ndarray:
    """Compute how many tokens stay hidden after each pass: the cosine schedule of MaskGIT.

    After pass i (from 0) of N, floor(cos(pi (i + 1) / (2 N)) n) tokens are hidden again, where n
    is the number before the first pass; none after the last pass.

    Args:
        num_passes: Number of passes N.
        num_masked: int (batch,), n of each example.

    Returns:
        int32 (num_passes, batch).
    """
    fraction = np.cos(np.pi * np.arange(1, num_passes + 1) / (2 * num_passes))
    fraction[-1] = 0.0
    return np.floor(fraction[:, None] * np.asarray(num_masked)[None, :]).astype("int32")
