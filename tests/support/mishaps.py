"""What can be wrong with the files, folders and surroundings of a command, and the commands that meet it."""

import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from support.command import COMMAND, environment, succeed, write_lines
from support.server import Server

TIMEOUT_S = 60
LINES_MAX = 5
OTHER_UID = 65534
"""Somebody else's user id, where the tests run as root: what is closed is closed to nobody who is root."""
SESSION = {"id": "s", "title": "Oslo", "user_id": "ada", "messages": [{"id": "m", "role": "user", "content": "Hello"}]}
ODD_NAME = "a\n\x1b[31m\u202eb"
ODD_NAME_SHOWN = "a\\n\\x1b[31m\\u202eb"
_MOUNTED = 'mount -t tmpfs -o size=2m none "$0" && cp -a "$1/." "$0" && cd "$0" && '
_READ_ONLY = 'mount -o remount,ro "$0" && cd "$0" && '
_DEVICE = "touch device && mount --bind /dev/null device && "
_FULL = "{ cat /dev/zero > ballast || true; } 2>/dev/null && "


@dataclass(frozen=True)
class Command:
    """A command line in which `LEDGER` and `FILE` stand for paths, and `KEY` for a key's id.

    `ledger` and `file` are what they are where nothing is wrong; without a `file` the command has none.
    """

    line: str
    file: str = ""
    ledger: str = "ledger.db"

    @property
    def arguments(self) -> list[str]:
        """The words of the line."""
        return self.line.split()


COMMANDS = (
    Command("serve --port 0 --database LEDGER"),
    Command("serve --port 0 --workers 2 --database LEDGER"),
    Command("import --database LEDGER FILE", file="sessions.jsonl"),
    Command("export --database LEDGER"),
    Command("export --database LEDGER --output FILE", file="new.jsonl"),
    Command("export --events --database LEDGER"),
    Command("export --session s --markdown --database LEDGER"),
    Command("status --database LEDGER"),
    Command("status --json --database LEDGER"),
    Command("verify --database LEDGER"),
    Command("verify --database LEDGER --head FILE", file="head"),
    Command("verify --database LEDGER --save-head FILE", file="new-head"),
    Command("verify --bundle FILE", file="bundle.json"),
    Command("replay --database LEDGER"),
    Command("replay --check --database LEDGER"),
    Command("backup --database LEDGER FILE", file="new.db"),
    Command("restore --database LEDGER FILE", file="backup.db", ledger="restored.db"),
    Command("erase --session s --reason r --database LEDGER"),
    Command("key create --operator --database LEDGER"),
    Command("key list --database LEDGER"),
    Command("key revoke KEY --database LEDGER"),
)


@dataclass
class Scene:
    """A folder of its own with a ledger and what belongs to it, and how the command is run there."""

    folder: Path
    ledger: str
    file: str
    chance: random.Random
    named: str = ""
    """What a refusal has to name, as it is shown."""
    env: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    streams: dict[str, Any] = field(default_factory=dict)
    close: tuple[int, ...] = ()

    def put(self, role: str, path: str | Path, *, shown: str | None = None) -> None:
        """Have the command find *path* as its ledger, or as its file."""
        setattr(self, role, str(path))
        self.named = Path(path).name if shown is None else shown

    def path(self, role: str) -> Path:
        """Where the ledger, or the file, lies."""
        return self.folder / getattr(self, role)


Mishap = Callable[[Scene, str], None]
Surrounding = Callable[[Scene], None]
MISHAPS: dict[str, Mishap] = {}
"""What can be wrong with a path: each gets the scene, and `ledger` or `file`."""
SURROUNDINGS: dict[str, Surrounding] = {}
"""What can be wrong around a command."""


def _mishap(function: Mishap) -> Mishap:
    MISHAPS[function.__name__] = function
    return function


def _surrounding(function: Surrounding) -> Surrounding:
    SURROUNDINGS[function.__name__] = function
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
        _rename(scene, role, ODD_NAME)
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
        _rename(scene, role, name)
    scene.put(role, name, shown=".db")


def _rename(scene: Scene, role: str, name: str) -> None:
    old = getattr(scene, role)
    for path in sorted(scene.folder.glob(f"{old}*")):
        path.rename(scene.folder / (name + path.name.removeprefix(old)))


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
    _take_away(scene, _into_folder(scene, role), 0o700, 0)


@_mishap
def folder_not_writable(scene: Scene, role: str) -> None:
    """One may read, and not write."""
    inner = _into_folder(scene, role)
    for path in inner.iterdir():
        path.chmod(0o444)
    _take_away(scene, inner, 0o755, 0o555)


@_mishap
def file_not_readable(scene: Scene, role: str) -> None:
    """One may enter, and not read."""
    for path in _into_folder(scene, role).iterdir():
        _take_away(scene, path, 0o600, 0)


def _into_folder(scene: Scene, role: str) -> Path:
    """Put the files of *role* into a folder of their own."""
    inner = scene.folder / "inner"
    inner.mkdir()
    name = getattr(scene, role)
    for path in sorted(scene.folder.glob(f"{name}*")):
        shutil.copy(path, inner / path.name)
    scene.put(role, f"inner/{name}")
    return inner


