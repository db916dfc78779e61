"""Puts rows that keep one another out of the target into an order in which they can be written.

A row that wants a value waits for the row that holds it. In a circle no order helps: inside one transaction, one row of
the circle has to give up its value before it gets its new one. Rows are numbers here, and nothing is read or written:
`excluded_rows` has found out which row waits for which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from product_sync.schema.obstacle import ObstacleKind
from product_sync.schema.records import Op

#: Obstacles that the server checks at the end of a statement: one statement can write a circle of such rows.
_CHECKED_AT_THE_END = {ObstacleKind.NEEDED: Op.INSERT, ObstacleKind.REFERRING: Op.EXTRA}


@dataclass(frozen=True, slots=True)
class Wait:
    """``row`` can be written only after ``on``, because of a constraint on ``columns``."""

    row: int
    on: int
    kind: ObstacleKind
    columns: tuple[str, ...] = ()
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class Circle:
    """Rows that have to be written in one transaction, in these ``steps``. Before the first step each row in ``parked``
    gives up its value in one of the columns of each of its constraints."""

    steps: list[list[int]]
    parked: dict[int, set[tuple[str, ...]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[int]:
        return sorted(row for step in self.steps for row in step)


@dataclass(frozen=True, slots=True)
class Stage:
    """First the rows of ``levels``, one level after the other, then the ``circles``, which have no row in common."""

    levels: list[list[int]]
    circles: list[Circle]


def blocked(stuck: Iterable[int], waits: Iterable[Wait]) -> set[int]:
    """The ``stuck`` rows, and all rows that wait for them."""
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
    """All of ``rows`` in order, each of them once. ``ops`` says what is done with each row; ``waits`` are only between
    these rows. A circle that cannot be opened comes as one step of all its rows: then the server names the
    constraint."""
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
    """Which rows wait for which other rows that are not written yet."""

    def __init__(self, waits: Iterable[Wait]) -> None:
        self._waits: dict[int, list[Wait]] = defaultdict(list)
        self._open: dict[int, set[int]] = defaultdict(set)
        self._waiting: dict[int, set[int]] = defaultdict(set)
        for wait in waits:
            self._waits[wait.row].append(wait)
            self._open[wait.row].add(wait.on)
            self._waiting[wait.on].add(wait.row)

    def take(self, rows: Iterable[int]) -> list[int]:
        """Marks ``rows`` as written. Returns the rows that waited only for them."""
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
        """Groups of rows that wait for one another and for no row outside of their group. Leaves out rows that wait for
        a circle and are not part of one."""
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

    def give_up_value(self, row: int) -> None:
        """Removes the waits for the value that ``row`` holds."""
        for waiting in list(self._waiting[row]):
            if all(wait.kind is ObstacleKind.HELD for wait in self._waits[waiting] if wait.on == row):
                self._open[waiting].discard(row)
                self._waiting[row].discard(waiting)

    def how_many_wait(self, row: int) -> int:
        return len(self._waiting.get(row, ()))

    def in_one_statement(self, ops: Sequence[Op], remaining: set[int]) -> set[int]:
        """Rows that wait only for one another, and only because of what is checked at the end of a statement."""
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
    """The steps in which a group of rows can be written, with deferrable constraints deferred."""
    graph = _Graph(wait for wait in waits if not wait.deferrable)
    holding: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for wait in waits:
        if wait.kind is ObstacleKind.HELD and not wait.deferrable and ops[wait.on] is Op.UPDATE:
            holding[wait.on].add(wait.columns)
    remaining, steps, parked = set(rows), list[list[int]](), dict[int, set[tuple[str, ...]]]()
    # The row that most other rows wait for is parked first.
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
            graph.give_up_value(row)
    return Circle(steps, parked)
