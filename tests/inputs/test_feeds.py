"""How samples are thinned, and how images become feeds."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.feeds import evenly_spaced, image_feeds, take
from onnx_udfc.inputs.image_files import ImageSet, Preprocessing
from onnx_udfc.runtime.runs import InputSpec, specs

F32 = np.dtype(np.float32)


def spec(*shape: int | None, name: str = "x") -> InputSpec:
    return InputSpec(name, shape, F32)


def test_images_need_a_single_input() -> None:
    images = ImageSet(np.zeros((1, 4, 4, 3), np.uint8), ("a",), None)
    with pytest.raises(RequestError, match="one input"):
        next(image_feeds([spec(None, 3, 4, 4), spec(None, 1, name="b")], images, Preprocessing()))


def test_a_fixed_batch_is_filled_up_with_the_last_image() -> None:
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    images = ImageSet(pixels, tuple("abcde"), None)
    feeds = list(image_feeds([spec(2, 1, 2, 2)], images, Preprocessing(range=(0, 255))))
    assert [f["x"][:, 0, 0, 0].tolist() for f in feeds] == [[0, 1], [2, 3], [4, 4]]


def test_few_samples_are_taken_from_all() -> None:
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(3, 4).tolist() == [0, 1, 2]
    assert evenly_spaced(3, None).tolist() == [0, 1, 2]


def test_samples_are_taken_along_their_axis_and_what_belongs_to_runs_stays() -> None:
    given = specs([("x", ("N", 1), F32), ("state", (2, "N", 3), F32), ("sr", (), F32), ("t", (), F32)])
    values = {
        "x": np.arange(4.0)[:, None],
        "state": np.arange(4.0)[None, :, None] * np.ones((2, 1, 3)),
        "sr": np.array(7.0),
        "t": np.arange(4.0),
    }
    taken = take(given, values, np.array([3, 1]))
    assert taken["x"].tolist() == [[3], [1]]
    assert taken["state"][1, :, 2].tolist() == [3, 1]
    assert taken["sr"] == 7
    assert taken["t"].tolist() == [3, 1]
