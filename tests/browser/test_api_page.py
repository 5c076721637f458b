"""The API page in a real browser: Debian's chromium, headless; skipped where there is none."""

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from support.browser import CHROMIUM, FLAGS
from support.server import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (Debian: apt install chromium)")


def render(url: str, folder: Path) -> str:
    """The document that *url* has become after its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_page_shows_every_operation(server: Server, client: httpx.Client, tmp_path: Path) -> None:
    """The page at /schema lists each operation of the document, made by the scripts that we ship."""
    document = client.get("/schema/openapi.json").json()
    wanted = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    page = render(f"{server.url}/schema", tmp_path)
    assert wanted == set(re.findall(r'id="operations-(?!tag-)[^"]+-([A-Za-z]+)"', page))


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    """The page and its policy name no other origin, so that it works without the internet and tells nobody."""
    page = client.get("/schema")
    assert not re.findall(r"(?:src|href)=\"(?!/schema/)[^\"]*\"", page.text)
    assert "default-src 'self'" in page.headers["content-security-policy"]
