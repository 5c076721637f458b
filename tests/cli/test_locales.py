"""The commands where the shell speaks another encoding than UTF-8, and where a name is in none."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import apsw
import pytest

from chatledger.serving.tls import own_certificate
from chatledger.settings import Settings, load_settings
from support import crud
from support.command import COMMAND, environment, run, succeed, write_lines
from support.locales import ASCII, PLAIN_C, latin1
from support.store import Store, create, message

Locale = Callable[[], dict[str, str]]
LATIN1 = pytest.param(latin1, id="latin1")
ASCII_ONLY = pytest.param(lambda: ASCII, id="ascii")
C = pytest.param(lambda: PLAIN_C, id="C")
UMLAUT = "b\u00fcro"
HELLO = {"role": "user", "content": "Hello"}


def run_bytes(*arguments: str | bytes, cwd: Path, env: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
    """Run the command with these arguments as they are, byte by byte."""
    given = [os.fsencode(argument) for argument in (*COMMAND, *arguments)]
    return subprocess.run(given, cwd=cwd, env=environment(**env), capture_output=True, check=False)


def tree(folder: Path) -> list[Path]:
    """All that lies below a folder."""
    return sorted(folder.rglob("*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger, a backup of it, a CRUD store's file, and copies of all of them whose names are not ASCII."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s", message("m1", "Grüße")))
    succeed("backup", "--database", "ledger.db", "backup.db", cwd=tmp_path)
    crud.make(tmp_path / "store.db", [("c", "t", None, None, 0)])
    for name in ("ledger", "backup", "store"):
        for umlaut in (b"\xc3\xbc", b"\xfc"):
            shutil.copy(tmp_path / f"{name}.db", os.fsencode(tmp_path) + b"/%b-%b.db" % (name.encode(), umlaut))
    return tmp_path


COMMANDS: dict[str, tuple[str, ...]] = {
    "ledger": ("status", "--database", "ledger-{}.db"),
    "new ledger": ("import", "--database", "new-{}.db", "lines.jsonl"),
    "serve": ("serve", "--port", "0", "--database", "ledger-{}.db"),
    "backup": ("backup", "--database", "ledger.db", "new-{}.db"),
    "restore": ("restore", "--database", "restored.db", "backup-{}.db"),
    "import": ("import", "--database", "other.db", "store-{}.db"),
}


def refused(arguments: tuple[str, ...], umlaut: bytes, cwd: Path, env: Mapping[str, str]) -> bytes:
    """Run a command with a name that has *umlaut*: it has to refuse in one line and to make nothing but a lock."""
    write_lines(cwd / "lines.jsonl", [{"id": "l"}])
    before = tree(cwd)
    given = [part.encode().replace(b"{}", umlaut) for part in arguments]
    done = run_bytes(*given, cwd=cwd, env=env)
    assert (done.returncode, done.stdout) == (1, b""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(b"chatledger: The file name "), done.stderr
    assert tree(cwd) == before
    return done.stderr


@pytest.mark.parametrize("locale", [LATIN1, ASCII_ONLY])
@pytest.mark.parametrize("umlaut", [b"\xc3\xbc", b"\xfc"], ids=["utf8", "latin1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_sqlite_would_write_differently_is_refused(
    folder: Path, command: str, umlaut: bytes, locale: Locale
) -> None:
    """A backup was said to be made, and was an empty file beside one of another name."""
    said = refused(COMMANDS[command], umlaut, folder, locale())
    assert b"is written differently in the locale's encoding" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_not_utf8_is_refused(folder: Path, command: str) -> None:
    """Where the locale is UTF-8, as it is nearly everywhere."""
    assert b"is not UTF-8" in refused(COMMANDS[command], b"\xfc", folder, {})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_beyond_ascii_is_fine_in_utf8(folder: Path, command: str) -> None:
    """Also with LC_ALL=C, where Python takes UTF-8 (PEP 540)."""
    if command == "serve":
        return
    given = [part.replace("{}", "\u00fc") for part in COMMANDS[command]]
    write_lines(folder / "lines.jsonl", [{"id": "l"}])
    done = run_bytes(*given, cwd=folder, env=PLAIN_C)
    assert done.returncode == 0, done.stderr


def test_a_folder_counts_too(tmp_path: Path) -> None:
    """Names are made absolute, and the working directory is a part of them then."""
    place = tmp_path / UMLAUT
    place.mkdir()
    write_lines(place / "lines.jsonl", [{"id": "l"}])
    for arguments in (("import", "--database", "ledger.db", "lines.jsonl"), ("status",)):
        done = run_bytes(*arguments, cwd=place, env={**latin1(), "DATABASE_PATH": "ledger.db"})
        assert (done.returncode, b"is written differently" in done.stderr) == (1, True), done.stderr
    assert tree(place) == [place / "lines.jsonl"]


def test_a_signing_key_keeps_its_name(folder: Path) -> None:
    """In another locale it would be another file, and a new key would sign."""
    settings = {"CHATLEDGER_SIGNING_KEY": f"{UMLAUT}.key"}
    (folder / "ledger.db.key").rename(folder / f"{UMLAUT}.key")
    arguments = ("verify", "--database", "ledger.db", "--save-head", "head")
    done = run_bytes(*arguments, cwd=folder, env={**latin1(), **settings})
    assert (done.returncode, b"is written differently" in done.stderr) == (1, True), done.stderr
    assert not (folder / "head").exists()
    assert run_bytes(*arguments, cwd=folder, env=settings).returncode == 0


@pytest.mark.parametrize("locale", [LATIN1, ASCII_ONLY, C])
@pytest.mark.parametrize("umlaut", [b"\xc3\xbc", b"\xfc"], ids=["utf8", "latin1"])
def test_lines_are_read_and_written_under_any_name(tmp_path: Path, locale: Locale, umlaut: bytes) -> None:
    """They never reach SQLite by their name; their text is UTF-8 in every locale."""
    session = {"id": "s", "title": "Grüße", "messages": [{"id": "m", "role": "user", "content": "日本 — 😀"}]}
    name, out = b"lines-%b.jsonl" % umlaut, b"out-%b.jsonl" % umlaut
    write_lines(tmp_path / "lines.jsonl", [session]).rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    for arguments in ((b"import", b"--database", b"l.db", name), (b"export", b"--database", b"l.db", b"--output", out)):
        done = run_bytes(*arguments, cwd=tmp_path, env=locale())
        assert done.returncode == 0, done.stderr
    written = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + out)).read_bytes()
    found = json.loads(written.decode())
    assert (found["title"], found["messages"][0]["content"]) == ("Grüße", "日本 — 😀")
    assert "Grüße".encode() in written


@pytest.mark.parametrize("locale", [LATIN1, ASCII_ONLY, C])
def test_a_ledger_and_its_heads_are_the_same_in_every_locale(tmp_path: Path, locale: Locale) -> None:
    """The schema's text, the head's signature (`—` is in it), and the key."""
    write_lines(tmp_path / "lines.jsonl", [{"id": "s", "messages": [HELLO]}])
    for name, env in (("here.db", {}), ("there.db", locale())):
        succeed("import", "--database", name, "lines.jsonl", cwd=tmp_path, env=env)
    schemas = []
    for name in ("here.db", "there.db"):
        connection = apsw.Connection(str(tmp_path / name), flags=apsw.SQLITE_OPEN_READONLY)
        schemas.append(connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall())
        connection.close()
    assert schemas[0] == schemas[1]
    succeed("verify", "--database", "there.db", "--save-head", "head", cwd=tmp_path, env=locale())
    assert "—" in (tmp_path / "head").read_text("utf-8")
    for env in ({}, locale()):
        said = succeed("verify", "--database", "there.db", "--head", "head", cwd=tmp_path, env=env)
        assert "extends the head of 2 events" in said


@pytest.mark.parametrize("locale", [LATIN1, ASCII_ONLY, C])
def test_what_the_terminal_cannot_show_is_escaped(tmp_path: Path, locale: Locale) -> None:
    """And no reason for a traceback: a key's name, and what an import says of a session."""
    succeed("key", "create", "--database", "l.db", "--operator", "--name", "日本", cwd=tmp_path)
    done = run_bytes("key", "list", "--database", "l.db", cwd=tmp_path, env=locale())
    assert (done.returncode, done.stderr) == (0, b"")
    assert "日本".encode() in done.stdout or b"\\u65e5\\u672c" in done.stdout


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("locale", [LATIN1, ASCII_ONLY, C])
def test_settings_in_a_file_are_utf8(tmp_path: Path, locale: Locale, mark: bytes) -> None:
    """With or without a byte order mark, whatever the locale: the ledger is that of the file."""
    (tmp_path / ".env").write_bytes(mark + f"DATABASE_PATH=there.db\nCHATLEDGER_JWT_ISSUER=https://{UMLAUT}\n".encode())
    write_lines(tmp_path / "lines.jsonl", [{"id": "s"}])
    done = run_bytes("import", "lines.jsonl", cwd=tmp_path, env=locale())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there.db").exists()


def test_settings_in_another_encoding_are_refused(tmp_path: Path) -> None:
    """In one line that names the file."""
    (tmp_path / ".env").write_bytes(b"CHATLEDGER_JWT_ISSUER=b\xfcro\n")
    done = run("status", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "chatledger: .env, line 1 is not UTF-8.\n")
    (tmp_path / ".env").write_text(f"\ufeffCHATLEDGER_JWT_ISSUER={UMLAUT}\n", "utf-8")
    assert load_settings({}, dotenv=tmp_path / ".env").jwt_issuer == UMLAUT


def test_a_certificate_may_have_words_around_it_in_any_encoding(tmp_path: Path) -> None:
    """As `openssl x509 -text` writes them."""
    certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    path = tmp_path / "chain.pem"
    path.write_bytes(b"Subject: CN=b\xfcro\n" + f"{certificate}\nIssuer: {UMLAUT}\n{certificate}\n".encode())
    assert own_certificate(Settings(tls_certificate=str(path))) == certificate


def test_the_key_is_ascii(tmp_path: Path) -> None:
    """In every locale, so that none can misread it."""
    with Store(tmp_path / "ledger.db"):
        pass
    assert (tmp_path / "ledger.db.key").read_bytes().isascii()
