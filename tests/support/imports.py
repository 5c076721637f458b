"""Imports in this process: what they did, what they rejected, and what is there afterwards."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatledger.transfer import exporter, importer
from chatledger.transfer.importer import Report
from chatledger.transfer.json_lines import Rejected
from chatledger_projections.projection import Projection
from support.store import Store


def import_here(file: Path, projections: Sequence[Projection] = (), **settings: Any) -> tuple[Report, dict[str, str]]:
    """Import *file* into `ledger.db` beside it; the report, and the reasons of rejections by their places."""
    reasons: dict[str, str] = {}

    def reject(rejected: Rejected) -> None:
        assert rejected.where not in reasons, "a place is named once"
        reasons[rejected.where] = rejected.reason

    with Store(file.parent / "ledger.db", projections=projections, **settings) as store:
        source = importer.open_source(file, store.settings, tenant_id="default")
        report = importer.run(store.committer, source, on_rejected=reject, on_progress=lambda _done: None)
    assert report.rejected == len(reasons)
    return report, reasons


def sessions_here(folder: Path, tenant: str = "default") -> dict[str, dict[str, Any]]:
    """The tenant's sessions of `ledger.db` as an export writes them, by id and in its order."""
    return {session["id"]: session for session in map(json.loads, exported_here(folder, tenant).splitlines())}


def exported_here(folder: Path, tenant: str = "default") -> bytes:
    """The tenant's export."""
    with Store(folder / "ledger.db") as store:
        return b"".join(part for _, part in exporter.session_lines(store.views.db, tenant))
