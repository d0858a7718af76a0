"""An unexpected error is the model's if onnxruntime does not run it either, and ours if it does."""

from __future__ import annotations

import pytest

from onnx_udfc.errors import CheckError, ModelError
from onnx_udfc.runtime.blame import blamed
from tests.small_graphs import small_model

GOOD = "g (float[1,4,8,8] x, float[6,4,3,3] W) => (float[a,b,c,d] y) { y = Conv(x, W) }"
UNLOADABLE = "g (float[1,4,8,8] x) => (float[a,b,c,d] y) { y = NoSuchOperator(x) }"
FAILING = (
    "g (float[1,4,8,8] x, float[6,3,3,3] W) => (float[a,b,c,d] y) { s = Shape(x) z = Reshape(x, s) y = Conv(z, W) }"
)
OPEN = "g (float[1,C,8,8] x, float[6,3,3,3] W) => (float[a,b,c,d] y) { y = Conv(x, W) }"


@pytest.mark.parametrize(("text", "said"), [(UNLOADABLE, "cannot load it"), (FAILING, "cannot (run|load) it")])
def test_an_error_about_a_model_that_does_not_run_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as error, blamed(small_model(text)):
        raise IndexError("tuple index out of range")
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, IndexError)


@pytest.mark.parametrize("text", [GOOD, OPEN])
def test_an_error_about_a_model_that_runs_stays_ours(text: str) -> None:
    with pytest.raises(IndexError, match="out of range"), blamed(small_model(text)):
        raise IndexError("tuple index out of range")


def test_what_is_said_to_the_user_stays_as_it_is() -> None:
    with pytest.raises(CheckError, match="as it was"), blamed(small_model(UNLOADABLE)):
        raise CheckError("as it was")
