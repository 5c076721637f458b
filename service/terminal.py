"""Text for people: printed on one line, with nothing in it that controls a terminal.

Titles, names of files, user ids and JSON of other people can hold escapes that move the cursor, turn the direction of
writing, or look like the next line (CWE-150). They are shown, and not obeyed. What machines read (JSON) is not changed.
"""

import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from service import failures
from service.errors import OutputFailed

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


def visible_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of a log line for people: its texts made visible. A traceback keeps its lines."""
    return {
        name: visible(value, keep="\n" if name == "exception" else "") if isinstance(value, str) else value
        for name, value in event.items()
    }


def say(text: str, *, err: bool = False) -> None:
    """Print one line for people on standard output, or on standard error.

    Raises:
        OutputFailed: it cannot be written.
    """
    write(visible(text), err=err)


def write(text: str | bytes, *, err: bool = False) -> None:
    """Print one line that is as it has to be: JSON, a secret, a line that is made visible already.

    Raises:
        OutputFailed: it cannot be written.
    """
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        raise  # whoever read it has enough: click ends the command without a word
    except OSError as error:
        raise failed("error" if err else "output", error) from error


def failed(name: str, error: OSError) -> OutputFailed:
    """What to raise for the stream *name*, `output` or `error`, which does not take a line."""
    return OutputFailed(f"Standard {name} cannot be written: {failures.reason_of(error)}.")


def need_output() -> None:
    """Refuse where nobody would get to see what the command prints.

    Raises:
        OutputFailed: standard output is closed.
    """
    if sys.stdout is None:
        raise OutputFailed("Standard output is closed: there is nowhere to write to.")


@contextmanager
def output() -> Iterator[BinaryIO]:
    """Standard output for bytes, all of them written when the block ends.

    Raises:
        OutputFailed: it is closed, or cannot be written.
    """
    need_output()
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise  # as in `write`
    except OSError as error:
        raise failed("output", error) from error


def prepare_streams() -> None:
    """Have the standard streams take any text, and no file of ours take the number of one that is closed.

    What a stream's encoding does not have is written as an escape. A closed stream's number is given to the null
    device: else the next file that is opened would get it, and whatever a library prints would go into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004  # stdin, stdout, stderr
        os.set_inheritable(descriptor, True)  # noqa: FBT003
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # for as long as the process
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper


def finish_streams() -> None:
    """Write out what is left, and let go of what cannot be: else Python says so behind our last word, with code 120.

    Raises:
        OutputFailed: it cannot be written.
    """
    for name, stream in (("output", sys.stdout), ("error", sys.stderr)):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError as error:
            with open(os.devnull, "w") as null:  # noqa: PTH123
                os.dup2(null.fileno(), stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise failed(name, error) from error
