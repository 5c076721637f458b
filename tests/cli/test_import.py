"""`chatledger import`: JSON lines, and the SQLite file of the CRUD store."""

import datetime as dt
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner

from chatledger.cli.main import cli
from chatledger.transfer import importer
from chatledger.transfer.importer import Report
from chatledger.writing.checkpointer import OVERDUE
from support import crud
from support.command import (
    COMMAND,
    assert_clear,
    environment,
    exported,
    refuse,
    run,
    status,
    succeed,
    write_lines,
)
from support.imports import import_here, sessions_here
from support.server import Server
from support.store import Store, append, create, message, remove, update
from support.tables import dump, dump_rebuilt, wrong_leaves

Json = dict[str, Any]

SESSIONS = 3_000
SMALL = {"role": "user", "content": "Hello"}
MEMORY_MB_MAX = 250


def said(sessions: int, messages: int, present: int, rejected: int) -> str:
    """The last line of an import."""
    return f"{sessions} sessions with {messages} messages imported, {present} were there already, {rejected} rejected"


def import_(file: Path, *, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Import *file* into the ledger beside it."""
    done = run("import", "--database", "ledger.db", file, cwd=file.parent, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def imported(file: Path, sessions: int, messages: int, present: int = 0) -> None:
    """Import *file*, of which nothing may be rejected."""
    done = import_(file)
    assert done.stdout.strip() == said(sessions, messages, present, 0), done.stderr
    assert done.returncode == 0


def rejections(file: Path, *, env: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """Import *file*, of which something must be rejected; the last line, and the reasons by their places."""
    done = import_(file, env=env)
    assert done.returncode == 1
    lines = (line.partition(": ") for line in done.stderr.splitlines() if not line.startswith("import:"))
    return done.stdout.strip(), {where: reason for where, _, reason in lines}


def sessions_of(folder: Path, tenant: str = "default") -> dict[str, Json]:
    """The tenant's exported sessions, by id."""
    return {session["id"]: session for session in exported(folder / "ledger.db", tenant)}


# JSON lines

BAD_LINES = {
    "not JSON": b"{",
    "not an object": b"[]",
    "no id": b'{"messages": []}',
    "an id with a space": b'{"id": "a b"}',
    "an unknown field": b'{"id": "x", "tittle": "T"}',
    "an unknown field of a message": b'{"id": "x", "messages": [{"role": "user", "content": "", "x": 1}]}',
    "an unknown role": b'{"id": "x", "messages": [{"role": "robot", "content": ""}]}',
    "no content": b'{"id": "x", "messages": [{"role": "user"}]}',
    "traits that are no object": b'{"id": "x", "traits": [1]}',
    "a time without an offset": b'{"id": "x", "created_at": "2024-05-15T15:00:00"}',
    "a message id twice": (
        b'{"id": "x", "messages": [{"id": "m", "role": "user", "content": ""}, '
        b'{"id": "m", "role": "user", "content": ""}]}'
    ),
    "a parent that is not there": (
        b'{"id": "x", "messages": [{"role": "user", "content": "", "parent_id": "elsewhere"}]}'
    ),
    "not UTF-8": b'{"id": "x", "title": "\xff"}',
    "half of a surrogate pair": b'{"id": "x", "title": "\\ud800"}',
    "a NUL": b'{"id": "x", "title": "\\u0000"}',
    "too deep": b'{"id": "x", "traits": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
    "far too deep": b'{"id": "x", "traits": ' + b'{"a":' * 100_000,
    "two values": b'{"id": "x"} {"id": "y"}',
}


def test_bad_lines_are_rejected_by_their_numbers_and_the_others_go_on(tmp_path: Path) -> None:
    """Each bad line is named with its number and a reason and takes no other with it; the exit code is 1."""
    good = [json.dumps({"id": f"good-{n}", "messages": [SMALL]}).encode() for n in range(len(BAD_LINES))]
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n".join(line for pair in zip(good, BAD_LINES.values(), strict=True) for line in pair))
    summary, reasons = rejections(file)
    assert summary == said(len(good), len(good), 0, len(BAD_LINES))
    assert set(reasons) == {f"line {2 * n}" for n in range(1, len(BAD_LINES) + 1)}
    assert all(reasons.values())
    assert set(sessions_of(tmp_path)) == {f"good-{n}" for n in range(len(good))}
    summary, _ = rejections(file)
    assert summary == said(0, 0, len(good), len(BAD_LINES))


def test_many_bad_lines_are_counted_but_not_all_shown(tmp_path: Path) -> None:
    """A file that is full of mistakes does not flood the terminal."""
    file = tmp_path / "lines.jsonl"
    file.write_text('{"id": "good"}\n' + "no\n" * 500)
    done = import_(file)
    assert done.stdout.strip() == said(1, 0, 0, 500)
    assert len(done.stderr.splitlines()) < 30
    assert done.returncode == 1


@pytest.mark.parametrize("shell", ["2>/dev/full", "2>&-"])
def test_reasons_that_cannot_be_shown_do_not_end_an_import(tmp_path: Path, shell: str) -> None:
    """A full disk behind standard error, or none: all that is good is imported, and all are counted."""
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"id": "a"}\nno\n{"id": "b"}\n')
    command = f'exec "$@" lines.jsonl {shell}'
    done = run("-c", command, "sh", *COMMAND, "import", "--database", "ledger.db", cwd=tmp_path, command=["sh"])
    assert done.stdout.strip() == said(2, 0, 0, 1)
    assert done.returncode == 1


