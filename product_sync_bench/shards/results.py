"""What was measured, as it is kept beside the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

INITIAL, UNCHANGED, CHANGED = "initial load", "nothing changed", "1 % changed"
SCENARIOS: Final = (INITIAL, UNCHANGED, CHANGED)


@dataclass(frozen=True, slots=True)
class Step:
    """A step in a process of its own: seconds, seconds of processor time, bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps that may be executed at the same time. ``mongodb_s``, ``postgres_s`` and ``store_s`` are processor time of
    the servers. ``up`` and ``down`` are bytes to and from the store."""

    name: str
    steps: list[Step]
    wall_s: float
    mongodb_s: float
    postgres_s: float
    store_s: float
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run with so many ``shards``: by ``workers`` that execute its steps, or by the command in one process, which is
    0 workers. ``in_store`` says where the state is: in the object store, or in a folder.

    ``source_bytes`` left MongoDB; ``log_bytes`` were written to PostgreSQL's write-ahead log."""

    scenario: str
    products: int
    shards: int
    workers: int
    in_store: bool
    wall_s: float
    cpu_s: float
    peak_bytes: int
    mongodb_s: float
    postgres_s: float
    store_s: float
    source_bytes: int
    log_bytes: int
    up: int
    down: int
    phases: list[Phase] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, bool, int, int, int]:
        return (self.products, self.in_store, self.workers, self.shards, SCENARIOS.index(self.scenario))


@dataclass(slots=True)
class Results:
    machine: str
    processors: int
    versions: dict[str, str]
    measured_at: str
    load_before: float
    runs: list[Run] = field(default_factory=list)

    def keep(self, before: Results) -> None:
        """Keep the earlier runs if they stand under the same heading: that of another machine, server or commit does
        not fit these. (The report changes the files of its commit.)"""
        if (self.machine, self.processors, self._clean()) == (before.machine, before.processors, before._clean()):
            self.runs = before.runs

    def _clean(self) -> dict[str, str]:
        return {name: version.removesuffix("-dirty") for name, version in self.versions.items()}

    def add(self, run: Run) -> None:
        """A run takes the place of an earlier one of its kind."""
        self.runs = sorted([*(each for each in self.runs if each.key != run.key), run], key=lambda each: each.key)

    def by_steps(self, *, in_store: bool) -> list[Run]:
        return [run for run in self.runs if run.workers and run.in_store == in_store]

    def in_one_process(self) -> list[Run]:
        return [run for run in self.runs if not run.workers]


_ADAPTER = TypeAdapter(Results)


def write(file: Path, results: Results) -> None:
    file.write_bytes(_ADAPTER.dump_json(results, indent=1) + b"\n")


def read(file: Path) -> Results | None:
    """``None`` where there is no such file."""
    return _ADAPTER.validate_json(file.read_bytes()) if file.exists() else None
