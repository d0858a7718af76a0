"""Values for any declared inputs, and how they are cut into runs."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.feeds import LENGTH, SIDE, InputSpec, evenly, image_feeds, split, synthetic_feeds
from onnx_udfc.inputs.image_files import ImageSet, Preprocessing

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def spec(*shape: int | None, name: str = "x", dtype: np.dtype[np.generic] = F32) -> InputSpec:
    return InputSpec(name, shape, dtype)


def test_open_axes_get_plausible_sizes() -> None:
    made = synthetic_feeds(
        [spec(None, None, None, None), spec(None, None, name="ids", dtype=I64), spec(name="s")], 5, 0
    )
    assert made["x"].shape == (5, 3, SIDE, SIDE)
    assert made["ids"].shape == (5, LENGTH)
    assert made["ids"].dtype == np.int64
    assert set(np.unique(made["ids"])) <= {0, 1}
    assert made["s"].shape == ()


@pytest.mark.parametrize("shape", [(None, 3, 8), (None, 2, 4, 8, 8), (1, 8, 8, 3), (None, 1, 5, 7)])
def test_images_have_the_declared_shape(shape: tuple[int | None, ...]) -> None:
    made = synthetic_feeds([spec(*shape)], 4, 0)["x"]
    assert made.shape == (4, *shape[1:])
    assert np.isfinite(made).all()


def test_the_same_seed_gives_the_same_and_half_types_are_kept() -> None:
    first, again, other = (synthetic_feeds([spec(None, 3, 8, 8)], 2, seed)["x"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert synthetic_feeds([spec(None, 3, 8, 8, dtype=np.dtype(np.float16))], 2, 0)["x"].dtype == np.float16


def test_known_preprocessing_gives_values_in_its_range() -> None:
    made = synthetic_feeds([spec(None, 3, 8, 8)], 8, 0, Preprocessing(range=(0.0, 1.0)))["x"]
    assert made.min() >= 0
    assert made.max() <= 1


def test_runs_have_the_fixed_batch_and_drop_what_does_not_fill_one() -> None:
    values = {"x": np.arange(7, dtype=np.float32)[:, None]}
    assert [len(f["x"]) for f in split([spec(2, 1)], values)] == [2, 2, 2]
    assert [len(f["x"]) for f in split([spec(None, 1)], values, batch=3)] == [3, 3, 1]


def test_inputs_of_another_first_axis_go_into_every_run() -> None:
    specs = [spec(None, 1), spec(3, name="table"), spec(name="scalar")]
    values = {"x": np.zeros((6, 1), np.float32), "table": np.arange(6.0), "scalar": np.array(2.0)}
    runs = list(split(specs, values, batch=3))
    assert [len(r["x"]) for r in runs] == [3, 3]
    assert all(len(r["table"]) == 3 and r["scalar"] == 2 for r in runs)


def test_images_need_a_single_input() -> None:
    images = ImageSet(np.zeros((1, 4, 4, 3), np.uint8), ("a",), None)
    with pytest.raises(RequestError, match="one input"):
        next(image_feeds([spec(None, 3, 4, 4), spec(None, 1, name="b")], images, Preprocessing()))


def test_few_samples_are_taken_from_all() -> None:
    assert evenly(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert evenly(np.arange(3), 4).tolist() == [0, 1, 2]
    assert evenly(np.array(5), 4) == 5
