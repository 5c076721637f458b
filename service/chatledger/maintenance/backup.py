"""A copy of the ledger: taken beside whoever writes to it, verified, and named only once it is whole."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from chatledger import os_errors
from chatledger.errors import LedgerDamaged
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.merkle import Frontier
from chatledger.maintenance import local_ledger
from chatledger.proofs.verification import verify_ledger
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors, transactions
from chatledger.storage.connection import Connection
from chatledger.storage.files import OwnFiles
from chatledger.storage.paths import Location, check_name, put_in_place, unfinished

PAGES_A_STEP = 1_000
"""8 MiB: after each step the progress is shown, and Ctrl-C is heard."""

Progress = Callable[[int, int], None]


def backup(
    settings: Settings,
    destination: Path,
    *,
    on_copied: Progress,
    on_verified: Progress,
    pages_a_step: int = PAGES_A_STEP,
) -> Frontier:
    """Copy the ledger of *settings* into the new file *destination*: one file, synced and verified.

    The signing key is not in it. Whoever kills it leaves `DESTINATION.unfinished`, which the next one takes over.

    Args:
        settings: They name the ledger.
        destination: A name that is free, in a folder that is there.
        on_copied: Called with the pages copied, and those to copy.
        on_verified: Called with the events verified, and those to verify.
        pages_a_step: The pages that are copied at a time.

    Returns:
        The tree of the copy.

    Raises:
        RefusedToStart: the name is taken, cannot be written, or there is no ledger.
        LedgerDamaged: the ledger, or what has become of it, is not as it must be.
    """
    location = local_ledger.existing(settings)
    final = check_name(str(destination.absolute()))
    OwnFiles.of(location, settings).check(destination)
    try:
        with unfinished(final) as name:
            with local_ledger.reading_ledger(location, settings) as source:
                copy(source, name, settings, on_copied, pages_a_step=pages_a_step)
            found = verified(name, settings, on_verified)
            put_in_place(name, final)
    except OSError as error:
        os_errors.refuse_about(str(destination), error)
    except sql_errors.SQLError as error:
        if sql_errors.is_damage(error):
            raise LedgerDamaged("The ledger's file is damaged.") from error
        sql_errors.refuse(error, str(destination))
    return found


def copy(
    source: Connection, name: str, settings: Settings, on_copied: Progress, *, pages_a_step: int = PAGES_A_STEP
) -> None:
    """Copy the ledger of *source* into the file *name*, as one file of our schema.

    All steps are inside one read transaction, because a step that finds the source changed by another process begins
    from the first page again (https://www.sqlite.org/backup.html), and a server under load changes it all the time.
    The price: until the copy is done the server's write-ahead log is not cut. VACUUM INTO would be one read transaction
    too, but shows no progress, and writes indexes and free pages anew: it would hide the damage that `verified` is to
    find in them.
    """
    with closing(ledger_file.open_copy(name, settings)) as target, transactions.snapshot(source):
        event_store.head(source)  # a transaction sees its state only from its first read on
        with target.backup("main", source, "main") as copying:
            while not copying.done:
                copying.step(pages_a_step)
                on_copied(copying.page_count - copying.remaining, copying.page_count)
    with closing(ledger_file.open_unfinished(name, settings)) as target:
        tree_store.open_tree(target, event_store.head(target).position)
        ledger_file.close_as_one_file(target)


def verified(name: str, settings: Settings, on_verified: Progress) -> Frontier:
    """The tree of the ledger in the file *name*, all of which was read again.

    Raises:
        LedgerDamaged: it is not as it must be.
    """
    with closing(ledger_file.open_ledger_reader(Location(name, memory=False), settings)) as connection:
        return verify_ledger(connection, progress=on_verified)