def test_the_reason_names_what_is_wrong(tmp_path: Path) -> None:
    """An unknown field, a role, a time: the reason has the member or its value."""
    file = tmp_path / "lines.jsonl"
    wanted = {
        "an unknown field": "tittle",
        "an unknown role": "robot",
        "a time without an offset": "created_at",
    }
    file.write_bytes(b"\n".join(BAD_LINES[name] for name in wanted))
    _, reasons = rejections(file)
    for reason, word in zip(reasons.values(), wanted.values(), strict=True):
        assert word in reason


def test_the_same_session_twice_in_a_file_is_there_once(tmp_path: Path) -> None:
    """The same line again is there already; another session under its id is rejected."""
    session = {"id": "s", "messages": [{"id": "m", **SMALL}]}
    file = write_lines(tmp_path / "a.jsonl", [session, session, {**session, "title": "Another"}])
    summary, reasons = rejections(file)
    assert summary == said(1, 1, 1, 1)
    assert list(reasons) == ["line 3"]
    assert reasons["line 3"] == "session s is there with another title"
    assert sessions_of(tmp_path)["s"]["title"] is None


def test_a_session_that_has_grown_since_is_there_already(tmp_path: Path) -> None:
    """An import run again after its sessions went on in service changes nothing and is no error."""
    file = write_lines(tmp_path / "a.jsonl", [{"id": "s", "messages": [SMALL]}])
    assert import_here(file) == (Report(sessions=1, messages=1), {})
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(append("s", message("m2")), update("s", title="T"))
    assert import_here(file) == (Report(present=1), {})
    (session,) = sessions_here(tmp_path).values()
    assert (session["title"], len(session["messages"])) == ("T", 2)


