"""The quarantine on a terminal: each document with its defects, and at the end what to do.

It is written line by line, because a quarantine may have as many entries as there are products.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from product_sync.results import QuarantineListing, QuarantineReport
from product_sync.terminal.text import command, counts, heading, line, moment, pasted, printable, runs, show_command


def show_quarantine(report: QuarantineListing, mapping: Sequence[str] = ()) -> None:
    """All entries, the counts by reason, the advice. ``mapping`` are the options that further commands repeat."""
    if report.total is None:
        return
    if not report.total and report.run_id is None:
        line("No sync of these two sides has recorded a quarantine yet.", "yellow")
        return
    if not report.total:
        line("No document is in quarantine.", "green")
        return
    heading("Quarantine")
    if report.run_id:
        line(f"Run: {report.run_id}")
    first = None
    for entry in report.entries:
        first = first or entry
        _write(entry)
    shown = f"{report.total:,}" if report.matching == report.total else f"{report.matching:,} of {report.total:,}"
    line(f"{shown} in quarantine. By reason: {counts(report.by_reason or {})}")
    if report.advice:
        heading("What to do")
        for reason, action in report.advice.items():
            line(f"  {reason}: {action}")
    if first:
        line("Everything about one of them:")
        command(show_command(_shown_id(first), mapping))


def _write(entry: QuarantineReport) -> None:
    kind = f"  ({entry.id_type})" if entry.id_type else ""
    lines = [f"  {pasted(_shown_id(entry))}{kind}"]
    lines += [printable(f"      {defect.column}: {defect.reason}: {defect.value}") for defect in entry.defects]
    lines.append(
        f"      first seen {moment(entry.first_seen)}, last seen {moment(entry.last_seen)}, in {runs(entry.attempts)}"
    )
    sys.stdout.write("\n".join([*lines, ""]))


def _shown_id(entry: QuarantineReport) -> str:
    """The id in the target; if there is none, the ``_id``."""
    return entry.source_key if entry.id is None else entry.id
