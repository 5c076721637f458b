"""The command `chatledger` with something wrong inside, and a server that runs it.

Run as `python -m support.altered`, with `tests` on the path. `SEEDED_BUG` names a bug of `seeded_bugs.py`,
`MOVED_CLOCK` the file of `moved_clock.py`, `SLOW_COMMIT_MS` the time that each commit takes longer than it does,
`REBUILD_GATE` a file: while it is there, rebuilds do not get on.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support import moved_clock, seeded_bugs
from support.server import START_TIMEOUT_S, Server

COMMAND = (sys.executable, "-m", "support.altered")
PLAIN = (sys.executable, "-m", "chatledger")
TESTS = Path(__file__).resolve().parents[1]
BUG = "SEEDED_BUG"
CLOCK = "MOVED_CLOCK"
SLOW_COMMIT_MS = "SLOW_COMMIT_MS"
REBUILD_GATE = "REBUILD_GATE"


def environment(bug: str = "", **variables: str) -> dict[str, str]:
    """What a process of `COMMAND` needs in its environment."""
    return {"PYTHONPATH": str(TESTS), **({BUG: bug} if bug else {}), **variables}


def command_of(env: Mapping[str, str]) -> Sequence[str]:
    """The product as it is, where *env* asks for nothing else."""
    return COMMAND if {BUG, CLOCK, SLOW_COMMIT_MS, REBUILD_GATE} & env.keys() else PLAIN


class WatchedServer(Server):
    """A server whose log is a file, which can be read while it runs and never makes it wait.

    *prefix* is a command that runs the server's; its process has to become the server's own (`exec`).
    """

    def __init__(
        self,
        database: Path | str,
        *,
        log: Path,
        bug: str = "",
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        wanted = {**environment(bug), **(env or {})}
        super().__init__(database, env=wanted)
        self.command = [*prefix, *command_of(wanted), "serve", "--database", self.database, "--port"]
        self.log = log

    def spawn(self) -> "subprocess.Popen[str]":
        """Begin to start it, and wait for nothing."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, str(self.port)], env=self._env, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def _drain(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait(timeout=START_TIMEOUT_S)
        self._process.stdout.close()
        return self.log.read_text()


def _install() -> None:
    if os.environ.get(CLOCK):
        moved_clock.install(Path(os.environ[CLOCK]))
    if os.environ.get(SLOW_COMMIT_MS):
        _slow_down(int(os.environ[SLOW_COMMIT_MS]) / 1000)
    if os.environ.get(REBUILD_GATE):
        _hold_rebuilds(Path(os.environ[REBUILD_GATE]))
    if os.environ.get(BUG):
        seeded_bugs.BUGS[os.environ[BUG]]()


def _slow_down(seconds: float) -> None:
    """A slow disk: the writer waits behind each commit before it answers."""
    from chatledger.writing.committer import Committer  # noqa: PLC0415  # not before the clock is moved

    commit = Committer.commit

    def slow_commit(self: Committer, submissions: "Sequence[object]") -> object:
        outcomes = commit(self, submissions)  # type: ignore[arg-type]  # passed on as it came
        time.sleep(seconds)  # the fault itself, not a synchronisation
        return outcomes

    Committer.commit = slow_commit  # type: ignore[method-assign,assignment]


def _hold_rebuilds(gate: Path) -> None:
    from chatledger.views.builder import Builder, BuildStopped  # noqa: PLC0415

    follow = Builder.follow

    def follow_later(self: Builder, *arguments: Any) -> int:
        while gate.exists() and not self.stopped:
            time.sleep(0.001)
        if self.stopped:
            raise BuildStopped
        return follow(self, *arguments)

    Builder.follow = follow_later  # type: ignore[method-assign,assignment]


def main() -> None:
    """A worker with the same wrong inside as its supervisor."""
    _install()
    from chatledger.serving.worker import main as work  # noqa: PLC0415

    work()


if __name__ == "__main__":
    _install()
    from chatledger.cli.main import main as command
    from chatledger.serving import supervisor

    supervisor.WORKER = "support.altered"
    command()
