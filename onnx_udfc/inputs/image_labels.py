"""Labels of images: from file names, from one folder per class, or from a CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.errors import RequestError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CLASSES = 1 << 31
_INDEX_LABEL = re.compile(r"^\d+_(\d{1,9})$")


def labels_from_names(names: Sequence[str]) -> NDArray[np.int64] | None:
    """Return labels from `index_label.jpg`, else from one folder per class (the last but one part), else None."""
    matches = [_INDEX_LABEL.match(PurePosixPath(n).stem) for n in names]
    if names and all(matches):
        return np.array([int(m[1]) for m in matches if m], dtype=np.int64)
    folders = [PurePosixPath(n).parent.name for n in names]
    classes = sorted(set(folders))
    if len(classes) < 2 or "" in classes:
        return None
    numeric = all(
        c.isascii() and c.isdigit() and len(c) < 10 for c in classes
    )  # folders named 0, 1, … 10 are the labels themselves
    index = {c: int(c) if numeric else i for i, c in enumerate(classes)}
    return np.array([index[f] for f in folders], dtype=np.int64)


def read_labels(path: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """Read `name,label` rows (any order, a header is skipped) or one label a line in the order of the images.

    Raises:
        RequestError: A label is missing, not a whole number, or the count differs.
    """
    try:
        if not path.is_file():
            raise RequestError(f"{path}: no such file of labels")
        rows = [r for r in csv.reader(path.read_text(encoding="utf-8").splitlines()) if r]
        rows = rows[1:] if rows and not rows[0][-1].strip().isdigit() else rows
        if rows and len(rows[0]) == 1:
            values = [int(r[0]) for r in rows]
        else:
            table = {PurePosixPath(r[0].strip()).name: int(r[1]) for r in rows}
            values = [table[PurePosixPath(n).name] for n in names]
    except KeyError as error:
        raise RequestError(f"{path}: no label for image {error}") from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise RequestError(f"{path}: cannot read labels ({one_line(error)}); expected rows `name,label`") from error
    if len(values) != len(names):
        raise RequestError(f"{path}: {len(values)} labels for {len(names)} images")
    if any(not 0 <= value <= MOST_CLASSES for value in values):
        raise RequestError(f"{path}: labels must be whole numbers from 0 to {MOST_CLASSES}, the indices of the classes")
    return np.array(values, dtype=np.int64)
