"""Runs the contestants in turn, each on a fresh target, and verifies the target after each run.

Each round begins with another contestant, so that a machine that is slow for a while slows all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg

from product_sync.embedded.servers import Servers
from product_sync_bench import catalogue as catalogues
from product_sync_bench import contestants, databases, machine, verification
from product_sync_bench.catalogue import Catalogue
from product_sync_bench.changes import Watch, change
from product_sync_bench.contestants import Contestant, Place
from product_sync_bench.databases import CHANGED, DRIFTED, EMPTY, EQUAL, Felt, Target
from product_sync_bench.measuring import Cost, measure
from product_sync_bench.results import (
    CHANGES,
    COMPUTED,
    DRIFT,
    EVERYTHING,
    FIRST_RUN,
    FLOORS,
    INITIAL,
    IRREGULAR,
    LOOK,
    PACING,
    RACE,
    START,
    UNCHANGED,
    Entry,
    Run,
    Section,
)

_STATES: Final = {INITIAL: EMPTY, UNCHANGED: EQUAL, DRIFT: DRIFTED, EVERYTHING: CHANGED}
#: Changed products that a pass and a look compare, by scenario. A look leaves more than the third to a run.
CHANGED_BEFORE: Final = {UNCHANGED: 0, **{f"{count:,} products changed": count for count in (100, 10_000, 100_000)}}
_LOOKS_UP_TO: Final = 10_000
#: The pace is of interest where a default load takes minutes and not hours.
_PACED_UP_TO: Final = 100_000
_SMALLEST: Final = 100
#: A second catalogue of ten million would fill a disk to show the same.
_IRREGULAR_UP_TO: Final = 1_000_000
#: Seconds after which a run is given up, for each million products.
_LIMIT_S: Final = 900.0

Tell = Callable[[str], None]
Keep = Callable[[Section], None]

# The instance of `dagster job execute` and of product_sync: what a fresh install has, without telemetry.
_DAGSTER = "telemetry: {enabled: false}\nnux: {enabled: false}\n"


@dataclass(frozen=True, slots=True)
class _Heat:
    """One contestant in one scenario. ``once``: whose wall time is nearly all pause needs no median. ``changed`` is how
    many products the source changes before; ``looks``: measured in this process. ``goes_on``: on the target that the
    heat before has left, of which one more row is changed."""

    group: str
    scenario: str
    name: str
    contestant: Contestant
    verified: bool = True
    once: bool = False
    changed: int = 0
    looks: bool = False
    goes_on: bool = False


class Race:
    """Everything measured on one catalogue. ``section`` grows with each run."""

    def __init__(self, servers: Servers, catalogue: Catalogue, folder: Path, tell: Tell) -> None:
        self._servers = servers
        self._catalogue = catalogue
        self._folder = folder
        self._home = folder / "home"
        self._rows = folder / f"rows_{catalogue.count}"
        self._expected = folder / f"expected_{catalogue.count}"
        self._source_url = databases.source_url(servers, catalogue)
        self._irregular = Catalogue(catalogue.count, irregular=True)
        self._with_irregular = _SMALLEST < catalogue.count <= _IRREGULAR_UP_TO
        self._watch = Watch()
        self._tell = tell
        # Before the catalogue is made, which is work of our own.
        self._load_before = machine.load()

    def run(self, rounds: int, names: Collection[str], scenarios: Collection[str], keep: Keep) -> Section:
        """Measure ``rounds`` times, only the contestants and scenarios that are named, if any are. ``keep`` gets it
        after each."""
        self._home.mkdir(parents=True, exist_ok=True)
        (self._home / "dagster.yaml").write_text(_DAGSTER)
        for catalogue in (self._catalogue, self._irregular) if self._with_irregular else (self._catalogue,):
            if catalogues.ensure(databases.source_url(self._servers, catalogue), catalogue):
                self._tell(f"made a catalogue of {catalogue.count:,} products")
        target = Target(self._servers, self._catalogue)
        try:
            target.make_templates()
            target.write_rows(self._rows)
            digest = verification.write_expected(self._source_url, self._expected)
            section = self._section(rounds)
            for number in range(rounds):
                for heat in self._heats(number, names, scenarios):
                    self._measure(target, heat, digest, section)
                keep(section)
            return section
        finally:
            target.close()
            self._rows.unlink(missing_ok=True)
            self._expected.unlink(missing_ok=True)

    def _section(self, rounds: int) -> Section:
        return Section(
            products=self._catalogue.count,
            document_bytes=catalogues.mean_document_bytes(self._source_url),
            rounds=rounds,
            measured_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            machine=machine.describe(),
            versions=machine.server_versions(self._servers) | contestants.versions() | machine.commit(),
            load_before=self._load_before,
        )

    def _heats(self, round_number: int, names: Collection[str], scenarios: Collection[str]) -> Iterator[_Heat]:
        heats = _start_heats() if self._catalogue.count == _SMALLEST else self._race_heats(round_number)
        for heat in heats:
            is_chosen = (not names or heat.contestant.name in names) and (not scenarios or heat.scenario in scenarios)
            if is_chosen and (round_number == 0 or not heat.once):
                yield heat

    def _race_heats(self, round_number: int) -> list[_Heat]:
        taking_part = [contestants.product_sync(), contestants.dagster_job(), *contestants.peers()]
        first = round_number % len(taking_part)
        taking_part = taking_part[first:] + taking_part[:first]
        heats = [_Heat(RACE, scenario, one.name, one) for scenario in _STATES for one in taking_part]
        heats += [
            _Heat(FLOORS, UNCHANGED, one.name, one, verified=False)
            for one in (contestants.drain(), contestants.copy_out(), contestants.empty_job())
        ]
        if self._with_irregular:
            ours = contestants.product_sync()
            heats.append(_Heat(IRREGULAR, UNCHANGED, ours.name, ours))
        computed = contestants.product_sync(mapping="computed.yaml")
        heats.append(_Heat(COMPUTED, UNCHANGED, computed.name, computed))
        heats += _change_heats(self._catalogue.count)
        copy_in = contestants.copy_in()
        heats.append(_Heat(FLOORS, INITIAL, copy_in.name, copy_in))
        if self._catalogue.count <= _PACED_UP_TO:
            heats += _paced_heats()
        return heats

    def _measure(self, target: Target, heat: _Heat, digest: str, section: Section) -> None:
        contestant = heat.contestant
        if not heat.goes_on:
            target.begin(_STATES.get(heat.scenario, EQUAL), contestant.setup)
        with psycopg.connect(target.url) as connection:
            before = verification.shape(connection)
        cost, felt, log = self._start(target, heat)
        run = Run(cost, felt)
        if cost.status != 0:
            run.complaint = _last_line(log, hide=urlsplit(target.url).password)
        if heat.verified:
            run.verdict = verification.verify(target.url, self._expected, digest, before)
        entry = Entry(heat.group, heat.scenario, heat.name, contestant.how.replace("\n", " "), contestant.keeps_table)
        section.add(entry).runs.append(run)
        self._tell(
            f"{section.products:>10,}  {heat.group:9}  {heat.scenario:24}  {heat.name:38} {cost.wall_s:8.2f} s"
            f"  {cost.cpu_s:8.2f} s CPU  {cost.peak_bytes / 1e6:6.0f} MB"
            f"{'' if run.succeeded else f'  FAILED {run.complaint} {run.verdict}'}"
        )

    def _start(self, target: Target, heat: _Heat) -> tuple[Cost, Felt, Path]:
        own = self._folder / "run"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        source = self._irregular if heat.group == IRREGULAR else self._catalogue
        source_url = databases.source_url(self._servers, source)
        place = Place(source_url, target.url, own, self._home, self._rows)
        log = self._folder / "run.log"
        limit = _LIMIT_S * max(1.0, self._catalogue.count / 1e6)
        if heat.looks:
            self._watch.look(place)
        change(place, target, heat.changed)
        if heat.goes_on:
            target.lose_events([str(self._catalogue.row(self._catalogue.count - 1)[0])])
        target.execute(heat.contestant.before)
        with target.feeling() as felt:
            if heat.looks:
                return self._watch.look(place), felt, log
            cost = measure(heat.contestant.command(place), env=place.environment(), folder=own, log=log, limit_s=limit)
        target.execute(heat.contestant.after)
        return cost, felt, log


def _change_heats(products: int) -> list[_Heat]:
    """They go on from the position that the last full sync of the race has stored."""
    ours = contestants.product_sync(changes=True)
    look = replace(
        ours, how="what `product_sync_watch` does every half minute, measured from inside; it writes nothing"
    )
    ingestr = contestants.ingestr_changes()
    sizes = {scenario: count for scenario, count in CHANGED_BEFORE.items() if count <= products}
    return [
        *(_Heat(CHANGES, scenario, ours.name, ours, changed=count) for scenario, count in sizes.items()),
        *(
            _Heat(CHANGES, scenario, LOOK, look, verified=False, changed=count, looks=True)
            for scenario, count in sizes.items()
            if count <= _LOOKS_UP_TO
        ),
        _Heat(CHANGES, FIRST_RUN, ingestr.name, ingestr),
        *(
            _Heat(CHANGES, scenario, ingestr.name, ingestr, changed=count, goes_on=True)
            for scenario, count in sizes.items()
        ),
    ]


def _paced_heats() -> list[_Heat]:
    paces = {
        "100 rows, 100 ms: the default": (None, None),
        "100 rows, no pause": (100, 0),
        "1,000 rows, no pause": (1_000, 0),
    }
    return [
        _Heat(PACING, scenario, name, contestants.product_sync(rows, ms), once=rows is None)
        for name, (rows, ms) in paces.items()
        for scenario in (INITIAL, DRIFT)
    ]


def _start_heats() -> list[_Heat]:
    empty, ours = contestants.empty_job(), (contestants.product_sync(), contestants.dagster_job())
    return [
        *(_Heat(START, UNCHANGED, one.name, replace(one, how=f"{one.how}, 100 products")) for one in ours),
        _Heat(START, UNCHANGED, empty.name, empty, verified=False),
    ]


def _last_line(log: Path, hide: str | None) -> str:
    """The last line of a program's output that says something, without the password of our own server."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no output"
    return last.replace(hide, "…") if hide else last
