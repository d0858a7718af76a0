from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tools import cost  # noqa: E402  # after torch is known to be there
from tools.imagenet_networks import IMAGENET, settled  # noqa: E402

PARAMETERS = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_architectures_have_the_parameters_of_their_papers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = IMAGENET[name]()
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_vgg19_is_its_papers() -> None:
    with torch.device("meta"):
        network = IMAGENET["vgg19"]()
    assert sum(p.numel() for p in network.parameters()) == 143_667_240


def test_random_weights_keep_values_in_range() -> None:
    torch.set_num_threads(1)
    network = settled("resnet18", images=1)
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)))
    assert logits.isfinite().all()
    assert 1e-3 < float(logits.std()) < 1e2


def test_the_table_relates_memory_to_the_file() -> None:
    row = cost.Cost("net", "tool", 25_000_000, 100_000_000, 12.34, 10.0, 350_000_000)
    failed = cost.Cost("net", "tool", 25_000_000, 100_000_000, 1.0, 1.0, 1, "no memory")
    table = cost.markdown([row, failed])
    assert "| net | 25.00 | 100.0 | tool | 12.3 | 10.0 | 350 | 3.5 |" in table
    assert "| no memory | | |" in table


def test_the_peer_runs_and_is_measured(tmp_path: Path) -> None:
    path = cost.source_of("resnet20", tmp_path)
    if not path.exists():
        pytest.skip(f"no {path}")
    assert cost.parameters(path) == 269_722 + 2 * 688  # and the statistics of batch norm
    assert cost.input_shape(path) == [3, 32, 32]
    outcome = cost.quantize_static(path, tmp_path, threads=1)
    assert outcome.error is None
    assert outcome.cpu_seconds > 0
    assert np.load(tmp_path / f"{path.stem}.npz")["x"].shape == (64, 3, 32, 32)
