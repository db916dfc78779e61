"""Lists the quarantine of a sync from its state folder, and writes it as JSON or CSV in memory that does not grow.

No database is read if an earlier run has noted the folder of this sync (`pipeline.sides`). So the list is available
when a server is down, and to a person who may not read the databases.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from product_sync.compare import quarantine
from product_sync.compare.quarantine import count_matching, entries
from product_sync.compare.quarantine_reasons import ADVICE
from product_sync.errors import ConfigurationError
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sides import find_by_sides, sides_key
from product_sync.results import DefectReport, QuarantineListing, QuarantineReport
from product_sync.schema.records import Reason
from product_sync.schema.row_schema import ID_TYPE
from product_sync.state.files import RUN_ID, read_metadata, row_count
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder

#: CSV has one line for each column that fails, so a document may have several lines.
CSV_COLUMNS = (
    "id", "id_type", "source_key", "stage", "column", "reason", "value", "first_seen", "last_seen", "attempts",
    "run_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredEntries:
    """The entries of a quarantine file. Each iteration reads the file again."""

    path: Path
    reasons: frozenset[str]

    def __iter__(self) -> Iterator[QuarantineReport]:
        return map(entry_report, entries(self.path, self.reasons))


def list_quarantine(
    report: QuarantineListing, databases: Databases, state_root: Path, reasons: Collection[str]
) -> None:
    """Fill in ``report``. Raises `ConfigurationError` for a reason that does not exist, and the errors of `reflect` if
    the target must be asked."""
    wanted = _known(reasons)
    folder = _folder(databases, state_root)
    with local_storage(folder.root):
        report.total, report.matching, report.by_reason, report.advice = 0, 0, {}, {}
        path = folder.sound_quarantine()
        if path is None:
            return
        report.total, report.by_reason = row_count(path), {str(code): n for code, n in quarantine.summary(path).items()}
        report.matching = count_matching(path, wanted) if wanted else report.total
        report.advice = {code: ADVICE[Reason(code)] for code in report.by_reason if not wanted or code in wanted}
        report.run_id = read_metadata(path).get(RUN_ID)
        report.entries = StoredEntries(path, wanted)


def entry_report(entry: Mapping[str, Any]) -> QuarantineReport:
    """An entry of `quarantine.entries` as part of a report."""
    defects = zip(entry["columns"], entry["reasons"], entry["values"], strict=True)
    return QuarantineReport(
        source_key=entry["source_key"],
        id=entry["id"],
        id_type=entry[ID_TYPE],
        stage=entry["stage"],
        defects=[DefectReport(column=column, reason=reason, value=value) for column, reason, value in defects],
        first_seen=_moment(entry["first_seen_us"]),
        last_seen=_moment(entry["last_seen_us"]),
        attempts=entry["attempts"],
        run_id=entry["run_id"],
    )


def _known(reasons: Collection[str]) -> frozenset[str]:
    if unknown := sorted(set(reasons) - set(Reason)):
        raise ConfigurationError(
            f"There is no reason {', '.join(map(repr, unknown))}.", hint=f"The reasons are: {', '.join(Reason)}."
        )
    return frozenset(reasons)


def _folder(databases: Databases, root: Path) -> StateFolder:
    """The state folder of the sync. The target is asked for its columns only if no run has noted the folder."""
    with local_storage(root):
        noted = find_by_sides(root, sides_key(databases))
    return noted or StateFolder(root, databases.state_key)


def _moment(microseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()


def write_json(report: QuarantineListing, out: TextIO) -> None:
    """The same object as ``report.as_json()``, on one line."""
    head = replace(report, entries=()).as_json()
    head.pop("entries")
    out.write(f'{json.dumps(head)[:-1]}, "entries": [')
    for place, entry in enumerate(report.entries):
        out.write(f"{', ' if place else ''}{json.dumps(asdict(entry))}")
    out.write("]}\n")


def write_csv(report: QuarantineListing, out: TextIO) -> None:
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(CSV_COLUMNS)
    for entry in report.entries:
        for defect in entry.defects:
            lines.writerow(getattr(defect if hasattr(defect, name) else entry, name) for name in CSV_COLUMNS)
