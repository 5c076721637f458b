"""The program that makes HTTP load: `wrk` where it is installed, else our own on asyncio."""

import enum
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import asyncio_load, wrk
from benchmarks.load import Load, Request


class Generator(enum.StrEnum):
    """Which one."""

    WRK = "wrk"
    PYTHON = "python"

    @classmethod
    def best(cls) -> "Generator":
        """`wrk`, which takes less of the machine from the server, if it is there."""
        return cls.WRK if shutil.which("wrk") else cls.PYTHON

    def drive(self, url: str, request: Request, *, connections: int, seconds: int, folder: Path) -> Load:
        """Send *request* over *connections*, one at a time on each, for *seconds*.

        *folder* is for the generator's own files.

        Raises:
            LoadFailed: an answer was missing or no success.
        """
        if self is Generator.WRK:
            return wrk.run(url, request, connections=connections, seconds=seconds, folder=folder)
        host, port = urlsplit(url).hostname, urlsplit(url).port
        assert host is not None
        assert port is not None
        return asyncio_load.run(host, port, request, connections=connections, seconds=seconds)
