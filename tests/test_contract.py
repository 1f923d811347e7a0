"""The contract must fail where it is broken."""

import pytest
from contract import verify_sequence_contract
from keras import ops


def running_sum(x, padding_mask=None, reset_mask=None):
    return run(x, ops.zeros_like(x[:, 0]), padding_mask, reset_mask)[0]


def run(x, state, padding_mask=None, reset_mask=None):
    outputs = []
    for t in range(x.shape[1]):
        new = x[:, t]
        if padding_mask is not None:
            new = ops.where(padding_mask[:, t, None], new, ops.zeros_like(new))
        if reset_mask is not None:
            start = reset_mask[:, t, None]
            if padding_mask is not None:
                start = ops.logical_and(start, padding_mask[:, t, None])
            state = ops.where(start, ops.zeros_like(state), state)
        state = state + new
        outputs.append(state)
    return ops.stack(outputs, axis=1), state


def check(call=running_sum, advance=run, **kwargs):
    verify_sequence_contract(
        None,
        2,
        call=call,
        advance=advance,
        initial_state=lambda batch: ops.zeros((batch, 2)),
        **kwargs,
    )


def test_a_layer_that_keeps_it():
    check()


def test_sees_the_future():
    with pytest.raises(AssertionError, match="future"):
        check(lambda x: ops.flip(running_sum(ops.flip(x, 1)), 1), None, streaming=False)


def test_is_not_bidirectional():
    with pytest.raises(AssertionError, match="no output depends on the future"):
        check(causal=False)


def test_mixes_rows():
    with pytest.raises(AssertionError, match="other rows"):
        check(lambda x: running_sum(x) + ops.sum(x[:, :1], axis=0), None, streaming=False)


def test_adds_padding_up():
    def careless(x, padding_mask=None):
        return running_sum(x)

    with pytest.raises(AssertionError, match="padding .* changes outputs"):
        check(careless, None, streaming=False)


def test_multiplies_padding_away():
    def careless(x, padding_mask=None):
        if padding_mask is not None:
            x = x * ops.cast(padding_mask, x.dtype)[..., None]
        return running_sum(x)

    with pytest.raises(AssertionError, match="nan"):
        check(careless, None, streaming=False)


def test_forgets_between_blocks():
    def forgetful(x, state, padding_mask=None, reset_mask=None):
        return run(x, 0.5 * state, padding_mask, reset_mask)

    with pytest.raises(AssertionError, match="blocks of"):
        check(advance=forgetful)


def test_lets_padding_move_the_state():
    def moved(x, state, padding_mask=None, reset_mask=None):
        outputs, new = run(x, state, padding_mask, reset_mask)
        return outputs, new if padding_mask is None else new + 1.0

    with pytest.raises(AssertionError, match="streaming"):
        check(advance=moved)


def test_ignores_document_starts():
    def merged(x, padding_mask=None, reset_mask=None):
        return running_sum(x, padding_mask)

    with pytest.raises(AssertionError, match="packed documents"):
        check(merged)


def test_grows_its_state():
    def growing(x, state, padding_mask=None, reset_mask=None):
        outputs, _ = run(x, state[:, -2:], padding_mask, reset_mask)
        return outputs, ops.concatenate([state, outputs[:, -1]], axis=1)

    with pytest.raises(AssertionError, match="layout"):
        check(advance=growing)
