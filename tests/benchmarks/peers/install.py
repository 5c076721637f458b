"""Installing the peers into a folder of their own, and saying what is there.

`python -m benchmarks.peers.install` is the one place here that uses the network, and `make bench` runs it. Python's
packages are those of the group `bench` in pyproject.toml; they get an environment of their own, so that no wish of
theirs changes the versions of what is measured.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path

import click
import msgspec

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
"""Where the peers are installed; git ignores it."""
PROJECT = HERE.parents[2] / "pyproject.toml"
TIMEOUT_S = 900
PYTHON, NODE = "python", "node"
_FAILED, _DONE = "failed", "installed"


class Peers(msgspec.Struct, frozen=True):
    """The peers in *folder*."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter among the Python packages."""
        return self.folder / PYTHON / "bin" / "python"

    @property
    def store(self) -> Path:
        """The program of the store that ours replaces, beside its packages."""
        return self.folder / NODE / "store.js"

    def missing(self, kind: str) -> str:
        """Why peers of this kind are not there; empty if they are."""
        place = self.folder / kind
        if kind == NODE and not shutil.which("node"):
            return "Node.js is not installed"
        if (place / _DONE).exists():
            return ""
        failed = place / _FAILED
        return failed.read_text() if failed.exists() else "not installed: `make bench` does"

    def versions(self) -> dict[str, str]:
        """Of each package that is measured, by its name."""
        found = {}
        for site in self.folder.glob(f"{PYTHON}/lib/python*/site-packages"):
            found |= {each.name.lower(): each.version for each in distributions(path=[str(site)])}
        for file in self.folder.glob(f"{NODE}/node_modules/*/package.json"):
            found[file.parent.name] = json.loads(file.read_text())["version"]
        if not self.missing(NODE):
            found["node"] = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout[1:]
        return {name: version.strip() for name, version in found.items()}


def install(folder: Path) -> Peers:
    """Install what is not there yet; what cannot be installed leaves a reason behind."""
    group = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["bench"]
    _install(folder / PYTHON, "\n".join(group), lambda place: _install_python(place, group))
    package = (HERE / "crud" / "package.json").read_text()
    _install(folder / NODE, package, _install_node)
    # Copied each time, for Node.js finds packages beside the program only.
    (folder / NODE).mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "crud" / "store.js", folder / NODE)
    return Peers(folder)


class _Failed(Exception):
    """Something could not be installed; the text is for the table of figures and names no place."""


def _install(place: Path, wanted: str, make: Callable[[Path], None]) -> None:
    done = place / _DONE
    if done.exists() and done.read_text() == wanted:
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        make(place)
    except _Failed as error:
        click.echo(f"peers: {error}", err=True)
        (place / _FAILED).write_text(str(error))
    else:
        done.write_text(wanted)


def _install_python(place: Path, group: Sequence[str]) -> None:
    _run("no virtual environment could be made", [sys.executable, "-m", "venv", str(place)])
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run("pip could not install them", [*pip, *group])


def _install_node(place: Path) -> None:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise _Failed("Node.js or npm is not installed")
    shutil.copy(HERE / "crud" / "package.json", place)
    environment = dict(os.environ)
    prefix = Path(node).resolve().parents[1]
    if (prefix / "include" / "node" / "node.h").exists():  # else node-gyp fetches the headers from elsewhere
        environment["npm_config_nodedir"] = str(prefix)
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    _run("npm could not install them", command, folder=place, environment=environment)


def _run(
    failure: str, command: Sequence[str], *, folder: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    try:
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise _Failed(f"{failure} within {TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise _Failed(f"{failure} (exit {error.returncode})") from error


if __name__ == "__main__":
    install(CACHE)
