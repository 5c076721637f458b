"""What `chatledger import` can read: pipes, standard input, gzip, other encodings, and files that are none for it."""

import array
import fcntl
import gzip
import json
import os
import signal
import subprocess
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatledger.cli import progress
from chatledger.errors import RefusedToStart
from chatledger.transfer import import_file, importer
from chatledger.transfer.importer import Report
from chatledger.transfer.json_lines import FOREIGN_MAX
from support import crud
from support.command import COMMAND, environment, exported, refuse, run, status, succeed, write_lines
from support.store import Store, create, message

SESSIONS = 60
IDS = [f"s{n:02d}" for n in range(SESSIONS)]
BOM = b"\xef\xbb\xbf"


def lines(count: int = SESSIONS) -> bytes:
    """So many sessions, a line each."""
    return b"".join(
        json.dumps({"id": name, "messages": [{"role": "user", "content": "é" * n}]}, ensure_ascii=False).encode()
        + b"\n"
        for n, name in enumerate(IDS[:count])
    )


def imported_from(folder: Path, *arguments: str, stdin: Any = None, given: bytes | None = None) -> str:
    """Import into the ledger of a folder, from what standard input is; the closing sentence."""
    done = subprocess.run(
        [*COMMAND, "import", "--database", "ledger.db", *arguments],
        cwd=folder,
        env=environment(),
        stdin=stdin,
        input=given,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def said(sessions: int, present: int = 0) -> str:
    """The closing sentence of an import of sessions with one message each."""
    return f"{sessions} sessions with {sessions} messages imported, {present} were there already, 0 rejected"


def import_here(folder: Path, text: bytes, name: str = "file") -> Report:
    """Import a file of these bytes into the ledger of a folder in this process; nothing may be rejected."""
    (folder / name).write_bytes(text)
    with Store(folder / "ledger.db") as store:
        source = importer.open_source(folder / name, store.settings, tenant_id="default")
        return importer.run(store.committer, source, on_rejected=pytest.fail, on_progress=lambda _: None)


def opened(folder: Path, text: bytes) -> str:
    """Why a file of these bytes is refused before anything is imported."""
    (folder / "file").write_bytes(text)
    with Store(folder / "ledger.db") as store, pytest.raises(RefusedToStart) as refused:
        importer.open_source(folder / "file", store.settings, tenant_id="default")
    return str(refused.value)


# Pipes


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_from_its_first_byte(tmp_path: Path, name: str, *, packed: bool) -> None:
    """The first 8 KiB were lost without a word: they had been read to see what file it is."""
    text = gzip.compress(lines()) if packed else lines()
    assert imported_from(tmp_path, name, given=text) == said(SESSIONS)
    assert [session["id"] for session in exported(tmp_path / "ledger.db")] == IDS


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_file_behind_standard_input_is_read_whole(tmp_path: Path, name: str) -> None:
    """With its size as the total of the progress."""
    (tmp_path / "lines").write_bytes(lines())
    with (tmp_path / "lines").open("rb") as file:
        assert imported_from(tmp_path, name, stdin=file) == said(SESSIONS)


@pytest.mark.parametrize("step", [1, 7, 600])
def test_a_pipe_that_gives_little_at_a_time_loses_nothing(tmp_path: Path, step: int) -> None:
    """A named one, written to while it is read."""
    os.mkfifo(tmp_path / "pipe")
    text = gzip.compress(lines(5)) if step == 7 else lines(5)
    with subprocess.Popen(
        [*COMMAND, "import", "--database", "ledger.db", "pipe"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE
    ) as process:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            for start in range(0, len(text), step):
                pipe.write(text[start : start + step])
        out, _ = process.communicate()
    assert out.decode().strip() == said(5)


def test_a_process_substitution_is_read(tmp_path: Path) -> None:
    """As bash makes it: a name in /dev/fd."""
    (tmp_path / "lines.gz").write_bytes(gzip.compress(lines()))
    reading, writing = os.pipe()
    with subprocess.Popen(["gzip", "-dc", str(tmp_path / "lines.gz")], stdout=writing):
        os.close(writing)
        done = subprocess.run(
            [*COMMAND, "import", "--database", "ledger.db", f"/dev/fd/{reading}"],
            cwd=tmp_path,
            env=environment(),
            pass_fds=[reading],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(reading)
    assert done.stdout.strip() == said(SESSIONS), done.stderr


def unread(pipe: int) -> int:
    """The bytes that wait in a pipe."""
    found = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, found)
    return found[0]


def test_an_interruption_does_not_wait_for_a_silent_pipe(tmp_path: Path) -> None:
    """Ctrl-C ends the command although nobody writes to the pipe any more; what was read before may be there."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [*COMMAND, "import", "--database", "ledger.db", "-"],
        cwd=tmp_path,
        env=environment(),
        stdin=reading,
        stderr=subprocess.PIPE,
    ) as process:
        # More than is read before the ledger is open: what takes the rest is the thread that reads on.
        rest = memoryview(b"".join(b'{"id":"s%d","title":"%s"}\n' % (n, b"x" * 1_000) for n in range(300)))
        while rest:
            rest = rest[os.write(writing, rest) :]
        while process.poll() is None and unread(reading):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    os.close(reading)
    os.close(writing)
    assert process.returncode == 130
    assert err == b"\nAborted.\n"
    assert status(tmp_path / "ledger.db")["events"] == 0


def test_an_import_that_ends_early_does_not_wait_for_its_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other thread reads ahead, from a pipe that says nothing more and stays open."""
    monkeypatch.setattr(importer, "GROUP_EVENTS", 2)
    reading, writing = os.pipe()
    os.write(writing, lines(1))  # a group; the thread waits for the next one
    ended: list[BaseException] = []

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    def run_it() -> None:
        with Store(tmp_path / "ledger.db") as store:
            source = importer.open_source(Path(f"/dev/fd/{reading}"), store.settings, tenant_id="default")
            try:
                importer.run(store.committer, source, on_rejected=pytest.fail, on_progress=interrupt)
            except KeyboardInterrupt as error:
                ended.append(error)

    thread = threading.Thread(target=run_it)
    thread.start()
    thread.join(timeout=60)
    waits = thread.is_alive()
    os.close(writing)
    thread.join()
    os.close(reading)
    assert (waits, len(ended)) == (False, 1)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_an_sqlite_file_is_not_read_from_a_pipe(tmp_path: Path, name: str) -> None:
    """SQLite has to open it itself; from a redirected file it can."""
    file = crud.make(tmp_path / "store.db", [("s", "t", None, None, 0)])
    done = subprocess.run(
        [*COMMAND, "import", "--database", "ledger.db", name],
        cwd=tmp_path,
        env=environment(),
        input=file.read_bytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"is an SQLite file, which cannot be read from a pipe: name the file itself." in done.stderr
    assert not (tmp_path / "ledger.db").exists()
    with file.open("rb") as store:
        assert imported_from(tmp_path, name, stdin=store).startswith("1 sessions with 0 messages imported")


def test_the_ledger_behind_standard_input_is_refused(tmp_path: Path) -> None:
    """It is the same file, whatever it is called."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
    for name in ("-", "/dev/stdin"):
        command = f'exec "$@" {name} <ledger.db'
        done = run("-c", command, "sh", *COMMAND, "import", "--database", "ledger.db", cwd=tmp_path, command=["sh"])
        assert (done.returncode, "is the ledger itself, or one of its files" in done.stderr) == (1, True), done.stderr


def test_without_standard_input_there_is_nothing_to_read(tmp_path: Path) -> None:
    """Said so, and no ledger is made."""
    done = run("-c", 'exec "$@" - <&-', "sh", *COMMAND, "import", cwd=tmp_path, command=["sh"])
    assert (done.returncode, done.stderr) == (1, "chatledger: There is no standard input to read from.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_has_no_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The progress says how much is done, and no share of it."""
    reading, writing = os.pipe()
    os.write(writing, lines())
    os.close(writing)
    with Store(tmp_path / "ledger.db") as store:
        source = importer.open_source(Path(f"/dev/fd/{reading}"), store.settings, tenant_id="default")
        os.close(reading)
        monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
        with progress.Progress("import", unit=source.unit, total=source.total, bytes_=True) as shown:
            importer.run(store.committer, source, on_rejected=pytest.fail, on_progress=shown.update)
    err = capsys.readouterr().err
    assert f"import: {len(lines()):,} bytes, " in err
    assert "%" not in err


# Forms


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.gz", "lines.db"])
def test_gzip_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    """Not by its name; also of several members, as `cat` leaves them. The total is the file's bytes."""
    text = gzip.compress(lines()[:1000]) + gzip.compress(lines()[1000:])
    done: list[int] = []
    (tmp_path / name).write_bytes(text)
    with Store(tmp_path / "ledger.db") as store:
        source = importer.open_source(tmp_path / name, store.settings, tenant_id="default")
        assert source.total == len(text)
        report = importer.run(store.committer, source, on_rejected=pytest.fail, on_progress=done.append)
    assert (report, done[-1]) == (Report(sessions=SESSIONS, messages=SESSIONS), len(text))


def test_a_gzip_file_that_ends_too_early_says_so_and_keeps_what_was_read(tmp_path: Path) -> None:
    """What was before is imported, the closing sentence counts it, and the line behind it says that there was more."""
    (tmp_path / "file.gz").write_bytes(gzip.compress(lines())[:-60])
    done = run("import", "--database", "ledger.db", "file.gz", cwd=tmp_path)
    assert done.returncode == 1
    count = len(exported(tmp_path / "ledger.db"))
    assert 0 < count < SESSIONS
    assert done.stdout.strip() == said(count)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"chatledger: file.gz cannot be read behind line {count}: ")
    assert last.endswith("; the sessions before are imported.")
    assert imported_from(tmp_path, "-", given=lines()) == said(SESSIONS - count, present=count)


@pytest.mark.parametrize("damage", [b"behind", b"\x1f\x8b\x00"])
def test_a_gzip_file_with_something_behind_it_says_so(tmp_path: Path, damage: bytes) -> None:
    """No traceback, whatever the decompressor says."""
    report = import_here(tmp_path, gzip.compress(lines()) + damage)
    assert (report.sessions, type(report.failure)) == (SESSIONS, RefusedToStart)


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_nothing(tmp_path: Path, *, packed: bool) -> None:
    """At the beginning, and where a file with one was put behind another; it counts for no line's length."""
    text = BOM + lines(2) + BOM + b'{"id": "z"}\n' + BOM
    report = import_here(tmp_path, gzip.compress(text) if packed else text)
    assert report == Report(sessions=3, messages=2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_wider_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    """In one line, with or without its mark, and what to do with it."""
    kind = encoding.upper()[:6]
    for text in (lines().decode().encode(encoding), gzip.compress(lines().decode().encode(encoding))):
        assert opened(tmp_path, text) == (
            f"{tmp_path / 'file'} is {kind}: convert it first (iconv -f {kind} -t UTF-8)."
        )


# Files that are none for an import


def events_of(folder: Path) -> bytes:
    """An export of events of enough of them."""
    place = folder / "other"
    place.mkdir()
    with Store(place / "ledger.db") as store:
        store.commit_all(create("s", *(message(f"m{n}") for n in range(FOREIGN_MAX))))
    return succeed("export", "--events", "--database", "ledger.db", cwd=place).encode()


def sqlite_of(folder: Path) -> bytes:
    """An SQLite file."""
    return crud.make(folder / "store.db", []).read_bytes()


WRONG: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a text": (lambda _: b"Dear diary\n" * 100, "has no sessions: none in its first 20 lines. It seems to be a text."),
    "an array": (lambda _: json.dumps([{"id": str(n)} for n in range(30)], indent=1).encode(), "a JSON array"),
    "one document": (lambda _: json.dumps({"a": list(range(30))}, indent=1).encode(), "JSON document over many lines"),
    "other lines": (lambda _: b'{"prompt": "x"}\n' * 30, "JSON lines of something else"),
    "a page": (lambda _: b"<!doctype html>\n" + b"<p>\n" * 30, "HTML or XML"),
    "settings": (lambda _: b"[tool]\n" + b"a = 1\n" * 30, "a text"),
    "latin 1": (lambda _: "Grüße\n".encode("latin-1") * 30, "in another encoding than UTF-8"),
    "binary": (lambda _: bytes(range(14)) * 100, "binary data"),
    "events": (events_of, "an export of events: export without --events"),
    "zip": (lambda _: b"PK\x03\x04" + b"\n" * 100, "is a ZIP archive: unpack it first."),
    "zstd": (lambda _: b"\x28\xb5\x2f\xfd" + b"\n" * 100, "is compressed with zstd: unpack it first."),
    "twice": (lambda _: gzip.compress(gzip.compress(lines())), "is compressed twice: unpack it first."),
    "packed sqlite": (
        lambda folder: gzip.compress(sqlite_of(folder)),
        "is a compressed SQLite file: decompress it first",
    ),
    "cut gzip": (lambda _: gzip.compress(lines())[:12], "cannot be read: Compressed file ended"),
    "no gzip": (lambda _: b"\x1f\x8b" + b"\x00" * 100, "cannot be read: "),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_one_line_that_says_what_it_seems_to_be(tmp_path: Path, kind: str) -> None:
    """Instead of 20 times "Malformed JSON"; and before a ledger is made for it."""
    made, wanted = WRONG[kind]
    (tmp_path / "file").write_bytes(made(tmp_path))
    message = refuse("import", "--database", "new/ledger.db", "file", cwd=tmp_path)
    assert message.startswith("chatledger: file ")
    assert wanted in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_file_that_only_begins_badly_is_imported(tmp_path: Path) -> None:
    """One good line among the first ones is enough; each bad one is named, also behind that."""
    bad = b"no\n" * (FOREIGN_MAX - 1)
    (tmp_path / "file").write_bytes(bad + lines(1) + bad + b"no\n" * 100)
    done = run("import", "--database", "ledger.db", "file", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.strip() == (
        f"1 sessions with 1 messages imported, 0 were there already, {2 * (FOREIGN_MAX - 1) + 100} rejected"
    )
    assert done.stderr.startswith("line 1: Malformed JSON")
    assert "… and more; the last line has the count" in done.stderr


def test_a_file_of_few_bad_lines_names_each(tmp_path: Path) -> None:
    """One that was written by hand can be mended so."""
    (tmp_path / "file").write_bytes(b"no\n" * (FOREIGN_MAX - 1))
    done = run("import", "--database", "ledger.db", "file", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("Malformed JSON")) == (1, FOREIGN_MAX - 1)


def test_sessions_with_a_fault_each_are_no_wrong_file(tmp_path: Path) -> None:
    """They are sessions, and each is named with its own reason."""
    write_lines(tmp_path / "file", [{"id": f"s{n}", "messages": [{"role": "robot"}]} for n in range(FOREIGN_MAX + 5)])
    done = run("import", "--database", "ledger.db", "file", cwd=tmp_path)
    assert f"{FOREIGN_MAX + 5} rejected" in done.stdout
    assert "robot" in done.stderr


@pytest.mark.parametrize("extra", range(-2, 6))
def test_a_mark_does_not_move_the_limit_of_a_line(tmp_path: Path, extra: int) -> None:
    """The limit is of the line without its mark and its end, on both sides of it."""
    limit = 1000
    empty = json.dumps({"id": "s", "title": ""}).encode()
    line = empty.replace(b'""}', b'"' + b"x" * (limit + extra - len(empty)) + b'"}')
    assert len(line) == limit + extra
    (tmp_path / "file").write_bytes(BOM + line + b"\n" + b'{"id": "next"}\n')
    rejected: list[object] = []
    with Store(tmp_path / "ledger.db", import_line_bytes_max=limit) as store:
        source = importer.open_source(tmp_path / "file", store.settings, tenant_id="default")
        report = importer.run(store.committer, source, on_rejected=rejected.append, on_progress=lambda _: None)
    assert (report.sessions, len(rejected)) == ((2, 0) if extra <= 0 else (1, 1))


def test_a_read_that_fails_midway_is_said_and_keeps_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a disk that cannot be read on."""
    (tmp_path / "file").write_bytes(lines())
    monkeypatch.setattr(import_file, "BUFFER_BYTES", 512)
    readv, left = os.readv, [4]

    def fail(descriptor: int, buffers: list[Any]) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", fail)
    report = import_here(tmp_path, lines())
    assert 0 < report.sessions < SESSIONS
    assert str(report.failure).endswith(": Input/output error; the sessions before are imported.")


def test_an_import_reads_a_store_that_another_program_holds_after_that(tmp_path: Path) -> None:
    """One that is being written is refused in words that say so; nothing calls it damaged."""
    file = crud.make(tmp_path / "store.db", [("s", "t", None, None, 0)])
    writer = apsw.Connection(str(file))
    writer.execute("BEGIN EXCLUSIVE")
    env = {"CHATLEDGER_BUSY_TIMEOUT_MS": "100"}
    said_then = refuse("import", "--database", "ledger.db", "store.db", cwd=tmp_path, env=env)
    assert said_then == "chatledger: store.db is in use by another program: stop that first.\n"
    writer.execute("ROLLBACK")
    writer.close()
    assert "1 sessions" in succeed("import", "--database", "ledger.db", "store.db", cwd=tmp_path)
