"""Every command meets everything that can be wrong with its files and around it, and says in a line what that is.

`make test` takes a part of the cells, another one each time, in which each command and each mishap has its turn;
`TEST_CELLS=all` takes all of them, some minutes.
"""

import os
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.mishaps import Cell, cells, faults_of, run, scene_of, template
from support.seeds import new_seed

CELLS = 110
"""So many take half a minute on two cores."""
AT_ONCE = 3


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
        scene = scene_of(cell, folder, random.Random(f"{seed} {cell}"))
        done = run(cell.command, scene)
        faults = faults_of(scene, done)
        return f"{cell}: {', '.join(faults)}\n  {done.returncode} {done.stderr!r}" if faults else ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [text for text in pool.map(found, enumerate(chosen(random.Random(seed)))) if text]
    assert not wrong, "\n".join(wrong)
