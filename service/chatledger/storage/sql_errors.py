"""What SQLite's errors mean: to a caller, to an operator, and to the code that goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import apsw

from chatledger import os_errors
from chatledger.errors import ChatledgerError, DomainError, Overloaded, RefusedToStart, StorageFull

SQLError = apsw.Error
Busy = apsw.BusyError
Damaged = (apsw.CorruptError, apsw.NotADBError)
"""What SQLite raises where the file itself is damaged."""
_PERMISSIONS = "Check the owner and the permissions of it, of the files beside it and of its folder."
_DAMAGED = "`chatledger verify` says whether the ledger is damaged; views are built anew by `chatledger replay`."
_FAULT = "Where `chatledger verify` finds nothing, it is a fault of chatledger or of a projection of your own."
_STORAGE = {
    apsw.BusyError: "Another program holds it: end that one, or try again.",
    apsw.CantOpenError: _PERMISSIONS,
    apsw.CorruptError: _DAMAGED,
    apsw.FullError: "Make room on its disk.",
    apsw.IOError: "See what the system says of its disk.",
    apsw.NotADBError: _DAMAGED,
    apsw.PermissionsError: _PERMISSIONS,
    apsw.ReadOnlyError: _PERMISSIONS,
}
"""The errors of SQLite that are the storage's and not ours, each with what to do."""
# What SQLite says of a file that it opens: of the statements that open one, none can be wrong in itself, so that
# its plain SQLITE_ERROR is about the file too ("unsupported file format").
NO_DATABASE = (apsw.NotADBError, apsw.CorruptError, apsw.SQLError)


class CommitFailed(ChatledgerError):
    """A COMMIT failed. Its `__cause__` is SQLite's error; whether it happened is not known.

    After a failed sync the transaction may be in the file or not: a crash image taken then does contain it.
    """

    def __init__(self) -> None:
        super().__init__("A commit failed; whether it happened is not known.")


class UnfinishedTransaction(RefusedToStart):
    """A power cut has left a journal beside the file: whoever may write to it plays it back by opening it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has an unfinished transaction; the next start of the server finishes it.")


@contextmanager
def storage_failures_named(name: str) -> Iterator[None]:
    """Say in one line that the storage fails, where there is no caller to answer but somebody who starts or stops us.

    Args:
        name: The file that it is about, where the error names none: SQLite's never do.

    Raises:
        RefusedToStart: instead of what SQLite or the operating system say.
    """
    try:
        yield
    except CommitFailed as error:
        raise RefusedToStart(
            f"A commit into {name} failed, and whether it was kept is not known: {error.__cause__}. Look at what is "
            f"there before you do it again."
        ) from error
    except tuple(_STORAGE) as error:
        refuse(error, name)
    except OSError as error:
        os_errors.refuse(error, name)


def refuse(error: SQLError, name: str) -> NoReturn:
    """Refuse because of what SQLite says of the file *name*.

    Raises:
        RefusedToStart: always.
    """
    kind = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0))
    what = f"{error} ({kind})" if kind else str(error)
    raise RefusedToStart(f"SQLite cannot use {name}: {what}. {_STORAGE.get(type(error), _FAULT)}") from error


def is_damage(error: BaseException | None) -> bool:
    """Whether *error* says that the file itself is damaged."""
    return isinstance(error, Damaged)


def is_duplicate_key(error: BaseException | None) -> bool:
    """Whether *error* says that two rows have the same key."""
    return isinstance(error, apsw.ConstraintError)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether *error* says that a progress handler ended the statement."""
    return isinstance(error, apsw.InterruptError)


def is_full(error: BaseException | None) -> bool:
    """Whether *error* is SQLite's word for a full disk: then nothing of a commit was kept."""
    return isinstance(error, apsw.FullError)


def to_domain_error(error: apsw.Error) -> DomainError | None:
    """What a caller may know of SQLite's *error*, or None where it is a fault of ours.

    For errors before the commit: nothing was written.
    """
    if isinstance(error, apsw.FullError):
        return StorageFull()
    if isinstance(error, apsw.InterruptError):
        return Overloaded("The read took longer than its limit and was stopped.")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return Overloaded("The database is busy.")
    if isinstance(error, (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)):
        return Overloaded("The storage does not answer as it should.", retry_after_s=5)
    return None
