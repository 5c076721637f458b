"""What can be wrong around a command: the files beside its ledger, its streams, its language, its settings."""

import os
from collections.abc import Callable

from support.mishaps import ODD_NAME_SHOWN, odd_name
from support.scenes import Scene

Surrounding = Callable[[Scene], None]
SURROUNDINGS: dict[str, Surrounding] = {}
STREAMS = {"no_output", "no_errors", "no_streams", "full_output", "full_errors"}
"""Those of its standard streams."""
CLOSES = {"dotenv_not_readable"}
"""These need a namespace where the tests are root."""


def _surrounding(function: Surrounding) -> Surrounding:
    SURROUNDINGS[function.__name__] = function
    return function


def _beside(suffix: str) -> Surrounding:
    def folder_beside(scene: Scene) -> None:
        place = scene.folder / (scene.ledger + suffix)
        place.unlink(missing_ok=True)
        place.mkdir()
        scene.named = scene.ledger

    return folder_beside


for _suffix in (".lock", ".key", "-wal", ".erasures", ".views.000001.db"):
    SURROUNDINGS[f"folder_in_place_of{_suffix}"] = _beside(_suffix)


@_surrounding
def no_input(scene: Scene) -> None:
    """Standard input is closed."""
    scene.close = (0,)


@_surrounding
def no_output(scene: Scene) -> None:
    """Standard output is closed."""
    scene.close = (1,)
    scene.named = "output"


@_surrounding
def no_errors(scene: Scene) -> None:
    """Standard error is closed."""
    scene.close = (2,)
    scene.named = ""


@_surrounding
def no_streams(scene: Scene) -> None:
    """All three are closed."""
    scene.close = (0, 1, 2)
    scene.named = ""


@_surrounding
def full_output(scene: Scene) -> None:
    """Standard output is on a full disk."""
    scene.streams["stdout"] = "/dev/full"
    scene.named = "output"


@_surrounding
def full_errors(scene: Scene) -> None:
    """Standard error is on a full disk."""
    scene.streams["stderr"] = "/dev/full"


@_surrounding
def locale_c(scene: Scene) -> None:
    """A shell without a language, and with names beyond it."""
    scene.env = {"LC_ALL": "C"}
    odd_name(scene, "ledger")


@_surrounding
def locale_posix(scene: Scene) -> None:
    """The same by its other name, and without Python's own way to UTF-8."""
    scene.env = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    odd_name(scene, "ledger")
    scene.named = ODD_NAME_SHOWN[:10]


@_surrounding
def ascii_streams(scene: Scene) -> None:
    """Streams that take ASCII only."""
    scene.env = {"PYTHONIOENCODING": "ascii"}
    _rename_all(scene, "ü€")


def _rename_all(scene: Scene, name: str) -> None:
    if scene.path("ledger").exists():
        scene.rename("ledger", name)
    scene.put("ledger", name, shown="\\xfc\\u20ac")


@_surrounding
def odd_home(scene: Scene) -> None:
    """A home that is not there, and a folder for temporary files that is not either."""
    scene.env = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "SQLITE_TMPDIR": "/nonexistent"}


@_surrounding
def dotenv_folder(scene: Scene) -> None:
    """`.env` is a folder."""
    (scene.folder / ".env").mkdir()


@_surrounding
def dotenv_fifo(scene: Scene) -> None:
    """`.env` is a named pipe."""
    os.mkfifo(scene.folder / ".env")
    scene.named = ".env"


@_surrounding
def dotenv_not_readable(scene: Scene) -> None:
    """`.env` is somebody else's."""
    path = scene.folder / ".env"
    path.write_text("CHATLEDGER_LOG_LEVEL=error\n")
    scene.take_away(path, 0o600, 0)
    scene.named = ".env"


@_surrounding
def dotenv_not_utf8(scene: Scene) -> None:
    """`.env` is no text."""
    (scene.folder / ".env").write_bytes(b"# caf\xe9\nCHATLEDGER_LOG_LEVEL=error\n")
    scene.named = ".env"


@_surrounding
def dotenv_no_lines(scene: Scene) -> None:
    """`.env` has something that is no assignment."""
    (scene.folder / ".env").write_text("this is no assignment\n")
    scene.named = ".env"


@_surrounding
def folder_gone(scene: Scene) -> None:
    """The working directory was removed."""
    gone = scene.folder / "gone"
    gone.mkdir()
    scene.prefix = ("sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(gone))
    scene.named = ""


@_surrounding
def few_files(scene: Scene) -> None:
    """The system allows no more than a few open files: enough for Python to start."""
    scene.prefix = ("sh", "-c", f'ulimit -n {scene.chance.randrange(8, 20)} && exec "$@"', "sh")
    scene.named = ""
