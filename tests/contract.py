"""The sequence contract: what every sequence layer and every whole model must keep.

One call, `verify_sequence_contract`, runs all of it:

1. whole == step by step == blocks of several sizes, with states whose shapes never change;
2. blind to padding: its content (NaN too), wherever it lies, changes neither outputs nor
   gradients, and does not advance the state;
3. packed documents, ragged batches and interleaved sessions change nothing;
4. causal where it says causal, shown by gradients; and truly bidirectional where it does not.
"""

import inspect
import itertools
from collections.abc import Callable

import numpy as np
from contract_subject import Subject, input_maker, insert_padding, paddings, rows, split_blocks


def verify_sequence_contract(
    layer,
    make_input,
    *,
    call: Callable | None = None,
    advance: Callable | None = None,
    initial_state: Callable | None = None,
    causal: bool = True,
    streaming: bool | None = None,
    padding: bool | None = None,
    resets: bool | None = None,
    batch_size: int = 2,
    time: int = 13,
    block_sizes=(1, (5, 3)),
    input_multiple: int = 1,
    output_multiple: int = 1,
    tolerance: float = 1e-5,
    seed: int = 0,
    compiled: bool = True,
) -> None:
    """Raises AssertionError at the first clause of the contract that does not hold.

    Args:
        layer: a Keras layer or model; None when all the callables below are given. Its trainable
            variables are checked too: padding must not reach their gradients.
        make_input: the dimension of float inputs (batch, time, dim), or a function
            `(rng, batch, time) -> array` (batch, time, ...), float or integer.
        call: `(x, padding_mask=None, reset_mask=None) -> y`. Defaults to `layer`.
        advance: `(x, state, padding_mask=None, reset_mask=None) -> (y, state)`. Defaults to
            `layer.advance`.
        initial_state: `(batch) -> state`. Defaults to `layer.initial_state`.
        causal: whether outputs may depend on the past only. False asserts that the future does
            matter.
        streaming: whether to check `advance`. Defaults to whether there is one.
        padding, resets: whether the layer takes `padding_mask`, `reset_mask`. Default to what
            the signature of `call` (or of `layer.call`) names.
        batch_size: rows of a batch.
        time: steps of a sequence. Choose more than the layer's memory.
        block_sizes: sizes of blocks, in steps; a tuple is a cycle of sizes.
        input_multiple, output_multiple: inputs and outputs of one step, for layers that change
            the rate (a codec with stride 4: 4 and 1).
        tolerance: largest difference allowed, relative to the largest output (or 1).
        seed: of the random inputs.
        compiled: compiles `call` and `advance` on JAX, where running operation by operation is
            slow. Choose False for what cannot be traced.
    """
    names = inspect.signature(call or getattr(layer, "call", layer)).parameters
    advance = advance or getattr(layer, "advance", None)
    streaming = advance is not None if streaming is None else streaming
    subject = Subject(
        layer=layer,
        call=call or layer,
        advance=advance if streaming else None,
        initial_state=initial_state or getattr(layer, "initial_state", None),
        make_input=input_maker(make_input),
        batch=batch_size,
        time=time,
        rates=(input_multiple, output_multiple),
        tolerance=tolerance,
        seed=seed,
    )
    subject.run(subject.inputs())  # builds the layer
    subject.prepare(compiled)
    if streaming:
        verify_blocks(subject, block_sizes)
        verify_interleaved_sessions(subject, block_sizes)
    if padding if padding is not None else "padding_mask" in names:
        verify_blind_to_padding(subject)
        verify_ragged_batch(subject)
        if streaming:
            verify_padding_keeps_state(subject, block_sizes)
    if resets if resets is not None else "reset_mask" in names:
        verify_packed_documents(subject, block_sizes)
    verify_causality(subject, causal)


def verify_blocks(subject, block_sizes):
    """Whole == step by step == blocks of any sizes."""
    x = subject.inputs()
    whole = subject.run(x)
    for sizes in (*block_sizes, subject.time):
        subject.compare(subject.stream(x, sizes)[0], whole, f"whole != blocks of {sizes}")


def verify_interleaved_sessions(subject, block_sizes):
    """Two sessions that take turns hear nothing of each other."""
    first, second = subject.inputs(offset=1), subject.inputs(offset=2)
    sizes = block_sizes[-1]
    half = list(split_blocks(subject.time, sizes))[-1][0] * subject.rates[0]
    alone = [subject.stream(x, sizes)[0] for x in (first, second)]
    a, state_a = subject.stream(first[:, :half], sizes)
    b, state_b = subject.stream(second[:, :half], sizes)
    rest_a, _ = subject.stream(first[:, half:], subject.time, state=state_a)
    rest_b, _ = subject.stream(second[:, half:], subject.time, state=state_b)
    for parts, expected in zip(((a, rest_a), (b, rest_b)), alone, strict=True):
        subject.compare(np.concatenate(parts, axis=1), expected, "interleaved sessions mix")


def verify_blind_to_padding(subject):
    """Padding on any side, holding anything, changes neither outputs nor gradients."""
    x = subject.inputs()
    plain = subject.run(x)
    weights = np.random.default_rng(7).normal(size=plain.shape).astype("float32")
    expected = subject.gradients_of(x, weights, **subject.masks())
    for place, real in paddings(subject):
        for content in ("random", "nan"):
            padded = insert_padding(subject, x, real, content)
            if padded is None:
                continue
            what = f"padding ({place}, {content})"
            outputs = subject.run(padded, **subject.masks(real))
            kept = subject.in_outputs(real)
            subject.compare(outputs[kept], rows(plain), f"{what} changes outputs")
            assert np.isfinite(outputs).all(), f"{what} gives outputs that are not finite"
            wide = np.zeros(outputs.shape, "float32")
            wide[kept] = rows(weights)
            found = subject.gradients_of(padded, wide, **subject.masks(real))
            _compare_gradients(subject, found, expected, real, what)


