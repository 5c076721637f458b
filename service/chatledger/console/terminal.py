"""Text for people: printed on one line, with nothing in it that controls a terminal.

Titles, names of files, user ids and JSON of other people can hold escapes that move the cursor, turn the direction of
writing, or look like the next line (CWE-150). They are shown, and not obeyed. What machines read (JSON) is not changed.
"""

import re

import click

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: ECMA-48
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Bidi_Control: https://www.unicode.org/reports/tr9/
    "\u2028\u2029"  # line ends that are no line feed
    "\ud800-\udfff]"  # bytes of a file's name that are no UTF-8
)


def visible(text: str, *, keep: str = "") -> str:
    r"""*text* with controls as escapes, such as `\x1b`, `\n` and `\u202e`; those in *keep* stay as they are."""
    return _CONTROLS.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def visible_json(text: str) -> str:
    r"""The same of a JSON text, as JSON escapes it: `\u009b`. Line feeds and tabs between its values stay."""
    return _CONTROLS.sub(lambda match: match[0] if match[0] in "\n\t" else f"\\u{ord(match[0]):04x}", text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def say(text: str, *, err: bool = False) -> None:
    """Print one line for people on standard output, or on standard error."""
    write(visible(text), err=err)


def write(text: str | bytes, *, err: bool = False) -> None:
    """Print one line that is as it has to be: JSON, a secret, a line that is made visible already.

    It raises nothing: what cannot be written is noted (`streams.py`).
    """
    click.echo(text, err=err)
