import sys
from pathlib import Path

import numpy as np
import pytest

from tools.measure import benchmark
from tools.measure.catalog import classifiers
from tools.measure.peers import PEERS, Peer, Reader

ORIGINAL = benchmark.Row("net", "original", "", 90.0, 1_000_000, 1.0)


def test_a_process_is_measured_by_itself() -> None:
    code = "x = bytearray(300_000_000); print('done')"
    outcome = benchmark.measured_process([sys.executable, "-c", code], threads=1)
    assert outcome.error is None
    assert outcome.output.strip() == "done"
    assert 300_000_000 <= outcome.memory < 600_000_000
    assert outcome.seconds > 0


def test_a_failing_process_leaves_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = "import sys; print('first'); sys.exit('no such model')"
    assert benchmark.measured_process([sys.executable, "-c", code], threads=1).error == "no such model"


def test_threads_are_told_to_the_process() -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert benchmark.measured_process([sys.executable, "-c", code], threads=3).output.strip() == "3"


def test_a_peer_without_its_environment_is_reported_not_run(tmp_path: Path) -> None:
    assert benchmark.interpreter(PEERS["onnxsim"], None) is None
    assert benchmark.interpreter(PEERS["onnxsim"], tmp_path) is None
    assert benchmark.interpreter(PEERS["static"], None) == Path(sys.executable)


def test_peers_say_what_they_are_given() -> None:
    assert {peer.inputs for peer in PEERS.values()} <= {"none", "gaussian", "real"}
    labels = [(peer.label, peer.inputs) for peer in PEERS.values()]
    assert len(set(labels)) == len(labels)


def test_one_environment_is_installed_in_one_way() -> None:
    ways: dict[str, Peer] = {}
    for peer in PEERS.values():
        assert ways.setdefault(peer.environment, peer).install == peer.install


def test_the_reader_gives_every_image_once_and_again_after_rewind() -> None:
    reader = Reader("x", np.arange(3.0))
    for _ in range(2):
        fed = iter(reader.get_next, None)
        assert [float(feed["x"][0]) for feed in fed if feed] == [0, 1, 2]
        reader.rewind()


def test_the_table_compares_with_the_original() -> None:
    row = benchmark.Row("net", "tool", "none", 80.0, 250_000, 0.5, (0.4, 0.6), 1.25, 2.5, 2.0, 100_000_000)
    table = benchmark.markdown([row], {"net": ORIGINAL})
    assert "| net | tool | none | 80.00 | 0.25 | 0.250 | 0.50 (0.40–0.60) | 1.2 | 2.5 | 2.0 | 100 |" in table
    assert table.splitlines()[2].startswith("| net | original |")


def test_what_failed_is_in_the_table_with_its_reason() -> None:
    row = benchmark.Row("net", "tool", "real", note="not installed here")
    assert "| net | tool | real | not installed here |" in benchmark.markdown([row], {"net": ORIGINAL})


@pytest.mark.parametrize("name", ["static-gaussian", "dynamic"])
def test_the_peers_of_this_environment_run(tmp_path: Path, name: str) -> None:
    network = classifiers(["digits_resnet_bn"])[0]
    np.savez(tmp_path / "x.npz", x=network.inputs(network.images, 4))
    out = tmp_path / "out.onnx"
    with np.load(tmp_path / "x.npz") as archive:
        PEERS[name].run(network.path, out, archive["x"], lambda: None)
    assert out.stat().st_size < 0.5 * network.path.stat().st_size
    assert network.top1(out) > 90
