"""Appends of one message each at a steady rate, by a process of its own: how long each one waits for its answer.

A wait is counted from when the append was due, so that one that could not be sent for others counts in full.
Run as `python -m stalls.appends PORT RATE CREDENTIAL`: it says `ready`, goes on until its standard input ends, and then
prints a line for each append: when it was due, by the monotonic clock of the machine, its wait, both in s, its status.
"""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

TESTS = Path(__file__).parents[1]
SESSIONS = 20
CONTENT = "How does the ledger know that nobody has changed an event since it was written?"
WARM_UP_S = 0.5
ANSWER_TIMEOUT_S = 60.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Append(NamedTuple):
    """One of them."""

    due_s: float
    wait_s: float
    status: int


class Window(NamedTuple):
    """From when to when something went on, by the monotonic clock."""

    from_s: float
    to_s: float


class SteadyAppends:
    """The process, as a context manager; what it has measured is there once the block has ended."""

    def __init__(self, port: int, *, rate: int = 100, credential: str = "") -> None:
        self._command = [sys.executable, "-m", "stalls.appends", str(port), str(rate), credential]
        self._windows: dict[str, list[Window]] = {}
        self.appends: list[Append] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        time.sleep(WARM_UP_S)
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self._process.communicate("\n")
        rows = [line.split() for line in out.splitlines()]
        self.appends = [Append(float(due), float(wait), int(status)) for due, wait, status in rows]

    @contextmanager
    def window(self, name: str) -> Iterator[None]:
        """Note that the block belongs to *name*."""
        from_s = time.monotonic()
        yield
        self._windows.setdefault(name, []).append(Window(from_s, time.monotonic()))

    def durations_s(self, name: str) -> list[float]:
        """How long each block took."""
        return [window.to_s - window.from_s for window in self._windows[name]]

    def waits_s(self, name: str) -> list[list[float]]:
        """By block, the waits of the appends of which a part falls into it."""
        return [
            [each.wait_s for each in self.appends if each.due_s < to_s and each.due_s + each.wait_s > from_s]
            for from_s, to_s in self._windows[name]
        ]


class _Client:
    """Sends each append when it is due, over as many connections as that takes."""

    def __init__(self, port: int, credential: str) -> None:
        self._port = port
        self._head = f"Authorization: Bearer {credential}\r\n" if credential else ""
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.done: list[Append] = []

    async def post(self, path: str, body: bytes) -> int:
        """The status of the answer; 0, where none came."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._exchange(path, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return 0

    async def _exchange(self, path: str, body: bytes) -> int:
        reader, writer = await self._connection()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{self._head}Content-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer)
        await reader.readexactly(0 if length is None else int(length[1]))
        self._idle.append((reader, writer))
        return int(answer.split(b" ", 2)[1])

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server has closed it, because nothing came for long
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def append(self, due_s: float, session_id: str) -> None:
        body = b'{"role":"user","content":"%b"}' % CONTENT.encode()
        status = await self.post(f"/v1/sessions/{session_id}/messages", body)
        self.done.append(Append(due_s, time.monotonic() - due_s, status))


async def _run(port: int, rate: int, credential: str) -> None:
    client = _Client(port, credential)
    names = [f"steady-{number}" for number in range(SESSIONS)]
    for name in names:
        await client.post("/v1/sessions", b'{"id":"%b"}' % name.encode())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, stopped.set)
    began_s, number, tasks = time.monotonic(), 0, set[asyncio.Task[None]]()
    while not stopped.is_set():
        due_s = began_s + number / rate
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        task = asyncio.ensure_future(client.append(due_s, names[number % SESSIONS]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    for due_s, wait_s, status in sorted(client.done):
        sys.stdout.write(f"{due_s:.6f} {wait_s:.6f} {status}\n")


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
