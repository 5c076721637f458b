"""What a projection is: a value, so that the live path, a rebuild and a test all run the same one."""

import importlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from service.database import Connection
from service.errors import SettingsError
from service.events import Event

Apply: TypeAlias = Callable[[Connection, Sequence[Event]], None]


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """Tables, and what fills them from events: SQL, Python, or both.

    `program` is SQL statements that read the events from the view `batch`: `position`, `stream` (a key of the
    ledger's table `streams`, which has `tenant_id` and `session_id`), `version`, `type`, `recorded_at` (µs), `payload`
    (JSON text of the type's present schema; NULL once erased). It runs inside a trigger: no CTE in front of a
    statement, table names without schema. `helpers` is SQL that makes temporary views and triggers for it, over again
    where they are there.

    `apply(db, events)` gets the same events as values. It is the simple way, for a projection of one's own; each
    event costs it some microseconds of Python.

    Both get events in ledger order, 1 to 500 at a time while serving and 2,000 at a time in a rebuild, inside a
    transaction, and must be a function of the events alone: no clock, no chance, no look at another file. How the
    events are cut into batches must make no difference.

    `aside` says that a rebuild may fill the tables in a file of their own, on another core, and copy them at the end:
    for plain tables with few bytes an event, and a program that reads no other projection's.

    What depends on another projection's tables is `closing`, SQL that runs behind the programs of all projections, for
    each batch; a rebuild runs `settle` instead, once, when all tables are full.

    `tables` is the SQL that makes the projection's tables, which no other projection writes to. `indexes` is the SQL
    of what a rebuild makes only once the tables are full, because filling it row by row is slow. A change of
    `version` rebuilds the views at the next start.
    """

    name: str
    version: int
    tables: str
    apply: Apply | None = None
    program: str = ""
    helpers: str = ""
    indexes: str = ""
    aside: bool = False
    closing: str = ""
    settle: str = ""


def load(names: str) -> list[Projection]:
    """The projections that the setting CHATLEDGER_PROJECTIONS names: `module:name`, separated by commas.

    Raises:
        SettingsError: a name leads to no projection.
    """
    found = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        module, _, attribute = name.partition(":")
        try:
            projection = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingsError(f"CHATLEDGER_PROJECTIONS names {name!r}, which cannot be imported.") from error
        if not isinstance(projection, Projection):
            raise SettingsError(f"CHATLEDGER_PROJECTIONS names {name!r}, which is not a Projection.")
        found.append(projection)
    return found
