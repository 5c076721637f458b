"""Starting on a disk as a power cut left it, by the code that a server starts with, and what must be true then.

I1 every acknowledged event exactly once, byte for byte, in order; I2 one that was not acknowledged at most once, and
only if it was sent; I3 no gap, groups whole; I4 views = rebuild; I5 the tree verifies and extends every head that was
handed out; I6 no manual step: the start succeeds, and what was erased is gone after it.
"""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec

from chatledger.errors import ChatledgerError
from chatledger.ledger import event_store
from chatledger.ledger.merkle import Frontier
from chatledger.proofs.signed_heads import signer_of
from chatledger.proofs.verification import verify_ledger
from chatledger.storage import ledger_file
from chatledger.storage.paths import Location
from chatledger.views.builder import Builder
from chatledger.views.live_views import BUILT_IN
from chatledger.writing import erasure, erasure_list
from chatledger.writing.command_group import Committed
from chatledger.writing.committer import Committer, hold
from crash.account import LEAF, PAYLOAD, RECORDED_AT, SALT, STREAM, TYPE, Account, Row, read_rows
from crash.scenarios import ERASED, Scenario, settings_of, take_backup
from support.canary import CANARY
from support.store import create, message
from support.tables import dump, rows_of

RETRY_TIMEOUT_MS = 100


class Recovered(msgspec.Struct):
    """What a start on an image found. `failure` is why it failed."""

    rows: list[Row] = []
    identity: str = ""
    key: str = ""
    root: bytes = b""
    erased: bool = True
    had_ledger: bool = True
    differing: list[str] = []  # tables of the views that are not those of a rebuild
    unlisted: bool = False
    canary_in: list[str] = []
    backups: dict[str, int | str] = {}
    failure: str = ""


class Examiner:
    """Starts on images of one scenario; rebuilds are kept, for views that are of the same rows."""

    def __init__(self, scenario: Scenario, scratch: Path) -> None:
        self._scenario = scenario
        self._scratch = scratch
        self._rebuilt: dict[tuple[str, tuple[Row, ...]], dict[str, Any]] = {}
        self.rebuilds = 0

    def examine(self, root: Path, *, go_on: bool) -> Recovered:
        """Start on the image in *root*; with *go_on* also commit to it and back it up."""
        found = Recovered()
        try:
            self._examine(root, found, go_on=go_on)
        except (ChatledgerError, apsw.Error, OSError, ValueError, AssertionError) as error:
            found.failure = f"{type(error).__name__}: {error} {error.__cause__ or ''}"
        return found

    def _examine(self, root: Path, found: Recovered, *, go_on: bool) -> None:
        settings = settings_of(root)
        location = Location.of(settings)
        path = Path(location.ledger)
        found.had_ledger = path.exists() and path.stat().st_size > 0
        if self._scenario.erases:
            found.unlisted = self._unlisted(root)
        if self._scenario.name == "backup":
            self._look_at_backups(root, found, go_on=go_on)
        if self._scenario.again is not None and not found.had_ledger:
            self._scenario.again(root)
        with hold(location, settings) as committer:
            committer.views.open(committer.ledger)
            found.identity = event_store.identity(committer.ledger)
            events = event_store.head(committer.ledger).position
            found.key = str(signer_of(location, settings, found.identity, events=events).verifier)
            found.erased = erasure.finish(committer, wait_ms=RETRY_TIMEOUT_MS)
            found.rows = read_rows(committer.ledger)
            found.root = verify_ledger(committer.ledger).root()
            live, rebuilt = dump(committer.views.db), self._rebuild(committer, found)
            found.differing = sorted(
                name for name in live.keys() | rebuilt.keys() if live.get(name) != rebuilt.get(name)
            )
            if go_on:
                (outcome,) = committer.commit([create("probe-of-the-harness", message("m1"))])
                assert isinstance(outcome, Committed), outcome
        if any(row[3] == ERASED and row[TYPE] == "session.erased" for row in found.rows):
            found.canary_in = [each.name for each in (root / "data").iterdir() if CANARY.encode() in each.read_bytes()]

    def _rebuild(self, committer: Committer, found: Recovered) -> dict[str, Any]:
        key = (found.identity, tuple(found.rows))
        if key not in self._rebuilt:
            self.rebuilds += 1
            if len(self._rebuilt) > 500:
                self._rebuilt.clear()
            location = Location(str(self._scratch / "again.db"), memory=False)
            builder = Builder(location.ledger, location, committer.settings, BUILT_IN)
            with closing(builder.build(committer.ledger)) as built:
                self._rebuilt[key] = rows_of(built, "main")
        return self._rebuilt[key]

    def _unlisted(self, root: Path) -> bool:
        """Whether payloads are gone of an erasure that is not in the list: an older copy would bring them back."""
        copy = self._scratch / "raw"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root / "data", copy)
        path = copy / "ledger.db"
        listed = {each.position for each in erasure_list.listed_in(copy / "ledger.db.erasures")}
        with closing(apsw.Connection(str(path))) as db:
            gone = db.execute("""SELECT later.position FROM events AS later WHERE later.type = 'session.erased'
              AND EXISTS (SELECT 1 FROM events AS e WHERE e.stream = later.stream AND e.payload < x'01')""")
            return any(position not in listed for (position,) in gone)

    def _look_at_backups(self, root: Path, found: Recovered, *, go_on: bool) -> None:
        folder = root / "backups"
        names = [path.name for path in folder.glob("*.db")]
        if go_on:
            name = "once-more.db" if "copy.db" in names else "copy.db"
            take_backup(root, name)
            names.append(name)
        for name in names:
            try:
                location = Location(str(folder / name), memory=False)
                with closing(ledger_file.open_ledger_reader(location, settings_of(root))) as db:
                    found.backups[name] = verify_ledger(db).size
            except (ChatledgerError, apsw.Error) as error:
                found.backups[name] = f"{type(error).__name__}: {error}"


