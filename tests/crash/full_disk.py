"""A disk that is really full: a clear answer, reads go on, and once there is room appends work again by themselves.

Every other disk has the server's log on it too: a log line that cannot be written is no reason to stop.
"""

import random
import shlex
import tempfile
import time
from collections import Counter
from pathlib import Path

from crash.findings import Findings, Progress, Result, quiet
from support.altered import WatchedServer
from support.small_disk import SmallDisk, small_disk
from support.wire import Answer, ConnectionGone, Request, Wire, ask

SIZES = (40, 3_000, 60_000)
"""Of the messages, in bytes: a small one may fit where a large one does not."""
REFUSALS_WANTED = 60
APPENDS_MAX = 4_000
TIMES_A_DISK = 3
"""Each time half of what is left is freed again, so that later there is no room for what has to be caught up."""
RECOVERY_S = 30
RECOVERY_OF_BUG_S = 3
ANSWER_S = 20
ANSWER_OF_BUG_S = 3
LOG = "server.log"
LOST = "log lines dropped"


def run_full_disk(count: int, seed: int, progress: Progress = quiet, *, bug: str = "", force: str = "") -> Result:
    """Fill a disk and free it again *count* times; *force* names a mechanism other than the best."""
    findings = Findings("full disk" + (f" with {bug}" if bug else ""), seed)
    chance = random.Random(seed)
    done, disks = 0, 0
    while done < count and not (bug and findings.violations):
        times = min(TIMES_A_DISK, count - done)
        _fill_one(times, chance, findings, bug, force, with_log=disks % 2 == 0)
        done, disks = done + times, disks + 1
        progress(done, count)
    return findings.result()


def _fill_one(times: int, chance: random.Random, findings: Findings, bug: str, force: str, *, with_log: bool) -> None:
    """A new disk with one server, and with its log, if *with_log*."""
    with tempfile.TemporaryDirectory(prefix="full-disk-") as folder, small_disk(Path(folder) / "disk") as best:
        disk = best if not force else SmallDisk(force, best.folder)
        findings.counts[f"disks by {disk.mechanism}"] += 1
        prefix, log = disk.prefix, disk.folder / LOG
        if with_log:  # opened where the disk is seen, which may be in a mount namespace
            findings.counts["disks with the log"] += 1
            prefix = (*prefix, "sh", "-c", f'exec "$0" "$@" 2>>{shlex.quote(str(log))}')
        with WatchedServer(
            disk.folder / "ledger.db",
            log=Path(folder) / "log",
            bug=bug,
            prefix=prefix,
            env={"CHATLEDGER_LOG_LEVEL": "info"} if with_log else None,
        ) as server:
            try:
                _try_one(_Trial(server, disk, chance, findings, bug), times)
            except ConnectionGone:
                findings.violation("a request had no answer")
            else:
                if with_log and disk.is_disk and not _says_what_was_lost(disk.seen_from_here(server) / LOG):
                    findings.violation("log lines were lost, and the log does not say so")


def _says_what_was_lost(log: Path) -> bool:
    until_s = time.monotonic() + ANSWER_S
    while LOST not in log.read_text():  # a thread of its own writes it
        if time.monotonic() > until_s:
            return False
    return True


def _try_one(trial: "_Trial", times: int) -> None:
    ask(trial.port, "POST", "/v1/sessions", {"id": "s"})
    for _ in range(times):
        trial.fill()
        trial.read()
        if not trial.free():
            return
        trial.check()


