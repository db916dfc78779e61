"""Puts rows that keep one another out of the target into an order in which they can be written.

A row that wants a value waits for the row that holds it. Where that makes a circle, no order helps: one row of the
circle has to give its value up before it gets its new one, within one transaction. Rows are numbers here, and nothing
is read or written: which row waits for which was found before (`product_sync.load.exclusions`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from product_sync.schema.obstacle import ObstacleKind
from product_sync.schema.records import Op

#: What a statement checks at its end: rows that wait for one another in a circle for such a reason can be written by
#: one statement.
_CHECKED_AT_THE_END = {ObstacleKind.NEEDED: Op.INSERT, ObstacleKind.REFERRING: Op.EXTRA}


@dataclass(frozen=True, slots=True)
class Wait:
    """``row`` can be written after ``on``, because of a constraint that looks at ``columns``."""

    row: int
    on: int
    kind: ObstacleKind
    columns: tuple[str, ...] = ()
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class Circle:
    """Rows that have to be written in one transaction, in these ``steps``. Before the first one the rows in ``parked``
    give up what they hold in one of the columns of each constraint."""

    steps: list[list[int]]
    parked: dict[int, set[tuple[str, ...]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[int]:
        return sorted(row for step in self.steps for row in step)


@dataclass(frozen=True, slots=True)
class Stage:
    """First the rows of ``levels``, one level after the other, then the ``circles``, which do not touch one another."""

    levels: list[list[int]]
    circles: list[Circle]


def blocked(stuck: Iterable[int], waits: Iterable[Wait]) -> set[int]:
    """``stuck`` rows, and all that wait for them."""
    waiting = defaultdict(list)
    for wait in waits:
        waiting[wait.on].append(wait.row)
    found, pending = set[int](), list(stuck)
    while pending:
        row = pending.pop()
        if row not in found:
            found.add(row)
            pending += waiting[row]
    return found


def arrange(ops: Sequence[Op], rows: Iterable[int], waits: Iterable[Wait]) -> list[Stage]:
    """All of ``rows``, each in one place of the result. ``ops`` says what is done with each row; ``waits`` are only
    between these rows.

    A circle that cannot be opened comes as one step of all its rows: then the server says which constraint forbids it.
    """
    remaining = set(rows)
    graph = _Graph(wait for wait in waits if wait.row != wait.on)
    stages = []
    while remaining:
        levels = graph.take_levels(remaining)
        circles = [_circle(ops, found, graph.between(found)) for found in graph.circles(remaining)]
        for circle in circles:
            graph.take(circle.rows)
            remaining.difference_update(circle.rows)
        stages.append(Stage(levels, circles))
    return stages


class _Graph:
    """Which rows wait for which that are not written yet."""

    def __init__(self, waits: Iterable[Wait]) -> None:
        self._waits: dict[int, list[Wait]] = defaultdict(list)
        self._open: dict[int, set[int]] = defaultdict(set)
        self._waiting: dict[int, set[int]] = defaultdict(set)
        for wait in waits:
            self._waits[wait.row].append(wait)
            self._open[wait.row].add(wait.on)
            self._waiting[wait.on].add(wait.row)

    def take(self, rows: Iterable[int]) -> list[int]:
        """Let ``rows`` be written; returns those that waited for nothing else."""
        freed = []
        for row in rows:
            for waiting in self._waiting.pop(row, ()):
                self._open[waiting].discard(row)
                if not self._open[waiting]:
                    freed.append(waiting)
        return freed

    def take_levels(self, remaining: set[int]) -> list[list[int]]:
        levels = []
        level = sorted(row for row in remaining if not self._open.get(row))
        while level:
            levels.append(level)
            remaining.difference_update(level)
            level = sorted(self.take(level))
        return levels

    def circles(self, remaining: set[int]) -> list[list[int]]:
        """Groups of rows that wait for one another and for nothing outside of their group. Whoever waits for a circle
        without being part of one is left out."""
        rows = set(remaining)
        idle = [row for row in rows if not self._waiting.get(row)]
        waiting_for = {row: set(self._waiting.get(row, ())) for row in rows}
        while idle:
            row = idle.pop()
            rows.discard(row)
            for on in self._open[row]:
                waiting_for[on].discard(row)
                if not waiting_for[on] and on in rows:
                    idle.append(on)
        groups = []
        pending = set(rows)
        while pending:
            group, reached = set[int](), [pending.pop()]
            while reached:
                row = reached.pop()
                group.add(row)
                near = ((self._open[row] | self._waiting.get(row, set())) & rows) - group
                pending -= near
                reached += near
            groups.append(sorted(group))
        return sorted(groups)

    def let_go(self, row: int) -> None:
        """Nobody waits any more for what ``row`` holds."""
        for waiting in list(self._waiting[row]):
            if all(wait.kind is ObstacleKind.HELD for wait in self._waits[waiting] if wait.on == row):
                self._open[waiting].discard(row)
                self._waiting[row].discard(waiting)

    def how_many_wait(self, row: int) -> int:
        return len(self._waiting.get(row, ()))

    def in_one_statement(self, ops: Sequence[Op], remaining: set[int]) -> set[int]:
        """Rows that wait only for one another, and only for what a statement checks at its end."""
        together = {row for row in remaining if ops[row] in _CHECKED_AT_THE_END.values()}
        while True:
            others = {row for row in together if not self._waits_only_within(ops[row], row, together)}
            if not others:
                return together
            together -= others

    def _waits_only_within(self, op: Op, row: int, together: set[int]) -> bool:
        return all(
            wait.on in together and _CHECKED_AT_THE_END.get(wait.kind) is op
            for wait in self._waits[row]
            if wait.on in self._open[row]
        )

    def between(self, rows: Sequence[int]) -> list[Wait]:
        inside = set(rows)
        return [wait for row in rows for wait in self._waits[row] if wait.on in inside]


def _circle(ops: Sequence[Op], rows: Sequence[int], waits: Sequence[Wait]) -> Circle:
    """The steps in which a group can be written that is checked where it must be only at the end."""
    graph = _Graph(wait for wait in waits if not wait.deferrable)
    holding: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for wait in waits:
        if wait.kind is ObstacleKind.HELD and not wait.deferrable and ops[wait.on] is Op.UPDATE:
            holding[wait.on].add(wait.columns)
    remaining, steps, parked = set(rows), list[list[int]](), dict[int, set[tuple[str, ...]]]()
    # The row that most others wait for is parked first.
    candidates = sorted(holding, key=lambda row: (-graph.how_many_wait(row), row))
    while remaining:
        steps += graph.take_levels(remaining)
        if together := graph.in_one_statement(ops, remaining):
            steps.append(sorted(together))
            graph.take(together)
            remaining -= together
        elif remaining:
            row = next((row for row in candidates if row in remaining and row not in parked), None)
            if row is None:
                return Circle([sorted(rows)])
            parked[row] = holding[row]
            graph.let_go(row)
    return Circle(steps, parked)