def _take_away(scene: Scene, path: Path, mode_of_others: int, mode: int) -> None:
    """Have *path* be somebody else's with *mode_of_others*, or where that cannot be done, ours with *mode*.

    Root gives it away, and has no power over others' files in a user namespace that maps root alone.
    """
    if os.geteuid() == 0:
        os.chown(path, OTHER_UID, OTHER_UID)
        path.chmod(mode_of_others)
        scene.prefix = ("unshare", "--user", "--map-root-user")
    else:
        path.chmod(mode)


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
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script),
        *(str(mount), str(source), str(scene.folder)),
    )
    scene.put(role, f"mount/{name}")


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
        _rename(scene, "ledger", name)
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
    _take_away(scene, path, 0o600, 0)
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


class Cell(NamedTuple):
    """A command, what is wrong, and with what: `ledger`, `file` or `around`."""

    command: Command
    mishap: str
    role: str

    def __str__(self) -> str:
        """As a test's name."""
        return f"{self.command.line}: {self.mishap} ({self.role})"


def cells() -> Iterator[Cell]:
    """All that there are."""
    for command in COMMANDS:
        if "LEDGER" in command.line:
            yield from (Cell(command, name, "ledger") for name in MISHAPS)
        if command.file:
            yield from (Cell(command, name, "file") for name in MISHAPS if not _waits(command, name))
        yield from (Cell(command, name, "around") for name in SURROUNDINGS if _applies(command, name))


def _waits(command: Command, mishap: str) -> bool:
    """A pipe is read as far as it goes, and nobody writes into this one."""
    return mishap == "fifo" and command.line.startswith(("import", "verify"))


def _applies(command: Command, mishap: str) -> bool:
    """What a server does without its streams is in the tests of the log, and what a bar does in those of progress."""
    if command.line.startswith("serve"):
        return mishap not in {"no_output", "no_errors", "no_streams", "full_output", "full_errors"}
    return mishap != "full_errors"


def template(folder: Path) -> Path:
    """A folder with a ledger, its views and key, a backup, a bundle, a head and a file to import."""
    write_lines(folder / "sessions.jsonl", [SESSION])
    succeed("import", "--database", "ledger.db", "sessions.jsonl", cwd=folder)
    succeed("verify", "--database", "ledger.db", "--save-head", "head", cwd=folder)
    succeed("backup", "--database", "ledger.db", "backup.db", cwd=folder)
    with Server(folder / "ledger.db", cwd=folder) as server, server.client() as client:
        (folder / "bundle.json").write_bytes(client.get("/v1/sessions/s/proof").content)
        assert server.stop() == 0
    key = succeed("key", "create", "--operator", "--database", "ledger.db", cwd=folder).split()[1]
    (folder / "key-id").write_text(key)
    write_lines(folder / "sessions.jsonl", [SESSION | {"id": "t"}])
    return folder


def scene_of(cell: Cell, folder: Path, chance: random.Random) -> Scene:
    """The scene of *cell* in *folder*, which is a copy of the template."""
    scene = Scene(folder=folder, ledger=cell.command.ledger, file=cell.command.file, chance=chance)
    scene.named = scene.ledger
    if cell.role == "around":
        SURROUNDINGS[cell.mishap](scene)
    else:
        MISHAPS[cell.mishap](scene, cell.role)
    return scene


def run(command: Command, scene: Scene) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; a server that serves is told to stop."""
    key = (scene.folder / "key-id").read_text()
    meant = {"LEDGER": scene.ledger, "FILE": scene.file, "KEY": key}
    words = [meant.get(word, word) for word in command.arguments]
    files = {name: Path(path).open("w") for name, path in scene.streams.items()}  # noqa: SIM115
    prefix = list(scene.prefix)
    if scene.close:
        closing = " ".join(f"{number}>&-" for number in scene.close)
        prefix += ["sh", "-c", f'exec "$@" {closing}', "sh"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | files
    process = subprocess.Popen(
        [*prefix, *COMMAND, *words],
        cwd=scene.folder,
        env=environment(**scene.env),
        text=True,
        errors="backslashreplace",
        **streams,
    )
    with process:
        try:
            first = ""
            if command.line.startswith("serve") and process.stdout is not None:
                first = process.stdout.readline()
                process.terminate()
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            stderr += "\nit did not end"
        finally:
            for file in files.values():
                file.close()
    return subprocess.CompletedProcess(words, process.returncode, first + (stdout or ""), stderr or "")


_SOURCE = re.compile(r"\.py\b|\bline \d+, in \b")
_PROGRESS = re.compile(r"(import|export|verify|replay|copy|views): [\d,]+ ")
_REJECTED = re.compile(r"(line \d+|(messages of )?session .*): |… and more")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def faults_of(scene: Scene, done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What is wrong with the answer: nothing, where it is a good one."""
    faults = [] if done.returncode in {0, 1, 2} else [f"it ended with {done.returncode}"]
    said = [line for line in done.stderr.splitlines() if not (_PROGRESS.match(line) or line.startswith("{"))]
    if "Traceback" in done.stderr or _SOURCE.search("\n".join(said)):
        faults.append("it shows its source")
    if _CONTROL.search(done.stderr):
        faults.append("it controls the terminal")
    said = [line for line in said if not _REJECTED.match(line)]
    if len(said) > LINES_MAX:
        faults.append(f"it says {len(said)} lines")
    if done.returncode == 1 and 2 not in scene.close and " rejected" not in done.stdout:
        if not said or not said[-1].startswith("chatledger: "):
            faults.append("it does not say why")
        elif scene.named not in said[-1]:
            faults.append(f"it does not name {scene.named!r}")
    return faults