class _Trial:
    """One server, and what it was sent."""

    def __init__(
        self, server: WatchedServer, disk: SmallDisk, chance: random.Random, findings: Findings, bug: str
    ) -> None:
        self._server = server
        self._disk = disk
        self._chance = chance
        self._findings = findings
        self._recovery_s = RECOVERY_OF_BUG_S if bug else RECOVERY_S
        self._answer_s = ANSWER_OF_BUG_S if bug else ANSWER_S
        self._sent = 0
        self._said: dict[str, int] = {}
        """The status that each message got."""

    @property
    def port(self) -> int:
        """The server's."""
        return self._server.port

    def _wire(self) -> Wire:
        return Wire(self.port, timeout_s=self._answer_s)

    def fill(self) -> None:
        """Append until the disk is full, and go on for a while; each answer has to be one of those promised."""
        self._disk.fill(self._server)
        refused: Counter[str] = Counter()
        with self._wire() as wire:
            for _ in range(APPENDS_MAX):
                answer = self._append(wire, self._chance.choice(SIZES))
                if answer.status != 201:
                    refused[self._refusal(answer)] += 1
                if refused.total() >= REFUSALS_WANTED:
                    break
        self._findings.counts.update({f"answers {name}": number for name, number in refused.items()})
        if self._disk.is_disk and not refused["storage-full"]:
            self._findings.violation(f"the disk was full and nobody said so: {dict(refused)}")
        if not refused:
            self._findings.violation("nothing was ever refused")

    def _refusal(self, answer: Answer) -> str:
        name = str(answer.document.get("type", "")).rpartition(":")[2]
        allowed = {(507, "storage-full"), (503, "outcome-unknown"), (503, "overloaded")}
        if (answer.status, name) not in allowed or "retry-after" not in answer.headers:
            self._findings.violation(f"on a full disk: {answer.status} {name} {answer.body[:300]!r}")
        return name

    def _append(self, wire: Wire, size: int) -> Answer:
        self._sent += 1
        name = f"m{self._sent}"
        message = {"id": name, "role": "user", "content": "x" * size}
        answer = wire.ask(Request.of("POST", "/v1/sessions/s/messages", message))
        self._said[name] = answer.status
        return answer

    def read(self) -> None:
        """Everything that was acknowledged can be read while the disk is full."""
        self._check_stored("while the disk is full")
        answer = ask(self._server.port, "GET", "/health/live")
        if answer.status != 200:
            self._findings.violation(f"it does not live: {answer.status}")

    def free(self) -> bool:
        """Give the space back and append until it works again, without a restart."""
        self._disk.free(self._server)
        began_s = time.monotonic()
        with self._wire() as wire:
            while (answer := self._append(wire, SIZES[0])).status != 201:
                self._refusal(answer)
                if time.monotonic() - began_s > self._recovery_s:
                    self._findings.violation(
                        f"no append in {self._recovery_s} s after there was room: {answer.body[:300]!r}"
                    )
                    return False
                time.sleep(0.05)  # as a client does that was told to come again
        ready = ask(self._server.port, "GET", "/health/ready")
        if ready.status != 200:
            self._findings.violation(f"not ready after there was room: {ready.body!r}")
        self._findings.counts["recoveries"] += 1
        return True

    def check(self) -> None:
        """After a SIGKILL too."""
        self._check_stored("after there was room")
        if self._disk.mechanism != "namespace":  # the file system would go with its process
            self._server.kill()
            self._server.start()
            self._check_stored("after a restart")

    def _check_stored(self, when: str) -> None:
        stored = [name for name, _ in _messages(self._server, self._findings, when)]
        if len(set(stored)) != len(stored):
            self._findings.violation(f"{when}: a message is there twice")
        for name, status in self._said.items():
            if status == 201 and name not in stored:
                self._findings.violation(f"{when}: {name} was acknowledged and is lost")
            if status == 507 and name in stored:
                self._findings.violation(f"{when}: {name} is there, though nothing was written, it was said")
        if sorted(stored, key=lambda name: int(name[1:])) != stored:
            self._findings.violation(f"{when}: out of order")
        self._findings.counts["messages checked"] += len(stored)


def _messages(server: WatchedServer, findings: Findings, when: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    while True:
        after = found[-1][1] if found else 0
        answer = ask(server.port, "GET", f"/v1/sessions/s/messages?after={after}&limit=1000")
        if answer.status != 200:
            findings.violation(f"{when}: a read got {answer.status} {answer.body[:300]!r}")
            return found
        found += [(message["id"], message["seq"]) for message in answer.document["data"]]
        if not answer.document["has_more"]:
            return found
