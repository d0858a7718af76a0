"""python -m tools: every tool under its name, with its arguments."""

from __future__ import annotations

from collections import Counter

import pytest

from tools.__main__ import HERE, commands, main


def test_the_list_has_a_line_for_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.startswith("  ")] == list(commands())
    assert [line.split()[0] for line in printed if not line.startswith("  ")] == [
        "check/",
        "measure/",
        "pack/",
        "train/",
    ]
    assert all(len(line.split()) > 3 for line in printed), "each says what it is for"


def test_a_name_stands_in_one_folder() -> None:
    assert set(Counter(path.stem for path in HERE.glob("*/*.py") if path.stem != "__init__").values()) == {1}


def test_a_tool_is_given_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["golden", "--help"])
    usage = capsys.readouterr().out.partition("[-h]")[0]  # Python 3.14 names the module, older ones the file
    assert (end.value.code, "golden" in usage) == (0, True)


def test_an_unknown_name_is_one_line() -> None:
    with pytest.raises(SystemExit, match="nothing: not a tool; there are any_graph, "):
        main(["nothing"])


def test_a_tool_without_arguments_says_what_it_does_where_it_gets_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pictures", "--help"])
    assert capsys.readouterr().out.startswith("Makes the pictures of the documentation")
