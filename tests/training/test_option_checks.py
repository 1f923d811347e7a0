import pytest

from keras_speechssm.training.option_checks import check_at_least, check_between


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