def _compare_gradients(subject, found, expected, real, what):
    if found[0] is not None:
        kept = subject.in_inputs(real)
        assert not np.any(found[0][~kept]), f"{what} receives gradients"
        subject.compare(found[0][kept], rows(expected[0]), f"{what} changes input gradients")
    for gradient, reference in zip(found[1], expected[1], strict=True):
        subject.compare(gradient, reference, f"{what} changes parameter gradients")


def verify_ragged_batch(subject):
    """Rows of different lengths in one batch give what each gives alone."""
    lengths = np.linspace(subject.time, max(1, subject.time // 3), subject.batch).astype(int)
    x, real = subject.inputs(), np.arange(subject.time)[None] < lengths[:, None]
    outputs = subject.run(x, **subject.masks(real))
    for row, length in enumerate(lengths):
        alone = subject.run(x[row : row + 1, : length * subject.rates[0]])
        subject.compare(
            outputs[row : row + 1, : length * subject.rates[1]], alone, "a ragged batch differs"
        )


def verify_padding_keeps_state(subject, block_sizes):
    """Streaming over padding, whole chunks of it too, leaves the state where it was."""
    x, more = subject.inputs(), subject.inputs(offset=3)
    plain, state = subject.stream(x, subject.time)
    expected, _ = subject.stream(more, block_sizes[-1], state=state)
    for place, real in paddings(subject):
        padded = insert_padding(subject, x, real, "nan")
        if padded is None:
            padded = insert_padding(subject, x, real, "random")
        for sizes in block_sizes:
            what = f"streaming blocks of {sizes} with padding ({place})"
            outputs, state = subject.stream(padded, sizes, real=real)
            subject.compare(outputs[subject.in_outputs(real)], rows(plain), what)
            nothing = np.zeros_like(real)
            _, state = subject.stream(padded, sizes, state=state, real=nothing)
            outputs, _ = subject.stream(more, block_sizes[-1], state=state)
            subject.compare(outputs, expected, f"{what}: the state moved")


def verify_packed_documents(subject, block_sizes):
    """Documents packed in one row give what each gives alone."""
    x, cuts = subject.inputs(), (0, subject.time // 3, subject.time // 3 + 1, subject.time)
    documents = list(itertools.pairwise(cuts))
    starts = np.zeros((subject.batch, subject.time), bool)
    starts[:, list(cuts[:-1])] = True
    step = subject.rates[0]
    alone = np.concatenate(
        [subject.run(x[:, first * step : last * step]) for first, last in documents], axis=1
    )
    packed = subject.run(x, **subject.masks(starts=starts))
    subject.compare(packed, alone, "packed documents see each other")
    real = np.ones((subject.batch, subject.time + 6), bool)
    holes = [0, 1, cuts[1] + 2, cuts[1] + 4, cuts[2] + 5, subject.time + 5]
    real[:, holes] = False
    padded = insert_padding(subject, x, real, "random")
    wide = np.ones_like(real)  # a start flagged on padding does not count
    wide[real] = starts.ravel()
    outputs = subject.run(padded, **subject.masks(real, wide))
    subject.compare(outputs[subject.in_outputs(real)], rows(alone), "packed and padded differ")
    if subject.advance is None:
        return
    for sizes in block_sizes:
        what = f"packed documents in blocks of {sizes}"
        subject.compare(subject.stream(x, sizes, starts=starts)[0], alone, what)
        outputs, _ = subject.stream(padded, sizes, real=real, starts=wide)
        subject.compare(outputs[subject.in_outputs(real)], rows(alone), f"{what}, padded")


def verify_causality(subject, causal):
    """Which inputs an output depends on: by gradients, or by change where inputs are integers."""
    x = subject.inputs()
    future_matters = False
    for step in sorted({0, subject.time // 2, subject.time - 2}):
        reach = _dependence(subject, x, step)
        present = (step + 1) * subject.rates[0]
        assert not np.any(reach[1:]), f"output step {step} of one row depends on other rows"
        assert np.any(reach[0, :present]), f"output step {step} does not depend on its past"
        future_matters |= bool(np.any(reach[0, present:]))
        if causal:
            assert not np.any(reach[0, present:]), f"output step {step} depends on the future"
    assert causal or future_matters, "causal=False, but no output depends on the future"


def _dependence(subject, x, step):
    """How much the first row's output at `step` depends on each input: (batch, inputs)."""
    first, last = step * subject.rates[1], (step + 1) * subject.rates[1]
    plain = subject.run(x)
    if subject.is_float:
        # Random weights: a plain sum of normalized outputs has no gradient.
        weights = np.zeros(plain.shape, "float32")
        picked = weights[0, first:last]
        picked[...] = np.random.default_rng(5).normal(size=picked.shape)
        gradient, _ = subject.gradients_of(x, weights)
        return np.abs(gradient).reshape(*x.shape[:2], -1).sum(-1)
    other, reach = subject.inputs(offset=11), np.zeros(x.shape[:2])
    present = (step + 1) * subject.rates[0]
    for row, span in ((0, slice(0, present)), (0, slice(present, None)), (1, slice(None))):
        changed = x.copy()
        changed[row, span] = other[row, span]
        difference = np.max(np.abs((subject.run(changed) - plain)[0, first:last]))
        reach[row, span] = difference if difference > subject.tolerance else 0.0
    return reach
