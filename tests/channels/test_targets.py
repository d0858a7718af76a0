"""Sizes that are computed at run time: they follow the channels by themselves, are edited, or bar them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from tests.dead_channels import kill, largest, outputs
from tests.small_graphs import small_network

ONE = "i0 = Constant<value_ints = [0]>() i1 = Constant<value_ints = [1]>() i2 = Constant<value_ints = [2]>()" \
    " i3 = Constant<value_ints = [3]>() i4 = Constant<value_ints = [4]>()"  # fmt: skip
SPACE = "h0 = Gather(n, i2) w0 = Gather(n, i3) h = Mul(h0, i2) w = Mul(w0, i2)"
ADAPTS = {
    "slice": f"n = Shape(a) f = Slice(n, i0, i2) {SPACE} s = Concat<axis = 0>(f, h, w)",
    "shape attributes": f"n = Shape(a) f = Shape<start = 0, end = 2>(a) {SPACE} s = Concat<axis = 0>(f, h, w)",
    "gather of two": f"n = Shape(a) k = Constant<value_ints = [0, 1]>() f = Gather(n, k) {SPACE}"
    " s = Concat<axis = 0>(f, h, w)",
    "one by one": f"n = Shape(a) f = Gather(n, i0) g = Gather(n, i1) {SPACE} s = Concat<axis = 0>(f, g, h, w)",
    "unsqueezed": f"n = Shape(a) k = Constant<value_int = 1>() l = Gather(n, k) g = Unsqueeze(l, i0) f = Gather(n, i0)"
    f" {SPACE} s = Concat<axis = 0>(f, g, h, w)",
    "constant": f"n = Shape(a) f = Gather(n, i0) g = Constant<value_ints = [8]>() {SPACE}"
    " s = Concat<axis = 0>(f, g, h, w)",
    "constants in one": f"n = Shape(a) f = Constant<value_ints = [1, 8]>() {SPACE} s = Concat<axis = 0>(f, h, w)",
    "floats": "n = Shape(a) k = Cast<to = 1>(n) r = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() m = Mul(k, r)"
    " o = Floor(m) s = Cast<to = 7>(o)",
    "of another with these channels": f"c = Sigmoid(a) n = Shape(c) f = Slice(n, i0, i2) {SPACE}"
    " s = Concat<axis = 0>(f, h, w)",
    "split": "n = Shape(a) f, g = Split<axis = 0, num_outputs = 2>(n) h = Mul(g, i2) s = Concat<axis = 0>(f, h)",
    "of the next layer": f"c = Conv(a, W3) n = Shape(c) m = Shape(a) f = Slice(m, i0, i2) {SPACE}"
    " s = Concat<axis = 0>(f, h, w)",
    "where": "n = Shape(a) z = Sub(n, n) e = Equal(n, z) r = Constant<value_ints = [1, 1, 2, 2]>() m = Mul(n, r)"
    " s = Where(e, z, m)",
}
CONV = "n5"  # the first convolution: the constants are nodes, too
READERS = {
    "Resize": "b = Resize<mode = \"nearest\">(a, , , s)",
    "Identity, Resize": "d = Identity(a) b = Resize<mode = \"nearest\">(d, , , s)",
    "Sigmoid, Resize": "d = Sigmoid(a) b = Resize<mode = \"linear\">(d, , , s)",
    "Expand": "d = GlobalMaxPool(a) b = Expand(d, s)",
}  # fmt: skip


def check(body: str, weights: str = "", opset: int = 21) -> list[str]:
    """Prunes dead channels away and compares at two sizes of the input; returns the groups' names."""
    extra = f", {weights}" if weights else ""
    network = small_network(
        f"""g (float[1,3,H,W] x, float[8,3,3,3] W1, float[2,8,1,1] W2{extra}) => (float[a,b,c,d] y) {{
        {ONE} a = Conv<pads = [1, 1, 1, 1]>(x, W1) {body} y = Conv(b, W2) }}""",
        opset,
    )
    channels = find_groups(network)
    keep = {group.name: largest(network, group, 0.5) for group in channels.groups}
    dead = kill(network, channels, keep)
    left = prune(dead, channels, keep).network
    rng = np.random.default_rng(0)
    for size in ((8, 8), (6, 10)):
        feeds = {"x": rng.standard_normal((1, 3, *size)).astype(np.float32)}
        (before,), (after,) = outputs(dead.to_model(), feeds), outputs(left.to_model(), feeds)
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    return [group.name for group in channels.groups]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("sizes", ADAPTS)
def test_a_computed_size_bars_nothing_in_front_of_it(sizes: str, reader: str) -> None:
    weights = "float[8,8,1,1] W3" if "W3" in ADAPTS[sizes] else ""
    assert CONV in check(f"{ADAPTS[sizes]} {READERS[reader]}", weights)


