"""What the figures were measured on. No names, no paths."""

import datetime as dt
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import apsw

from benchmarks.conversations import source
from benchmarks.generator import Generator
from chatledger import __version__
from chatledger.storage.paths import filesystem_of

PACKAGES = ("apsw", "granian", "litestar", "msgspec", "uvloop")
MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


def filesystem(folder: Path) -> str:
    """The type of the file system that *folder* is on."""
    return filesystem_of(folder.resolve(), Path("/proc/self/mountinfo").read_text())


def describe(folder: Path, generator: Generator) -> list[tuple[str, str]]:
    """Names and values, for people."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    load = "wrk, one thread" if generator is Generator.WRK else "the asyncio generator of tests/benchmarks"
    return [
        ("date", dt.datetime.now(dt.UTC).date().isoformat()),
        ("processors", f"{os.cpu_count()} of {model[1] if model else platform.machine()}"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("file system", filesystem(folder)),
        ("load average before", f"{os.getloadavg()[0]:.2f}"),
        ("load generator", f"{load}, on the same machine"),
        ("content", source()),
        ("chatledger", __version__),
        ("Python", platform.python_version()),
        ("SQLite", apsw.sqlite_lib_version()),
        *((name, version(name)) for name in PACKAGES),
    ]
