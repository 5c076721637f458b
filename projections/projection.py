"""What a projection is: a value, so that the live path, a rebuild and a test all run the same one."""

import importlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from service.database import Connection
from service.errors import SettingsError
from service.events import Event

Apply: TypeAlias = Callable[[Connection, Sequence[Event]], None]


class Projection(msgspec.Struct, frozen=True):
    """Tables and the one function that fills them.

    `apply(db, events)` gets events in ledger order, 1 to 500 at a time while serving and 10,000 at a time in a
    rebuild, inside a transaction, and must be a function of the events alone: no clock, no chance, no look at
    another file. How the events are cut into batches must make no difference.

    `tables` is the SQL that makes the projection's tables, which no other projection touches. `indexes` is the SQL
    of what a rebuild makes only once the tables are full, because filling it row by row is slow. A change of
    `version` rebuilds the views at the next start. An erased event has `data` None.
    """

    name: str
    version: int
    tables: str
    apply: Apply
    indexes: str = ""


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
