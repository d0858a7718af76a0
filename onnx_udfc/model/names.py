"""Names for new nodes and tensors, and the patterns by which a user means some of them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of the patterns (fnmatch) or fits one; a name with brackets in it is always itself."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def unique_name(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is taken; the result is added to `taken`."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
