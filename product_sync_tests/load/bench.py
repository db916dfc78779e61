"""A whole sync on the fakes, in a folder: read both sides, compare, load, verify, merge the quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from product_sync.compare import diff as diffs
from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts
from product_sync.compare.snapshot import SourceSnapshot, snapshot_source, snapshot_target
from product_sync.load.deletion import DeletionFacts
from product_sync.load.loader import LoadPolicy, load
from product_sync.load.pacing import FixedPacing, Pacing
from product_sync.load.result import LoadResult
from product_sync.runtime.progress import OnProgress, no_progress
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import RUN_ID
from product_sync.verify.accounting import Line, accounted, found
from product_sync.verify.verification import Verification, compare_afresh, confirm
from product_sync_tests.fakes import FakeSource, FakeTarget, FakeTime
from product_sync_tests.source_contract import product_row_schema
from product_sync_tests.tables import read_table

METADATA = {RUN_ID: "run-1"}


def document(bson_id: Any, **fields: Any) -> dict[str, Any]:
    """A product that can be copied, unless ``fields`` spoil it."""
    return {
        "_id": bson_id,
        "title": f"Product {bson_id}",
        "price": 100,
        "image": "picture.png",
        "sellerId": "seller",
        "quantity": 1,
    } | fields


def row(row_id: str, **fields: Any) -> dict[str, Any]:
    """The row that `document` becomes."""
    return {
        "id": row_id,
        "title": f"Product {row_id}",
        "price": 100,
        "image": "picture.png",
        "sellerId": "seller",
        "quantity": 1,
    } | fields


@dataclass
class Bench:
    """The steps of a run, as the orchestration takes them. Files lie in ``folder``."""

    folder: Path
    source: FakeSource
    target: FakeTarget
    row_schema: RowSchema
    time: FakeTime = field(default_factory=FakeTime)
    snapshot: SourceSnapshot | None = None
    counts: DiffCounts | None = None
    result: LoadResult = field(default_factory=LoadResult)

    @property
    def quarantine(self) -> Path | None:
        path = self.folder / "quarantine.arrow"
        return path if path.exists() else None

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.arrow"

    def compare(self) -> DiffCounts:
        """Read both sides and write the diff."""
        self.snapshot = snapshot_source(
            self.source,
            self.row_schema,
            self.path("source"),
            self.path("rejects"),
            metadata=METADATA,
            timing=self.time.timing,
            on_progress=no_progress,
        )
        self.read_target()
        self.counts = diffs.diff(
            self.row_schema,
            self.path("source"),
            self.path("rejects"),
            self.path("target"),
            self.quarantine,
            self.path("diff"),
            metadata=METADATA,
        )
        return self.counts

    def read_target(self) -> None:
        snapshot_target(
            self.target,
            self.row_schema,
            self.path("target"),
            metadata=METADATA,
            timing=self.time.timing,
            on_progress=no_progress,
        )

    def load(
        self,
        *,
        batch_size: int = 10,
        pause_ms: int = 0,
        pacing: Pacing | None = None,
        policy: LoadPolicy | None = None,
        deletion_facts: DeletionFacts | None = None,
        on_progress: OnProgress = no_progress,
    ) -> LoadResult:
        """Load the diff. ``self.result`` holds what was done also when it is killed. Whatever a test does to the load,
        every difference is accounted for."""
        assert self.snapshot is not None
        self.result = LoadResult()
        result = load(
            self.path("diff"),
            self.row_schema,
            self.source,
            self.target,
            self.path("load_rejects"),
            source_taken_at=self.snapshot.taken_at,
            pacing=pacing or FixedPacing(batch_size, pause_ms),
            timing=self.time.timing,
            on_progress=on_progress,
            metadata=METADATA,
            deletion_facts=deletion_facts,
            policy=policy or LoadPolicy(),
            result=self.result,
        )
        assert self.counts is not None
        add_up(self.counts, result, deletes=deletion_facts is not None)
        return result

    def merge_quarantine(self) -> None:
        quarantine.merge(
            self.quarantine,
            [self.path("rejects"), self.path("load_rejects")],
            self.path("quarantine"),
            now=self.time.now(),
            run_id="run-1",
            untried=self.result.untried,
        )

    def verify(self) -> Verification:
        """Read the target afresh and confirm what differs from the source snapshot."""
        counts = compare_afresh(
            self.row_schema,
            self.path("source"),
            self.path("rejects"),
            self.path("target"),
            self.quarantine,
            self.path("verification"),
            reader=self.target,
            timing=self.time.timing,
            on_progress=no_progress,
            metadata=METADATA,
        )
        return confirm(
            self.row_schema,
            self.path("verification"),
            counts,
            source=self.source,
            reader=self.target,
            timing=self.time.timing,
            on_progress=no_progress,
        )

    def sync(self, *, batch_size: int = 10) -> Verification:
        """All of it."""
        self.compare()
        self.load(batch_size=batch_size)
        self.merge_quarantine()
        return self.verify()

    def load_rejects(self) -> dict[str, list[str]]:
        """Reasons by text id of what the load put into quarantine."""
        table = read_table(self.path("load_rejects"))
        return dict(zip(table["id"].to_pylist(), table["reasons"].to_pylist(), strict=True))


def add_up(
    counts: DiffCounts, result: LoadResult | None, *, deletes: bool = False, has_plan: bool = False
) -> list[Line]:
    """The account of the differences, which adds up and leaves none unexplained."""
    lines = accounted(counts, result, deletes=deletes, has_plan=has_plan)
    assert sum(line.count for line in lines) == sum(line.count for line in found(counts)), (lines, found(counts))
    assert all(line.count > 0 and line.name != "not accounted for" for line in lines), lines
    return lines


def make_bench(folder: Path, documents: Iterable[Mapping[str, Any]] = (), rows: Iterable[dict[str, Any]] = ()) -> Bench:
    row_schema = product_row_schema()
    return Bench(folder, FakeSource(row_schema, documents), FakeTarget(row_schema, rows), row_schema)
