"""What the operating system refuses, as one line for people: the file, the reason and a remedy."""

import errno
import os
from typing import NoReturn

from chatledger.errors import RefusedToStart

SHOWN_MAX = 200
"""So many characters of a path are shown: the middle of a longer one is left out."""

_OTHERS = "See what the system says of this file and of its disk."
_REMEDIES = {
    errno.EACCES: "Check the owner and the permissions of it and of its folders, and the user that runs chatledger.",
    errno.EPERM: "Check the owner and the permissions of it and of its folders, and the user that runs chatledger.",
    errno.EROFS: "Use a copy on a disk that can be written.",
    errno.ENOSPC: "Make room on its disk.",
    errno.EDQUOT: "Make room on its disk, or ask for more.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f).",
    errno.EISDIR: "Name a file.",
    errno.ENOTDIR: "Check the path.",
    errno.EEXIST: "Check the path.",
    errno.ENOENT: "Check the path.",
    errno.ELOOP: "Check the symbolic links.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENFILE: "Close other programs, or raise the system's limit on open files.",
}


def refuse(error: OSError, name: str) -> NoReturn:
    """Refuse because of *error*, and name the file that it names; *name*, where it names none.

    Raises:
        RefusedToStart: always.
    """
    refuse_about(_path_of(error) or name, error)


def refuse_about(name: str, error: OSError) -> NoReturn:
    """Refuse because of *error*, and name the file as the user has done: ours are made of its name.

    Raises:
        RefusedToStart: always.
    """
    raise RefusedToStart(f"Cannot use {shortened(name)}: {reason_of(error)}. {remedy_of(error)}") from error


def reason_of(error: OSError) -> str:
    """The system's own words."""
    return error.strerror.rstrip(".").lower() if error.strerror else type(error).__name__


def remedy_of(error: OSError) -> str:
    """What to do."""
    return _REMEDIES.get(error.errno or 0, _OTHERS)


def shortened(path: str) -> str:
    """*path*, or its two ends."""
    return path if len(path) <= SHOWN_MAX else f"{path[: SHOWN_MAX // 2]}…{path[-SHOWN_MAX // 2 :]}"


def _path_of(error: OSError) -> str:
    """The file that it is about; of two, the one that was to be made."""
    found = error.filename2 or error.filename
    return os.fsdecode(found) if isinstance(found, (str, bytes)) else ""
