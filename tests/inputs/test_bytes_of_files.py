"""Contents of files by formula."""

import numpy as np
import pytest

from onnx_udfc.inputs.bytes_of_files import WRITERS, byte_rows


def test_rows_are_bytes_and_what_stands_for_none() -> None:
    rows, again = (byte_rows(60, 512, 257, np.random.default_rng(2)) for _ in range(2))
    np.testing.assert_array_equal(rows, again)
    assert rows.shape == (60, 512)
    assert rows.min() >= 0
    assert rows.max() == 256
    assert len(np.unique(rows)) == 257
    assert 0.02 < (rows == 256).mean() < 0.7
    assert byte_rows(60, 512, 256, np.random.default_rng(2)).max() <= 255


def test_a_short_file_stands_at_its_beginning_and_its_end() -> None:
    rows = byte_rows(200, 4096, 257, np.random.default_rng(0))
    gaps = [row for row in rows if row[0] != 256 and row[-1] != 256 and (row == 256).any()]
    assert len(gaps) > 20
    for row in gaps:
        inner = np.flatnonzero(row == 256)
        assert inner[-1] - inner[0] + 1 == len(inner)
        head, tail = row[: inner[0]], row[inner[-1] + 1 :]
        assert len(head) == len(tail)
        np.testing.assert_array_equal(head, tail)


@pytest.mark.parametrize("writer", range(len(WRITERS)))
def test_every_writer_writes_as_much_as_it_is_asked_for(writer: int) -> None:
    for size in (100, 3000):
        content = WRITERS[writer](size, np.random.default_rng(size))
        assert len(content) >= size or writer == WRITERS.index(WRITERS[-2])  # compressed text is shorter
