"""What can be wrong with the path of a ledger or of a file.

All paths lie in the scene's folder, devices too: the tests may be root, and a command that should refuse may not.
"""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from support.scenes import NAMESPACE, Scene

ODD_NAME = "a\n\x1b[31m\u202eb"
ODD_NAME_SHOWN = "a\\n\\x1b[31m\\u202eb"
_MOUNTED = 'mount -t tmpfs -o size=2m none "$0" && cp -a "$1/." "$0" && cd "$0" && '
_READ_ONLY = 'mount -o remount,ro "$0" && cd "$0" && '
_DEVICE = "touch device && mount --bind /dev/null device && "
_FULL = "{ cat /dev/zero > ballast || true; } 2>/dev/null && "

Mishap = Callable[[Scene, str], None]
MISHAPS: dict[str, Mishap] = {}
"""Each gets the scene, and `ledger` or `file`."""
MOUNTS = {"read_only_file_system", "full_disk", "device"}
CLOSES = {"folder_not_enterable", "folder_not_writable", "file_not_readable"}
"""These need a namespace, the second ones where the tests are root."""


def _mishap(function: Mishap) -> Mishap:
    MISHAPS[function.__name__] = function
    return function


@_mishap
def nothing(_scene: Scene, _role: str) -> None:
    """All is well."""


@_mishap
def missing(scene: Scene, role: str) -> None:
    """There is no such file."""
    scene.put(role, "nowhere.db")


@_mishap
def missing_folder(scene: Scene, role: str) -> None:
    """There is not even the folder."""
    scene.put(role, "no/where.db")


@_mishap
def folder_in_place(scene: Scene, role: str) -> None:
    """A folder has the name."""
    (scene.folder / "taken.db").mkdir()
    scene.put(role, "taken.db")


@_mishap
def this_folder(scene: Scene, role: str) -> None:
    """A dot: the folder that one is in."""
    scene.put(role, ".", shown=scene.folder.name if role == "ledger" else ".")


@_mishap
def file_for_folder(scene: Scene, role: str) -> None:
    """A file where there should be a folder."""
    (scene.folder / "file").touch()
    scene.put(role, "file/x.db")


@_mishap
def long_name(scene: Scene, role: str) -> None:
    """Longer than a file system takes."""
    scene.put(role, "n" * 300, shown="n" * 50)


@_mishap
def almost_too_long_a_name(scene: Scene, role: str) -> None:
    """It is taken; the names that are made of it are not."""
    scene.put(role, "n" * 250, shown="n" * 50)


@_mishap
def long_path(scene: Scene, role: str) -> None:
    """Longer than the system takes."""
    scene.put(role, "d/" * 3000 + "x.db")


@_mishap
def odd_name(scene: Scene, role: str) -> None:
    """A line end, a terminal's escape and a change of direction, in the name of a good file."""
    if scene.path(role).exists():
        scene.rename(role, ODD_NAME)
    scene.put(role, ODD_NAME, shown=ODD_NAME_SHOWN)


@_mishap
def odd_missing_name(scene: Scene, role: str) -> None:
    """The same, of a file that is not there, in a folder that is not there."""
    scene.put(role, f"{ODD_NAME}/{ODD_NAME}", shown=ODD_NAME_SHOWN)


@_mishap
def not_utf8(scene: Scene, role: str) -> None:
    """A name that is no text."""
    name = os.fsdecode(b"\xff\xfe.db")
    if scene.path(role).exists():
        scene.rename(role, name)
    scene.put(role, name, shown=".db")


@_mishap
def fifo(scene: Scene, role: str) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(scene.folder / "pipe")
    scene.put(role, "pipe")


@_mishap
def unix_socket(scene: Scene, role: str) -> None:
    """A socket has the name."""
    with socket.socket(socket.AF_UNIX) as bound:
        before = Path.cwd()
        os.chdir(scene.folder)  # the name of a socket is short
        try:
            bound.bind("socket")
        finally:
            os.chdir(before)
    scene.put(role, "socket")


