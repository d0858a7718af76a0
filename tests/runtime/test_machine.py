"""How many processes a machine is asked to run."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from onnx_udfc.runtime import machine
from onnx_udfc.runtime.sessions import session_options


@pytest.mark.parametrize(
    ("cores", "memory", "file", "jobs"),
    [
        (4, 64 << 30, 3_500_000, 4),
        (64, 1 << 40, 3_500_000, machine.MOST_JOBS),
        (4, 2 << 30, 3_500_000, 1),
        (16, 16 << 30, 100_000_000, 6),
        (16, 16 << 30, 575_000_000, 1),
        (16, 0, 1000, 1),
    ],
)
def test_jobs_fit_the_cores_and_half_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, memory: int, file: int, jobs: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "memory", lambda: memory)
    assert machine.fitting_jobs(file) == jobs


@pytest.mark.parametrize(
    ("group", "own", "files", "memory", "quota"),
    [
        ("0::/", "", {"memory.max": "1048576", "cpu.max": "150000 100000"}, 1 << 20, 2),
        ("0::/", "", {"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        ("0::/job/step", "job", {"memory.max": "1048576", "cpu.max": "50000 100000"}, 1 << 20, 1),
        ("0::/seen/from/outside", "", {"memory.max": "1048576"}, 1 << 20, None),
        ("3:cpuset:/\n4:memory:/job", "memory/job", {"memory.limit_in_bytes": "1048576"}, 1 << 20, None),
        ("4:memory:/docker/f00", "memory", {"memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ("1:cpu,cpuacct:/a", "cpu/a", {"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"}, None, 3),
        ("1:cpu,cpuacct:/a", "cpu/a", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None, None),
    ],
)
def test_limits_of_control_groups_count(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    group: str,
    own: str,
    files: dict[str, str],
    memory: int | None,
    quota: int | None,
) -> None:
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "none")
    whole, there = machine.memory(), machine.cores()
    assert min(whole, there) > 0
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(f"{group}\n")
    (tmp_path / own).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (tmp_path / own / name).write_text(f"{text}\n")
    assert machine.memory() == (memory or whole)
    assert machine.quota() == quota
    assert machine.cores() == min(there, quota or there)
    assert session_options(None).intra_op_num_threads == (quota or 0)
    assert session_options(5).intra_op_num_threads == 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound no addresses")
def test_a_bound_of_addresses_counts() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, -1)); "
    code += "from onnx_udfc.runtime.machine import memory; assert memory() == 1 << 30"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("given", "expected"), [(None, machine._SLEEP), ("7", "7")])
def test_a_process_of_its_own_lets_threads_sleep_and_a_users_word_counts_more(given: str | None, expected: str) -> None:
    program = (
        "import os\nfrom onnx_udfc.runtime.machine import prepare_process\nprepare_process()\n"
        "print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_THREAD_TIMEOUT"}
    environment |= {} if given is None else {"OPENBLAS_THREAD_TIMEOUT": given}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_numpy_is_not_there_yet_when_the_command_line_prepares_its_process() -> None:
    program = "import sys, onnx_udfc.__main__\nprint('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


HOLES = """
from onnx_udfc.runtime.machine import prepare_process, release, resident
prepare_process()
blocks = [bytearray(40_000_000) for _ in range(8)]
blocks = blocks[-1:]  # the last one stands above what was freed
before = resident()
release(above=before + 50_000_000)  # what runs for the first time takes some, too
kept = resident()
release(above=before - 1)
print(before, kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed in this way")
def test_what_was_freed_below_a_block_in_use_goes_back_to_the_system_once_it_is_too_much() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, timeout=60)
    before, kept, after = map(int, done.stdout.split())
    assert before > 300e6
    assert kept > 300e6
    assert after < 100e6


CHAIN = """
from onnx_udfc.runtime.machine import prepare_process
prepare_process()
import resource
import numpy as np
from onnx import TensorProto, helper
from onnx_udfc.runtime.providers import CPU
from onnx_udfc.runtime.sessions import open_session

nodes, names = [], ["x", "x"]
for i, op in enumerate(["Mul", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Tanh", "Mul", "Add"] * 2):
    nodes.append(helper.make_node(op, names[-1:] if op == "Tanh" else [names[-1], names[-2]], [f"y{i}"]))
    names.append(f"y{i}")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("x", names[-1])]
graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session, x = open_session(model.SerializeToString(), CPU, 1), np.zeros((100, 1 << 18), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
session.run(None, {"x": x})
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / x.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed in this way")
def test_a_chain_of_operators_takes_what_is_in_use_at_a_time_and_not_all_that_it_made() -> None:
    done = subprocess.run([sys.executable, "-c", CHAIN], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < 4  # tensors: two that are read and one that is written


MUCH_FREED = """
from onnx_udfc.runtime import machine
from onnx_udfc.runtime.sessions import session_options
machine.prepare_process()
blocks = [bytearray(40_000_000) for _ in range(12)]
all_used = machine.in_use()
del blocks[:-1]
machine.release()
print(all_used, machine.in_use(), machine.resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed in this way")
def test_much_that_was_freed_goes_back_before_the_process_holds_too_much() -> None:
    """480 MB are below the bound; what stays is a block and what every process holds."""
    done = subprocess.run([sys.executable, "-c", MUCH_FREED], capture_output=True, text=True, check=True, timeout=60)
    used, left, resident = map(float, done.stdout.split())
    assert 480e6 <= used < machine.ROOMY
    assert left < used - 430e6
    assert resident < 150e6


class _Ring:
    """Refers to itself, as graphs do."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize(("held", "gone"), [(1e9, True), (1e8, False)])
def test_what_refers_to_itself_is_let_go_where_much_is_held(
    monkeypatch: pytest.MonkeyPatch, held: float, gone: bool
) -> None:
    monkeypatch.setattr(machine, "resident", lambda: held)
    gc.disable()
    try:
        ring = weakref.ref(_Ring())
        machine.let_go()
        assert (ring() is None) is gone
    finally:
        gc.enable()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed in this way")
@pytest.mark.parametrize("most", [1 << 26, 1 << 25])
def test_an_older_c_library_is_asked_for_as_much_as_it_takes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    def mallopt(parameter: int, value: int) -> int:
        asked[parameter] = value
        return int(parameter != -3 or value <= most)

    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", os.environ.get("OPENBLAS_THREAD_TIMEOUT", "20"))
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    machine.prepare_process()
    assert asked == {-3: most, -1: 1 << 29, -8: 1}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed in this way")
def test_with_a_bound_smaller_tensors_go_back_once_they_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        asked.append((parameter, value))
        return 1

    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    with machine.keeping(None):
        assert asked == []
    with machine.keeping(1e9):
        assert asked == [(-3, int(1e9) // 256)]
    assert asked[1:] == [(-3, 1 << 26)]
    with machine.keeping(1e12):
        assert asked[2:] == [(-3, 1 << 26)]  # never more than without


def test_room_is_made_for_large_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []
    monkeypatch.setattr(machine, "release", given.append)
    machine.make_room((1 << 26) - 1)
    machine.make_room(1 << 26)
    assert given == [machine.LITTLE]
