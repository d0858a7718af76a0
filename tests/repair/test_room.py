"""What a compression needs in memory, and what fits a bound: reckoned, then kept by a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.options import Options
from onnx_udfc.original import limited, read_original
from onnx_udfc.repair.room import FEWEST, FEWEST_POSITIONS, PASS, SPARE, Needs, most_live, needs_of
from tests.small_graphs import small_model, small_network

BRANCHES = """g (float[1,2,10,10] x, float[4,2,1,1] W1, float[6,4,1,1] W2, float[6,2,1,1] W3) => (float[1,6,10,10] y) {
    a = Conv(x, W1) r = Relu(a) b = Conv(r, W2) c = Conv(x, W3) y = Add(b, c) }"""
WIDE = """g (float[N,3,128,128] x, float[64,3,1,1] W1, float[64,64,1,1] W2, float[64,64,1,1] W3, float[2,64,1,1] W4)
    => (float[N,2,128,128] y) {
    a = Conv(x, W1) ra = Relu(a) b = Conv(ra, W2) rb = Relu(b) s = Add(ra, rb) c = Conv(s, W3) rc = Relu(c)
    y = Conv(rc, W4) }"""
RUN = """
import sys
from onnx_udfc import compress
words = {"memory": sys.argv[2]} if sys.argv[2] else {}
compress(sys.argv[1], prune=0.5, bits=8, threads=1, images=sys.argv[3], **words).save(sys.argv[1] + ".out")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def needs(text: str) -> Needs:
    network = small_network(text)
    return needs_of(network, find_groups(network).shapes)


def test_a_tensor_lives_from_where_it_is_written_to_its_last_user() -> None:
    network = small_network(BRANCHES)
    sizes = find_groups(network).shapes.sizes
    by_name = {"x": 2, "a": 4, "r": 4, "b": 6, "c": 6, "y": 6}  # channels
    moments = [{"x"}, {"x", "a"}, {"x", "a", "r"}, {"x", "r", "b"}, {"x", "b", "c"}, {"b", "c", "y"}]
    assert most_live(network.graph, sizes) == max(sum(by_name[n] for n in alive) for alive in moments) * 100 * 4


def test_samples_of_a_fixed_batch_are_counted_one_by_one() -> None:
    one, four = BRANCHES, BRANCHES.replace("[1,2,10,10]", "[4,2,10,10]").replace("[1,6,10,10]", "[4,6,10,10]")
    assert needs(four).live == needs(one).live
    assert needs(four).layers == needs(one).layers


def test_a_layer_that_may_be_split_needs_room_for_its_positions() -> None:
    network = small_network("""g (float[N,96,64,64] x, float[4,96,3,3] W1) => (float[N,4,64,64] y) {
        y = Conv<pads=[1,1,1,1]>(x, W1) }""")
    shapes, (name,) = find_groups(network).shapes, network.layers
    plain, split = needs_of(network, shapes), needs_of(network, shapes, (name,))
    more = 5 * 864 - 4096
    assert split.kept(97, 6000) - plain.kept(97, 6000) == 4 * more * (2 * 864 + 4 * 4)
    assert split.kept(97, 3000) == plain.kept(97, 3000)


