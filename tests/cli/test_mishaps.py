"""Every command meets everything that can be wrong with its files and around it, and says in a line what that is.

`make test` takes a part of the cells, another one each time, in which each command and each mishap has its turn;
`TEST_CELLS=all` takes all of them, some minutes.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from support import mishaps, surroundings
from support.mishaps import MISHAPS
from support.scenes import COMMANDS, Command, Scene, faults_of, has_namespaces, run, template
from support.seeds import new_seed
from support.surroundings import SURROUNDINGS

CELLS = 110
"""So many take half a minute on two cores."""
AT_ONCE = 3


class Cell(NamedTuple):
    """A command, what is wrong, and with what: `ledger`, `file` or `around`."""

    command: Command
    mishap: str
    role: str

    def __str__(self) -> str:
        """As it is shown."""
        return f"{self.command.line}: {self.mishap} ({self.role})"

    def scene(self, folder: Path, chance: random.Random) -> Scene:
        """What it runs in: *folder*, which is a copy of the template, made wrong."""
        scene = Scene(folder=folder, ledger=self.command.ledger, file=self.command.file, chance=chance)
        scene.named = scene.ledger
        if self.role == "around":
            SURROUNDINGS[self.mishap](scene)
        else:
            MISHAPS[self.mishap](scene, self.role)
        return scene


def cells() -> Iterator[Cell]:
    """All that can be had here."""
    closes = mishaps.CLOSES | surroundings.CLOSES if os.geteuid() == 0 else set()
    left_out = set() if has_namespaces() else mishaps.MOUNTS | closes
    for command in COMMANDS:
        found = [Cell(command, name, "around") for name in SURROUNDINGS if _applies(command, name)]
        if "LEDGER" in command.line:
            found += [Cell(command, name, "ledger") for name in MISHAPS]
        if command.file:
            found += [Cell(command, name, "file") for name in MISHAPS if not _waits(command, name)]
        yield from (cell for cell in found if cell.mishap not in left_out)


def _waits(command: Command, mishap: str) -> bool:
    """A pipe is read as far as it goes, and nobody writes into this one."""
    return mishap == "fifo" and command.line.startswith(("import", "verify"))


def _applies(command: Command, mishap: str) -> bool:
    """What a server does without its streams is in the tests of the log, and what a bar does in those of progress."""
    return mishap not in (surroundings.STREAMS if command.line.startswith("serve") else {"full_errors"})


def chosen(chance: random.Random) -> Sequence[Cell]:
    """All cells, or a part of them that has each command and each mishap."""
    found = list(cells())
    if os.environ.get("TEST_CELLS") == "all":
        return found
    chance.shuffle(found)
    first: list[Cell] = []
    for cell in found:
        commands, mishaps = {each.command for each in first}, {(each.mishap, each.role) for each in first}
        if cell.command not in commands or (cell.mishap, cell.role) not in mishaps:
            first.append(cell)
    rest = [cell for cell in found if cell not in first]
    return (first + rest)[: max(CELLS, len(first))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each scene is a copy of."""
    return template(tmp_path_factory.mktemp("home"))


@pytest.mark.timeout(3600)
def test_every_command_says_in_a_line_what_is_wrong(home: Path, tmp_path: Path) -> None:
    """Exit code 0, 1 or 2; no traceback, no controls, few lines, and the name of the file in a refusal."""
    seed = new_seed()

    def found(numbered: tuple[int, Cell]) -> str:
        number, cell = numbered
        folder = shutil.copytree(home, tmp_path / str(number))
        scene = cell.scene(folder, random.Random(f"{seed} {cell}"))
        done = run(cell.command, scene)
        faults = faults_of(scene, done)
        return f"{cell}: {', '.join(faults)}\n  {done.returncode} {done.stderr!r}" if faults else ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [text for text in pool.map(found, enumerate(chosen(random.Random(seed)))) if text]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "said", "fault"),
    [
        (1, "chatledger: Cannot use l.db: permission denied.\n", None),
        (1, "verify: 3 of 3 events (100 %), 9/s, 0 s left\nchatledger: Cannot use l.db: no.\n", None),
        (0, "", None),
        (-9, "", "it ended with -9"),
        (120, "", "it ended with 120"),
        (1, "Traceback (most recent call last):\nchatledger: l.db\n", "it shows its source"),
        (1, '  File "service/chatledger/cli/main.py", line 3, in main\nchatledger: l.db\n', "it shows its source"),
        (1, "chatledger: Cannot use l.db\x1b[31m: no.\n", "it controls the terminal"),
        (1, "chatledger: The storage fails: disk I/O error.\n", "it does not name 'l.db'"),
        (1, "", "it does not say why"),
        (1, "PermissionError: l.db\n", "it does not say why"),
        (1, "a\nb\nc\nd\ne\nchatledger: l.db\n", "it says 6 lines"),
    ],
)
def test_a_bad_answer_is_seen(tmp_path: Path, code: int, said: str, fault: str | None) -> None:
    """The control: each of these was an answer once, or could be."""
    scene = Scene(folder=tmp_path, ledger="l.db", file="", chance=random.Random(0), named="l.db")
    found = faults_of(scene, subprocess.CompletedProcess([], code, "", said))
    assert found == ([] if fault is None else [fault])


def test_a_part_of_the_cells_has_every_command_and_every_mishap() -> None:
    """Whatever the seed."""
    for seed in range(5):
        part = chosen(random.Random(seed))
        assert {cell.command for cell in part} == set(COMMANDS)
        assert {(cell.mishap, cell.role) for cell in part} == {(cell.mishap, cell.role) for cell in cells()}
