"""What a projection is: a value, so that the live path, a rebuild and a test all run the same one."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import msgspec

from chatledger.domain.events import Event
from chatledger.errors import SettingsError
from chatledger.storage.connection import Connection

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

    Both get events in ledger order: those of one group of changes at a time while serving (some tens as a rule, and
    thousands where batches of messages come together), and 2,000 at a time in a rebuild. They run inside a transaction,
    and must be a function of the events alone: no clock, no chance, no look at another file. How the events are cut
    into batches must make no difference.

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
    """The projections that the setting CHATLEDGER_PROJECTIONS names, separated by commas.

    Each is `module:NAME`, of a module that Python finds, or `path/of/a/file.py:NAME`, where a path that is not absolute
    is one from the working directory.

    Raises:
        SettingsError: a name leads to no projection.
    """
    return [_load(name) for name in filter(None, (part.strip() for part in names.split(",")))]


def _load(name: str) -> Projection:
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise SettingsError(
            f"CHATLEDGER_PROJECTIONS names {name!r}, which is neither module:NAME nor path/of/a/file.py:NAME."
        )
    try:
        module = _file(Path(place)) if place.endswith(".py") or "/" in place else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever a module of somebody else raises
        beside = f" Did you mean ./{place}.py:{attribute}?" if Path(f"{place}.py").is_file() else ""
        raise SettingsError(
            f"CHATLEDGER_PROJECTIONS names {name!r}, which cannot be imported: {in_words(error)}.{beside}"
        ) from error
    projection = getattr(module, attribute, None)
    if not isinstance(projection, Projection):
        there = ", ".join(each for each, value in vars(module).items() if isinstance(value, Projection))
        raise SettingsError(
            f"CHATLEDGER_PROJECTIONS names {name!r}, which is not a Projection: {place} has {there or 'none'}."
        )
    return projection


def _file(path: Path) -> ModuleType:
    """The module in a file, which need not be where Python looks for modules. It is run once in a process.

    The folder is not put where Python looks: whatever else is in it would take the place of modules of that name.
    """
    real = path.resolve(strict=True)
    name = f"chatledger_projections_of_{hashlib.sha256(bytes(real)).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, real, loader=SourceFileLoader(name, str(real)))
    if spec is None or spec.loader is None:
        raise ImportError("Python cannot load it")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


_OF_VERSION_1 = ("service", "projections")


def in_words(error: BaseException) -> str:
    """What code of somebody else's has raised, in one line."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _OF_VERSION_1:
        return (
            f"it imports {error.name}, of the first version. Import Projection, Connection, Event and the types of "
            f"events from chatledger_projections now"
        )
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})" if error.lineno else error.msg
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
