"""CONTRIBUTING.md names what is there: where something is decided, and the files to touch to add something."""

import ast
import re

import pytest

from support import documents
from support.documents import ROOT, read

PAGE = read("CONTRIBUTING.md")
DECIDED = documents.rows(PAGE, "question")
ADDED = ("an event type", "a projection", "a route", "a setting", "a command", "a migration")
FILE = re.compile(r"`((?:service|projections|tests|docs)/[\w./-]+|pyproject\.toml|CHANGELOG\.md)(?:#[\w-]+)?`")
SUBJECTS = (
    "Idempotency-Key expires",
    "may erase",
    "cursors",
    "checkpoint threshold",
    "message id is taken",
    "views are built",
    "rebuilt online",
    "rate limits",
    "logged",
    "a fork copies",
    "`as_of`",
)


def defined(path: str) -> set[str]:
    """The classes, functions, constants and fields that the module defines, those in its classes too."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return names


@pytest.mark.parametrize("row", DECIDED, ids=lambda row: row[0])
def test_what_decides_is_where_the_table_says(row: list[str]) -> None:
    """The module exists and defines the name."""
    _, module, name = row
    assert name in defined(module), f"{module} has no {name}"


def test_the_questions_that_newcomers_ask_are_in_the_table() -> None:
    """Each of the ten, by its words."""
    section = documents.section(PAGE, "Where things are")
    assert [subject for subject in SUBJECTS if subject not in section] == []


@pytest.mark.parametrize("thing", ADDED)
def test_the_files_to_touch_are_there(thing: str) -> None:
    """Each list names at least four, and no file that is not there."""
    named = FILE.findall(documents.section(PAGE, f"… {thing}"))
    assert len(set(named)) >= 4
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_folder_of_tests_has_its_row() -> None:
    """But those that have no tests."""
    folders = {f"tests/{path.name}/" for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py"))}
    assert {row[0] for row in documents.rows(PAGE, "folder")} == folders