def test_a_line_that_is_too_long_is_rejected_and_the_next_one_is_read(tmp_path: Path) -> None:
    """The limit is a line's bytes without its end; the rest of a longer line is passed over."""
    limit = 1000
    lines = []
    for n, size in enumerate((limit, limit + 1, 10 * limit, 100)):
        empty = json.dumps({"id": f"s{n}", "messages": [{"role": "user", "content": ""}]})
        line = json.dumps({"id": f"s{n}", "messages": [{"role": "user", "content": "x" * (size - len(empty))}]})
        assert len(line) == size
        lines.append(line)
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(lines) + "\n" + lines[2])
    summary, reasons = rejections(file, env={"CHATLEDGER_IMPORT_LINE_BYTES_MAX": str(limit)})
    assert list(reasons) == ["line 2", "line 3", "line 5"]
    assert all("1000 bytes" in reason for reason in reasons.values())
    assert summary == said(2, 2, 0, 3)
    assert set(sessions_of(tmp_path)) == {"s0", "s3"}


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\n\r\n", "\n\n  \n\t\n"])
def test_empty_lines_and_crlf_are_accepted(tmp_path: Path, end: str) -> None:
    """Lines end as they like, and empty ones say nothing."""
    lines = [json.dumps({"id": name, "messages": [SMALL]}) for name in ("a", "b")]
    file = tmp_path / "lines.jsonl"
    file.write_text((end or "\n").join(lines) + end, newline="")
    report, reasons = import_here(file)
    assert (report.sessions, report.messages, reasons) == (2, 2, {})
    assert [session["messages"][0]["content"] for session in sessions_here(tmp_path).values()] == ["Hello"] * 2


def test_an_empty_file_imports_nothing_and_succeeds(tmp_path: Path) -> None:
    """There was nothing to do."""
    file = tmp_path / "lines.jsonl"
    file.touch()
    imported(file, 0, 0)


def test_sessions_land_in_the_tenant_that_the_option_names(tmp_path: Path) -> None:
    """JSON lines name no tenant: `--tenant` does; one of other characters is refused."""
    file = write_lines(tmp_path / "a.jsonl", [{"id": "s"}])
    assert said(1, 0, 0, 0) in succeed("import", "--database", "ledger.db", "--tenant", "acme", file, cwd=tmp_path)
    assert (sessions_of(tmp_path), set(sessions_of(tmp_path, "acme"))) == ({}, {"s"})
    for name in ("a b", "$system", ""):
        shown = CliRunner().invoke(cli, ["import", "--tenant", name, str(file)])
        assert (shown.exit_code, "--tenant" in shown.output) == (2, True)


def test_all_that_a_line_can_say_comes_back(tmp_path: Path) -> None:
    """Title, user, traits, times and every member of a message; times come back in UTC."""
    message = {
        "id": "m1",
        "role": "assistant",
        "content": [{"type": "text", "text": "\u2028 \U0001f600 \u0301"}],
        "name": "n",
        "tool_calls": [{"id": "c", "function": {"arguments": "{}"}}],
        "refusal": None,
        "metadata": {"n": 1.50, "big": 2**70, "deep": [[[None]]]},
        "created_at": "2020-02-29T23:59:59.123456+02:00",
    }
    session = {
        "id": "s",
        "user_id": "u",
        "title": "T",
        "traits": {"a": {"b": [1, None]}},
        "created_at": "2020-02-29T23:59:58-01:30",
        "messages": [
            message,
            {"id": "m2", "role": "user", "content": "", "parent_id": "m1", "created_at": None},
        ],
    }
    file = write_lines(tmp_path / "a.jsonl", [session])
    imported(file, 1, 2)
    found = sessions_of(tmp_path)["s"]
    first, second = found.pop("messages")
    assert first == {**message, "created_at": "2020-02-29T21:59:59.123456Z"}
    assert second.pop("created_at")
    assert second == {"id": "m2", "role": "user", "content": "", "parent_id": "m1"}
    assert found == {
        **{name: session[name] for name in ("id", "user_id", "title", "traits")},
        "created_at": "2020-03-01T01:29:58.000000Z",
    }


def test_what_was_removed_does_not_stand_in_an_exports_way(tmp_path: Path) -> None:
    """An export can be imported although the parent of one of its messages was removed."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s", message("m1"), message("m2", parent_id="m1")), remove("s", "m1"))
    second = tmp_path / "second"
    second.mkdir()
    file = write_lines(second / "export.jsonl", sessions_here(tmp_path).values())
    assert import_here(file) == (Report(sessions=1, messages=1), {})


def test_an_export_is_there_already_in_the_ledger_that_it_came_from(tmp_path: Path) -> None:
    """Importing an export where it came from changes nothing, also for sessions that no import has made."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s", message("m1")))
    file = write_lines(tmp_path / "export.jsonl", sessions_here(tmp_path).values())
    assert import_here(file) == (Report(present=1), {})


