"""What was felt, as it is kept beside the report, and the arithmetic on it: percentiles, medians, goals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import median
from typing import Final

from pydantic import TypeAdapter

from product_sync_bench.latency.client import KINDS, Sample

DEFAULT, ADAPTIVE, UNPACED = "default", "adaptive", "unpaced"
#: Adaptive pacing: how many times the idle p99 at most, how many times as fast as by default at least.
MOST_TIMES_IDLE: Final = 2.0
TIMES_AS_FAST: Final = 5.0


@dataclass(frozen=True, slots=True)
class Felt:
    """``operations`` of one kind in a window; ``p50_ms``, ``p99_ms`` and the longest in milliseconds."""

    operations: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Round:
    """One load of ``seconds``, and what the client felt just before it and while it ran, by kind of operation."""

    pace: str
    seconds: float
    idle: dict[str, Felt]
    loaded: dict[str, Felt]

    def __str__(self) -> str:
        felt_ = ", ".join(
            f"{kind} p99 {self.idle[kind].p99_ms:.1f} -> {self.loaded[kind].p99_ms:.1f} ms" for kind in self.loaded
        )
        return f"{self.pace}: {self.seconds:.1f} s, {felt_}"


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    seconds: float
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class PressureRun:
    """``said`` are seconds after the pressure began, and what the load logged then."""

    phases: list[Phase]
    said: list[tuple[float, str]]


@dataclass(slots=True)
class Results:
    rows: int
    rate: float
    measured_at: str
    machine: str
    versions: dict[str, str]
    load_before: float
    rounds: list[Round] = field(default_factory=list)
    pressure: list[PressureRun] = field(default_factory=list)

    def idle_ms(self, kind: str, figure: str) -> float:
        """The median over all rounds of a figure (``p50_ms``, ``p99_ms``, ``max_ms``) on the idle target."""
        return float(median(getattr(one.idle[kind], figure) for one in self.rounds))

    def loaded_ms(self, pace: str, kind: str, figure: str) -> float:
        return float(median(getattr(one.loaded[kind], figure) for one in self.of(pace)))

    def times_idle(self, pace: str, kind: str) -> float:
        """p99 under the load over p99 just before it: the median of the rounds, each compared with itself."""
        return median(one.loaded[kind].p99_ms / one.idle[kind].p99_ms for one in self.of(pace))

    def seconds(self, pace: str) -> float:
        return median(one.seconds for one in self.of(pace))

    def of(self, pace: str) -> list[Round]:
        return [one for one in self.rounds if one.pace == pace]


@dataclass(frozen=True, slots=True)
class Goal:
    what: str
    limit: str
    measured: str
    reached: bool


def goals(results: Results) -> list[Goal]:
    found = [
        Goal(
            f"adaptive: p99 of the {kind} over that of the idle target",
            f"at most {MOST_TIMES_IDLE:g}",
            f"{(times := results.times_idle(ADAPTIVE, kind)):.2f}",
            times <= MOST_TIMES_IDLE,
        )
        for kind in KINDS
    ]
    faster = results.seconds(DEFAULT) / results.seconds(ADAPTIVE)
    found.append(
        Goal(
            "adaptive: times as fast as by default",
            f"at least {TIMES_AS_FAST:g}",
            f"{faster:.1f}",
            faster >= TIMES_AS_FAST,
        )
    )
    return found


def felt(samples: Iterable[Sample], begin: float, end: float) -> dict[str, Felt]:
    """By kind, of the operations that began between two moments."""
    within = [sample for sample in samples if begin <= sample.at < end]
    found = {}
    for kind in KINDS:
        milliseconds = sorted(1000 * sample.seconds for sample in within if sample.kind == kind)
        if milliseconds:
            found[kind] = Felt(
                len(milliseconds), percentile(milliseconds, 0.5), percentile(milliseconds, 0.99), milliseconds[-1]
            )
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of the values do not exceed (nearest rank)."""
    return ordered[max(ceil(share * len(ordered)), 1) - 1]


_ADAPTER = TypeAdapter(Results)


def write(file: Path, results: Results) -> None:
    file.write_bytes(_ADAPTER.dump_json(results, indent=1) + b"\n")


def read(file: Path) -> Results:
    return _ADAPTER.validate_json(file.read_bytes())
