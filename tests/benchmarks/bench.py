"""What every measurement is given: how much to do, where to put files, and whom to tell."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import msgspec

from benchmarks import conversations, generate
from benchmarks.generator import Generator
from benchmarks.load import Load, Request
from benchmarks.peers.install import Peers


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done. A round's seconds are whole: wrk takes no others."""

    rounds: int
    round_s: int
    connections: int = 64
    sessions: int = 100
    ledger_events: int
    rebuild_rounds: int = 3
    import_messages: int
    import_rounds: int
    peer_rounds: int
    store_s: int
    peer_import_messages: int
    large_events: int
    idle_s: int
    stall_at_limits: bool


FULL = Scale(
    rounds=5,
    round_s=4,
    ledger_events=200_000,
    import_messages=100_000,
    import_rounds=3,
    peer_rounds=3,
    store_s=2,
    peer_import_messages=1_000_000,
    large_events=10_000_000,
    idle_s=5,
    stall_at_limits=True,
)
QUICK = Scale(
    rounds=2,
    round_s=1,
    ledger_events=40_000,
    import_messages=20_000,
    import_rounds=1,
    peer_rounds=1,
    store_s=1,
    peer_import_messages=20_000,
    large_events=40_000,
    idle_s=1,
    stall_at_limits=False,
)


class Bench:
    """One run of the program. `folder` is temporary, on the disk that is measured."""

    def __init__(
        self, folder: Path, scale: Scale, generator: Generator, say: Callable[[str], None], *, peers: Peers
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.generator = generator
        self.say = say
        self.peers = peers

    def drive(self, url: str, request: Request, *, connections: int | None = None, seconds: int | None = None) -> Load:
        """One round of load; by default as long, and over as many connections, as the scale says."""
        return self.generator.drive(
            url,
            request,
            connections=connections or self.scale.connections,
            seconds=seconds or self.scale.round_s,
            folder=self.folder,
        )

    def new_folder(self, name: str) -> Path:
        """An empty folder of its own for a ledger."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    @cached_property
    def conversations(self) -> list[conversations.Conversation]:
        """The conversations that everything is made from."""
        return conversations.load()

    @cached_property
    def ledger(self) -> Path:
        """A closed ledger of `scale.ledger_events` events, made when it is first asked for."""
        path = self.new_folder("generated") / "ledger.db"
        self.say(f"making a ledger of {self.scale.ledger_events:,} events")
        generate.ledger(path, self.conversations, events=self.scale.ledger_events)
        return path
