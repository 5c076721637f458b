"""The command `chatledger`."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from service import __version__, log
from service.errors import ChatledgerError
from service.settings import Settings, load_settings

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatledger")
def cli() -> None:
    """The system of record for chat: an append-only, verifiable event ledger with an HTTP API."""


def database_option(function: F) -> F:
    """Add `--database`."""
    return click.option("--database", metavar="PATH", help="The ledger's file.  [default: DATABASE_PATH]")(function)


def settings_with(**options: object) -> Settings:
    """The environment's settings with the *options* that were given."""
    settings = load_settings()
    given = {name: value for name, value in options.items() if value is not None}
    return msgspec.structs.replace(settings, **given)


@cli.command()
@database_option
@click.option("--host", help="The address to serve on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to serve on.  [default: 8000]")
def serve(database: str | None, host: str | None, port: int | None) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    from service.server import serve as run  # noqa: PLC0415  # the server is not needed by the other commands

    settings = settings_with(database_path=database, host=host, port=port)
    log.set_up(settings.log_level)

    def announce(url: str) -> None:
        click.echo(f"chatledger serves {settings.database_path} on {url}")
        click.echo(f"API page: {url}/schema")

    run(settings, announce=announce)


def main() -> None:
    """Run the command; a refusal is one clear line and exit code 1."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except ChatledgerError as error:
        click.echo(f"chatledger: {error}", err=True)
        sys.exit(1)
