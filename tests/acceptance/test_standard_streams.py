"""Standard streams that are closed, full, or whose reader is gone or sleeps: work under way goes on to its end."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.command import COMMAND, environment, exported, run, succeed, write_lines

LIMIT_S = 60
SESSIONS = [{"id": f"s{n}", "user_id": "ada", "messages": [{"role": "user", "content": "Hi"}]} for n in range(30)]
PIPE_BYTES = 1024 * 1024


def redirected(redirection: str, *arguments: object) -> list[str]:
    """The command, with *redirection* as a shell does it."""
    return ["sh", "-c", f'exec "$0" "$@" {redirection}', *COMMAND, *map(str, arguments)]


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    folder: Path, redirection: str = "", *, workers: int = 1, stderr: int = subprocess.DEVNULL
) -> Iterator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    """A server whose streams are *redirection*'s: what it announces cannot be waited for."""
    port = free_port()
    command = redirected(redirection, "serve", "--database", folder / "ledger.db", "--port", port, "--workers", workers)
    with (
        subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=stderr) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S, trust_env=False) as client,
    ):
        try:
            until_answered(process, client)
            yield process, client
        finally:
            process.kill()


def until_answered(process: "subprocess.Popen[bytes]", client: httpx.Client) -> None:
    """Wait until the server takes requests."""
    until_s = time.monotonic() + LIMIT_S
    while True:
        assert process.poll() is None, "the server has ended"
        try:
            client.get("/health/live")
        except httpx.TransportError:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        else:
            return


def stopped(process: "subprocess.Popen[bytes]") -> int:
    """The exit code behind SIGTERM."""
    process.send_signal(signal.SIGTERM)
    return process.wait(LIMIT_S)


def dropped(client: httpx.Client) -> int:
    """How many log lines were lost, by the metrics."""
    found = re.search(r"^chatledger_log_lines_dropped_total (\d+)", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def until_dropped(client: httpx.Client, count: int) -> None:
    """Wait until so many were: a thread writes them, and nobody waits for it."""
    until_s = time.monotonic() + LIMIT_S
    while dropped(client) < count:
        assert time.monotonic() < until_s


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("redirection", CLOSED)
def test_a_server_serves_and_stops_whatever_its_streams_are(tmp_path: Path, redirection: str, workers: int) -> None:
    """Closed or full: writes are acknowledged, and the stop is an orderly one with exit code 0 (F22)."""
    with serving(tmp_path, redirection, workers=workers) as (process, client):
        for number in range(20):
            assert client.post("/v1/sessions", json={"id": f"s{number}"}).status_code == 201
        if "2>" in redirection:
            until_dropped(client, 20)
        else:
            assert not dropped(client)
        assert stopped(process) == 0
    assert len(exported(tmp_path / "ledger.db")) == 20


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_whose_reader_has_ended_is_no_reason_to_stop(tmp_path: Path, workers: int) -> None:
    """As behind `2> >(logger)`: each line is EPIPE, and counted."""
    reader, writer = os.pipe()
    with serving(tmp_path, workers=workers, stderr=writer) as (process, client):
        os.close(writer)
        os.close(reader)
        before = dropped(client)
        for number in range(20):
            assert client.post("/v1/sessions", json={"id": f"s{number}"}).status_code == 201
        until_dropped(client, before + 20)
        assert stopped(process) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_whose_reader_sleeps_holds_nobody_up_and_says_later_what_was_lost(tmp_path: Path, workers: int) -> None:
    """The pipe is full: requests are answered all the same. Once somebody reads, one line has the count."""
    reader, writer = os.pipe()
    with serving(tmp_path, workers=workers, stderr=writer) as (process, client):
        os.close(writer)
        os.set_blocking(reader, False)
        # A template of a path that is not there is short; what makes a line long is the client's own request id.
        headers = {"X-Request-Id": "r" * 128}
        until_s = time.monotonic() + LIMIT_S
        while not dropped(client):
            for _ in range(500):
                assert client.get("/health/live", headers=headers).status_code == 200
            assert time.monotonic() < until_s
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        said = b""
        while b'"log lines dropped"' not in said:
            try:
                said += os.read(reader, PIPE_BYTES)
            except BlockingIOError:
                time.sleep(0.001)
            assert time.monotonic() < until_s
        line = next(line for line in said.splitlines() if b'"log lines dropped"' in line)
        assert re.search(rb'"count":\d+', line)
        os.set_blocking(reader, True)
        process.send_signal(signal.SIGTERM)
        while os.read(reader, PIPE_BYTES):
            pass
        assert process.wait(LIMIT_S) == 0
    os.close(reader)


def test_an_export_to_a_closed_or_full_output_says_so_in_one_line(tmp_path: Path) -> None:
    """It has nothing but its output: exit code 1, no traceback (F22, F24)."""
    succeed("import", "--database", "ledger.db", write_lines(tmp_path / "a.jsonl", SESSIONS), cwd=tmp_path)
    for redirection, why in (
        (">&-", "is closed: there is nowhere to write to"),
        (">/dev/full", "cannot be written: no space left on device"),
    ):
        for command in ("export", "status"):
            done = run(cwd=tmp_path, command=redirected(redirection, command, "--database", "ledger.db"))
            last = done.stderr.splitlines()[-1]
            assert (done.returncode, last) == (1, f"chatledger: Standard output {why}.")
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "<&-"])
def test_an_import_goes_on_where_its_progress_cannot_be_shown(tmp_path: Path, redirection: str) -> None:
    """Also rejected sessions, each of which it names on standard error."""
    lines = write_lines(
        tmp_path / "a.jsonl", [*SESSIONS, {"id": ""}, *({**each, "id": f"t{each['id']}"} for each in SESSIONS)]
    )
    done = run(cwd=tmp_path, command=redirected(redirection, "import", "--database", "ledger.db", lines))
    assert done.returncode == 1
    assert done.stdout == "60 sessions with 60 messages imported, 0 were there already, 1 rejected\n"
    assert len(exported(tmp_path / "ledger.db")) == 60


