"""Nothing but `storage/connection.py` opens a database or touches its files: closing a handle drops SQLite's locks.

That a second server is refused is in `tests/acceptance/test_stop_and_start.py`; a second process and a network file
system in `tests/integration/test_refusals.py`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for folder in ("service", "projections") for path in (ROOT / folder).rglob("*.py"))
STORAGE = "service/chatledger/storage/"
CONNECTION = "service/chatledger/storage/connection.py"
OPENERS = {
    "open", "read_bytes", "read_text", "write_bytes", "write_text", "touch", "FileIO", "mmap", "truncate",
    "copy", "copy2", "copyfile", "copytree", "move",
}  # fmt: skip
OWNERS = {"Path", "os", "io", "shutil", "mmap", "codecs"}
FILES = {
    # Each of these is another file than a database, or one that no connection of this process has open.
    ("service/chatledger/http/routes/api_page.py", "read_bytes"): "the API page's scripts",
    ("service/chatledger/workers/shared_state.py", "mmap"): "memory that workers share, without a name",
    ("service/chatledger/cli/verify.py", "read_bytes"): "a proof bundle",
    ("service/chatledger/storage/ledger_file.py", "read_text"): "the numbered .sql files",
    ("service/chatledger/writing/erasure_list.py", "open"): "the list of erasures",
    (
        "service/chatledger/storage/files.py",
        "open",
    ): "nowhere, and how an output begins that none of the ledger's files may be",
    ("service/chatledger/proofs/head_file.py", "open"): "a signed head",
    ("service/chatledger/transfer/import_file.py", "open"): "the file to import, which none of the ledger's may be",
    ("service/chatledger/auth/jwks.py", "open"): "the identity provider's keys",
    (
        "service/chatledger/storage/paths.py",
        "open",
    ): "the lock's file; a folder, to sync it; an unfinished backup, closed behind SQLite",
    ("service/chatledger/storage/paths.py", "read_bytes"): "the lock's file",
    ("service/chatledger/storage/paths.py", "read_text"): "the system's list of mounts",
    ("service/chatledger/storage/paths.py", "write_bytes"): "the lock's file",
    ("service/chatledger/proofs/signed_heads.py", "read_text"): "the signing key",
    (
        "service/chatledger/proofs/signed_heads.py",
        "open",
    ): "how other *.key files in the key's folder begin, none of which is the ledger",
    ("service/chatledger/console/streams.py", "open"): "the null device, for a closed stream",
    ("service/chatledger/serving/tls.py", "read_bytes"): "the certificate",
    ("service/chatledger/setting_sources.py", "read_text"): "the file .env",
}
NOT_FILES = {"views", "committer", "self"}
"""What has an `open` that opens no file by itself."""
SQLITE = {"apsw", "sqlite3", "_sqlite3", "pysqlite3", "aiosqlite", "sqlalchemy"}


def name_of(path: Path) -> str:
    """The module's path from the root."""
    return path.relative_to(ROOT).as_posix()


def imported(source: str) -> set[str]:
    """The top names of all that is imported anywhere in *source*, also by way of `import_module("…")`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value).split(".")[0])
    return found


def opened(source: str) -> Iterator[tuple[str, int]]:
    """The calls in *source* that may open a file by other means than SQLite: their name and line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        if name not in OPENERS:
            continue
        base = owner.split(".")[0].split("(")[0]
        if name in {"copy", "move", "truncate", "mmap"} and base not in OWNERS:
            continue  # of dictionaries, trees
        if name != "open" or base not in NOT_FILES or owner == "self._path":
            yield name, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_storage_knows_sqlite(path: Path) -> None:
    """APSW is imported nowhere else, and the standard library's module nowhere; one module makes connections."""
    found = imported(path.read_text()) & SQLITE
    assert found <= ({"apsw"} if name_of(path).startswith(STORAGE) else set())
    assert name_of(path) == CONNECTION or "apsw.Connection(" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_opens_a_file_that_is_not_known(path: Path) -> None:
    """A new use has to be looked at, and noted with the file that it is for."""
    unknown = [(name, line) for name, line in opened(path.read_text()) if (name_of(path), name) not in FILES]
    assert unknown == [], f"{name_of(path)}: is it a database's file?"


def test_no_known_use_is_left_over() -> None:
    """A note without its use would let another one through."""
    used = {(name_of(path), name) for path in MODULES for name, _ in opened(path.read_text())}
    assert FILES.keys() - used == set()


def _opens_a_text(owner: str) -> bool:
    """Whether the `open` of *owner* is one that can."""
    return owner != "os" and (owner == "self._path" or owner.split(".", maxsplit=1)[0] not in NOT_FILES)


def in_locale(source: str) -> Iterator[tuple[str, int]]:
    """The calls in *source* that read or write a text in whatever encoding the locale has: their name and line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        named = {keyword.arg for keyword in node.keywords}
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        text = {
            "read_text": len(node.args) < 1,
            "write_text": len(node.args) < 2,
            "TextIOWrapper": len(node.args) < 2,
            "fdopen": not any("b" in str(mode) for mode in modes),
            "open": not any("b" in str(mode) for mode in modes[-1:]) and _opens_a_text(owner),
        }
        if text.get(name, False) and "encoding" not in named:
            yield name, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_text_is_read_or_written_in_the_locales_encoding(path: Path) -> None:
    """Ours is UTF-8 everywhere, also where the shell that starts us speaks something else."""
    assert list(in_locale(path.read_text())) == []


@pytest.mark.parametrize(
    "bug",
    [
        "path.read_text()",
        "path.write_text(text)",
        "open(name)",
        "path.open('w')",
        "os.fdopen(descriptor, 'w')",
        "io.TextIOWrapper(file)",
    ],
)
def test_a_text_in_the_locales_encoding_is_found(bug: str) -> None:
    """The control of that."""
    assert list(in_locale(bug))


def test_only_one_function_makes_connections() -> None:
    """`open_connection`, with its pragmas, and the private database in memory."""
    tree = ast.parse((ROOT / CONNECTION).read_text())
    makers = {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"apsw.Connection", "Connection"}
    }
    assert makers == {"open_connection", "open_memory"}
    elsewhere = [
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if name_of(path) != CONNECTION
        and isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"Connection", "apsw.Connection"}
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    "bug",
    [
        "import sqlite3",
        "def f():\n    from sqlite3 import connect",
        "import importlib\nimportlib.import_module('sqlite3')",
        "import apsw.ext",
    ],
)
def test_another_way_to_sqlite_is_found(bug: str) -> None:
    """The control of the first check."""
    assert imported(bug) & SQLITE


@pytest.mark.parametrize(
    "bug",
    [
        "open(location.ledger, 'rb')",
        "os.open(location.ledger + '-wal', os.O_RDONLY)",
        "Path(location.ledger).read_bytes()",
        "Path(name).open('rb')",
        "shutil.copy(location.ledger, target)",
        "io.FileIO(name)",
        "os.truncate(name, 0)",
    ],
)
def test_a_handle_on_a_database_file_is_found(bug: str) -> None:
    """The control of the second one."""
    assert list(opened(bug))
