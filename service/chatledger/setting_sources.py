"""The variables that are ours: from the environment, and from a file `.env` below it.

A variable that was meant for us and is not is refused: a typing error that is passed over serves another ledger.
"""

import ipaddress
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import parse_stream
from dotenv.variables import Variable, parse_variables

from chatledger import os_errors
from chatledger.errors import SettingsError

PREFIX = "CHATLEDGER_"
OF_CLIENTS = frozenset({"CHATLEDGER_API_KEY", "CHATLEDGER_URL"})
"""What programs that call the API read, and commands on the ledger's own files pass over."""

NEAR = 0.9
"""How alike two names are, of which one is a misspelt other (difflib's ratio): one letter in ten."""
SIMILAR = 0.75
"""The same where the prefix says already that it was meant for us."""

_PORT = re.compile(rf"{PREFIX}(\w+_)?PORT")
_PORT_OF = re.compile(rf"{PREFIX}(\w+_)?PORT_\d{{1,5}}_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?")
_SERVICE = re.compile(rf"{PREFIX}(\w+_)?SERVICE_(HOST|PORT(_\w+)?)")
_LINK = re.compile(r"(tcp|udp|sctp)://(\[[0-9a-f:]+\]|[0-9.]+):\d{1,5}")


class Found(NamedTuple):
    """A variable's text, and where it is from: nothing for the environment, else a place in a file."""

    text: str
    place: str = ""

    def named(self, name: str) -> str:
        """The variable *name* in a message, with its place."""
        return f"{self.place}: {name}" if self.place else name


def find(known: Collection[str], environment: Mapping[str, str], dotenv: Path) -> dict[str, Found]:
    """The variables *known* that are set, over those of the file *dotenv*, if it is there. Empty ones are not set.

    Raises:
        SettingsError: another one is set that was meant for us, or the file cannot be read.
    """
    found = _file(dotenv, environment, known)
    for name, text in environment.items():
        # An empty variable hides none of the file: compose files write so what is not set.
        if not is_service_link(name, text) and (text or name not in found):
            found[name] = Found(text)
    for name in found:
        _check_name(name, found, known)
    return {name: found[name] for name in known if name in found and found[name].text}


def _check_name(name: str, found: Mapping[str, Found], known: Collection[str]) -> None:
    """Refuse a variable that nobody knows and that was meant for us: by its prefix, or as it is near to one of ours.

    That one is not set itself: else the other is more likely somebody's own.

    Raises:
        SettingsError: it is such a one.
    """
    if name in known or name in OF_CLIENTS:
        return
    with_prefix = name.startswith(PREFIX)
    upper = name.upper()
    if upper.removeprefix(PREFIX) in known:
        upper = upper.removeprefix(PREFIX)
    near = get_close_matches(upper, [*known, *OF_CLIENTS], n=1, cutoff=SIMILAR if with_prefix else NEAR)
    if with_prefix or (near and not (near[0] in found and found[near[0]].text)):
        hint = f"Did you mean {near[0]}?" if near else "`chatledger settings` shows which there are."
        raise SettingsError(f"{found[name].named(name)} is not a setting of chatledger. {hint}")


def is_service_link(name: str, text: str) -> bool:
    """Whether it is what Kubernetes puts into the environment of each pod for a Service named `chatledger…`.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables. Exactly its forms, names and
    values: everything else behind our prefix is ours, or a typing error.
    """
    if _PORT.fullmatch(name) and _LINK.fullmatch(text):
        return True
    if match := _PORT_OF.fullmatch(name):
        return {None: _is_link, "_PROTO": _is_protocol, "_PORT": _is_port, "_ADDR": _is_address}[match[3]](text)
    if match := _SERVICE.fullmatch(name):
        return _is_address(text) if match[2] == "HOST" else _is_port(text)
    return False


def _is_link(text: str) -> bool:
    return _LINK.fullmatch(text) is not None


def _is_protocol(text: str) -> bool:
    return text in {"tcp", "udp", "sctp"}


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _file(path: Path, environment: Mapping[str, str], known: Collection[str]) -> dict[str, Found]:
    """The variables of a file `.env`, each with its line. Later ones win; one without a value is none.

    Raises:
        SettingsError: a line is no assignment, or one of ours stands there without a value.
    """
    found: dict[str, Found] = {}
    for binding in parse_stream(StringIO(_text(path))):
        original = binding.original  # with the blank lines before it
        blank = len(original.string) - len(original.string.lstrip())
        place = f"{path}, line {original.line + original.string[:blank].count(chr(10))}"
        if binding.error:
            raise SettingsError(f"{place} is no assignment, such as DATABASE_PATH=./data/ledger.db.")
        if binding.key is None:
            continue
        if binding.value is not None:
            values = {name: entry.text for name, entry in found.items()} | dict(environment)
            text = "".join(_resolved(binding.key, binding.value, values, place if binding.key in known else ""))
            found[binding.key] = Found(text, place)
        elif binding.key in known:
            raise SettingsError(f"{place}: {binding.key} has no value. Write {binding.key}=… or remove the line.")
    return found


def _resolved(name: str, text: str, values: Mapping[str, str], place: str) -> Iterator[str]:
    """The pieces of a value, `${NAME}` and `${NAME:-default}` replaced; *place* is empty where it is not ours to judge.

    Raises:
        SettingsError: one of our own refers to a variable that is not set.
    """
    for atom in parse_variables(text):
        if place and isinstance(atom, Variable) and atom.default is None and atom.name not in values:
            raise SettingsError(f"{place}: {name} refers to ${{{atom.name}}}, which is not set.")
        yield atom.resolve(values)


def _text(path: Path) -> str:
    """The file's text; nothing, where there is no file, or a folder of that name, as of a virtual environment.

    Raises:
        SettingsError: it cannot be read, or is neither.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return ""
        if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):  # /dev/null is put over a file that is not to be read
            raise SettingsError(f"{path} is no regular file: settings are not read from a pipe.")
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}, line {line} is not UTF-8.") from error
    except OSError as error:
        raise SettingsError(
            f"{path} of the working directory cannot be read: {os_errors.reason_of(error)}. Start in another folder, "
            f"or let the user that runs chatledger read it."
        ) from error
