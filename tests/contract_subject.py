"""What `contract` puts under test, and how it feeds it: whole, in blocks, with padding."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from gradient import make_gradient
from keras import ops


@dataclasses.dataclass
class Subject:
    """What is under test, and how to feed it. Lengths are in steps."""

    layer: object
    call: Callable
    advance: Callable | None
    initial_state: Callable | None
    make_input: Callable
    batch: int
    time: int
    rates: tuple[int, int]
    tolerance: float
    seed: int

    def prepare(self, compiled):
        """Makes the gradients, and compiles where that saves time."""
        variables = getattr(self.layer, "trainable_variables", None) or []
        self.is_float = np.issubdtype(self.inputs().dtype, np.floating)
        self.loss_gradients = make_gradient(self._loss, variables)
        if compiled and keras.backend.backend() == "jax":
            import jax

            self.call = jax.jit(self.call)
            self.advance = None if self.advance is None else jax.jit(self.advance)

    def _loss(self, x, weights, masks):
        # Padding is selected away, as a loss would: zero times NaN is NaN.
        outputs, weights = (
            ops.cast(self.call(x, **masks), "float32"),
            ops.convert_to_tensor(weights),
        )
        return ops.sum(ops.where(weights == 0, 0.0, outputs * weights))

    def gradients_of(self, x, weights, **masks):
        """Gradients of sum(outputs * weights) in the input (None for integers) and weights."""
        if self.is_float:
            inputs, parameters = self.loss_gradients([x], weights=weights, masks=masks)
            return inputs[0], parameters
        x = ops.convert_to_tensor(x)
        return None, self.loss_gradients([], x=x, weights=weights, masks=masks)[1]

    def inputs(self, time=None, offset=0, batch=None):
        rng = np.random.default_rng(self.seed + offset)
        length = (self.time if time is None else time) * self.rates[0]
        return np.asarray(self.make_input(rng, batch or self.batch, length))

    def in_inputs(self, steps):
        return np.repeat(steps, self.rates[0], axis=-1)

    def in_outputs(self, steps):
        return np.repeat(steps, self.rates[1], axis=-1)

    def masks(self, real=None, starts=None):
        """Keyword arguments from bool (batch, steps) arrays."""
        masks = {}
        if real is not None:
            masks["padding_mask"] = ops.convert_to_tensor(self.in_inputs(real))
        if starts is not None:
            wide = np.zeros((*starts.shape, self.rates[0]), bool)
            wide[..., 0] = starts  # a document starts at the first input of its first step
            masks["reset_mask"] = ops.convert_to_tensor(wide.reshape(len(starts), -1))
        return masks

    def run(self, x, **masks):
        return ops.convert_to_numpy(self.call(ops.convert_to_tensor(x), **masks))

    def stream(self, x, sizes, state=None, real=None, starts=None):
        """Feeds x in blocks; returns (outputs, last state)."""
        state = self.initial_state(len(x)) if state is None else state
        outputs, layout = [], _layout(state)
        for first, last in split_blocks(x.shape[1] // self.rates[0], sizes):
            chunk = x[:, first * self.rates[0] : last * self.rates[0]]
            masks = self.masks(
                None if real is None else real[:, first:last],
                None if starts is None else starts[:, first:last],
            )
            y, state = self.advance(ops.convert_to_tensor(chunk), state, **masks)
            assert _layout(state) == layout, (
                f"the state changed its layout from {layout} to {_layout(state)}"
            )
            outputs.append(ops.convert_to_numpy(y))
        return np.concatenate(outputs, axis=1), state

    def compare(self, actual, expected, what):
        scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=self.tolerance * scale, err_msg=what
        )


def paddings(subject):
    """(name, bool (batch, steps)) with `subject.time` real steps in each row."""
    time = subject.time
    left, right, middle = (np.ones(time + 6, bool) for _ in range(3))
    left[:6], right[time:] = False, False
    middle[[0, time // 3, time // 3 + 1, time // 2 + 3, time + 1, time + 5]] = False
    for name, row in (("left", left), ("right", right), ("middle", middle)):
        yield name, np.repeat(row[None], subject.batch, axis=0)
    mixed = np.repeat(left[None], subject.batch, axis=0)
    mixed[0] = right
    yield "different in each row", mixed


def insert_padding(subject, x, real, content):
    """Spreads x over the real steps; the rest holds garbage. None if x cannot hold it."""
    padded = subject.inputs(time=real.shape[1], offset=99)
    if content == "nan":
        if not np.issubdtype(x.dtype, np.floating):
            return None
        padded = np.full_like(padded, np.nan)
    padded[subject.in_inputs(real)] = rows(x)
    return padded


def rows(x):
    return x.reshape(-1, *x.shape[2:])


def split_blocks(time, sizes):
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    start, turn = 0, 0
    while start < time:
        stop = min(time, start + sizes[turn % len(sizes)])
        yield start, stop
        start, turn = stop, turn + 1


def _layout(state):
    """Paths, shapes and dtypes of a state: what a compiled step depends on."""
    return sorted(
        (str(path), tuple(leaf.shape), keras.backend.standardize_dtype(leaf.dtype))
        for path, leaf in keras.tree.flatten_with_path(state)
    )


def input_maker(make_input):
    if not isinstance(make_input, int):
        return make_input
    return lambda rng, batch, time: rng.normal(size=(batch, time, make_input)).astype("float32")
