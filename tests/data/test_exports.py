import pytest

from keras_speechssm import data, training

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("module", [data, training])
def test_public_names_are_importable(module):
    for name in module.__all__:
        getattr(module, name)
        assert name in dir(module)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(data, "nothing")  # noqa: B009
