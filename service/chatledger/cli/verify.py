"""`chatledger verify`: the whole ledger, or one bundle without any."""

import sys
from pathlib import Path

import click

from chatledger.cli.options import Command, FileToRead, database_option, settings_with, verifier_key
from chatledger.cli.progress import Progress
from chatledger.cli.replay import compare_views
from chatledger.console.terminal import say
from chatledger.domain.timestamps import format_us
from chatledger.errors import UnsoundProof
from chatledger.ledger import event_store
from chatledger.maintenance import local_ledger
from chatledger.maintenance.check_views import ViewsNotChecked
from chatledger.proofs import bundle
from chatledger.proofs.head_file import SavedHead, read_head
from chatledger.proofs.signed_heads import Head, Verifier, existing_signer, has_key, origin_of
from chatledger.proofs.verification import lacking, verify_ledger
from chatledger.settings import Settings
from chatledger.storage import ledger_file
from chatledger.storage.connection import Connection
from chatledger.storage.files import OwnFiles, check_output, output
from chatledger.storage.paths import Location

_FILE = FileToRead()


@click.command(cls=Command, short_help="Check every event, the tree and the views, or a proof bundle.")
@database_option
@click.option("--head", "head_file", type=_FILE, help="Check that the ledger extends this signed head from earlier.")
@click.option("--bundle", "bundle_file", type=_FILE, help="Check this proof bundle, and no ledger.")
@click.option(
    "--public-key",
    metavar="KEY",
    callback=verifier_key,
    help="Check that this key has signed the head or the bundle.",
)
@click.option(
    "--save-head", type=click.Path(dir_okay=False, path_type=Path), help="Write the signed head of what was verified."
)
def verify(
    database: str | None,
    head_file: Path | None,
    bundle_file: Path | None,
    public_key: Verifier | None,
    save_head: Path | None,
) -> None:
    """Read the whole ledger again and check every event, its place and the tree; also beside a running server.

    Then the views, if there are any, against a rebuild. Nothing is changed: a ledger of an older chatledger, or on
    read-only media, is read as it is.
    """
    if bundle_file is not None:
        beside = {"--head": head_file, "--database": database, "--save-head": save_head}
        for option, value in beside.items():
            if value is not None:
                raise click.UsageError(f"--bundle is checked without any ledger: leave {option} out.")
        _verify_bundle(bundle_file, public_key)
        return
    if public_key is not None and head_file is None:
        raise click.UsageError("--public-key is for checking a --head or a --bundle, and neither is given.")
    settings = settings_with(database_path=database)
    saved = None if head_file is None else read_head(head_file)
    location = local_ledger.existing(settings)
    own = OwnFiles.of(location, settings)
    if save_head is not None:
        check_output(save_head, own)
    with local_ledger.reading_ledger(location, settings) as connection:
        head = _verify_ledger(connection, location, settings, saved, public_key, sign=save_head is not None)
    try:
        if not compare_views(settings, "views"):
            sys.exit(1)
    except ViewsNotChecked as reason:
        say(str(reason))
    if save_head is not None:
        with output(save_head, own) as file:
            file.write(head.encode())


def _verify_ledger(
    connection: Connection,
    location: Location,
    settings: Settings,
    saved: SavedHead | None,
    public_key: Verifier | None,
    *,
    sign: bool,
) -> str:
    """Verify it and say what was found; the signed head of that, if one is wanted."""
    ledger_id = event_store.identity(connection)
    earlier = None if saved is None else _checked(saved, ledger_id, location, settings, public_key)
    # Before all is read: whoever wants a head is told at once that there is nothing to sign it with.
    signer = existing_signer(location, settings, ledger_id) if sign else None
    with Progress("verify", unit="events") as progress:
        found = verify_ledger(connection, earlier=earlier, progress=progress.update)
    say(f"{found.size} events verified; the tree's root is {found.root().hex()}")
    if earlier is not None:
        say(f"the ledger extends the head of {earlier.size} events")
    schema, newest = ledger_file.schema_of(connection), ledger_file.newest_schema()
    if schema < newest:
        missing = ", ".join(lacking(schema)) or "nothing that is verified"
        say(f"the ledger has schema {schema}, this chatledger {newest}: not there to be checked: {missing}")
    return "" if signer is None else signer.sign(found.size, found.root())


def _checked(
    saved: SavedHead, ledger_id: str, location: Location, settings: Settings, public_key: Verifier | None
) -> Head:
    """The head, whose signature is checked with the given key, or with that beside the ledger."""
    if public_key is not None:
        verifier = public_key
    elif not has_key(location, settings):
        raise UnsoundProof("There is no key beside the ledger to check the head with: name one with --public-key.")
    else:
        verifier = existing_signer(location, settings, ledger_id).verifier
    head = saved.read(verifier)
    if head.origin != origin_of(ledger_id):
        raise UnsoundProof(f"The head is of {head.origin}, and the ledger is {origin_of(ledger_id)}.")
    return head


def _verify_bundle(file: Path, public_key: Verifier | None) -> None:
    try:
        found = bundle.check(file.read_bytes(), public_key=None if public_key is None else str(public_key))
    except UnsoundProof as error:
        raise UnsoundProof(f"{file}: {error}") from error
    say(
        f"{found.events} events of session {found.session} of tenant {found.tenant} verified, {found.erased} of them "
        f"erased, in the ledger of {found.head.size} events"
    )
    say(f"recorded from {format_us(found.first_recorded_at)} to {format_us(found.last_recorded_at)}")
    say(f"up to version {found.events}: later events may exist")
    say(f"signed by {found.public_key}")
    if public_key is None:
        say("compare this key with one that you have from elsewhere, or name that with --public-key")
