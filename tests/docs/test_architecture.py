"""docs/architecture.md says where things are: the modules are there, and import each other as it says."""

import ast
import tomllib

from support import documents
from support.documents import ROOT

PAGE = documents.read("docs/architecture.md")


def packages() -> set[str]:
    """The folders that have modules, as the table names them."""
    folders = [path.name for path in (ROOT / "service/chatledger").iterdir() if (path / "__init__.py").exists()]
    return {f"{name}/" for name in [*folders, "chatledger_projections"]}


def test_each_package_has_its_row() -> None:
    """No other, and in an order that the contracts of `make check` allow: no row imports one above it."""
    rows = [row[0].strip("`") for row in documents.rows(PAGE, "package")]
    assert set(rows) == packages()
    contracts = tomllib.loads(documents.read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each["name"] == "Packages import downwards only")
    rank = {f"{name}/": number for number, layer in enumerate(layers) for name in layer.split(" | ")}
    ranks = [rank[row] for row in rows if row in rank]
    assert ranks == sorted(ranks)


def test_each_package_has_its_contract() -> None:
    """Exhaustive, so that no module is left out."""
    contracts = tomllib.loads(documents.read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layered = {each["containers"][0] for each in contracts if each["type"] == "layers" and each["exhaustive"]}
    names = {f"chatledger.{name[:-1]}" for name in packages() - {"chatledger_projections/"}}
    assert names | {"chatledger", "chatledger_projections"} <= layered


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
