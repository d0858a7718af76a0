"""Names for new nodes and tensors, and the patterns by which a user means some of them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of the patterns (fnmatch) or fits one; a name with brackets in it is always itself."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


class Taken(set[str]):
    """Names that are taken; it remembers the last number of each, so that many of one name take linear time."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Take some names."""
        super().__init__(names)
        self.last: dict[str, int] = {}


def unique_name(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is taken; the result is added to `taken`.

    A plain set is searched from 2 on each time; use `Taken` where a name may come often.
    """
    last = taken.last if isinstance(taken, Taken) else {}
    candidate, number = name, last.get(name, 1)
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    last[name] = number
    taken.add(candidate)
    return candidate