@_mishap
def empty(scene: Scene, role: str) -> None:
    """A file with nothing in it."""
    (scene.folder / "empty").touch()
    scene.put(role, "empty")


@_mishap
def text(scene: Scene, role: str) -> None:
    """Some text."""
    (scene.folder / "diary").write_text("Dear diary\n" * 1000)
    scene.put(role, "diary")


@_mishap
def binary(scene: Scene, role: str) -> None:
    """Bytes by chance."""
    (scene.folder / "noise").write_bytes(scene.chance.randbytes(20_000))
    scene.put(role, "noise")


@_mishap
def other_database(scene: Scene, role: str) -> None:
    """The views have the name, which are SQLite too."""
    (views,) = scene.folder.glob("ledger.db.views.*.db")
    shutil.copy(views, scene.folder / "views.db")
    scene.put(role, "views.db")


@_mishap
def truncated(scene: Scene, role: str) -> None:
    """The end of the file is gone."""
    source = scene.path(role) if scene.path(role).exists() else scene.folder / "backup.db"
    content = source.read_bytes()
    (scene.folder / "cut").write_bytes(content[: scene.chance.randrange(1, len(content))])
    scene.put(role, "cut")


@_mishap
def link_loop(scene: Scene, role: str) -> None:
    """Two links that lead to each other."""
    (scene.folder / "one").symlink_to("two")
    (scene.folder / "two").symlink_to("one")
    scene.put(role, "one", shown="")


@_mishap
def dangling_link(scene: Scene, role: str) -> None:
    """A link to nowhere."""
    (scene.folder / "link").symlink_to("no/where")
    scene.put(role, "link", shown="")


@_mishap
def folder_not_enterable(scene: Scene, role: str) -> None:
    """Somebody else's folder."""
    scene.take_away(_into_folder(scene, role), 0o700, 0)


@_mishap
def folder_not_writable(scene: Scene, role: str) -> None:
    """One may read, and not write."""
    inner = _into_folder(scene, role)
    for path in inner.iterdir():
        path.chmod(0o444)
    scene.take_away(inner, 0o755, 0o555)


@_mishap
def file_not_readable(scene: Scene, role: str) -> None:
    """One may enter, and not read."""
    for path in _into_folder(scene, role).iterdir():
        scene.take_away(path, 0o600, 0)


def _into_folder(scene: Scene, role: str) -> Path:
    """Put the files of *role* into a folder of their own."""
    inner = scene.folder / "inner"
    inner.mkdir()
    name = getattr(scene, role)
    for path in sorted(scene.folder.glob(f"{name}*")):
        shutil.copy(path, inner / path.name)
    scene.put(role, f"inner/{name}")
    return inner


@_mishap
def read_only_file_system(scene: Scene, role: str) -> None:
    """Nothing can be written."""
    _mounted(scene, role, _READ_ONLY)


@_mishap
def full_disk(scene: Scene, role: str) -> None:
    """There is no room for a byte more."""
    _mounted(scene, role, _FULL)


@_mishap
def device(scene: Scene, role: str) -> None:
    """A device: never one in its own folder, where the tests may be root."""
    _mounted(scene, role, _DEVICE)
    scene.put(role, "mount/device")


def _mounted(scene: Scene, role: str, then: str) -> None:
    """Have the files of *role* on a file system of their own, of a mount namespace of their own."""
    mount, source = scene.folder / "mount", scene.folder / "source"
    mount.mkdir()
    source.mkdir()
    name = getattr(scene, role)
    for path in sorted(scene.folder.glob(f"{name}*")):
        shutil.copy(path, source / path.name)
    script = f'{_MOUNTED}{then}cd "$2" && shift 2 && exec "$@"'
    scene.prefix = (
        *(*NAMESPACE, "--mount", "sh", "-c", script),
        *(str(mount), str(source), str(scene.folder)),
    )
    scene.put(role, f"mount/{name}")
