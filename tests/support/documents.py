"""Reading our own documentation: its sections, code blocks, tables, links, and the commands that it shows."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A command that a document shows, and the output that it shows behind it; `…` stands for anything."""

    command: str
    output: str

    def __str__(self) -> str:
        """The command, as the test's name."""
        return self.command


def documents() -> list[Path]:
    """All pages of the documentation."""
    pages = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")
    return [*(ROOT / page for page in pages), *sorted((ROOT / "docs").rglob("*.md"))]


def read(name: str) -> str:
    """The text of the page *name*, a path from the repository's root."""
    return (ROOT / name).read_text()


def section(text: str, heading: str) -> str:
    """What stands under *heading*, up to the next heading of its level or above."""
    outside = _FENCE.sub(lambda match: " " * len(match[0]), text)
    found = list(_HEADING.finditer(outside))
    for number, match in enumerate(found):
        if match[2] == heading:
            rest = (later.start() for later in found[number + 1 :] if len(later[1]) <= len(match[1]))
            return text[match.end() : next(rest, len(text))]
    raise AssertionError(f"there is no heading {heading!r}")


def headings(text: str) -> list[str]:
    """The headings, without their marks."""
    return [match[2] for match in _HEADING.finditer(_FENCE.sub("", text))]


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of *language*."""
    return [match[2] for match in _FENCE.finditer(text) if match[1] == language]


def steps(text: str) -> list[Step]:
    """The commands of the `console` blocks: `$ ` begins one, `> ` goes on with it, the rest is output."""
    found: list[Step] = []
    for block in blocks(text, "console"):
        command: list[str] = []
        output: list[str] = []
        for line in [*block.splitlines(), "$ "]:
            if line.startswith("$ "):
                if command:
                    found.append(Step("\n".join(command), "\n".join(output)))
                command, output = [line[2:]], []
            elif line.startswith("> "):
                command.append(line[2:])
            else:
                output.append(line)
    return found


def matches(expected: str, actual: str) -> bool:
    """Whether *actual* is what *expected* says; `…` in it stands for any text, line ends included."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, actual.replace("\r", "").strip(), re.DOTALL) is not None


def run(step: Step, folder: Path, *, replace: Mapping[str, str] | None = None) -> str:
    """Run *step* in *folder* as a reader would, with *replace* made in its command, and return its output.

    Only standard output counts; our environment's settings of chatledger do not reach it.
    """
    command = step.command
    for shown, real in (replace or {}).items():
        command = command.replace(shown, real)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CHATLEDGER_") and name not in ("DATABASE_PATH", "PYTHONPATH")
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["COLUMNS"] = "80"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def check(step: Step, folder: Path, *, replace: Mapping[str, str] | None = None) -> None:
    """Run *step* and hold its output against what the page shows."""
    found = run(step, folder, replace=replace)
    assert matches(step.output, found), f"$ {step.command}\nshown:\n{step.output}\nfound:\n{found}"


def rows(text: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column is headed *first_column*, without the marks of code."""
    lines = iter(text.splitlines())
    for line in lines:
        if _cells(line)[:1] == [first_column]:
            next(lines)
            return [_cells(row) for row in _while_table(lines)]
    raise AssertionError(f"there is no table with the column {first_column!r}")


def _while_table(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace("\\|", "|").replace("`", "") for cell in cells]