def test_every_group_of_a_layer_has_patches_of_its_own() -> None:
    text = """g (float[N,8,64,64] x, float[8,{per},3,3] W1) => (float[N,8,64,64] y) {{
        y = Conv<pads=[1,1,1,1], group={groups}>(x, W1) }}"""
    one, apart = (needs(text.format(per=8 // groups, groups=groups)).kept(97, 8192) for groups in (1, 8))
    assert apart >= 4 * 8192 * (8 * 9 + 4 * 8)
    assert one >= 4 * 8192 * (2 * 8 * 9 + 4 * 8)


def test_a_layer_is_fitted_beside_what_lives_then_not_beside_the_most_that_ever_lives() -> None:
    late = needs("""g (float[N,8,128,128] x, float[64,8,1,1] W1, float[64,64,4,4] W2, float[64,64,3,3] W3)
        => (float[N,64,4,4] y) {
        a = Conv(x, W1) r = Relu(a) b = Conv<strides=[32,32]>(r, W2) y = Conv<pads=[1,1,1,1]>(b, W3) }""")
    first, _, last = late.layers
    assert last.live == 4 * 2 * 64 * 4 * 4
    assert first.live > 100 * last.live
    assert late.total(97, 8192) < late.fixed + late.walk(97) + late.kept(97, 8192)
    assert late.total(97, 8192) >= late.fixed + max(late.walk(97), late.kept(97, 8192))


@pytest.mark.parametrize("part", [0.9, 0.6, 0.4, 0.2])
def test_what_fits_is_within_the_bound_and_no_more_is_left_out_than_must_be(part: float) -> None:
    wide = needs(WIDE)
    whole = wide.total(97, 8192) - wide.fixed
    bound = int(wide.fixed + part * whole)
    samples, positions = wide.fitting(bound, 97, 8192)
    assert wide.total(samples, positions) <= bound
    assert wide.total(samples, positions) - wide.fixed > 0.7 * part * whole


def test_where_all_fits_nothing_changes_and_where_nothing_does_the_fewest_are_left() -> None:
    wide = needs(WIDE)
    assert wide.fitting(wide.total(50, 8192), 50, 8192) == (50, 8192)
    assert wide.fitting(1, 50, 8192) == (1, FEWEST_POSITIONS)
    assert needs(WIDE.replace("128", "8")).fitting(1, 50, 8192) == (FEWEST, FEWEST_POSITIONS)
    assert needs(BRANCHES).fitting(1, 2, 100) == (2, 100)  # fewer than the fewest may be asked for


def test_what_layers_should_give_is_halved_where_it_is_much_of_the_bound() -> None:
    wide = needs(WIDE)
    targets = sum(layer.target(97, 8192) for layer in wide.layers)
    assert not wide.within(5 * targets, 97, 8192).narrow
    narrow = wide.within(3 * targets, 97, 8192)
    assert narrow.narrow
    assert wide.total(97, 8192) - narrow.total(97, 8192) == pytest.approx(targets / 2, abs=1)


def test_the_bound_is_that_of_the_options_and_its_note_tells_what_became_less() -> None:
    original = read_original(small_model(WIDE), Options())
    assert limited(original, Options(memory="100GB")).note == ""
    tight = limited(original, Options(memory="300MB"))
    assert tight.options.number is not None
    assert tight.options.number < 97
    assert f"{tight.options.number} inputs in place of 97" in tight.note
    assert "--memory" in tight.note
    assert limited(original, Options(memory="300MB", images=2)).options.number == 2


def test_large_pictures_are_fewer_than_four_where_no_more_fit_and_a_bound_that_is_too_small_is_said() -> None:
    original = read_original(small_model(WIDE.replace("[N,", "[1,").replace("128", "1024")), Options())
    few = limited(original, Options(memory="1GB", images=4))
    assert few.options.number == 1
    assert "1 inputs in place of 4" in few.note
    assert "positions of each layer in place of" not in limited(original, Options(memory="7GB", images=9)).note
    assert "may take" in limited(original, Options(memory="300MB", images=4)).note
    assert "may take 2.3 GB" in limited(original, Options(memory="1.2GB", images=4)).note  # a run of all of it alone
    assert "may take" not in limited(original, Options(memory="2.1GB", images=4)).note


def test_of_a_network_of_many_channels_at_full_length_fewer_inputs_are_taken_unasked() -> None:
    long = small_model("""g (float[N,1,16384] x, float[128,1,3] W1, float[128,128,3] W2, float[1,128,3] W3)
        => (float[N,1,16384] y) {
        a = Conv<pads=[1,1]>(x, W1) ra = Relu(a) b = Conv<pads=[1,1]>(ra, W2) rb = Relu(b)
        y = Conv<pads=[1,1]>(rb, W3) }""")
    original = read_original(long, Options())
    taken = limited(original, Options(prune=0.2))
    usual = 1_600_000 // 16384
    assert taken.options.number is not None
    assert 0.8 * PASS < taken.options.number * SPARE * 2 * 128 * 4 * 16384 <= PASS
    assert taken.note == ""
    for asked in (Options(prune=0.2, images=usual), Options(prune=0.2, memory="100GB")):
        assert limited(original, asked).options.number in (usual, None)


def test_where_a_backward_pass_does_not_fit_errors_are_not_weighed_by_it() -> None:
    original = read_original(small_model(WIDE.replace("[N,", "[1,").replace("128", "1024")), Options())
    whole = (7 * 64 + 2) * 4 << 20
    assert not limited(original, Options(memory=f"{whole // 10**6}MB", images=4)).weighed
    assert limited(original, Options(memory="3GB", images=4)).weighed


def peak(model: Path, bound: str, images: str) -> int:
    """Bytes that the process of a compression had at most."""
    command = [sys.executable, "-c", RUN, str(model), bound, images]
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024  # ru_maxrss would hold the parent's peak, too


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_the_bound_is_kept_by_a_network_that_would_take_twice_as_much(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    onnx.save(small_model(WIDE), path)
    assert peak(path, "350MB", "formula") < 1.15 * 350e6
    assert peak(path, "", "60") > 1.5 * 350e6
