"""Windows: every promise of `keras_speechssm.windows`, over all lengths and window sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_speechssm import windows
from keras_speechssm.windows import (
    StreamingWindows,
    crop_window,
    growing_windows,
    merge_windows,
    plan_windows,
    slice_window,
    split_windows,
)

pytestmark = pytest.mark.any_backend

LENGTHS = st.integers(1, 400)
WINDOW_SIZES = st.integers(1, 60).flatmap(
    lambda window: st.tuples(st.just(window), st.integers(0, window // 2))
)


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES)
def test_the_merge_is_the_whole_for_every_length(num_tokens, sizes):
    window, overlap = sizes
    plan = plan_windows(num_tokens, window, overlap)
    pieces = split_windows(np.arange(num_tokens), plan, window)
    assert pieces.shape == (len(plan), window)
    np.testing.assert_array_equal(merge_windows(pieces, plan), np.arange(num_tokens))


def test_no_length_is_lost_with_the_sizes_of_the_paper():
    for window, overlap in ((750, 100), (675, 100), (751, 101)):
        for num_tokens in range(1, 6001, 7):
            plan = plan_windows(num_tokens, window, overlap)
            kept = [end - start for _, start, end in plan]
            assert sum(kept) == num_tokens and min(kept) > 0


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES)
def test_kept_tokens_have_context_on_both_sides(num_tokens, sizes):
    window, overlap = sizes
    plan = plan_windows(num_tokens, window, overlap)
    for start, keep_start, keep_end in plan:
        assert keep_start == 0 or keep_start - start >= overlap // 2
        assert keep_end == num_tokens or start + window - keep_end >= overlap // 2
        assert start <= keep_start < keep_end <= start + window


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES)
def test_the_last_of_several_windows_holds_more_than_the_overlap(num_tokens, sizes):
    window, overlap = sizes
    plan = plan_windows(num_tokens, window, overlap)
    if len(plan) > 1:
        assert num_tokens - plan[-1][0] > overlap
    assert len(plan) == 1 or num_tokens > window


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES, st.integers(1, 5))
def test_a_context_free_map_gives_windowed_equal_to_whole(num_tokens, sizes, size):
    window, overlap = sizes
    samples = np.random.default_rng(num_tokens).normal(size=num_tokens * size)

    def tokenize(waveform):
        return waveform.reshape(*waveform.shape[:-1], -1, size).sum(-1)

    plan = plan_windows(num_tokens, window, overlap)
    batched = tokenize(split_windows(samples, plan, window, size))
    one_by_one = [tokenize(slice_window(samples, start, window, size)) for start, _, _ in plan]
    np.testing.assert_array_equal(batched, one_by_one)
    np.testing.assert_array_equal(merge_windows(batched, plan), tokenize(samples))


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES, st.integers(1, 4))
def test_past_the_end_comes_the_beginning_and_never_silence(num_tokens, sizes, size):
    window, overlap = sizes
    samples = np.arange(1, num_tokens * size + 1)
    last_start = plan_windows(num_tokens, window, overlap)[-1][0]
    piece = slice_window(samples, last_start, window, size)
    real = min(len(samples) - last_start * size, window * size)
    assert piece.min() > 0
    np.testing.assert_array_equal(piece[:real], samples[last_start * size :][:real])
    filling = piece[real:]
    np.testing.assert_array_equal(filling, np.resize(samples, len(filling)))


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES, st.integers(1, 4))
def test_synthesis_has_exactly_its_length_and_no_prompt(num_tokens, sizes, size):
    # A window's audio is [prompt, content]; the prompt is marked by -1.
    window, overlap = sizes
    plan = plan_windows(num_tokens, window, overlap)
    tokens = split_windows(np.arange(num_tokens), plan, window)
    prompt = np.full((len(plan), 3 * size), -1)
    decoded = np.concatenate([prompt, tokens.repeat(size, axis=1)], axis=1)
    merged = merge_windows(decoded[:, 3 * size :], plan, size)
    assert len(merged) == num_tokens * size
    np.testing.assert_array_equal(merged, np.arange(num_tokens).repeat(size))


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES, st.lists(st.integers(0, 90), max_size=40))
def test_streaming_equals_the_plan_for_any_blocks(num_tokens, sizes, blocks):
    stream, found = StreamingWindows(*sizes), []
    for block in [*blocks, num_tokens]:
        block = min(block, num_tokens - stream.num_tokens)
        found += stream.feed(block)
    found += stream.feed(num_tokens - stream.num_tokens)
    found += stream.finish()
    assert found == plan_windows(num_tokens, *sizes)


@settings(deadline=None)
@given(WINDOW_SIZES, st.integers(1, 200))
def test_streaming_gives_a_window_as_soon_as_one_token_is_beyond_it(sizes, num_tokens):
    window, overlap = sizes
    stream = StreamingWindows(window, overlap)
    for count in range(1, num_tokens + 1):
        expected_start = stream.next_start
        found = stream.feed(1)
        assert bool(found) == (count > expected_start + window)
        assert all(keep_end < count for _, _, keep_end in found)
        # What must be remembered is never more than a window.
        assert count - stream.next_start <= window


@settings(deadline=None)
@given(LENGTHS, WINDOW_SIZES, st.data())
def test_short_first_windows_keep_every_promise(num_tokens, sizes, data):
    window, overlap = sizes
    first = sorted(data.draw(st.lists(st.integers(1, window), max_size=4)))
    plan = plan_windows(num_tokens, *sizes, first)
    kept = [position for _, begin, end in plan for position in range(begin, end)]
    assert kept == list(range(num_tokens))
    lengths = [*first, *[window] * len(plan)]
    for number, (start, begin, end) in enumerate(plan):
        assert start <= begin < end <= start + lengths[number]
        if number:
            shared = plan[number - 1].start + lengths[number - 1] - start
            assert shared == min(overlap, lengths[number - 1] // 2)
            # The cut is in the middle of what is shared.
            assert begin == start + shared // 2 == plan[number - 1].keep_end
    stream, found = StreamingWindows(*sizes, first), []
    for count in range(num_tokens):
        # A saved stream resumes anywhere.
        stream = StreamingWindows(*sizes, first, count, stream.num_returned)
        assert stream.num_tokens - stream.next_start <= stream.next_window
        missing = stream.num_missing
        new = stream.feed(1)
        assert bool(new) == (missing == 1)
        found += new
    assert found + stream.finish() == plan
    assert plan_windows(num_tokens, *sizes, [window]) == plan_windows(num_tokens, *sizes)


def test_growing_windows_double():
    assert growing_windows(675) == (100, 200, 400)
    assert growing_windows(100) == () and growing_windows(101) == (100,)
    plan = plan_windows(3000, 675, 100, growing_windows(675))
    assert [end / 25 for _, _, end in plan[:5]] == [3, 8, 20, 43, 66]


@pytest.mark.parametrize("first", [[0], [11], [5, 4]])
def test_impossible_first_windows_are_refused(first):
    with pytest.raises(ValueError, match="first_windows"):
        plan_windows(100, 10, 2, first)
    with pytest.raises(ValueError, match="first_window is 0"):
        growing_windows(10, 0)


def test_numbers_of_the_paper():
    tokenizer = (windows.TOKENIZER_WINDOW, windows.OVERLAP)
    synthesis = (windows.SYNTHESIS_WINDOW, windows.OVERLAP)
    assert tokenizer == (750, 100) and synthesis == (675, 100)
    assert len(plan_windows(4 * 60 * 25, *tokenizer)) == 10
    four_minutes = plan_windows(4 * 60 * 25, *synthesis)
    assert len(four_minutes) == 11
    assert [window.keep_start / 25 for window in four_minutes[1:4]] == [25, 48, 71]
    assert len(plan_windows(16 * 60 * 25, *synthesis)) == 42


def test_windows_are_tuples_with_names():
    plan = plan_windows(16, window=10, overlap=4)
    assert plan == [(0, 0, 8), (6, 8, 16)]
    assert (plan[1].start, plan[1].keep_start, plan[1].keep_end) == plan[1]
    stream = StreamingWindows(10, 4)
    assert stream.feed(9) == [] and stream.feed(7) == [windows.Window(0, 0, 8)]
    assert stream.finish() == [windows.Window(6, 8, 16)]


def test_an_empty_sequence_has_no_windows():
    assert plan_windows(0, 10, 2) == []
    assert StreamingWindows(10, 2).finish() == []


@pytest.mark.parametrize("window, overlap", [(0, 0), (10, 6), (10, -1), (-3, 0)])
def test_impossible_windows_are_refused(window, overlap):
    with pytest.raises(ValueError, match="half the window"):
        plan_windows(100, window, overlap)
    with pytest.raises(ValueError, match="half the window"):
        StreamingWindows(window, overlap)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        plan_windows(-1, 10, 2)
    with pytest.raises(ValueError, match="is outside a sequence"):
        slice_window(np.zeros(0), 0, 10)
    with pytest.raises(ValueError, match="is outside a sequence"):
        slice_window(np.zeros(20), 10, 10, size=2)
    with pytest.raises(ValueError, match="at least one token"):
        split_windows(np.zeros(5), [], 10)
    with pytest.raises(ValueError, match="3 results for a plan of 1"):
        merge_windows(np.zeros((3, 10)), plan_windows(5, 10, 2))
    with pytest.raises(ValueError, match="whole result"):
        crop_window(np.zeros(4), (0, 0, 5))
    stream = StreamingWindows(10, 2)
    with pytest.raises(ValueError, match="0 or more"):
        stream.feed(-1)
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.feed(1)
    with pytest.raises(ValueError, match="finished"):
        stream.finish()
