import pytest

from keras_speechssm.training.option_checks import (
    check_at_least,
    check_between,
    check_model_config,
)


@pytest.mark.parametrize("value", [1, 2.5, None])
def test_what_is_in_range_passes(value):
    check_at_least(1, steps=value)
    check_between(1, 3, share=value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_what_is_not_is_named(value):
    with pytest.raises(ValueError, match=r"^steps is .*; expected 1 or more\.$"):
        check_at_least(1, seconds=2, steps=value)
    with pytest.raises(ValueError, match=r"^share is .*; expected 1 to 3\.$"):
        check_between(1, 3, share=value)


def test_arguments_that_a_model_does_not_take_are_named():
    class Model:
        def __init__(self, width, sizes=(), **kwargs): ...

    check_model_config(None, Model)
    check_model_config({"width": 1, "dtype": "float32"}, Model, ("sizes",))
    with pytest.raises(ValueError, match="'depth', which is no argument of Model to be set here.$"):
        check_model_config({"depth": 1}, Model)
    with pytest.raises(ValueError, match="'kwargs'"):
        check_model_config({"kwargs": 1}, Model)
    with pytest.raises(ValueError, match="'sizes'.*; the data decide it"):
        check_model_config({"sizes": 1}, Model, ("sizes",))
