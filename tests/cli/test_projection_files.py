"""A projection of one's own, named by the path of its file: for every command, for a server and for its workers."""

import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from support.command import refuse, run, succeed, write_lines
from support.documents import ROOT
from support.server import Server

DATABASE = ("--database", "l.db")
SESSION = {"id": "s", "messages": [{"role": "user", "content": "Hello"}, {"role": "tool", "content": "x"}]}
GOOD = "from chatledger_projections import Projection\nGOOD = Projection(name='good', version=1, tables='')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger, the tutorial's projection, and beside it what the program's own packages are called."""
    succeed("import", *DATABASE, write_lines(tmp_path / "a.jsonl", [SESSION]), cwd=tmp_path)
    (tmp_path / "mine").mkdir()
    shutil.copy(ROOT / "tests/support/example_projection.py", tmp_path / "mine/roles.py")
    for name in ("service.py", "projections.py", "mine/service.py", "mine/click.py"):
        (tmp_path / name).write_text("raise RuntimeError('this is not what was meant')\n")
    return tmp_path


def roles(folder: Path) -> dict[str, int]:
    """What the projection has counted, by role."""
    newest = max(folder.glob("l.db.views.*.db"))
    with closing(apsw.Connection(str(newest), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        return dict(db.execute("SELECT role, messages FROM roles").fetchall())


@pytest.mark.parametrize(
    "form", ["mine/roles.py:ROLES", "./mine/roles.py:ROLES", "{}/mine/roles.py:ROLES", " mine/roles.py:ROLES ,"]
)
def test_it_is_found_by_its_path(folder: Path, form: str) -> None:
    """Relative to the working directory, or absolute; nobody needs PYTHONPATH, nor minds what is beside it."""
    env = {"CHATLEDGER_PROJECTIONS": form.format(folder)}
    succeed("replay", *DATABASE, cwd=folder, env=env)
    assert roles(folder) == {"user": 1, "tool": 1}
    for command in (["replay", "--check"], ["verify"], ["export"]):
        succeed(*command, *DATABASE, cwd=folder, env=env)
    assert roles(folder) == {"user": 1, "tool": 1}


def test_several_are_separated_by_commas(folder: Path) -> None:
    """Of one file, or of several; each file is run once."""
    (folder / "mine/two.py").write_text(GOOD + "OTHER = Projection(name='other', version=1, tables='')\nprint('run')\n")
    names = "mine/two.py:GOOD,mine/roles.py:ROLES,./mine/../mine/two.py:OTHER"
    shown = succeed("replay", *DATABASE, cwd=folder, env={"CHATLEDGER_PROJECTIONS": names})
    assert shown.count("run\n") == 1
    assert roles(folder) == {"user": 1, "tool": 1}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_and_its_workers_have_it(folder: Path, workers: str) -> None:
    """From the first message on."""
    env = {"CHATLEDGER_PROJECTIONS": "mine/roles.py:ROLES", "CHATLEDGER_WORKERS": workers}
    with Server("l.db", cwd=folder, env=env) as server:
        for number in range(6):
            with server.client() as client:
                body = {"role": "user", "content": f"{number}"}
                assert client.post("/v1/sessions/s/messages", json=body).status_code == 201
        assert server.stop() == 0
    assert roles(folder) == {"user": 7, "tool": 1}


def names(folder: Path) -> list[str]:
    """The files that are there, but for those that SQLite makes to read others."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm")))


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("x = 1 / 0", "./x.py:X", "cannot be imported: ZeroDivisionError: division by zero."),
        ("x = (", "./x.py:X", "cannot be imported: '(' was never closed (line 1)."),
        (
            "from service.database import Connection",
            "./x.py:X",
            (
                "it imports service, of the first version. Import Projection, Connection, Event and the types of "
                "events from chatledger_projections now."
            ),
        ),
        ("raise SystemExit", "./x.py:X", "cannot be imported: SystemExit."),
        ("import nowhere", "./x.py:X", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'."),
        ("raise ValueError('a\\nb\\x1b')", "./x.py:X", "cannot be imported: ValueError: a b\\x1b."),
        (GOOD, "./x.py:BAD", "which is not a Projection: ./x.py has GOOD."),
        ("X = 1", "./x.py:X", "which is not a Projection: ./x.py has none."),
        (GOOD, "./nowhere.py:GOOD", "cannot be imported: no such file or directory."),
        (GOOD, "./:GOOD", "cannot be imported: is a directory."),
        (GOOD, "x:GOOD", "No module named 'x'. Did you mean ./x.py:GOOD?"),
        (GOOD, "./x.py", "which is neither module:NAME nor path/of/a/file.py:NAME."),
        (GOOD, "./x.py:", "which is neither module:NAME nor path/of/a/file.py:NAME."),
        (GOOD, "./x.py:GOOD,./x.py:GOOD", "names a projection 'good', and there is one already."),
        (GOOD.replace("'good'", "'sessions'"), "./x.py:GOOD", "a projection 'sessions', and there is one already."),
    ],
)
def test_what_leads_to_no_projection_is_refused_in_a_line(folder: Path, text: str, name: str, says: str) -> None:
    """A command, and a server; the views stay as they are."""
    (folder / "x.py").write_text(text)
    before = names(folder)
    for command in (["replay"], ["serve", "--port", "0"], ["serve", "--port", "0", "--workers", "2"]):
        said = refuse(*command, *DATABASE, cwd=folder, env={"CHATLEDGER_PROJECTIONS": name})
        assert said.startswith("chatledger: CHATLEDGER_PROJECTIONS names ")
        assert said.endswith(says + "\n")
        assert said.count("\n") == 1
    assert names(folder) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("apply=lambda db, events: 1 / 0", "The projection 'p' raised ZeroDivisionError: division by zero"),
        ("apply=lambda db, events: db.execute('SELECT x')", "no such column: x"),
        ("program='INSERT INTO nowhere VALUES (1);'", "no such table: "),
    ],
)
def test_one_that_fails_while_it_is_built_is_named(folder: Path, text: str, says: str) -> None:
    """By every command that builds it, and by a server that starts."""
    (folder / "x.py").write_text(
        f"from chatledger_projections import Projection\nP = Projection(name='p', version=1, tables='', {text})\n"
    )
    for command in ("replay", "serve --port 0", "serve --port 0 --workers 2"):
        done = run(*command.split(), *DATABASE, cwd=folder, env={"CHATLEDGER_PROJECTIONS": "./x.py:P"})
        lines = [line for line in done.stderr.splitlines() if line.startswith("chatledger: ")]
        assert done.returncode == 1
        assert len(lines) == 1
        assert says in lines[0]
        assert "Traceback" not in done.stderr
    succeed("replay", "--check", *DATABASE, cwd=folder)
