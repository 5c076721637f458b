"""Proofs: reading the whole ledger again, one session's bundle, and what the tree costs an append."""

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from benchmarks import generate
from benchmarks.bench import Bench
from benchmarks.figures import Figure, ratios
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.merkle import Frontier
from chatledger.maintenance import local_ledger
from chatledger.proofs import bundle
from chatledger.proofs.signed_heads import Signer
from chatledger.proofs.verification import verify_ledger
from chatledger.settings import Settings
from chatledger.storage import ledger_file
from chatledger.storage.connection import Connection
from chatledger.storage.paths import Location
from chatledger.writing.committer import Committer

SECTION = "Proofs"
VERIFY_BAR = 150_000
TREE_BAR = 1 / 1.15
BUNDLE_EVENTS = 101
BUNDLES = 20
GROUP = 25
GROUPS = 200


def run(bench: Bench) -> Iterator[Figure]:
    """On the ledger that the other parts use, which is also the one that is appended to, in copies."""
    path = bench.ledger
    speeds, bundles = [], list[float]()
    for number in range(bench.scale.rebuild_rounds):
        connection = _open(path)
        started_s = time.perf_counter()
        size = verify_ledger(connection).size
        speeds.append(size / (time.perf_counter() - started_s))
        bundles.append(_bundle_ms(connection))
        connection.close()
        bench.say(f"proofs, round {number + 1}: verify {speeds[-1]:,.0f} events/s, bundle {bundles[-1]:.3g} ms")
    yield Figure(section=SECTION, name="verify", unit="events/s", values=speeds, bar=VERIFY_BAR)
    yield Figure(section=SECTION, name=f"bundle of {BUNDLE_EVENTS} events", unit="ms", values=bundles)
    yield from _tree(bench, path)


def _open(path: Path) -> Connection:
    settings = Settings(database_path=str(path))
    return ledger_file.open_ledger_reader(Location.of(settings), settings)


def _bundle_ms(connection: Connection) -> float:
    """Mean time of a bundle of a session with a hundred messages."""
    signer = Signer.new("bench")
    positions = _positions(connection)
    started_s = time.perf_counter()
    for _ in range(BUNDLES):
        bundle.make(connection, event_store.read_positions(connection, positions), signer)
    return (time.perf_counter() - started_s) / BUNDLES * 1e3


def _positions(connection: Connection) -> list[int]:
    """Those of a hundred messages, as far apart as the events of one session are, in the middle of the ledger."""
    middle = tree_store.read(connection).size // 2
    return [middle + number * generate.OPEN_SESSIONS for number in range(BUNDLE_EVENTS)]


def _tree(bench: Bench, path: Path) -> Iterator[Figure]:
    """Groups of appends through the committer, with the tree and without, in turn."""
    found: dict[str, list[float]] = {"with the tree": [], "without the tree": []}
    for number in range(bench.scale.rounds):
        for kind, speeds in found.items():
            folder = bench.new_folder(f"tree-{kind.split()[0]}-{number}")
            shutil.copy(path, folder / path.name)
            speeds.append(_append_speed(bench, folder / path.name, growing=kind == "with the tree"))
            shutil.rmtree(folder)
        bench.say(f"tree, round {number + 1}: {found['with the tree'][-1]:,.0f} events/s")
    for kind, speeds in found.items():
        yield Figure(section=SECTION, name=f"groups of {GROUP}, {kind}", unit="events/s", values=speeds)
    values = ratios(*found.values())
    yield Figure(section=SECTION, name="with the tree ÷ without", unit="ratio", values=values, bar=TREE_BAR)


def _append_speed(bench: Bench, path: Path, *, growing: bool) -> float:
    with local_ledger.writing(Settings(database_path=str(path))) as committer:
        coming = generate.submissions(bench.conversations, prefix="tree")
        list(_commit(committer, coming, 20))
        with patch.object(Frontier, "append", Frontier.append if growing else _not_at_all):
            started_s = time.perf_counter()
            list(_commit(committer, coming, GROUPS))
            return GROUPS * GROUP / (time.perf_counter() - started_s)


def _commit(committer: Committer, coming: Iterator[generate.Submission], groups: int) -> Iterator[object]:
    for _ in range(groups):
        yield committer.commit(list(islice(coming, GROUP)))


def _not_at_all(frontier: Frontier, leaves: list[bytes]) -> list[object]:
    """What an append without a tree does: count."""
    frontier.size += len(leaves)
    return []
