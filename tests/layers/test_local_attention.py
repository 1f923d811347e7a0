import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from keras import ops

from keras_speechssm.layers import LocalMultiQueryAttention, local_attention
from keras_speechssm.layers.local_attention import _rotate, attend_to_ring


def make_layer(**kwargs):
    keras.utils.set_random_seed(0)
    settings = {"hidden_dim": 8, "num_heads": 2, "attention_window": 5, "query_block_size": 4}
    layer = LocalMultiQueryAttention(**{**settings, **kwargs})
    layer.build((None, None, 8))
    # Large enough for attention to choose, so that a wrong mask shows.
    layer.set_weights([2.5 * w for w in layer.get_weights()])
    return layer


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("use_rotary", [True, False])
def test_contract(use_rotary):
    layer = make_layer(use_rotary=use_rotary)
    verify_sequence_contract(layer, 8, time=14, block_sizes=(1, (3, 9)))


@pytest.mark.slow_to_compile
def test_contract_when_the_window_is_one_token():
    verify_sequence_contract(make_layer(attention_window=1), 8, block_sizes=((1, 4, 6),))


@pytest.mark.slow_to_compile
def test_contract_of_the_mapped_form(monkeypatch):
    monkeypatch.setattr(local_attention, "_MAX_UNROLLED_BLOCKS", 0)
    verify_sequence_contract(make_layer(), 8, time=14, block_sizes=((5, 9),))


def attention_by_hand(layer, x, positions):
    """Every query against every key, with the window of the Flax reference."""
    query, key, value, output, bias = (
        ops.convert_to_numpy(w).astype("float64") for w in layer.weights
    )
    batch, time, _ = x.shape
    queries = (x @ query).reshape(batch, time, layer.num_heads, layer.head_dim)
    keys, values = (x @ key)[:, :, None], x @ value
    if layer.use_rotary:
        queries, keys = rotate_by_hand(queries, positions), rotate_by_hand(keys, positions)
    logits = np.einsum("bthk,bsk->bhts", queries, keys[:, :, 0]) / np.sqrt(layer.head_dim)
    distance = np.arange(time)[:, None] - np.arange(time)[None]
    logits = np.where((distance >= 0) & (distance <= layer.attention_window), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bsk->bthk", weights, values).reshape(batch, time, -1) @ output + bias


def rotate_by_hand(x, positions):
    x, half = x.copy(), x.shape[-1] // 2
    pairs = half // 2
    for pair in range(pairs):
        angle = positions[:, None] * 10_000.0 ** (-pair / pairs)
        first, second = x[..., pair].copy(), x[..., pair + pairs].copy()
        x[..., pair] = first * np.cos(angle) - second * np.sin(angle)
        x[..., pair + pairs] = second * np.cos(angle) + first * np.sin(angle)
    return x


@pytest.mark.parametrize("use_rotary", [True, False])
@pytest.mark.parametrize("window", [1, 5, 100])
def test_against_full_attention_by_hand(window, use_rotary):
    layer = make_layer(attention_window=window, use_rotary=use_rotary, head_dim=8)
    x = np.random.default_rng(0).normal(size=(2, 13, 8)).astype("float32")
    expected = attention_by_hand(layer, x.astype("float64"), np.arange(13.0))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=1e-5)


def test_rotation_depends_on_distance_only():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 16)).astype("float32")

    def product(query_position, key_position):
        turned = [
            ops.convert_to_numpy(_rotate(ops.convert_to_tensor(x), np.array([[position]])))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return np.sum(turned[0] * turned[1])

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


def test_state_does_not_grow_and_holds_a_window_and_the_token_itself():
    layer = make_layer()
    state = layer.initial_state(2)
    x = np.random.default_rng(0).normal(size=(2, 33, 8)).astype("float32")
    _, state = layer.advance(ops.convert_to_tensor(x), state)
    assert tuple(state["keys"].shape) == (2, 6, 4)
    assert ops.convert_to_numpy(state["position"]).tolist() == [33, 33]


@pytest.mark.slow_to_compile
def test_block_size_changes_nothing():
    x = np.random.default_rng(0).normal(size=(2, 21, 8)).astype("float32")
    expected = ops.convert_to_numpy(make_layer(query_block_size=64)(x))
    for size in (1, 3, 21):
        actual = ops.convert_to_numpy(make_layer(query_block_size=size)(x))
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_round_trip_of_the_config():
    layer = make_layer(head_dim=4, output_variance=0.5)
    again = LocalMultiQueryAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "divides"),
        ({"attention_window": 0}, "attention_window"),
        ({"head_dim": 6}, "multiple of 4"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalMultiQueryAttention(**{"hidden_dim": 8, "num_heads": 2, **settings})


@pytest.mark.parametrize(
    "positions", [(0, 3), (254, 255), (256, 9), (511, 512), (599, 0), (4000, 7)]
)
def test_a_ring_is_read_as_far_as_it_is_written(positions):
    slots, heads, head_dim = 600, 2, 4
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(2, 1, heads, head_dim)).astype("float32")
    keys, values = rng.normal(size=(2, 2, slots, head_dim)).astype("float32")
    expected = []
    for row, position in enumerate(positions):
        seen = slice(0, position + 1)
        logits = queries[row, 0] @ keys[row, seen].T
        shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        expected.append(shares @ values[row, seen])
    # What lies behind the least beginning with all that is written is not even touched.
    beginning = next(size for size in (256, 512, slots) if max(positions) < size or size == slots)
    keys[:, beginning:] = values[:, beginning:] = np.nan
    got = attend_to_ring(
        *map(ops.convert_to_tensor, (queries, keys, values)), ops.array(positions, dtype="int32")
    )
    np.testing.assert_allclose(ops.convert_to_numpy(got)[:, 0], expected, atol=1e-5)


@pytest.mark.slow_to_compile
def test_a_ring_of_many_slots_takes_tokens_one_by_one():
    layer = LocalMultiQueryAttention(16, 2, attention_window=300, use_rotary=True)
    x = np.random.default_rng(1).normal(size=(1, 640, 16)).astype("float32")
    whole = ops.convert_to_numpy(layer(x))
    # Up to the first beginning's end and over it, then around the ring.
    for start in (253, 598):
        _, state = layer.advance(x[:, :start], layer.initial_state(1))
        for step in range(start, start + 6):
            y, state = layer.advance(x[:, step : step + 1], state)
            np.testing.assert_allclose(
                ops.convert_to_numpy(y)[:, 0], whole[:, step], atol=1e-5, err_msg=str(step)
            )