# Interruption and size


def generated(count: int, *, seed: int = 1) -> Iterator[Json]:
    """Sessions with up to five messages, half of which have no id."""
    chance = random.Random(seed)
    for n in range(count):
        messages: list[Json] = [
            {"role": "user", "content": "x" * chance.randrange(400)} for _ in range(chance.randrange(6))
        ]
        for place, each in enumerate(messages):
            if n % 2:
                each["id"] = f"m{place}"
        yield {"id": f"s{n:05d}", "traits": {"n": n}, "messages": messages}


def without_owned(session: Json) -> Json:
    """The session as it was generated, but for what the service adds."""
    odd = int(session["traits"]["n"]) % 2
    owned = {"created_at"} if odd else {"created_at", "id"}
    messages = [
        {name: value for name, value in message.items() if name not in owned} for message in session["messages"]
    ]
    return {"id": session["id"], "traits": session["traits"], "messages": messages}


def kill_import(file: Path, *, events: int) -> None:
    """Begin an import and SIGKILL it once the ledger has that many events."""
    process = subprocess.Popen(
        [*COMMAND, "import", "--database", "ledger.db", str(file)],
        cwd=file.parent,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while count(file.parent / "ledger.db", "events") < events:
        assert process.poll() is None, "the import was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()


def count(database: Path, table: str) -> int:
    """How many rows a table of the ledger has, read by this process; none where it is not there yet."""
    try:
        connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.CantOpenError:
        return 0
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").get)
    except (apsw.SQLError, apsw.BusyError, apsw.CantOpenError):
        return 0
    finally:
        connection.close()


def test_a_killed_import_is_finished_by_the_next_one(tmp_path: Path) -> None:
    """Killed in the middle, then run to its end: nothing is there twice, nothing is missing."""
    given = list(generated(SESSIONS))
    messages = sum(len(session["messages"]) for session in given)
    file = write_lines(tmp_path / "a.jsonl", given)
    kill_import(file, events=1)
    present = count(tmp_path / "ledger.db", "streams")
    present_messages = count(tmp_path / "ledger.db", "events") - present
    assert 0 < present < SESSIONS
    imported(file, SESSIONS - present, messages - present_messages, present=present)
    assert [without_owned(session) for session in exported(tmp_path / "ledger.db")] == given
    assert status(tmp_path / "ledger.db")["events"] == SESSIONS + messages
    imported(file, 0, 0, present=SESSIONS)
    assert status(tmp_path / "ledger.db")["events"] == SESSIONS + messages
    with Store(tmp_path / "ledger.db") as store:
        assert dump(store.views.db) == dump_rebuilt(store, tmp_path)
        assert wrong_leaves(store.ledger) == []


MEASURED = """
import sys
from chatledger.cli.main import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    sys.stderr.write("peak kB " + status.split("VmHWM:")[1].split()[0] + "\\n")
"""


def peak_mb(*arguments: object, cwd: Path) -> float:
    """The most memory that the command has, measured from within: rusage would count this process's too."""
    done = run(*arguments, cwd=cwd, command=[sys.executable, "-c", MEASURED])
    assert done.returncode == 0, done.stderr
    return int(done.stderr.rpartition("peak kB ")[2]) / 1000


def many_small() -> Iterable[Json]:
    """Some 60 MB in 6,000 sessions of ten messages each."""
    messages = [{"role": "user", "content": f"{n} " + "x" * 950} for n in range(10)]
    return ({"id": f"s{n}", "messages": messages} for n in range(6_000))


def few_large() -> Iterable[Json]:
    """Some 60 MB in sessions of one message of 500 kB each."""
    return ({"id": f"s{n}", "messages": [{"role": "user", "content": "x" * 500_000}]} for n in range(120))


def test_the_log_of_a_long_import_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied back beside the import at its limit, and the ledger's connection sees to it by itself afterwards."""
    pages_max = 64
    monkeypatch.setattr(importer, "GROUP_EVENTS", 500)
    file = write_lines(tmp_path / "lines.jsonl", ({"id": f"long-{n}", "messages": [SMALL] * 100} for n in range(400)))
    with Store(tmp_path / "ledger.db", wal_checkpoint_pages=pages_max) as store:
        source = importer.open_source(file, store.settings, tenant_id="default")
        by_itself = store.ledger.pragma("wal_autocheckpoint")
        lengths: list[int] = []

        def note(_done: int) -> None:
            lengths.append((tmp_path / "ledger.db-wal").stat().st_size)

        importer.run(store.committer, source, on_rejected=pytest.fail, on_progress=note)
        assert store.ledger.pragma("wal_autocheckpoint") == by_itself == pages_max
        page_bytes = store.ledger.pragma("page_size")
        written_bytes = (tmp_path / "ledger.db").stat().st_size
    # What one group writes comes on top of the limit at which the import waits for the copy.
    assert max(lengths) < OVERDUE * pages_max * page_bytes + 2 * written_bytes // len(lengths), lengths
    assert written_bytes > 3 * max(lengths), lengths


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("sessions", [many_small, few_large])
def test_import_and_export_stream(tmp_path: Path, sessions: Any) -> None:
    """A file of 60 MB takes under 250 MB of memory to import and to export."""
    file = write_lines(tmp_path / "a.jsonl", sessions())
    assert file.stat().st_size > 55e6
    assert peak_mb("import", "--database", "ledger.db", file, cwd=tmp_path) < MEMORY_MB_MAX
    again = tmp_path / "again.jsonl"
    assert peak_mb("export", "--database", "ledger.db", "--output", again, cwd=tmp_path) < MEMORY_MB_MAX
    assert again.stat().st_size > 55e6


# The CRUD store's file

NOON = dt.datetime(2024, 5, 15, 12, 0, 0, tzinfo=dt.UTC)
NOON_S = int(NOON.timestamp())
NOON_TEXT = "2024-05-15T12:00:00.000000Z"
LONG = "é😀\n" * 3_333 + "x"


def test_a_crud_store_comes_over_whole(tmp_path: Path) -> None:
    """Nested traits, null users, long contents, several tenants: each session lands in its own tenant."""
    traits = {"plan": "gold", "nested": {"list": [1, 2.5, None, {"deep": "é"}]}}
    file = crud.make(
        tmp_path / "store.db",
        [
            ("s1", "acme", "u1", json.dumps(traits), NOON_S),
            ("s2", "acme", None, None, NOON_S),
            ("s3", "globex", None, "{}", NOON_S),
            ("s4", None, "u4", "", NOON_S),
        ],
        [
            ("m1", "s1", "user", LONG, NOON_S),
            ("m2", "s1", "assistant", "", NOON_S + 1),
            ("m3", "s3", "system", "Be kind.", NOON_S),
            ("m4", "s4", "tool", "{}", NOON_S),
        ],
    )
    imported(file, 4, 4)
    acme, globex, default = (sessions_of(tmp_path, name) for name in ("acme", "globex", "default"))
    assert (set(acme), set(globex), set(default)) == ({"s1", "s2"}, {"s3"}, {"s4"})
    assert acme["s1"] == {
        "id": "s1",
        "user_id": "u1",
        "title": None,
        "traits": traits,
        "created_at": NOON_TEXT,
        "messages": [
            {"id": "m1", "role": "user", "content": LONG, "created_at": NOON_TEXT},
            {"id": "m2", "role": "assistant", "content": "", "created_at": "2024-05-15T12:00:01.000000Z"},
        ],
    }
    assert (acme["s2"]["user_id"], acme["s2"]["traits"], acme["s2"]["messages"]) == (None, {}, [])
    assert [default["s4"][name] for name in ("user_id", "traits")] == ["u4", {}]
    imported(file, 0, 0, present=4)


def test_messages_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    """As the CRUD store showed them: by time, those of one time as they were written."""
    times = {"late": 9, "early": 1, "same-b": 5, "same-a": 5, "same-c": 5}
    file = crud.make(
        tmp_path / "store.db",
        [("s", "t", None, None, NOON_S)],
        [(name, "s", "user", name, NOON_S + second) for name, second in times.items()],
    )
    report, reasons = import_here(file)
    assert (report.sessions, report.messages, reasons) == (1, 5, {})
    messages = sessions_here(tmp_path, "t")["s"]["messages"]
    assert [message["id"] for message in messages] == ["early", "same-b", "same-a", "same-c", "late"]


TIMES = {
    "seconds": NOON_S,
    "milliseconds": NOON_S * 1000,
    "microseconds": NOON_S * 1_000_000,
    "fraction": float(NOON_S),
    "iso": "2024-05-15T12:00:00Z",
    "iso-ms": "2024-05-15T12:00:00.000Z",
    "iso-offset": "2024-05-15T14:00:00+02:00",
    "current-timestamp": "2024-05-15 12:00:00",
    "digits": str(NOON_S),
}


def test_times_of_every_kind_are_kept(tmp_path: Path) -> None:
    """Seconds, milliseconds, microseconds, ISO 8601 and CURRENT_TIMESTAMP are the same moment."""
    file = crud.make(
        tmp_path / "store.db",
        [(name, "t", None, None, value) for name, value in TIMES.items()],
        [(f"m-{name}", name, "user", "", value) for name, value in TIMES.items()],
    )
    report, reasons = import_here(file)
    assert (report.sessions, report.messages, reasons) == (len(TIMES), len(TIMES), {})
    found = sessions_here(tmp_path, "t")
    assert {name: session["created_at"] for name, session in found.items()} == dict.fromkeys(TIMES, NOON_TEXT)
    assert {session["messages"][0]["created_at"] for session in found.values()} == {NOON_TEXT}


def test_a_default_of_current_timestamp_is_read(tmp_path: Path) -> None:
    """Times that SQLite itself wrote are taken as UTC."""
    file = crud.make(tmp_path / "store.db", [("s", "t", None, None, NOON_S)])
    connection = apsw.Connection(str(file))
    connection.execute("INSERT INTO messages (id, session_id, role, content) VALUES ('m', 's', 'user', 'x')")
    connection.close()
    report, reasons = import_here(file)
    assert (report.sessions, report.messages, reasons) == (1, 1, {})
    (message,) = sessions_here(tmp_path, "t")["s"]["messages"]
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(message["created_at"])
    assert dt.timedelta(0) <= age < dt.timedelta(minutes=10)


def crud_rejections(folder: Path, sessions: Iterable[crud.Row], messages: Iterable[crud.Row] = ()) -> dict[str, str]:
    """Import these rows between two good sessions, which have to come over; the reasons by their places."""
    good: list[crud.Row] = [(name, "t", None, None, NOON_S) for name in ("0", "z")]
    said_by: list[crud.Row] = [(f"of-{row[0]}", row[0], "user", "x", NOON_S) for row in good]
    file = crud.make(folder / "store.db", [*good, *sessions], [*said_by, *messages])
    report, reasons = import_here(file)
    found = sessions_here(folder, "t")
    assert {name: len(session["messages"]) for name, session in found.items()} == {"0": 1, "z": 1}
    assert (report.sessions, report.messages, report.rejected) == (2, 2, len(reasons))
    return reasons


def test_orphans_are_named_and_take_nothing_with_them(tmp_path: Path) -> None:
    """Messages whose session is gone are rejected by that session's id; the others have all of theirs."""
    reasons = crud_rejections(
        tmp_path,
        [],
        [(f"o{n}", name, "user", "x", NOON_S) for n, name in enumerate(("!", "gone", "gone", "zz"))],
    )
    assert len(reasons) == 3
    assert all("no such session" in reason for reason in reasons.values())
    assert [name in " ".join(reasons) for name in ("'!'", "'gone'", "'zz'")] == [True] * 3


def test_messages_of_no_session_take_nothing_with_them(tmp_path: Path) -> None:
    """A null session id sorts before all others, whatever they begin with."""
    reasons = crud_rejections(tmp_path, [], [("o1", None, "user", "x", NOON_S)])
    assert len(reasons) == 1


BAD_SESSIONS: dict[str, crud.Row] = {
    "traits-not-json": ("t", None, "{", NOON_S),
    "traits-not-object": ("t", None, "[1]", NOON_S),
    "traits-with-more-behind": ("t", None, '{}, "title": "smuggled"', NOON_S),
    "traits-number": ("t", None, 5, NOON_S),
    "traits-blob": ("t", None, b"\xff", NOON_S),
    "user-number": ("t", 5, None, NOON_S),
    "user-blob": ("t", b"u", None, NOON_S),
    "time-words": ("t", None, None, "yesterday"),
    "time-none": ("t", None, None, None),
    "time-blob": ("t", None, None, b"1"),
    "time-infinite": ("t", None, None, float("inf")),
    "time-far": ("t", None, None, 2**62),
    "time-before": ("t", None, None, -(2**62)),
    "tenant-space": ("not an id", None, None, NOON_S),
    "tenant-system": ("$system", None, None, NOON_S),
    "tenant-number": (5, None, None, NOON_S),
    "tenant-blob": (b"t", None, None, NOON_S),
}
BAD_MESSAGES: dict[str, crud.Row] = {
    "role": ("robot", "x", NOON_S),
    "content-blob": ("user", b"x", NOON_S),
    "content-number": ("user", 5, NOON_S),
    "content-nul": ("user", "a\x00b", NOON_S),
    "message-time": ("user", "x", "yesterday"),
}


@pytest.mark.parametrize("name", BAD_SESSIONS)
def test_a_bad_session_of_a_crud_store_is_rejected_by_its_id(tmp_path: Path, name: str) -> None:
    """It is not guessed at, and the others are imported."""
    reasons = crud_rejections(tmp_path, [(name, *BAD_SESSIONS[name])])
    assert len(reasons) == 1
    assert name in "".join(reasons)


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_bad_message_of_a_crud_store_rejects_its_session(tmp_path: Path, name: str) -> None:
    """A session is imported whole or not at all; the message's text is not in the reason."""
    reasons = crud_rejections(
        tmp_path,
        [(name, "t", None, None, NOON_S)],
        [("m1", name, "user", "fine", NOON_S), ("m2", name, *BAD_MESSAGES[name])],
    )
    assert len(reasons) == 1
    assert name in "".join(reasons)


def test_traits_in_a_blob_are_read(tmp_path: Path) -> None:
    """Some ORMs keep JSON as bytes."""
    file = crud.make(tmp_path / "store.db", [("s", "t", None, b'{"a": 1}', NOON_S)])
    report, reasons = import_here(file)
    assert (report.sessions, report.messages, reasons) == (1, 0, {})
    assert sessions_here(tmp_path, "t")["s"]["traits"] == {"a": 1}


def test_the_crud_stores_file_is_left_as_it_is(tmp_path: Path) -> None:
    """An import only reads, also where the file's last writes are in a write-ahead log."""
    original = crud.make(tmp_path / "original.db", [("s", "t", None, None, NOON_S)])
    writer = apsw.Connection(str(original))
    writer.pragma("journal_mode", "wal")
    writer.execute("INSERT INTO sessions VALUES ('in-the-log', 't', NULL, NULL, ?)", (NOON_S,))
    for suffix in ("", "-wal"):  # as the store's process leaves it when it is killed
        shutil.copy(f"{original}{suffix}", f"{tmp_path}/store.db{suffix}")
    writer.close()
    before = [(tmp_path / f"store.db{suffix}").read_bytes() for suffix in ("", "-wal")]
    imported(tmp_path / "store.db", 2, 0)
    assert [(tmp_path / f"store.db{suffix}").read_bytes() for suffix in ("", "-wal")] == before


# What is refused


def assert_nothing_written(folder: Path) -> None:
    """There is no ledger, or one without events."""
    database = folder / "ledger.db"
    assert not database.exists() or status(database)["events"] == 0


@pytest.mark.parametrize("missing", ["sessions", "messages"])
def test_another_sqlite_file_is_refused(tmp_path: Path, missing: str) -> None:
    """Without the CRUD store's two tables and their columns; the message names what is missing."""
    file = crud.make(tmp_path / "store.db", [("s", "t", None, None, NOON_S)])
    connection = apsw.Connection(str(file))
    connection.execute(f"DROP TABLE {missing}")
    connection.close()
    message = refuse("import", "--database", "ledger.db", file, cwd=tmp_path)
    assert "CRUD store" in message
    assert missing in message
    assert_nothing_written(tmp_path)


def test_a_file_of_random_bytes_is_refused(tmp_path: Path) -> None:
    """Nothing of it becomes a session."""
    file = tmp_path / "random.bin"
    file.write_bytes(random.Random(1).randbytes(20_000))
    done = import_(file)
    assert_clear(done)
    assert done.returncode == 1
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize("keep", [16, 100, 5_000, 20_000])
def test_a_damaged_sqlite_file_is_refused(tmp_path: Path, keep: int) -> None:
    """One that ends too early is refused in words, wherever it ends."""
    rows = [(f"s{n}", "t", None, None, NOON_S) for n in range(500)]
    file = crud.make(tmp_path / "store.db", rows, [(f"m{n}", f"s{n}", "user", LONG, NOON_S) for n in range(20)])
    content = file.read_bytes()
    file.write_bytes(content[:keep])
    done = import_(file)
    assert_clear(done)
    assert done.returncode == 1


def test_a_crud_store_damaged_in_its_middle_is_refused(tmp_path: Path) -> None:
    """Damage that only shows while rows are read is said in words, too."""
    rows = [(f"s{n:05d}", "t", None, None, NOON_S) for n in range(5_000)]
    file = crud.make(tmp_path / "store.db", rows)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8192] = b"\xff" * 8192
    file.write_bytes(content)
    done = import_(file)
    assert_clear(done)
    assert done.returncode == 1


