"""Writes the quarantine as JSON or CSV, entry by entry, in memory that does not grow with it."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from typing import TextIO

from product_sync.results import QuarantineListing

#: CSV has one line for each column that fails, so a document may have several lines.
CSV_COLUMNS = (
    "id", "id_type", "source_key", "stage", "column", "reason", "value", "first_seen", "last_seen", "attempts",
    "run_id",
)  # fmt: skip


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
