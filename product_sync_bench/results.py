"""The measured figures, and what is computed from them: medians, ratios, goals.

A file keeps the figures of every run. So the report can be written again without a measurement, and the spread is
visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from pydantic import TypeAdapter

from product_sync_bench.contestants import DAGSTER_JOB, EMPTY_JOB, OURS, PLAIN_SCRIPT, PRODUCT_SYNC
from product_sync_bench.databases import Felt
from product_sync_bench.measuring import Cost
from product_sync_bench.verification import Verdict

INITIAL, UNCHANGED, DRIFT = "initial load", "nothing changed", "1 % changed, 0.1 % lost"
EVERYTHING = "everything changed"
SCENARIOS: Final = (INITIAL, UNCHANGED, DRIFT, EVERYTHING)
RACE, FLOORS, PACING, START, IRREGULAR, COMPUTED = "race", "floors", "pacing", "start", "irregular", "computed"
CHANGES, LOOK, FIRST_RUN = "changes", "the watch's look, in a warm process", "first run"


@dataclass(slots=True)
class Run:
    """One process: its cost, the load on the databases, and the verdict on the target."""

    cost: Cost
    felt: Felt
    verdict: Verdict | None = None
    complaint: str = ""

    @property
    def succeeded(self) -> bool:
        """It ended with 0, and the rows are those of the source."""
        return self.cost.status == 0 and (self.verdict is None or self.verdict.rows_are_right)


@dataclass(slots=True)
class Entry:
    """All runs of one contestant in one scenario of one group."""

    group: str
    scenario: str
    name: str
    how: str
    keeps_table: bool
    runs: list[Run] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return median(run.cost.wall_s for run in self.runs)

    @property
    def cpu_s(self) -> float:
        return median(run.cost.cpu_s for run in self.runs)

    @property
    def peak_bytes(self) -> float:
        """The largest, not the median: a limit on memory is met or it is not."""
        return max(run.cost.peak_bytes for run in self.runs)

    @property
    def succeeded(self) -> bool:
        return all(run.succeeded for run in self.runs)


@dataclass(slots=True)
class Section:
    """One catalogue, measured in one go. ``versions`` are of distributions and servers, ``machine`` is a sentence."""

    products: int
    document_bytes: int
    rounds: int
    measured_at: str
    machine: str
    versions: dict[str, str]
    load_before: float
    entries: list[Entry] = field(default_factory=list)

    def find(self, group: str, scenario: str, name: str) -> Entry | None:
        return next(
            (one for one in self.entries if (one.group, one.scenario, one.name) == (group, scenario, name)), None
        )

    def of(self, group: str, scenario: str | None = None) -> list[Entry]:
        return [one for one in self.entries if one.group == group and scenario in (None, one.scenario)]

    def names(self, group: str) -> list[str]:
        return list(dict.fromkeys(one.name for one in self.of(group)))

    def add(self, entry: Entry) -> Entry:
        if (known := self.find(entry.group, entry.scenario, entry.name)) is not None:
            return known
        self.entries.append(entry)
        return entry


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is to be reached. ``against`` says what it is measured against."""

    what: str
    limit: float
    measured: float
    against: str

    @property
    def reached(self) -> bool:
        return self.measured <= self.limit


def goals(sections: Sequence[Section]) -> list[Goal]:
    """The goals for which there are figures."""
    found = [goal for section in sections for goal in _race_goals(section)]
    found += [goal for section in sections for goal in _job_goals(section)]
    found += [goal for section in sections for goal in _variant_goals(section)]
    found += _memory_goals(sections)
    found += _growth_goals(sections)
    found += [goal for section in sections for goal in _pass_goals(section)]
    found += [goal for section in sections for goal in _start_goals(section)]
    return found


def fastest_peer(section: Section, scenario: str) -> Entry | None:
    """The fastest of those that keep the table and got the rows right."""
    rivals = [one for one in section.of(RACE, scenario) if one.name not in OURS and one.keeps_table and one.succeeded]
    return min(rivals, key=lambda one: one.wall_s, default=None)


def read(file: Path) -> dict[int, Section]:
    """The sections kept in ``file``, by size; none if it does not exist."""
    return _SECTIONS.validate_json(file.read_bytes()) if file.exists() else {}


def write(file: Path, sections: dict[int, Section]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_SECTIONS.dump_json(dict(sorted(sections.items()))) + b"\n")


_SECTIONS: Final = TypeAdapter(dict[int, Section])
_RACE_LIMITS: Final = {UNCHANGED: 0.5, DRIFT: 0.6, INITIAL: 1.0}
_JOB_LIMITS: Final = {PRODUCT_SYNC: 1.15, PLAIN_SCRIPT: 0.9}
_MILLION: Final = 1_000_000
_MEMORY_LIMIT_MB: Final = 500.0
_GROWTH_LIMIT: Final = 1.15
_IRREGULAR_LIMIT: Final = 1.15
_COMPUTED_LIMIT: Final = 1.5
_START_LIMIT_S: Final = 1.5
_PASS_LIMIT_S: Final = 0.6
_LOOK_LIMIT_S: Final = 0.1
_PASS_GROWTH_LIMIT: Final = 1.1


