"""`chatledger settings`: all settings as they are here and now, and where each is from."""

import click
import msgspec

from chatledger.console.terminal import say, write
from chatledger.settings import read_settings


@click.command(short_help="Show the settings and where each is from.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line instead of a table for people.")
def settings(as_json: bool) -> None:  # noqa: FBT001
    """Show every setting: its variable, its value and where that is from.

    They are read from the environment and from the file .env in the working directory, as by every other command.
    """
    for setting in read_settings().values():
        if as_json:
            write(msgspec.json.encode(setting))
        else:
            place = f"  ({setting.place})" if setting.place else ""
            say(f"{setting.variable}={_shown(setting.value)}{place}")


def _shown(value: str | int | bool) -> str:  # noqa: FBT001
    """As one would write it into the environment."""
    return str(value).lower() if isinstance(value, bool) else str(value)
