"""The real conversations of ../shared/data, which are not part of the project."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2].parent / "shared" / "data"
FILES = ("oasst_paths.jsonl", "tau_airline_100.jsonl")


def path_of(name: str) -> Path:
    """The file's path; the test is skipped where the data is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the conversations of ../shared/data/{name} are not here")
    return path


def load(name: str) -> list[dict[str, Any]]:
    """The file's sessions."""
    return [json.loads(line) for line in path_of(name).read_text().splitlines()]
