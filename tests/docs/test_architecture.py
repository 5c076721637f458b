"""docs/architecture.md says where things are: the modules are there, and import each other as it says."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from support import documents
from support.documents import ROOT

PAGE = documents.read("docs/architecture.md")


def modules() -> dict[str, Path]:
    """Our modules by name."""
    paths = [path for folder in ("service", "projections") for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imports() -> dict[str, set[str]]:
    """Which of our modules each of them imports, wherever in the file it does."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = {other for other in wanted if other in known and other != name}
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Though the folders import each other."""
    graph = imports()
    assert list(TopologicalSorter(graph).static_order())
    folders = {(name.split(".")[0], other.split(".")[0]) for name, others in graph.items() for other in others}
    assert {("service", "projections"), ("projections", "service")} <= folders


def test_the_layers_run_downwards() -> None:
    """No module of the table imports one from a row above its own."""
    rank = {}
    for number, row in enumerate(documents.rows(PAGE, "layer")):
        places = re.findall(r"[\w/]+(?:\.py|/)", row[1])
        for name, path in modules().items():
            relative = str(path.relative_to(ROOT))
            if any(relative == place or (place.endswith("/") and relative.startswith(place)) for place in places):
                rank[name] = number
    assert len(rank) >= 30
    upwards = [
        (name, other)
        for name, others in imports().items()
        for other in others
        if name in rank and other in rank and rank[other] < rank[name]
    ]
    assert upwards == []


def test_each_rule_has_its_place_and_test() -> None:
    """All eleven, in order; the names in parentheses are names of the code."""
    rules = documents.rows(PAGE, "rule")
    assert [int(row[0].split(".")[0]) for row in rules] == list(range(1, 12))
    assert all(row[1] and row[2].startswith("tests/") for row in rules)


def test_the_functions_named_are_there() -> None:
    """What the page names in parentheses behind a module stands in that module."""
    places = {
        "service/chatledger/writing/committer.py": ("commit", "_write"),
        "service/chatledger/writing/command_group.py": ("_place",),
        "service/chatledger/ledger/event_store.py": ("read_after", "check_tail", "rows"),
        "service/chatledger/domain/commands.py": ("_same", "_expect"),
    }
    for path, names in places.items():
        tree = ast.parse((ROOT / path).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for name in names:
            assert name in PAGE
            assert name in defined, f"{path} has no {name}"
