"""Concrete shapes: open dimensions are guessed so that the layers fit; what inference cannot know is measured."""

from __future__ import annotations

import numpy as np

from onnx_udfc.channels.shapes import resolve
from tests.small_graphs import small_network


def test_open_dimensions_are_batch_1_and_images_of_224() -> None:
    network = small_network("""g (float[n,c,h,w] x, float[8,5,3,3] W1) => (float[n,a,b,d] y) { y = Conv(x, W1) }""")
    assert resolve(network).sizes["x"] == (1, 5, 224, 224)
    assert resolve(network).sizes["y"] == (1, 8, 222, 222)
    assert resolve(network, {"x": (2, 5, 9, 7)}).sizes["y"] == (2, 8, 7, 5)


def test_the_image_size_that_a_flattened_layer_needs_is_found() -> None:
    network = small_network("""g (float[n,3,h,w] x, float[4,3,3,3] W1, float[3600,5] W2) => (float[n,5] y) {
        a = Conv(x, W1) f = Flatten(a) y = MatMul(f, W2) }""")
    assert resolve(network).sizes["x"] == (1, 3, 32, 32)
    assert resolve(network).sizes["y"] == (1, 5)


def test_computed_cuts_are_measured() -> None:
    network = small_network("""g (float[n,3,8,8] x, float[8,3,3,3] W1) => (float[n,a,b,d] y) {
        a = Conv(x, W1) s = Shape(a) i = Constant<value_ints = [1]>() c = Gather(s, i)
        two = Constant<value_ints = [2]>() e = Div(c, two) z = Constant<value_ints = [0]>()
        b = Slice(a, z, e, i) y = Relu(b) }""")
    shapes = resolve(network)
    assert shapes.sizes["y"] == (1, 4, 6, 6)
    assert [int(np.ravel(v)[0]) for name, v in shapes.values.items() if name == "e"] in ([4], [])


def test_a_custom_operator_leaves_shapes_unknown() -> None:
    network = small_network("""g (float[1,3,8,8] x, float[8,3,3,3] W1) => (float[n,a,b,d] y) {
        a = Conv(x, W1) b = custom.Magic(a) y = Relu(b) }""")
    sizes = resolve(network).sizes
    assert sizes["a"] == (1, 8, 6, 6)
    assert "b" not in sizes


def test_shapes_are_found_once_for_a_network_and_its_copies_as_long_as_they_are_the_same() -> None:
    network = small_network("g (float[1,3,8,8] x, float[4,3,3,3] W1) => (float[n,a,b,d] y) { y = Conv(x, W1) }")
    first, copy = resolve(network), network.copy()
    layer = copy.layers["n0"]
    layer.constant.values = 2 * layer.constant.values
    assert resolve(copy) is first is resolve(network)
    layer.node.attrs["strides"] = [2, 2]
    assert resolve(copy).sizes["y"] == (1, 4, 3, 3)
    assert resolve(network) is first
    assert first.sizes["y"] == (1, 4, 6, 6)
    assert resolve(network, {"x": (2, 3, 8, 6)}).sizes["y"] == (2, 4, 6, 4)
    layer.constant.values = layer.constant.values[:2]
    assert resolve(copy).sizes["y"] == (1, 2, 3, 3)


def test_values_that_shapes_depend_on_are_looked_at() -> None:
    network = small_network(
        "g (float[4,6] x) => (float[a,b] y) { s = Constant<value_ints = [4, 6]>() y = Reshape(x, s) }"
    )
    other = network.copy()
    other.graph.nodes[0].inputs[1].values = np.array([2, 12])
    assert [resolve(n).sizes["y"] for n in (network, other)] == [(4, 6), (2, 12)]