def test_the_ledger_itself_is_refused(tmp_path: Path) -> None:
    """Also by another name of the same file."""
    imported(write_lines(tmp_path / "a.jsonl", [{"id": "s"}]), 1, 0)
    (tmp_path / "link").symlink_to("ledger.db")
    for name in ("./ledger.db", "link"):
        assert "ledger itself" in refuse("import", "--database", "ledger.db", name, cwd=tmp_path)
    assert status(tmp_path / "ledger.db")["events"] == 1


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nothing is made for it."""
    done = run("import", "--database", "ledger.db", "nowhere.jsonl", cwd=tmp_path)
    assert_clear(done)
    assert "nowhere.jsonl" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_import_into_memory_is_refused(tmp_path: Path) -> None:
    """It would say that it imported, and all would be gone."""
    file = write_lines(tmp_path / "a.jsonl", [{"id": "s"}])
    assert "memory" in refuse("import", "--database", ":memory:", file, cwd=tmp_path)


def test_an_import_beside_a_running_server_is_refused(server: Server, tmp_path: Path) -> None:
    """The server holds the ledger: two writers there cannot be."""
    file = write_lines(tmp_path / "a.jsonl", [{"id": "s"}])
    assert "in use" in refuse("import", "--database", server.database, file, cwd=tmp_path)
