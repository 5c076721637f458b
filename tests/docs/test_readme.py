"""What README.md shows is what happens: each line of each `console` block is run."""

import shutil
from pathlib import Path

import httpx
import pytest

from support import documents
from support.documents import ROOT, read
from support.server import Server

README = read("README.md")
SHOWN_URL = "localhost:8000"
SERVED = ("In two commands", "A conversation, with curl")
OFFLINE = ("Import and export", "A projection of your own")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a reader has it: the samples, and the example of a projection, saved where the page says."""
    shutil.copytree(ROOT / "data/samples", tmp_path / "data/samples")
    shutil.copy(ROOT / "tests/support/example_projection.py", tmp_path / "data/roles.py")
    return tmp_path


def test_the_page_followed_in_order_gives_what_it_shows(folder: Path) -> None:
    """Each command, in one ledger: the first ones against a real server, the others once it is stopped."""
    (shown,) = documents.blocks(documents.section(README, "In two commands"), "text")
    with Server("./data/ledger.db", cwd=folder) as server:
        url = f"http://127.0.0.1:{server.port}"
        said = f"chatledger serves {folder.resolve()}/data/ledger.db (new ledger) on {url}\nAPI page: {url}/schema"
        assert documents.matches(shown.replace("http://127.0.0.1:8000", url), said)
        assert server.said == said + "\n"
        assert httpx.get(f"{server.url}/schema", trust_env=False).status_code == 200
        for step in [step for heading in SERVED for step in documents.steps(documents.section(README, heading))]:
            assert SHOWN_URL in step.command or step.command.startswith("chatledger verify --bundle")
            documents.check(step, folder, replace={SHOWN_URL: f"127.0.0.1:{server.port}"})
        assert server.stop() == 0
    for heading in OFFLINE:
        for step in documents.steps(documents.section(README, heading)):
            documents.check(step, folder)
    made = {path.name for path in folder.iterdir()}
    assert made == {"data"}, "git would see what a reader makes"
    assert "/data/*" in read(".gitignore").splitlines()


def test_no_command_is_left_out() -> None:
    """Whatever stands in a `console` block stands under a heading that is run."""
    run = [step for heading in SERVED + OFFLINE for step in documents.steps(documents.section(README, heading))]
    assert documents.steps(README) == run
    assert len(run) >= 20


def test_the_session_shows_what_the_service_is_for() -> None:
    """Tool calls, a batch, conditions, retries, forks, the past, the events, a deletion."""
    shown = documents.section(README, "A conversation, with curl")
    for word in (
        "tool_calls",
        '"messages"',
        "?messages=",
        "If-Match",
        "412",
        "Idempotency-Key",
        "idempotency-replayed: true",
        "/fork",
        "as_of_version",
        "/events",
        "-X DELETE",
    ):
        assert word in shown, word


def test_the_make_targets_are_there() -> None:
    """Each `make` command of the page is a target of the Makefile."""
    makefile = read("Makefile")
    commands = [line for block in documents.blocks(README, "sh") for line in block.splitlines()]
    targets = [line.split()[1] for line in commands if line.startswith("make ")]
    assert "run" in targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_the_projection_is_the_example() -> None:
    """The text in the README is that of the file that the tests run."""
    (shown,) = documents.blocks(documents.section(README, "A projection of your own"), "python")
    assert shown == read("tests/support/example_projection.py")


def test_the_benchmark_has_its_place() -> None:
    """`make bench` fills the space between two marks, in this order, once each."""
    assert README.count("<!-- bench:start -->") == README.count("<!-- bench:end -->") == 1
    assert README.index("<!-- bench:start -->") < README.index("<!-- bench:end -->")