def _race_goals(section: Section) -> list[Goal]:
    if section.products != _MILLION:
        return []
    found = []
    for scenario, limit in _RACE_LIMITS.items():
        ours, peer = section.find(RACE, scenario, PRODUCT_SYNC), fastest_peer(section, scenario)
        if ours is not None and peer is not None:
            found.append(Goal(f"{scenario}: wall time", limit, ours.wall_s / peer.wall_s, f"× {peer.name}"))
    return found


def _job_goals(section: Section) -> list[Goal]:
    job = section.find(RACE, UNCHANGED, DAGSTER_JOB)
    if section.products != _MILLION or job is None:
        return []
    what = f"{UNCHANGED}, {DAGSTER_JOB}: wall time"
    rivals = ((name, limit, section.find(RACE, UNCHANGED, name)) for name, limit in _JOB_LIMITS.items())
    return [Goal(what, limit, job.wall_s / rival.wall_s, f"× {name}") for name, limit, rival in rivals if rival]


def _variant_goals(section: Section) -> list[Goal]:
    plain = section.find(RACE, UNCHANGED, PRODUCT_SYNC)
    if section.products < _MILLION or plain is None:
        return []
    variants = (
        (IRREGULAR, "1 % of the documents irregular", _IRREGULAR_LIMIT, "× that with regular documents"),
        (COMPUTED, "a filter and an expression", _COMPUTED_LIMIT, "× that with plain fields"),
    )
    return [
        Goal(f"{UNCHANGED}, {what}: wall time", limit, variant.wall_s / plain.wall_s, against)
        for group, what, limit, against in variants
        if (variant := section.find(group, UNCHANGED, PRODUCT_SYNC)) is not None
    ]


def _memory_goals(sections: Sequence[Section]) -> list[Goal]:
    return [
        Goal(
            f"{section.products:,} products: peak memory, MB",
            _MEMORY_LIMIT_MB,
            max(one.peak_bytes for one in ours) / 1e6,
            "children included",
        )
        for section in sections
        if section.products >= _MILLION and (ours := [one for one in section.of(RACE) if one.name in OURS])
    ]


def _growth_goals(sections: Sequence[Section]) -> list[Goal]:
    sizes = {section.products: section for section in sections}
    if not {_MILLION, 10 * _MILLION} <= sizes.keys():
        return []
    small, large = sizes[_MILLION], sizes[10 * _MILLION]
    found = []
    for scenario in dict.fromkeys(entry.scenario for entry in small.of(CHANGES)):
        one, ten = (section.find(CHANGES, scenario, PRODUCT_SYNC) for section in (small, large))
        if one is not None and ten is not None:
            what = f"a pass, {scenario}: wall time at ten million"
            found.append(Goal(what, _PASS_GROWTH_LIMIT, ten.wall_s / one.wall_s, "× that at one million"))
    for scenario in SCENARIOS:
        one, ten = (section.find(RACE, scenario, PRODUCT_SYNC) for section in (small, large))
        if one is not None and ten is not None:
            found.append(
                Goal(
                    f"{scenario}: cost per product at ten million",
                    _GROWTH_LIMIT,
                    ten.wall_s / one.wall_s / 10,
                    "× that at one million",
                )
            )
    return found


def _pass_goals(section: Section) -> list[Goal]:
    if section.products < _MILLION:
        return []
    of = f"{section.products:,} products, {UNCHANGED}"
    found = []
    floor = section.find(FLOORS, UNCHANGED, EMPTY_JOB)
    ours, look = (section.find(CHANGES, UNCHANGED, name) for name in (PRODUCT_SYNC, LOOK))
    if floor is not None and ours is not None:
        more_s = ours.wall_s - floor.wall_s
        found.append(Goal(f"{of}: a pass, s more", _PASS_LIMIT_S, more_s, f"than {EMPTY_JOB}"))
    if look is not None:
        found.append(Goal(f"{of}: {LOOK}, s", _LOOK_LIMIT_S, look.wall_s, "from inside the process"))
    return found


def _start_goals(section: Section) -> list[Goal]:
    floor = section.find(START, UNCHANGED, EMPTY_JOB)
    ours = section.find(START, UNCHANGED, PRODUCT_SYNC)
    if floor is None or ours is None:
        return []
    return [
        Goal("start: a sync of 100 products, s more", _START_LIMIT_S, ours.wall_s - floor.wall_s, f"than {EMPTY_JOB}")
    ]