class Judge:
    """Holds what starts found against what the world knows."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._roots = [Frontier().root()]
        frontier = Frontier()
        for row in account.rows:
            frontier.append([row[LEAF]])
            self._roots.append(frontier.root())
        for size, root in account.heads:
            assert self._roots[size] == root, "a head that was handed out is not that of the events"

    def violations(self, found: Recovered, operation: int) -> list[str]:
        """What is wrong with a disk whose power was cut behind *operation*."""
        if found.failure:
            return [f"I6: the start failed: {found.failure}"]
        account, count = self._account, len(found.rows)
        wrong = []
        acknowledged, sent = account.acknowledged(operation), account.sent(operation)
        if count < acknowledged:
            wrong.append(f"I1: {count} events, {acknowledged} were acknowledged")
        if count > max(sent, acknowledged):
            wrong.append(f"I2: {count} events, {sent} were sent")
        if not account.is_whole(count):
            wrong.append(f"I3: {count} events: a part of a group")
        wrong += self._rows(found, count, remade=not account.known("restored", operation))
        if found.differing:
            wrong.append(f"I4: the views differ from a rebuild in {found.differing}")
        remade = account.remade and not account.known("restored", operation)
        if count < len(self._roots) and found.root != self._roots[count] and not remade:
            wrong.append(f"I5: the root of {count} events is another one")
        for kind, value in (("identity", found.identity), ("key", found.key)):
            wrong += [
                f"I5: the {kind} was {each}, and is {value}"
                for each in account.known(kind, operation)[-1:]
                if each != value
            ]
        if not found.erased or found.canary_in:
            wrong.append(f"I6: what was erased is not gone: {found.canary_in}")
        if found.unlisted:
            wrong.append("I6: payloads are gone of an erasure that is not in the list")
        return wrong + self._backups(found, operation)

    def _rows(self, found: Recovered, count: int, *, remade: bool) -> list[str]:
        erased = self._account.erased_by(count)
        for row, expected in zip(found.rows, self._account.rows, strict=False):
            if row == expected:
                continue
            if expected[0] < erased.get(expected[STREAM], 0):
                payload, salt = expected[PAYLOAD:]
                expected = (*expected[:PAYLOAD], bytes(len(payload)), bytes(len(salt)))  # noqa: PLW2901
            if remade and expected[0] in self._account.remade:
                row = _without_chance(row)  # noqa: PLW2901
                expected = _without_chance(expected)  # noqa: PLW2901
            if row != expected:
                return [f"I1: the event at position {expected[0]} is {row}, and was {expected}"]
        return []

    def _backups(self, found: Recovered, operation: int) -> list[str]:
        wrong = [
            f"I1: the backup {name} has {found.backups.get(name)} events, {size} were promised"
            for name, size in self._account.known("backup", operation)
            if found.backups.get(name) != size
        ]
        return wrong + [
            f"I6: {name} cannot be used: {size}" for name, size in found.backups.items() if isinstance(size, str)
        ]


def _without_chance(row: Row) -> Row:
    return tuple(None if place in (RECORDED_AT, LEAF, SALT) else value for place, value in enumerate(row))