def test_an_import_whose_answer_cannot_be_written_is_done_and_says_so(tmp_path: Path) -> None:
    """Exit code 1, because nobody was told what was imported."""
    lines = write_lines(tmp_path / "a.jsonl", SESSIONS)
    done = run(cwd=tmp_path, command=redirected(">/dev/full", "import", "--database", "ledger.db", lines))
    assert done.returncode == 1
    assert done.stderr.endswith("chatledger: Standard output cannot be written: no space left on device.\n")
    assert len(exported(tmp_path / "ledger.db")) == 30


def test_an_erasure_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """`erase --user … | head -1`, beside a server: all sessions are erased, and not only those up to the first line."""
    succeed("import", "--database", "ledger.db", write_lines(tmp_path / "a.jsonl", SESSIONS), cwd=tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with serving(tmp_path) as (_, client):
        command = [*COMMAND, "erase", "--database", "ledger.db", "--user", "ada", "--reason", "asked"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")
        assert client.get("/v1/sessions").json()["data"] == []


def test_no_key_is_made_whose_text_nobody_can_see(tmp_path: Path) -> None:
    """It is shown once: with a closed output there would be a key that nobody has."""
    done = run(cwd=tmp_path, command=redirected(">&-", "key", "create", "--operator", "--database", "ledger.db"))
    assert (done.returncode, "Standard output is closed" in done.stderr) == (1, True)
    assert not (tmp_path / "ledger.db").exists()


def test_an_output_that_does_not_wait_is_waited_for(tmp_path: Path) -> None:
    """A non-blocking pipe, as some programs give to those they start: nothing of an export is lost."""
    sessions = [{"id": f"s{n}", "messages": [{"role": "user", "content": "x" * 50_000}]} for n in range(40)]
    succeed("import", "--database", "ledger.db", write_lines(tmp_path / "a.jsonl", sessions), cwd=tmp_path)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [*COMMAND, "export", "--database", "ledger.db"], cwd=tmp_path, env=environment(), stdout=writer
    ) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            assert len(file.read().splitlines()) == 40
        assert process.wait(LIMIT_S) == 0


def test_a_character_that_the_output_does_not_have_is_no_traceback(tmp_path: Path) -> None:
    """In a locale without UTF-8."""
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    (tmp_path / "ä.jsonl").write_text("")
    succeed("import", "--database", "ledger.db", "ä.jsonl", cwd=tmp_path, env=env)
    assert succeed("backup", "--database", "ledger.db", "bäckup.db", cwd=tmp_path, env=env).startswith("0 events")
