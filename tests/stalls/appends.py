"""Appends of one message each at a steady rate, by a process of its own: how long each one waits for its answer.

A wait is counted from when the append was due, so that one that could not be sent for others counts in full.
Run as `python -m stalls.appends PORT RATE CREDENTIAL`: it says `ready`, goes on until its standard input ends, and then
prints a line for each append: when it was due, by the monotonic clock of the machine, its wait, both in s, its status.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from support.open_loop import Connections
from support.wire import Request, ask

TESTS = Path(__file__).parents[1]
SESSIONS = 20
CONTENT = "How does the ledger know that nobody has changed an event since it was written?"
WARM_UP_S = 0.5
ANSWER_TIMEOUT_S = 60.0


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


async def _run(port: int, rate: int, credential: str) -> None:
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    names = [f"steady-{number}" for number in range(SESSIONS)]
    for name in names:
        ask(port, "POST", "/v1/sessions", {"id": name}, **headers)
    message = {"role": "user", "content": CONTENT}
    requests = [Request.of("POST", f"/v1/sessions/{name}/messages", message, **headers) for name in names]
    connections, done = Connections(port), list[Append]()

    async def append(due_s: float, request: Request) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                status = (await connections.ask("", request)).status
        except (OSError, TimeoutError):
            status = 0
        done.append(Append(due_s, time.monotonic() - due_s, status))

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, stopped.set)
    began_s, number, tasks = time.monotonic(), 0, set[asyncio.Task[None]]()
    while not stopped.is_set():
        due_s = began_s + number / rate
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        task = asyncio.ensure_future(append(due_s, requests[number % SESSIONS]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    for due_s, wait_s, status in sorted(done):
        sys.stdout.write(f"{due_s:.6f} {wait_s:.6f} {status}\n")


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
