"""Writes the rows that other rows kept out, after all batches have been tried.

Two products swap a unique value, a chain of products passes one on, an extra row still holds a value, a child comes
before its parent: each of these rows is refused if it is written alone. Without this module they would count as bad
documents, and a chain of n would take n runs (docs/decisions/0083).

A pass puts the postponed rows into an order (`write_order`) and writes them in groups of a batch's size. Rows that were
not written go into the next pass, as long as each pass writes some. The rest cannot be written in any order, and is
counted with the obstacle.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.conversion.extended_json import cut
from product_sync.errors import RowsExcluded, RowsRefused
from product_sync.load.batch import BatchWork
from product_sync.load.batch_loop import BatchLoop
from product_sync.load.parking_values import parking_places
from product_sync.load.postponed_rows import WINDOW_ROWS, PostponedRows
from product_sync.load.transactions import Transactions
from product_sync.load.write_order import Circle, Stage, Wait, arrange, blocked
from product_sync.schema.obstacle import ObstacleKind
from product_sync.schema.ports import WriteBatch
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import TableSink

_LOGGER = logging.getLogger(__name__)
#: Rows that the server is asked about at once.
_ASKED_ROWS: Final = 2_000
#: Statements of one transaction that writes rows in order.
_MAX_STEPS: Final = 1_000
#: What must happen to the row in the way before the other one can be written.
_MAKES_WAY: Final = {
    ObstacleKind.HELD: (Op.UPDATE, Op.EXTRA),
    ObstacleKind.NEEDED: (Op.INSERT,),
    ObstacleKind.REFERRING: (Op.UPDATE, Op.EXTRA),
}


def write_excluded(
    row_schema: RowSchema,
    work: BatchWork,
    transactions: Transactions,
    loop: BatchLoop,
    folder: Path,
    batch_size: Callable[[], int],
    leave: TableSink | None = None,
) -> None:
    """Writes the rows that ``work`` has postponed and that can be written, in batches of ``loop``. The others are
    counted as excluded, or added to ``leave`` because rows of other shards may be in their way. The caller closes what
    ``work`` has postponed at the end."""
    while (postponed := work.postponed).num_rows:
        _LOGGER.info("%d rows wait for other rows. They are written in order now.", postponed.num_rows)
        work.postponed = PostponedRows(folder, row_schema.diff_schema)
        with closing(postponed):
            for rows in postponed.windows():
                window = _Window(row_schema, work, transactions, rows)
                if loop.read(rows, window.read):
                    window.write(loop, batch_size)
        if work.postponed.num_rows == postponed.num_rows:
            left = work.postponed
            if leave is None:
                _exclude(left, work, loop)
            else:
                for batch in chain.from_iterable(rows.to_batches() for rows in left.windows()):
                    leave.write(batch)
            return


def _exclude(left: PostponedRows, work: BatchWork, loop: BatchLoop) -> None:
    """Counts the rows that cannot be written, neither in an order nor with a parked value."""
    waiting = set[str]()
    for rows in left.windows() if left.num_rows <= WINDOW_ROWS else ():
        waiting.update(diff_rows.ids(rows))
    for rows in left.windows():
        loop.read(rows, partial(work.exclude, rows, waiting))


@dataclass
class _Window:
    """The postponed rows that are put into order at once. A row is known by its place in ``_batch``."""

    row_schema: RowSchema
    work: BatchWork
    transactions: Transactions
    rows: pa.Table

    def __post_init__(self) -> None:
        self._batch = self.work.nothing
        self._ids: list[str] = []
        self._stages: list[Stage] = []

    def read(self) -> None:
        """Reads the rows again, asks the server for their obstacles, and puts them into order."""
        self._batch = batch = self.work.read_again(self.rows)
        self._ids = batch.ids(self.row_schema.key.name)
        ops = [Op.INSERT] * batch.inserts.num_rows + [Op.UPDATE] * batch.new.num_rows
        ops += [Op.EXTRA] * batch.deletes.num_rows
        stuck, waits = self._waits(ops)
        hopeless = blocked(stuck, waits)
        self._postpone(hopeless)
        hopeful = set(range(len(ops))) - hopeless
        self._stages = arrange(ops, hopeful, [wait for wait in waits if wait.row in hopeful and wait.on in hopeful])

    def _waits(self, ops: Sequence[Op]) -> tuple[set[int], list[Wait]]:
        """Rows that wait for a row which does not change, and which rows wait for which."""
        places = {row_id: place for place, row_id in enumerate(self._ids)}
        stuck, waits = set[int](), list[Wait]()
        for start in range(0, len(ops), _ASKED_ROWS):
            for found in self.transactions.obstacles(self._batch.slice(start, _ASKED_ROWS)):
                if found.kind is ObstacleKind.RIVAL:
                    continue
                row, on = places[found.row], places.get(found.other)
                if on is None or ops[on] not in _MAKES_WAY.get(found.kind, ()):
                    stuck.add(row)
                else:
                    waits.append(Wait(row, on, found.kind, found.columns, found.deferrable))
        return stuck, waits

    def write(self, loop: BatchLoop, batch_size: Callable[[], int]) -> None:
        for stage in self._stages:
            for steps in _groups(stage.levels, batch_size):
                loop.run_one(self._rows_of(chain(*steps)), partial(self._write_levels, steps))
            for circles in _packed(stage.circles, batch_size):
                places = chain.from_iterable(circle.rows for circle in circles)
                loop.run_one(self._rows_of(places), partial(self._write_circles, circles))

    def _rows_of(self, places: Iterable[int]) -> pa.Table:
        return diff_rows.with_ids(self.rows, "id", [self._ids[place] for place in places])

    def _write_levels(self, steps: Sequence[Sequence[int]]) -> None:
        """Writes rows of which none waits for a later one: in one transaction, or if that fails step by step."""
        if len(steps) > 1:
            with suppress(RowsRefused):
                if self.work.write_in_order(self._rows_of(chain(*steps)), [self._batch.take(step) for step in steps]):
                    return
        for step in steps:
            self.work.write_postponed(self._rows_of(step), self._batch.take(step))

    def _write_circles(self, circles: Sequence[Circle]) -> None:
        """Writes circles in one transaction, or if that fails one by one."""
        if len(circles) > 1:
            steps = [list(chain(*step)) for step in zip_longest(*(circle.steps for circle in circles), fillvalue=())]
            parked = {place: columns for circle in circles for place, columns in circle.parked.items()}
            together = Circle(steps, parked)
            values = self._parking(together, 0)
            with suppress(RowsRefused):
                if values is not None and self._write_parked(together, values):
                    return
        for circle in circles:
            self._write_circle(circle)

    def _write_circle(self, circle: Circle) -> None:
        answer = "no column of the constraint can be changed for a moment"
        attempt = 0
        while (values := self._parking(circle, attempt)) is not None:
            attempt += 1
            try:
                if not self._write_parked(circle, values):
                    self._postpone_unchanged(circle)
            except RowsRefused as error:
                if circle.parked and error.step == 0:
                    answer = f"the value that one of them would have for a moment is refused: {error.message}"
                    continue
                self._isolate_refused(circle, values, error)
            return
        self._postpone(circle.rows, f"{self._described(circle)}, and {answer}")

    def _parking(self, circle: Circle, attempt: int) -> dict[int, dict[str, Any]] | None:
        """The values to park each row with, or ``None`` if there are no more values to try."""
        values: dict[int, dict[str, Any]] = {}
        most = 1
        for place, constraints in circle.parked.items():
            values[place] = {}
            for columns in constraints:
                possible = list(parking_places(self.row_schema, columns))
                if not possible:
                    return None
                most = max(most, len(possible))
                values[place] |= possible[min(attempt, len(possible) - 1)]
        return values if attempt < most else None

    def _write_parked(self, circle: Circle, values: dict[int, dict[str, Any]]) -> bool:
        return self.work.write_in_order(self._rows_of(circle.rows), list(self._steps(circle, values)))

    def _steps(self, circle: Circle, values: dict[int, dict[str, Any]]) -> Iterator[WriteBatch]:
        """First the rows that are parked, then the steps of the circle."""
        parked = sorted(values)
        held = self._batch.take(parked)
        between = _with_values(held.old, [values[place] for place in parked])
        if parked:
            yield WriteBatch(held.inserts, between, held.old, held.deletes)
        for step in circle.steps:
            others = self._batch.take([place for place in step if place not in values])
            at = pa.array([number for number, place in enumerate(parked) if place in set(step)], pa.int64())
            yield WriteBatch(
                inserts=others.inserts,
                new=pa.concat_tables([others.new, held.new.take(at)]),
                old=pa.concat_tables([others.old, between.take(at)]),
                deletes=others.deletes,
            )

    def _postpone_unchanged(self, circle: Circle) -> None:
        """Nothing of the circle was written, because one of its rows has changed: tries the others in the next pass."""
        left = self.work.without_changed(self._batch.take(circle.rows))
        rows = [place for place in circle.rows if self._ids[place] in left]
        is_altered = len(rows) == len(circle.rows)
        self._postpone(rows, f"{self._described(circle)}, and a trigger or rule alters what is written" * is_altered)

    def _isolate_refused(self, circle: Circle, values: dict[int, dict[str, Any]], error: RowsRefused) -> None:
        """A step of the circle was refused. Quarantines a row that is bad by itself, and postpones the others."""
        number = None if error.step is None else error.step - bool(values)
        if number is not None and len(circle.steps[number]) > 1:
            steps = [*circle.steps[:number], *([place] for place in circle.steps[number]), *circle.steps[number + 1 :]]
            try:
                if self._write_parked(Circle(steps, circle.parked), values):
                    return
            except RowsRefused as again:
                error, number = again, None if again.step is None else again.step - bool(values)
                circle = Circle(steps, circle.parked)
        rows = circle.rows
        if number is not None and len(circle.steps[number]) == 1 and not isinstance(error, RowsExcluded):
            bad = circle.steps[number]
            self.work.quarantine_refused(self._rows_of(bad), self._batch.take(bad), error)
            rows = [place for place in rows if place not in bad]
        self._postpone(rows, f"{self._described(circle)}, and the database refuses one of them: {error.message}")

    def _described(self, circle: Circle) -> str:
        first = ", ".join(cut(self._ids[place]) for place in circle.rows[:5])
        more = ", …" if len(circle.rows) > 5 else ""
        return f"{len(circle.rows)} rows wait for one another in a circle ({first}{more})"

    def _postpone(self, places: Iterable[int], answer: str = "") -> None:
        self.work.postpone(self._rows_of(places), answer)


def _with_values(table: pa.Table, values: Sequence[dict[str, Any]]) -> pa.Table:
    """The table with some values of each row replaced."""
    for name in {name for row in values for name in row}:
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        given = pa.array([row.get(name) for row in values], field.type)
        mask = pa.array([name in row for row in values], pa.bool_())
        table = table.set_column(place, field, pc.if_else(mask, given, table[name].combine_chunks()))
    return table


def _groups(levels: Sequence[Sequence[int]], size: Callable[[], int]) -> Iterator[list[list[int]]]:
    """The levels in order, in groups of ``size()`` rows. A group is a list of levels or of parts of them."""
    group, room = list[list[int]](), size()
    for level in levels:
        start = 0
        while start < len(level):
            part = list(level[start : start + room])
            group.append(part)
            start, room = start + len(part), room - len(part)
            if room == 0 or len(group) == _MAX_STEPS:
                yield group
                group, room = [], size()
    if group:
        yield group


def _packed(circles: Sequence[Circle], size: Callable[[], int]) -> Iterator[list[Circle]]:
    """The circles in groups of ``size()`` rows, at least one circle each."""
    group, room = list[Circle](), size()
    for circle in circles:
        if group and len(circle.rows) > room:
            yield group
            group, room = [], size()
        group.append(circle)
        room -= len(circle.rows)
    if group:
        yield group
