"""A command in a folder of its own, where something may be wrong, and what is wrong with what it says of it."""

import os
import random
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.command import COMMAND, environment, succeed, write_lines
from support.server import Server

NAMESPACE = ("unshare", "--user", "--map-root-user")
TIMEOUT_S = 60
LINES_MAX = 5
OTHER_UID = 65534
"""Somebody else's user id, where the tests run as root: what is closed is closed to nobody who is root."""
SESSION = {"id": "s", "title": "Oslo", "user_id": "ada", "messages": [{"id": "m", "role": "user", "content": "Hello"}]}


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

    def rename(self, role: str, name: str) -> None:
        """Give the ledger, or the file, another name, with all that lies beside it."""
        old = getattr(self, role)
        for path in sorted(self.folder.glob(f"{old}*")):
            path.rename(self.folder / (name + path.name.removeprefix(old)))

    def take_away(self, path: Path, mode_of_others: int, mode: int) -> None:
        """Have *path* be somebody else's with *mode_of_others*, or where that cannot be done, ours with *mode*.

        Root gives it away, and has no power over others' files in a user namespace that maps root alone.
        """
        if os.geteuid() == 0:
            os.chown(path, OTHER_UID, OTHER_UID)
            path.chmod(mode_of_others)
            self.prefix = NAMESPACE
        else:
            path.chmod(mode)


def has_namespaces() -> bool:
    """Whether one may mount, and be nobody, in a namespace of one's own."""
    try:
        return subprocess.run([*NAMESPACE, "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


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
