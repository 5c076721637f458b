"""Lost answers and clients that hang up: however often a request is sent, one event, and the same answer."""

import enum
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from crash.findings import Findings, Progress, Result, quiet
from support.altered import SLOW_COMMIT_MS, WatchedServer
from support.proxy import LossyProxy
from support.wire import Answer, ConnectionGone, Request, Wire, ask

REQUESTS_A_BATCH = 20
BYSTANDERS = 4
SHARED = "shared"
DEADLINE_S = 20
BUSY_TIMEOUT_MS = 5000
GAUGES = ("queue_commands", "queue_reads", "bodies_reading", "bodies_bytes")


class Stage(enum.Enum):
    """Where a client is lost."""

    AFTER_THE_HEAD = enum.auto()
    IN_THE_BODY = enum.auto()
    BEFORE_THE_ANSWER = enum.auto()
    IN_THE_ANSWER = enum.auto()
    ANSWER_DROPPED = enum.auto()


@dataclass(frozen=True)
class Lost:
    """A request whose answer its client did not get."""

    name: str
    request: Request
    session: str
    contents: tuple[str, ...]
    keyed: bool
    stage: Stage


def run_lost_answers(
    count: int, seed: int, progress: Progress = quiet, *, bug: str = "", restarts: bool = True
) -> Result:
    """Lose *count* answers, then send each request twice at the same time, half of them behind a restart."""
    findings = Findings("lost answers" + (f" with {bug}" if bug else ""), seed)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="lost-answers-") as folder:
        path, log = Path(folder) / "ledger.db", Path(folder) / "server.log"
        # With a slow disk there is time to hang up before the commit, and groups hold several requests.
        servers = [
            WatchedServer(path, log=log, bug=bug),
            WatchedServer(path, log=log, bug=bug, env={SLOW_COMMIT_MS: "4"}),
        ]
        server = servers[0].start()
        try:
            ask(server.port, "POST", "/v1/sessions", {"id": SHARED})
            for done in range(0, count, REQUESTS_A_BATCH):
                batch = _Batch(server, chance, findings, first=done, size=min(REQUESTS_A_BATCH, count - done))
                batch.lose()
                batch.check_at_rest()
                if restarts and chance.random() < 0.5:
                    server.kill() if chance.random() < 0.5 else server.stop()
                    server = servers[chance.randrange(2)].start()
                    findings.counts["restarts"] += 1
                batch.server = server
                batch.send_again()
                progress(min(done + REQUESTS_A_BATCH, count), count)
                if findings.violations and bug:
                    break
        finally:
            for each in servers:
                each.__exit__()
    return findings.result()


