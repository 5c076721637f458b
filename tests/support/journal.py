"""Writers that note what the server acknowledged, and the check that just that is there afterwards."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from support.server import Server

SHARED = ("shared-0", "shared-1")
PAGE = 1000


@dataclass
class Write:
    """One request of a writer: messages for one session, with ids that say whose and which they are."""

    writer: int
    number: int
    session: str
    creates: bool
    single: bool
    key: str | None
    messages: list[dict[str, Any]]
    acknowledged: bool = False
    answer: Any = None

    @property
    def ids(self) -> list[str]:
        """The messages' ids, in order."""
        return [message["id"] for message in self.messages]

    def send(self, client: httpx.Client) -> httpx.Response:
        """Send it; it can be sent again."""
        headers = {} if self.key is None else {"Idempotency-Key": self.key}
        if self.creates:
            document = {"id": self.session, "messages": self.messages}
            return client.post("/v1/sessions", json=document, headers=headers)
        body = self.messages[0] if self.single else {"messages": self.messages}
        return client.post(f"/v1/sessions/{self.session}/messages", json=body, headers=headers)


@dataclass
class Journal:
    """What all writers sent, over all rounds, and a count of acknowledgements that one can wait for."""

    seed: int
    writers: int = 8
    writes: list[Write] = field(default_factory=list)
    acknowledged: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = Counter[int]()
        self._round = 0

    @contextmanager
    def writing(self, server: Server) -> Iterator[None]:
        """Have all writers write for the time of the block and until the server is gone or told to stop."""
        self._round += 1
        stopping = threading.Event()
        threads = [
            threading.Thread(target=self._write, args=(server, writer, stopping)) for writer in range(self.writers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def wait_for(self, acknowledged: int) -> None:
        """Wait until that many more writes were acknowledged."""
        with self._changed:
            target = self.acknowledged + acknowledged
            reached = self._changed.wait_for(lambda: self.acknowledged >= target or bool(self.failures), timeout=60)
        assert reached, "the writers stand still"
        assert self.failures == []

    def snapshot(self) -> list[Write]:
        """The writes that were acknowledged by now."""
        with self._changed:
            return [write for write in self.writes if write.acknowledged]

    def unacknowledged(self) -> list[Write]:
        """The writes whose outcome nobody was told."""
        return [write for write in self.writes if not write.acknowledged]

    def _write(self, server: Server, writer: int, stopping: threading.Event) -> None:
        chance = random.Random(f"{self.seed}/{self._round}/{writer}")
        sessions: list[str] = []
        with server.client() as client:
            while not stopping.is_set():
                write = self._next(chance, writer, sessions)
                with self._changed:
                    self.writes.append(write)
                try:
                    response = write.send(client)
                except httpx.TransportError:
                    return
                with self._changed:
                    if response.status_code == 201:
                        write.acknowledged, write.answer = True, response.json()
                        self.acknowledged += 1
                    elif response.status_code != 503:
                        self.failures.append(response.text)
                    self._changed.notify_all()
                if write.creates and write.acknowledged:
                    sessions.append(write.session)

    def _next(self, chance: random.Random, writer: int, sessions: list[str]) -> Write:
        self._numbers[writer] += 1
        number = self._numbers[writer]
        creates = not sessions or chance.random() < 0.1
        own = sessions[-1] if sessions else ""
        session = f"w{writer}-{number}" if creates else chance.choice([own, own, *SHARED])
        single = not creates and chance.random() < 0.7
        messages = [
            {
                "id": f"w{writer}.{number}.{part}",
                "role": "user",
                "content": chance.choice("aé😀\n") * chance.randrange(200),
            }
            for part in range(1 if single else chance.randrange(1, 6))
        ]
        key = f"key-{writer}-{number}" if chance.random() < 0.3 else None
        return Write(writer, number, session, creates, single, key, messages)


def create_shared(client: httpx.Client) -> None:
    """Make the sessions that all writers write to."""
    for session in SHARED:
        client.post("/v1/sessions", json={"id": session}).raise_for_status()


def all_messages(client: httpx.Client) -> dict[str, list[dict[str, Any]]]:
    """Every session's messages, by session id."""
    found: dict[str, list[dict[str, Any]]] = {}
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/sessions", params=params).raise_for_status().json()
        for session in page["data"]:
            found[session["id"]] = messages_of(client, session["id"])
        cursor = page["next_cursor"]
    return found


def messages_of(client: httpx.Client, session: str, *, limit: int = PAGE) -> list[dict[str, Any]]:
    """All messages of a session, page by page."""
    messages: list[dict[str, Any]] = []
    more = True
    while more:
        params = {"after": messages[-1]["seq"] if messages else 0, "limit": limit}
        page = client.get(f"/v1/sessions/{session}/messages", params=params).raise_for_status().json()
        messages += page["data"]
        more = page["has_more"]
        assert page["data"] or not more
    return messages


def check(writes: list[Write], stored: dict[str, list[dict[str, Any]]], *, complete: bool = True) -> None:
    """Check *stored* against *writes*.

    Every acknowledged message is there exactly once, every other one at most once and with all or none of its
    batch; a writer's messages are in the order in which it sent them, a batch stands together, and nothing is
    there that nobody sent. If not *complete*, there may be messages of writes that are not in *writes*.
    """
    for session, messages in stored.items():
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1)), session
    places = {
        message["id"]: (session, message["seq"], message["content"])
        for session, messages in stored.items()
        for message in messages
    }
    assert len(places) == sum(map(len, stored.values())), "a message is there twice"
    latest: dict[tuple[int, str], int] = {}
    for write in sorted(writes, key=lambda write: write.number):
        found = [places.pop(name) for name in write.ids if name in places]
        if not found and not write.acknowledged:
            continue
        first = found[0][1] if found else 0
        expected = [(write.session, first + place, message["content"]) for place, message in enumerate(write.messages)]
        assert found == expected, (write.writer, write.number, write.acknowledged)
        assert first > latest.get((write.writer, write.session), 0)
        latest[write.writer, write.session] = first + len(found) - 1
    assert not complete or not places, "there are messages that nobody sent"
