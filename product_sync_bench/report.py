"""Makes the report, in Markdown, from the measured figures alone.

The table itself shows which contestant lost, altered or kept rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from product_sync_bench.contestants import PRODUCT_SYNC
from product_sync_bench.results import (
    CHANGES,
    COMPUTED,
    DRIFT,
    FLOORS,
    INITIAL,
    IRREGULAR,
    LOOK,
    PACING,
    RACE,
    SCENARIOS,
    START,
    UNCHANGED,
    Entry,
    Goal,
    Run,
    Section,
    fastest_peer,
    goals,
)

_HEAD = """\
# Benchmarks

Written by `make bench`; the figures of every single run are in [benchmarks.json](benchmarks.json). Each contestant is
a process of its own, measured from outside: wall time and processor time with its start, the peak of memory with its
children, the databases excluded. Figures are medians, peaks are maxima. Contestants are interleaved, and each run gets
a fresh copy of the target, with the carts' table that references it. After each run the rows are compared with the
source by code that shares nothing with product_sync. A time in brackets is in
relation to that of product_sync: over 1 is slower.
"""


def render(sections: Mapping[int, Section]) -> str:
    """The whole report, in the order of the sizes."""
    ordered = [sections[size] for size in sorted(sections)]
    parts = [_HEAD, *_goals(goals(ordered))]
    for section in ordered:
        parts += _section(section)
    return "\n".join(parts)


def summary(section: Section) -> str:
    """The one table of a size, for the terminal."""
    return "\n".join(_race(section) or _start(section))


def _section(section: Section) -> list[str]:
    parts = [
        f"## {section.products:,} products",
        "",
        f"{section.measured_at}, {section.rounds} {'round' if section.rounds == 1 else 'rounds'}. {section.machine}. "
        f"Load before the start: {section.load_before:.1f}. Documents of {section.document_bytes} bytes.",
        "",
        ", ".join(f"{name} {version}" for name, version in section.versions.items()) + ".",
        "",
    ]
    for part in (_race, _wrongs, _variants, _changes, _floors, _felt, _pacing, _start):
        parts += part(section)
    return parts


def _goals(found: Sequence[Goal]) -> list[str]:
    if not found:
        return []
    rows = [
        (goal.what, f"{goal.measured:,.2f}", f"{goal.limit:g}", goal.against, "yes" if goal.reached else "**no**")
        for goal in found
    ]
    return ["## Goals", "", *table(("figure", "measured", "at most", "against", "reached"), rows), ""]


def _race(section: Section) -> list[str]:
    names = section.names(RACE)
    if not names:
        return []
    rows = []
    for name in names:
        entries = {scenario: section.find(RACE, scenario, name) for scenario in SCENARIOS}
        present = [one for one in entries.values() if one is not None]
        rows.append(
            (
                name,
                *(_with_ratio(section, scenario, entries[scenario]) for scenario in SCENARIOS),
                " / ".join(f"{one.cpu_s:.1f}" for one in present),
                f"{max(one.peak_bytes for one in present) / 1e6:.0f}",
                _outcome(present),
            )
        )
    head = ("", *(f"{scenario}, s" for scenario in SCENARIOS), "processor, s", "peak, MB", "rows and table")
    return [*table(head, rows), "", *_fastest(section), *_how(section.of(RACE)), ""]


def _with_ratio(section: Section, scenario: str, entry: Entry | None) -> str:
    if entry is None:
        return ""
    text = f"{entry.wall_s:.2f}"
    if not entry.succeeded:
        text += " **failed**"
    ours = section.find(RACE, scenario, PRODUCT_SYNC)
    return text if ours is None or ours is entry else f"{text} ({entry.wall_s / ours.wall_s:.1f} ×)"


def _fastest(section: Section) -> list[str]:
    """Our time in relation to the fastest peer that keeps the table: the ratio of the goals."""
    lines = []
    for scenario in SCENARIOS:
        ours, peer = section.find(RACE, scenario, PRODUCT_SYNC), fastest_peer(section, scenario)
        if ours is not None and peer is not None:
            lines.append(f"- {scenario}: {ours.wall_s / peer.wall_s:.2f} of the time of {peer.name}")
    if lines:
        lines = ["product_sync and the fastest peer that keeps the table and gets the rows right:", "", *lines, ""]
    return lines


def _how(entries: Iterable[Entry]) -> list[str]:
    return [f"- {name}: {how}" for name, how in dict.fromkeys((one.name, one.how) for one in entries)]


def _outcome(entries: Sequence[Entry]) -> str:
    """What a contestant did wrong in any of its runs, in a few words."""
    found: dict[str, None] = {}
    for run in (run for entry in entries for run in entry.runs):
        found |= dict.fromkeys(_wrongs_of(run))
    return "; ".join(found) or "exact"


def _wrongs_of(run: Run) -> list[str]:
    wrongs = [f"**exit status {run.cost.status}**"] if run.cost.status != 0 else []
    if (verdict := run.verdict) is None:
        return wrongs
    wrongs += [
        f"**{count:,} rows {what}**"
        for what, count in (("missing", verdict.missing), ("wrong", verdict.differing), ("too many", verdict.extra))
        if count
    ]
    if verdict.unreadable:
        wrongs.append("**table unreadable**")
    if verdict.altered_table:
        wrongs.append("alters the table")
    if verdict.left_behind:
        wrongs.append("leaves tables behind")
    return wrongs


def _wrongs(section: Section) -> list[str]:
    """In full, what is only named in the table."""
    found: dict[str, None] = {}
    for entry in section.of(RACE):
        for run in entry.runs:
            found |= dict.fromkeys(f"- {entry.name}: {sentence}" for sentence in _sentences(run))
    return ["What they did to the target:", "", *found, ""] if found else []


def _sentences(run: Run) -> list[str]:
    sentences = [f"ended with {run.cost.status}: `{run.complaint}`"] if run.complaint else []
    if (verdict := run.verdict) is None:
        return sentences
    if verdict.unreadable:
        sentences.append(f"the table cannot be read: {verdict.unreadable}")
    sentences += [", ".join(verdict.altered_table)] if verdict.altered_table else []
    # Names with the time in them would make a sentence of each run.
    tables = sorted({name.rstrip("0123456789").rstrip("_") for name in verdict.left_behind})
    sentences += [f"left behind: {', '.join(tables)}"] if tables else []
    return sentences


def _variants(section: Section) -> list[str]:
    lines = []
    for group, what in ((IRREGULAR, "1 % of the documents irregular"), (COMPUTED, "a filter and an expression")):
        if (variant := section.find(group, UNCHANGED, PRODUCT_SYNC)) is not None:
            ratio = _with_ratio(section, UNCHANGED, variant)
            lines += [f"With {what}, {UNCHANGED}: {ratio} s, {_outcome([variant])}.", ""]
    return lines


def _changes(section: Section) -> list[str]:
    """Passes and looks of the watch. One in a hundred of the changed products has not arrived in the target."""
    rows = []
    for entry in section.of(CHANGES):
        felt = _median_run(entry).felt
        rows.append(
            (
                entry.scenario,
                entry.name,
                f"{entry.wall_s:.3f}",
                f"{entry.cpu_s:.2f}",
                f"{felt.source_bytes / 1e3:,.1f}",
                f"{felt.source_calls:,}",
                f"{felt.statements:,}",
                f"{felt.target_read_bytes / 1e6:,.1f}",
                f"{felt.inserted:,} / {felt.updated:,} / {felt.deleted:,}",
                "writes nothing" if entry.name == LOOK and entry.succeeded else _outcome([entry]),
            )
        )
    head = (
        "only what the source has changed", "", "s", "processor, s", "MongoDB sends, kB", "calls",
        "PostgreSQL statements", "reads, MB", "inserted / updated / deleted", "rows and table",
    )  # fmt: skip
    return [*table(head, rows), "", *_how(section.of(CHANGES)), ""] if rows else []


def _median_run(entry: Entry) -> Run:
    return sorted(entry.runs, key=lambda run: run.cost.wall_s)[len(entry.runs) // 2]


def _floors(section: Section) -> list[str]:
    rows = [
        (
            entry.name,
            entry.how,
            f"{entry.wall_s:.2f}",
            ""
            if (ours := section.find(RACE, entry.scenario, PRODUCT_SYNC)) is None
            else f"{entry.wall_s / ours.wall_s:.2f}",
            entry.scenario,
            f"{entry.cpu_s:.2f}",
            f"{entry.peak_bytes / 1e6:.0f}",
        )
        for entry in section.of(FLOORS)
    ]
    head = ("floor", "", "s", "as a share of product_sync's", "with", "processor, s", "peak, MB")
    return [*table(head, rows), ""] if rows else []


def _felt(section: Section) -> list[str]:
    """What the databases felt, from the run with the median wall time."""
    rows = []
    for scenario in SCENARIOS:
        for entry in section.of(RACE, scenario):
            felt = _median_run(entry).felt
            rows.append(
                (
                    scenario,
                    entry.name,
                    f"{felt.source_bytes / 1e6:,.1f}",
                    f"{felt.source_calls:,}",
                    f"{felt.statements:,}",
                    f"{felt.target_read_bytes / 1e6:,.0f}",
                    f"{felt.inserted:,} / {felt.updated:,} / {felt.deleted:,}",
                    f"{felt.rows_written:,}",
                    f"{felt.wal_bytes / 1e6:,.1f}",
                )
            )
    head = (
        "what the databases feel", "", "MongoDB sends, MB", "calls", "PostgreSQL statements", "reads, MB",
        "inserted / updated / deleted in the table", "rows written in all", "WAL, MB",
    )  # fmt: skip
    return [*table(head, rows), ""] if rows else []


def _pacing(section: Section) -> list[str]:
    rows = []
    for name in section.names(PACING):
        initial, drift = (section.find(PACING, scenario, name) for scenario in (INITIAL, DRIFT))
        present = [one for one in (initial, drift) if one is not None]
        label = f"{name} (one run)" if section.rounds > 1 and len(present[0].runs) == 1 else name
        rows.append((label, *(f"{one.wall_s:.2f}" for one in present), _outcome(present)))
    head = ("product_sync at other paces", f"{INITIAL}, s", f"{DRIFT}, s", "rows and table")
    return [*table(head, rows), ""] if rows else []


def _start(section: Section) -> list[str]:
    rows = [
        (entry.name, f"{entry.wall_s:.2f}", f"{entry.cpu_s:.2f}", f"{entry.peak_bytes / 1e6:.0f}")
        for entry in section.of(START, UNCHANGED)
    ]
    return [*table(("start", "s", "processor, s", "peak, MB"), rows), ""] if rows else []


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table. Columns after the first are set to the right if all of their cells begin with a digit."""
    numeric = [bool(rows) and all(row[column][:1].isdigit() for row in rows) for column in range(len(head))]
    rule = ["---:" if right else "---" for right in numeric]
    return [_line(head), _line(rule), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