class _Batch:
    """Some requests, which are lost together and sent again together."""

    def __init__(
        self, server: WatchedServer, chance: random.Random, findings: Findings, *, first: int, size: int
    ) -> None:
        self.server = server
        self._chance = chance
        self._findings = findings
        self._known: dict[str, Answer] = {}
        self._all = [self._make(first + number) for number in range(size)]

    def _make(self, number: int) -> Lost:
        chance, name = self._chance, f"r{number}"
        kind = chance.choice(["key", "id", "batch", "create"])
        contents = tuple(
            f"{name}/{part} " + "x" * chance.randrange(3000) for part in range(3 if kind == "batch" else 1)
        )
        messages = [{"role": "user", "content": content} for content in contents]
        headers = {"x_request_id": name} | ({} if kind == "id" else {"idempotency_key": f"key-{name}"})
        session, path = SHARED, f"/v1/sessions/{SHARED}/messages"
        document: object = messages[0]
        if kind == "id":
            document = {**messages[0], "id": name}
        elif kind == "batch":
            document = {"messages": messages}
        elif kind == "create":
            session, path, document = name, "/v1/sessions", {"id": name, "messages": messages}
        request = Request.of("POST", path, document, **headers)
        return Lost(name, request, session, contents, kind != "id", chance.choice(list(Stage)))

    def lose(self) -> None:
        """Send each and be gone at its stage, while others on the same server get what is theirs."""
        with LossyProxy(self.server.port) as proxy, self._bystanders(), ThreadPoolExecutor(4) as pool:
            for lost, rudely in [(lost, self._chance.random() < 0.5) for lost in self._all]:
                pool.submit(self._lose_one, lost, proxy.port, rudely=rudely)
        self._known.update(proxy.lost)

    def _lose_one(self, lost: Lost, proxy: int, *, rudely: bool) -> None:
        head, body = lost.request.head, lost.request.body
        dropped = lost.stage is Stage.ANSWER_DROPPED
        wire = Wire(proxy if dropped else self.server.port)
        try:
            wire.send(head)
            if lost.stage is not Stage.AFTER_THE_HEAD:
                wire.send(body[: len(body) // 2] if lost.stage is Stage.IN_THE_BODY else body)
            if lost.stage is Stage.IN_THE_ANSWER:
                wire.receive(20)
            if dropped:
                assert wire.receive() == b"", "the proxy has passed an answer on"
        except ConnectionGone:
            pass
        wire.hang_up(rudely=rudely)
        self._findings.counts[lost.stage.name.replace("_", " ").lower()] += 1

    @contextmanager
    def _bystanders(self) -> Iterator[None]:
        """Clients that wait for their answers: each has to be the one to its own request."""
        stopping = threading.Event()
        prefix = f"b{self._chance.randrange(10**9)}"
        threads = [threading.Thread(target=self._stand_by, args=(f"{prefix}.{n}", stopping)) for n in range(BYSTANDERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def _stand_by(self, name: str, stopping: threading.Event) -> None:
        number = 0
        with Wire(self.server.port) as wire:
            while not stopping.is_set():
                number += 1
                own = f"{name}.{number}"
                message = {"id": own, "role": "user", "content": own}
                answer = wire.ask(Request.of("POST", f"/v1/sessions/{SHARED}/messages", message, x_request_id=own))
                self._findings.counts["bystanders' requests"] += 1
                if (
                    answer.status != 201
                    or answer.document.get("content") != own
                    or answer.headers["x-request-id"] != own
                ):
                    self._findings.violation(f"{own} got {answer.status} {answer.body[:200]!r}")

    def check_at_rest(self) -> None:
        """Nothing is left of those who have gone: no place in a queue, no transaction, no snapshot."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (left := _left(self.server)) and time.monotonic() < deadline_s:
            time.sleep(0.01)  # between two looks
        if left:
            self._findings.violation(f"left behind: {left}")
        connection = apsw.Connection(self.server.database)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        try:
            connection.execute("BEGIN IMMEDIATE; ROLLBACK")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            self._findings.violation("a transaction is open though nobody is there")
        finally:
            connection.close()

    def send_again(self) -> None:
        """Each request twice at the same time: the same answer both times, and whatever it says is there once."""
        both = threading.Barrier(2, timeout=DEADLINE_S)

        def send_all() -> list[Answer]:
            with Wire(self.server.port) as wire:
                answers = []
                for lost in self._all:
                    both.wait()
                    answers.append(wire.ask(lost.request))
                return answers

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.submit(send_all), pool.submit(send_all)
            pairs = list(zip(self._all, one.result(), other.result(), strict=True))
        self._findings.counts["requests sent again at the same time"] += len(pairs)
        stored = self._stored()
        for lost, first, second in pairs:
            with self._findings.checking(f"{lost.name}, lost {lost.stage.name}"):
                assert (first.status, second.status) == (201, 201), (first.body[:200], second.body[:200])
                assert first.body == second.body, "two answers to one request"
                known = self._known.get(lost.name)
                assert known is None or known.body == first.body, "another answer than the one that was lost"
                if lost.keyed:
                    replays = [answer.headers.get("idempotency-replayed") for answer in (first, second)]
                    assert replays.count("true") >= (1 if known is None else 2), replays
                for content in lost.contents:
                    found = stored[lost.session].count(content)
                    assert found == 1, f"{content[:20]} is there {found} times"
                self._refuse_another_body(lost)

    def _refuse_another_body(self, lost: Lost) -> None:
        if not lost.keyed or self._chance.random() >= 0.2:
            return
        message = {"role": "user", "content": "another one"}
        given, path = json.loads(lost.request.body), lost.request.head.split(b" ")[1].decode()
        other = {**given, "messages": [message]} if "messages" in given else message
        answer = ask(self.server.port, "POST", path, other, idempotency_key=f"key-{lost.name}")
        assert answer.status == 422, answer.body[:200]

    def _stored(self) -> dict[str, list[str]]:
        """The contents of the messages in each session, by its events."""
        found = {}
        for session in {SHARED, *(lost.session for lost in self._all)}:
            contents: list[str] = []
            cursor = ""
            while True:
                page = ask(self.server.port, "GET", f"/v1/sessions/{session}/events?limit=200{cursor}").document
                contents += [
                    event["data"]["message"]["content"] for event in page["data"] if "message" in event["data"]
                ]
                if page["next_cursor"] is None:
                    break
                cursor = f"&cursor={page['next_cursor']}"
            found[session] = contents
        return found


def _left(server: WatchedServer) -> dict[str, float]:
    """The gauges of waiting work that are not 0."""
    text = ask(server.port, "GET", "/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    found = {name: float(values[f"chatledger_{name}"]) for name in GAUGES}
    return {name: value for name, value in found.items() if value}
