"""What may come to a server from outside: signals that do not end it, a terminal, a part of it that fails for good."""

import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import httpx
import pytest

from support.altered import WatchedServer
from support.command import COMMAND, environment, exported
from support.server import Server, children
from support.wire import Request, Wire
from support.workers import pids

LIMIT_S = 60
IGNORED = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE]
COLUMNS = 100


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds."""
    until_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until_s, what
        time.sleep(0.002)


def said(server: WatchedServer) -> list[tuple[object, object]]:
    """Of each line about a signal, which one it was and which worker has met it."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [(line["signal"], line.get("worker")) for line in lines if line["event"] == "signal ignored"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_of_terminals_and_log_rotation_do_not_end_a_server(tmp_path: Path, workers: str) -> None:
    """One line each, of the supervisor and of each worker; then SIGTERM stops it in order (O9, O6)."""
    env = {"CHATLEDGER_WORKERS": workers}
    with WatchedServer(tmp_path / "ledger.db", log=tmp_path / "log", env={**os.environ, **env}) as server:
        found = {server.pid: None, **dict.fromkeys(pids(server))}
        with server.client() as client:
            for number in IGNORED:
                for pid in found:
                    os.kill(pid, number)
            expected = 3 * len(found)
            until(lambda: len(said(server)) == expected, "a signal has no line")
            assert sorted(name for name, _ in said(server)) == sorted(["SIGHUP", "SIGUSR1", "SIGUSR2"] * len(found))
            assert {worker for _, worker in said(server)} == ({None} if workers == "1" else {None, 1, 2})
            assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        assert {server.pid, *pids(server)} == set(found)
        assert server.stop() == 0


def test_a_terminal_that_is_closed_does_not_end_the_server(tmp_path: Path) -> None:
    """As a dropped ssh: SIGHUP comes, and each line of the log is an I/O error from there on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "serve", "--database", "ledger.db", "--port", str(port)],
        cwd=tmp_path,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # A session of its own whose terminal this is: only then the kernel sends SIGHUP.
        preexec_fn=lambda: (os.setsid(), ioctl(0, termios.TIOCSCTTY, 0)),  # noqa: PLW1509
    )
    os.close(theirs)
    with process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S, trust_env=False) as client:
        try:
            shown = b""
            while b"API page" not in shown:
                shown += os.read(ours, 65536)
            assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
            os.close(ours)
            for number in range(20):
                assert client.post("/v1/sessions", json={"id": f"s{number}"}).status_code == 201
            lost = re.compile(r"^chatledger_log_lines_dropped_total [1-9]", re.MULTILINE)
            until(lambda: lost.search(client.get("/metrics").text) is not None, "no line was lost")
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
    assert len(exported(tmp_path / "ledger.db")) == 21


def on_terminal(folder: Path, *options: str, **variables: str) -> str:
    """What a terminal of 100 columns shows of one request with a long id, and of the stop."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "serve", "--database", "ledger.db", "--port", "0", *options],
        cwd=folder,
        env=environment(**{"TERM": "xterm", **variables}),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        answer = httpx.get(f"{url}/v1/sessions/nobody", headers={"X-Request-Id": "r" * 100}, trust_env=False)
        assert answer.status_code == 404
        process.send_signal(signal.SIGTERM)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not piece:
                break
            shown += piece
        assert process.wait(LIMIT_S) == 0
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[\d+m", "", text)


def test_a_terminal_gets_one_line_for_each_request_that_fits(tmp_path: Path) -> None:
    """No walls of text: what there is no room for is left out (N3)."""
    shown = on_terminal(tmp_path)
    made, request, *others = plain(shown).splitlines()
    assert made[9:].startswith("signing key made key=")
    assert re.fullmatch(r"\d\d:\d\d:\d\d GET /v1/sessions/\{session_id\} 404 \d+\.\d ms default open", request)
    assert [line[9:] for line in others] == ["stopping", "stopped"]
    assert "\x1b[" in shown


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colours_gets_none(tmp_path: Path, variables: dict[str, str]) -> None:
    """https://no-color.org, and a terminal that can do nothing."""
    shown = on_terminal(tmp_path, **variables)
    assert "\x1b" not in shown
    assert " 404 " in shown


def test_form_and_level_of_the_log_can_be_chosen(tmp_path: Path) -> None:
    """By an option, which wins over the variable."""
    lines = on_terminal(tmp_path, "--log-format", "json", CHATLEDGER_LOG_FORMAT="text").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["signing key made", "request", "stopping", "stopped"]
    assert on_terminal(tmp_path, "--log-level", "warning", CHATLEDGER_LOG_LEVEL="debug") == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_text_elsewhere_is_whole_and_has_no_colours(tmp_path: Path, workers: str) -> None:
    """In a file or a pipe there is room for everything."""
    env = {"CHATLEDGER_LOG_FORMAT": "text", "CHATLEDGER_LOG_LEVEL": "info", "CHATLEDGER_WORKERS": workers}
    with Server(tmp_path / "ledger.db", env=env, cwd=tmp_path) as server, server.client() as client:
        client.get("/v1/sessions/nobody", headers={"X-Request-Id": "r" * 100})
        assert server.stop() == 0
        found = [line for line in server.stderr.splitlines() if " 404 " in line]
        who = "" if workers == "1" else r"worker \d "
        assert len(found) == 1
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d GET /v1/sessions/\{session_id\} 404 \d+\.\d ms " + who + "default open r{100}", found[0]
        )


