import json
from pathlib import Path

import onnx
import pytest

from tools.measure import reproduce
from tools.measure.catalog import classifiers
from tools.measure.reproduce import Row, Setting, Store


def test_the_grid_is_every_method_at_every_point_but_the_original() -> None:
    settings = reproduce.grid(["none", "udfc"], [0.0, 0.5], [32, 4])
    points = [(s.method, s.prune, s.bits) for s in settings]
    assert points == [(m, r, b) for r, b in [(0.0, 4), (0.5, 32), (0.5, 4)] for m in ("none", "udfc")]


def test_ratios_by_damage_are_only_asked_for_where_something_is_pruned() -> None:
    settings = reproduce.grid(["moments", "moments-global"], [0.0, 0.5], [4])
    assert [(s.method, s.prune) for s in settings] == [("moments", 0.0), ("moments", 0.5), ("moments-global", 0.5)]
    network = classifiers(["digits_resnet_bn"])[0]
    options = [reproduce.options_for(network, setting, 1) for setting in settings]
    assert [(o.method, o.allocate) for o in options] == [("moments", "uniform")] * 2 + [("moments", "global")]


def chain(path: Path, convolutions: int) -> Path:
    """A file with convolutions of these names; only the names matter."""
    body = "\n".join(f"[conv{i}] x{i + 1} = Conv(x{i}, w)" for i in range(convolutions))
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    chain (float[1, 1, 4, 4] x0) => (float[1, 1, 4, 4] x{convolutions})
    <float[1, 1, 1, 1] w = {{2}}> {{ {body} }}"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_the_paper_prunes_the_first_and_the_last_six_convolutions(tmp_path: Path) -> None:
    settings = reproduce.paper_settings(chain(tmp_path / "chain.onnx", 13), ["moments"])
    channels, parameters = settings
    assert channels.layers == (("conv0", 0.5), *((f"conv{i}", 0.8) for i in range(7, 13)))
    assert (channels.bits, channels.prune) == (6, 0.0)
    assert parameters.budget == (("params", "0.2"),)


def test_read_strictly_macs_and_parameters_go_at_once_and_bits_are_free_where_memory_alone_counts() -> None:
    settings = reproduce.strict_settings(["udfc", "moments", "moments-global", "moments-factors"])
    assert [s.method for s in settings] == ["udfc", "moments-global", "moments-factors"] * 2
    strict, split_memory = settings[1], settings[-1]
    network = classifiers(["digits_resnet_bn"])[0]
    asked, allowed = (reproduce.options_for(network, s, 1) for s in (strict, split_memory))
    assert (asked.factor, allowed.factor) == ("off", "on")
    assert (asked.bits, asked.budget) == (6, {"macs": "0.2", "params": "0.2"})
    assert (allowed.bits, allowed.budget, allowed.method) == ("auto", {"bytes": "0.036"}, "moments")


def test_packed_memory_counts_bits() -> None:
    layers = [
        {"parameters_before": 100, "parameters_after": 50, "bits": 4},
        {"parameters_before": 28, "parameters_after": 28, "bits": 8},
    ]
    assert reproduce.packed(layers) == pytest.approx(128 * 32 / (200 + 224))


def test_rows_survive_the_run(tmp_path: Path) -> None:
    row = Row("net", "uniform", "udfc", 0.5, 4, 88.0, 0.5, 0.5, 0.1, 10.0, 1.5)
    Store(tmp_path / "out" / "rows.json").put("key", row)
    assert Store(tmp_path / "out" / "rows.json").rows == {"key": row}
    assert Store(tmp_path / "out" / "rows.json", fresh=True).rows == {}


def test_a_row_is_stored_under_all_that_decides_it() -> None:
    bn, folded = classifiers(["digits*"])
    setting = Setting("udfc", 0.5, 4)
    keys = {
        reproduce.key_of(bn, setting),
        reproduce.key_of(folded, setting),
        reproduce.key_of(bn, Setting("udfc", 0.5, 6)),
        reproduce.key_of(bn, Setting("udfc", 0.5, 4, layers=(("a", 0.5),))),
    }
    assert len(keys) == 4
    assert reproduce.key_of(bn, setting) in keys


def test_the_table_has_a_line_for_each_point_and_a_column_for_each_method() -> None:
    rows = [
        Row("net", "uniform", "udfc", 0.5, 4, 70.0, 0.5, 0.4, 0.1, 10.0, 1.0),
        Row("net", "uniform", "moments", 0.5, 4, 90.0, 0.7, 0.4, 0.1, 10.0, 2.0),
        Row("net", "uniform", "udfc", 0.3, 32, note="cannot be served"),
    ]
    lines = reproduce.table(rows, {"net": 94.0}, ["udfc", "moments"]).splitlines()
    assert lines[2] == "| net | 94.00 | uniform | 0.5 | 4 | 0.500 | 0.400 | 0.100 | 10.0 | 70.00 | 90.00 (0.700) |"
    assert lines[3] == "| net | 94.00 | uniform | 0.3 | 32 |  |  |  |  | cannot be served |  |"
    assert len(lines) == 4


def test_a_row_of_a_real_network_is_measured() -> None:
    network = classifiers(["digits_resnet_bn"])[0]
    row = reproduce.computed(network, Setting("moments", 0.5, 4), threads=1)
    assert row.note == ""
    assert row.top1 is not None
    assert row.top1 > 90
    assert row.bytes is not None
    assert row.bytes < 0.15
    assert row.packed is not None
    assert row.packed > 12
    assert json.dumps(row.__dict__)
