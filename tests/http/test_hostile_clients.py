"""An ordinary client beside a thousand others that mean no good: it hardly notices, and memory stays bounded."""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.documents import ROOT
from support.server import Server

ROUNDS = 5
REQUESTS = 400
RATIO_MAX = 3.0
BODIES_BYTES_MAX = 32 * 1024 * 1024
RSS_GROWTH_MAX = BODIES_BYTES_MAX + 128 * 1024 * 1024
"""The bodies that may be in memory, 64 KiB of what each of 1,151 connections has sent unread, and some room."""

pytestmark = pytest.mark.slow


class Hostile:
    """The crowd's process."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.hostile", str(port)],
            cwd=ROOT / "tests",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, word: str) -> None:
        """`on` or `off`, and wait until it is so."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Server]:
    """A server with less room for bodies than the crowd sends."""
    env = {"CHATLEDGER_QUEUE_BYTES_MAX": str(BODIES_BYTES_MAX)}
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=env) as running:
        yield running


def resident_bytes(server: Server, field: str) -> int:
    """The memory that the server has now (`VmRSS`), or has had at most (`VmHWM`)."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def p99_ms(client: httpx.Client) -> float:
    """Of appends, one after the other."""
    took = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        answer = client.post("/v1/sessions/s/messages", json={"role": "user", "content": "Hello"})
        took.append(time.perf_counter() - started)
        assert answer.status_code == 201
    return sorted(took)[REQUESTS * 99 // 100] * 1000


def test_an_ordinary_client_hardly_notices_them(busy: Server) -> None:
    """Its p99 beside them is at most three times its p99 alone: medians of rounds by turns, within one run."""
    crowd = Hostile(busy.port)
    alone, beside = [], []
    with busy.client() as client:
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        p99_ms(client)  # warm
        before = resident_bytes(busy, "VmRSS")
        for _ in range(ROUNDS):
            alone.append(p99_ms(client))
            crowd.tell("on")
            beside.append(p99_ms(client))
            crowd.tell("off")
        assert client.get("/health/ready").status_code == 200
    crowd.end()
    grown = resident_bytes(busy, "VmHWM") - before
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"p99 alone {alone} ms, beside {beside} ms, ratio {ratio:.2f}, grown by {grown >> 20} MiB")  # noqa: T201
    assert ratio <= RATIO_MAX
    assert grown <= RSS_GROWTH_MAX