def test_a_server_whose_writer_ends_for_good_ends_with_a_line(tmp_path: Path) -> None:
    """Exit code 1, so that it is started again; all that was acknowledged is there."""
    server = WatchedServer(tmp_path / "ledger.db", log=tmp_path / "log", bug="writer_fails_behind_each_group")
    with server, server.client() as client:
        acknowledged = []
        for number in range(100):
            try:
                answer = client.post("/v1/sessions", json={"id": f"s{number}"})
            except httpx.TransportError:
                break
            if answer.status_code == 503:
                assert "Retry-After" in answer.headers
                break
            assert answer.status_code == 201
            acknowledged.append(f"s{number}")
        assert server.wait() == 1
        lines = server.log.read_text().splitlines()
        assert lines[-1] == ("chatledger: The writer has failed again and again and has ended; the log above says why.")
        events = [json.loads(line)["event"] for line in lines[:-1]]
        assert (events.count("thread failed"), events.count("thread ended")) == (4, 1)
    assert {each["id"] for each in exported(tmp_path / "ledger.db")} >= set(acknowledged)
    assert len(acknowledged) >= 5


def test_a_worker_whose_writer_ends_for_good_is_started_again(tmp_path: Path) -> None:
    """The supervisor says so; whoever asks again is served."""
    server = WatchedServer(
        tmp_path / "ledger.db",
        log=tmp_path / "log",
        bug="writer_fails_behind_each_group",
        env={"CHATLEDGER_WORKERS": "2"},
    )
    with server:
        before = set(children(server.pid))
        for number in range(12):  # connections of their own: some meet one worker, some the other
            with server.client() as client:
                try:
                    assert client.post("/v1/sessions", json={"id": f"s{number}"}).status_code in (201, 503)
                except httpx.TransportError:
                    continue
        until(lambda: '"worker died"' in server.log.read_text(), "no worker has ended")
        until(lambda: len(children(server.pid)) == 2, "it was not started again")
        assert set(children(server.pid)) != before
        line = next(line for line in server.log.read_text().splitlines() if '"worker died"' in line)
        assert json.loads(line)["code"] == 1
        assert "The writer has failed" in json.loads(line)["reason"]
        assert server.stop() == 0


def test_the_port_of_the_metrics_goes_on_when_one_scrape_fails(tmp_path: Path) -> None:
    """What a request there meets, also where standard error is full, is that request's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"CHATLEDGER_METRICS_PORT": str(port)}
    server = WatchedServer(tmp_path / "ledger.db", log=Path("/dev/full"), bug="every_other_scrape_fails", env=env)
    with server:
        found = [httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).status_code for _ in range(6)]
        assert found == [500, 200] * 3
        os.kill(server.pid, signal.SIGTERM)
        process = server._process  # `stop` would read the log to its end, and this one has none
        assert process is not None
        assert process.stdout is not None
        assert process.wait(LIMIT_S) == 0
        process.stdout.close()


def test_a_request_that_cannot_be_counted_is_answered_and_its_connection_goes_on(tmp_path: Path) -> None:
    """A metric is no reason to stop either; the log says so."""
    server = WatchedServer(tmp_path / "ledger.db", log=tmp_path / "log", bug="requests_not_counted")
    with server, Wire(server.port) as wire:
        for number in range(3):
            assert wire.ask(Request.of("POST", "/v1/sessions", {"id": f"s{number}"})).status == 201
        assert server.stop() == 0
        assert server.log.read_text().count('"request not counted"') == 3
