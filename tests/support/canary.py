"""A text that must not be found, and the search for its bytes in files."""

import re
import subprocess
from pathlib import Path

CANARY = "CANARY-d41f-wren"


def found_in(folder: Path, text: str = CANARY) -> list[str]:
    """The names of the files under *folder* that have the bytes of *text*.

    By a process of its own: opening a database's files in this one would drop SQLite's locks.
    """
    done = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings", text, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return sorted(Path(name).name for name in done.stdout.splitlines())


def found_beside_views(folder: Path, text: str = CANARY) -> list[str]:
    """The same, but for the views: rows that move between pages leave copies there, until the next ones are built."""
    return [name for name in found_in(folder, text) if not re.fullmatch(r".*\.db\.views\.\d{6}\.db", name)]


def copied(folder: Path, target: Path) -> Path:
    """The files of *folder* as they are now: what a crash would leave."""
    subprocess.run(["cp", "-r", str(folder), str(target)], check=True)
    return target