def test_an_expand_that_keeps_some_sizes_follows() -> None:
    """As exporters write it: 1 where the size is -1, the size elsewhere; that there are four is known."""
    sizes = (
        "n = Shape(a) k = Constant<value_ints = [-1]>() h = Gather(n, i2) w = Gather(n, i3)"
        " t = Concat<axis = 0>(k, k, h, w) o = Shape(t) u = ConstantOfShape<value = int64[1] {1}>(o) m = Mul(u, k)"
        " e = Equal(t, m) s = Where(e, u, t)"
    )
    assert CONV in check(f"{sizes} {READERS['Expand']}")


@pytest.mark.parametrize(
    "shape",
    [
        "n = Shape(a) f = Slice(n, i0, i2) m = Constant<value_ints = [-1]>() s = Concat<axis = 0>(f, m)",
        "n = Shape(a) f = Slice(n, i0, i2) g = Slice(n, i2, i4) p = ReduceProd<keepdims = 1>(g)"
        " s = Concat<axis = 0>(f, p)",
        "n = Shape(a) f = Gather(n, i0) g = Constant<value_ints = [8, -1]>() s = Concat<axis = 0>(f, g)",
        "n = Shape(a) f = Gather(n, i0) g = Gather(n, i1) h = Gather(n, i2) w = Gather(n, i3) p = Mul(h, w)"
        " s = Concat<axis = 0>(f, g, p)",
    ],
)
def test_a_reshape_to_rows_and_back_follows(shape: str) -> None:
    assert len(check(f"{shape} r = Reshape(a, s) q = Relu(r) b = Reshape(q, n)")) == 1


def test_a_merged_size_that_holds_the_count_as_a_constant_bars_where_the_image_may_have_any_size() -> None:
    """8 * H * W, with the 8 written in: no constant can take its place."""
    body = (
        "n = Shape(a) f = Gather(n, i0) h = Gather(n, i2) w = Gather(n, i3) p = Mul(h, w)"
        " c = Constant<value_ints = [8]>() q = Mul(p, c) s = Concat<axis = 0>(f, q) r = Reshape(a, s) b = Reshape(r, n)"
    )
    assert check(body) == []


@pytest.mark.parametrize(
    "body",
    [
        "n = Shape(a) c = Gather(n, i1) d = Cast<to = 1>(c) e = Sqrt(d) b = Div(a, e)",
        "n = Shape(a) c = Gather(n, i1) d = ConstantOfShape(c) e = ReduceSum<keepdims = 0>(d) b = Sub(a, e)",
        "n = Size(a) d = Cast<to = 1>(n) b = Div(a, d)",
        "n = Shape(a) c = Gather(n, i1) e = Div(c, i4) o = Constant<value_ints = [0]>() b = Slice(a, o, e, i2)",
        "n = Shape(a) c = Gather(n, i1) r = Concat<axis = 0>(i1, i1, c, c) b = Tile(a, r)",
        "n = Shape(a) c = Gather(n, i1) f = Slice(n, i0, i2) s = Concat<axis = 0>(f, c, c) b = Resize(a, , , s)",
    ],
)
def test_a_count_of_channels_in_a_computation_keeps_them(body: str) -> None:
    assert check(body) == []


def test_two_readers_of_one_target_must_want_the_same() -> None:
    """One Concat names the size of two tensors with other channels: a constant in it cannot be right for both."""
    body = (
        f"n = Shape(a) f = Gather(n, i0) g = Constant<value_ints = [8]>() {SPACE} s = Concat<axis = 0>(f, g, h, w)"
        " c = Conv(a, W3) d = Resize(a, , , s) e = Resize(c, , , s) k = Conv(d, W4) b = Sub(k, e)"
    )
    assert check(body, "float[8,8,1,1] W3, float[8,8,1,1] W4") == []
