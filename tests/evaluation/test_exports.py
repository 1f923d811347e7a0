import pytest

from keras_speechssm import evaluation

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("name", evaluation.__all__)
def test_public_names_are_importable(name):
    exported = getattr(evaluation, name)
    assert exported.__name__ == name
    assert name in dir(evaluation)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(evaluation, "nothing")  # noqa: B009
