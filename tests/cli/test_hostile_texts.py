"""Texts that would control a terminal, wherever they come from: no command lets them."""

import json
import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest

from chatledger.console.terminal import visible
from support.command import environment, run, write_lines
from support.server import Server

HOSTILE = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]52;c;ZXZpbA==\x07",  # writes to the clipboard
    "\x1bP$q\x1b\\",  # has the terminal answer
    "\x9b31m\x9d0;x\x9c",  # the same in C1
    "\r\nchatledger: all is well",  # a line of its own
    "\u202egnp.exe\u202c",
    "\u2066a\u2069\u200f",
    "a\u2028b\x0bc\x0cd\x85e",
    "\x08\x08\x08\x7f",
]
TEXT = "".join(HOSTILE)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def controls(text: str) -> set[str]:
    """What a terminal would act on, but for ends of lines and tabs."""
    return {each for each in text if unicodedata.category(each) in {"Cc", "Zl", "Zp"} or each in BIDI} - {"\n", "\t"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger in a file of a hostile name, with a session that is hostile wherever it can be."""
    folder = tmp_path_factory.mktemp("hostile")
    message = {"id": "m", "role": "user", "name": TEXT, "content": TEXT, "metadata": {TEXT: TEXT}}
    parts = {"role": "user", "content": [{"type": "text", "text": TEXT}, {"type": "image_url", TEXT: TEXT}]}
    session = {"id": "s", "title": TEXT, "user_id": TEXT, "traits": {TEXT: [TEXT]}, "messages": [message, parts]}
    write_lines(folder / "a.jsonl", [session])
    done = run("import", "--database", "l.db", "a.jsonl", cwd=folder)
    assert "1 sessions with 2 messages imported" in done.stdout, done.stderr
    for path in folder.glob("l.db*"):
        path.rename(folder / (name() + path.name.removeprefix("l.db")))
    return folder


def name() -> str:
    """A hostile name that a file can have."""
    return TEXT.replace("/", "").replace("\x85", "")[:100]


def crud_store(path: Path) -> None:
    """A store with a row that cannot be imported."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE sessions (id, tenant_id, user_id, traits, created_at)")
        db.execute("CREATE TABLE messages (id, session_id, role, content, created_at)")
        db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", (TEXT, TEXT, TEXT, TEXT, TEXT))
        db.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", (TEXT, TEXT + "x", TEXT, TEXT, TEXT))
        db.commit()


LINES = [
    {"id": TEXT},
    {"id": "a", TEXT: 1},
    {"id": "a", "messages": [{"role": TEXT, "content": "x"}]},
    {"id": "a", "messages": [{"role": "user", "content": "x", TEXT: 1}]},
    {"id": "a", "created_at": TEXT},
]


@pytest.mark.parametrize(
    "line",
    [
        "status --database LEDGER",
        "verify --database LEDGER",
        "verify --database LEDGER --head TEXT",
        "verify --database LEDGER --public-key TEXT",
        "verify --bundle TEXT",
        "verify --bundle lines.jsonl",
        "replay --database LEDGER",
        "replay --check --database LEDGER",
        "export --database LEDGER --session s --markdown",
        "export --database LEDGER --session TEXT",
        "export --database LEDGER --tenant TEXT",
        "export --database LEDGER --output TEXT/TEXT",
        "export --database TEXT/x",
        "import --database LEDGER lines.jsonl",
        "import --database LEDGER crud.db",
        "import --database LEDGER TEXT",
        "backup --database LEDGER TEXT.copy",
        "backup --database LEDGER nowhere/TEXT",
        "restore --database TEXT.restored TEXT.copy",
        "restore --database LEDGER TEXT",
        "erase --database LEDGER --user TEXT --reason TEXT",
        "erase --database LEDGER --session TEXT --reason x",
        "key create --database LEDGER --tenant a --scopes TEXT",
        "key create --database LEDGER --operator --name TEXT",
        "key create --database LEDGER --operator --expires TEXT",
        "key list --database LEDGER",
        "key revoke --database LEDGER TEXT",
        "serve --port TEXT",
        "TEXT",
        "status --TEXT",
        "status TEXT",
    ],
)
def test_no_command_lets_a_text_control_the_terminal(folder: Path, line: str) -> None:
    """Neither on standard output nor on standard error, whatever comes of it; and it ends in order."""
    (folder / "lines.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in LINES))
    (folder / "crud.db").unlink(missing_ok=True)
    crud_store(folder / "crud.db")
    words = [word.replace("LEDGER", name()).replace("TEXT", name()) for word in line.split(" ")]
    done = run(*words, cwd=folder)
    assert "Traceback" not in done.stderr
    assert done.returncode in {0, 1, 2}
    assert controls(done.stdout + done.stderr) == set()
    if "--markdown" not in words:  # there a line of its own stays one, in its block
        assert "\nchatledger: all is well" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"CHATLEDGER_PORT": TEXT},
        {"CHATLEDGER_" + TEXT.replace("=", ""): "x"},
        {"DATABASE_PATH": TEXT + "/x"},
        {"CHATLEDGER_PROJECTIONS": TEXT + ":" + TEXT},
        {"CHATLEDGER_PROJECTIONS": "./" + TEXT + ".py:X"},
    ],
)
def test_no_setting_does(tmp_path: Path, variables: dict[str, str]) -> None:
    """Nor one in `.env`."""
    for arguments in (["settings"], ["replay"]):
        done = run(*arguments, cwd=tmp_path, env=variables)
        assert controls(done.stdout + done.stderr) == set()
        assert "Traceback" not in done.stderr
    (tmp_path / ".env").write_text("".join(f"{key}='{text}'\n" for key, text in variables.items()))
    done = run("settings", cwd=tmp_path)
    assert controls(done.stdout + done.stderr) == set()


def test_what_a_server_refuses_does_not_either(tmp_path: Path) -> None:
    """What it answers to a command beside it is foreign text too: whoever has the port could be another one."""
    with Server(tmp_path / "l.db", cwd=tmp_path):
        done = run("erase", "--database", "l.db", "--session", "s", "--reason", TEXT, cwd=tmp_path)
        assert done.returncode == 1
        assert controls(done.stdout + done.stderr) == set()
        assert "No such session" in done.stderr


def test_the_markdown_has_all_of_the_text(folder: Path) -> None:
    """Visible, in a file as on a terminal; JSON has what was said."""
    arguments = ("export", "--database", name(), "--session", "s")
    shown = run(*arguments, "--markdown", cwd=folder).stdout
    assert visible(TEXT.replace("\r\n", "\n"), keep="\n\t") in shown
    done = run(*arguments, cwd=folder)
    assert json.loads(done.stdout)["messages"][0]["content"] == TEXT


def test_the_test_has_hostile_texts() -> None:
    """The control of the controls: each of them would be found, and the environment holds them."""
    assert all(controls(text) for text in HOSTILE)
    assert environment(X=TEXT)["X"] == TEXT
