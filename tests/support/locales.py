"""Locales whose encoding is not UTF-8, for processes that tests start."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""Plain ASCII, with Python kept from taking UTF-8 instead (PEP 538, PEP 540)."""
PLAIN_C = {"LC_ALL": "C"}


@functools.cache
def latin1() -> dict[str, str]:
    """The environment of `de_DE.ISO-8859-1`, which is made for the test run; the test is skipped where it cannot be."""
    name = "de_DE.ISO-8859-1"
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef to make a locale with")
    folder = Path(tempfile.mkdtemp(prefix="locales-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / name)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("the sources of the locale are not installed")
    return {"LOCPATH": os.fspath(folder), "LC_ALL": name, "PYTHONUTF8": "0"}
