"""`chatledger verify`: the whole ledger, or one bundle without any."""

import sys
from pathlib import Path

import click

from service import bundle, database, ledger, offline
from service.cli_replay import compare_views
from service.errors import UnsoundProof
from service.files import OwnFiles, check_output, output, text_of
from service.options import database_option, settings_with
from service.progress import Progress
from service.settings import Settings
from service.signing import Head, Verifier, key_path, origin_of, signer_of
from service.verify import verify_ledger

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@database_option
@click.option("--head", "head_file", type=_FILE, help="A signed head from earlier, which the ledger has to extend.")
@click.option("--bundle", "bundle_file", type=_FILE, help="Check this proof bundle, and no ledger.")
@click.option("--public-key", metavar="KEY", help="The key that has to have signed the head or the bundle.")
@click.option(
    "--save-head", type=click.Path(dir_okay=False, path_type=Path), help="Write the signed head of what was verified."
)
def verify(
    database: str | None,
    head_file: Path | None,
    bundle_file: Path | None,
    public_key: str | None,
    save_head: Path | None,
) -> None:
    """Read the whole ledger again and check every event, its place and the tree; also beside a running server.

    Then the views, if there are any, against a rebuild.
    """
    if bundle_file is not None:
        _verify_bundle(bundle_file, public_key)
        return
    settings = settings_with(database_path=database)
    earlier = None if head_file is None else _earlier(settings, head_file, public_key)
    location = offline.existing(settings)
    own = OwnFiles.of(location, settings)
    if save_head is not None:
        check_output(save_head, own)
    connection = _open(settings)
    ledger_id = ledger.identity(connection)
    if earlier is not None and earlier.origin != origin_of(ledger_id):
        raise UnsoundProof(f"The head is of {earlier.origin}, and the ledger is {origin_of(ledger_id)}.")
    with Progress("verify", unit="events") as progress:
        found = verify_ledger(connection, earlier=earlier, progress=progress.update)
    connection.close()
    click.echo(f"{found.size} events verified; the tree's root is {found.root().hex()}")
    if earlier is not None:
        click.echo(f"the ledger extends the head of {earlier.size} events")
    if location.generations() and not compare_views(settings, "views"):
        sys.exit(1)
    if save_head is not None:
        signer = signer_of(location, settings, ledger_id)
        with output(save_head, own) as file:
            file.write(signer.sign(found.size, found.root()).encode())


def _open(settings: Settings) -> database.Connection:
    return database.open_ledger_reader(offline.existing(settings), settings)


def _earlier(settings: Settings, head_file: Path, public_key: str | None) -> Head:
    """The head in a file, whose signature is checked with the given key, or with that beside the ledger."""
    if public_key is not None:
        verifier = Verifier.of(public_key)
    else:
        location = offline.existing(settings)
        if not key_path(location, settings).exists():
            raise UnsoundProof("There is no key beside the ledger to check the head with: name one with --public-key.")
        connection = _open(settings)
        verifier = signer_of(location, settings, ledger.identity(connection)).verifier
        connection.close()
    return verifier.read(text_of(head_file))


def _verify_bundle(file: Path, public_key: str | None) -> None:
    found = bundle.check(file.read_bytes(), public_key=public_key)
    click.echo(
        f"{found.events} events of session {found.session} of tenant {found.tenant} verified, {found.erased} of them "
        f"erased, in the ledger of {found.head.size} events"
    )
    click.echo(f"signed by {found.public_key}")
    if public_key is None:
        click.echo("compare this key with one that you have from elsewhere, or name that with --public-key")
