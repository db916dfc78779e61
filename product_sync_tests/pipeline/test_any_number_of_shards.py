"""With any number of shards a sync comes to the same as with one: rows, differences, quarantine, verdicts and reports.

For each kind of id a story of all kinds of runs is played with one shard, then with others: in one process, and by
steps that share nothing but their files. Whatever is not a time, an id of a run or a number of batches must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from bson import Binary, Int64, ObjectId

from product_sync.compare.sample import NO_SAMPLE
from product_sync.errors import ProductSyncError
from product_sync.load.result import LoadResult
from product_sync.pipeline import read_back, run_checks, sharded_run
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load, loaded
from product_sync.pipeline.sync_run import SyncRun
from product_sync.report import drift_page, drift_report
from product_sync.results import ProductReport
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import SyncDefinition
from product_sync.state import store
from product_sync.support.show import show_product
from product_sync_tests.pipeline.test_sync_run import begin
from product_sync_tests.shop import Shop, product, shop
from product_sync_tests.tables import read_table

__all__ = ["shop"]

Documents = Sequence[Mapping[str, Any]]
#: What differs from run to run: times, ids of runs, and the batches, which each shard begins anew.
_OWN: Mapping[str, Any] = dict.fromkeys(
    ("duration_s", "rows_per_second", "quarantine_s", "documents_per_second", "batches", "plan_id", "estimate",
     "first_seen", "last_seen", "run_id", "position_at", "full_proof_at", "taken_at")
)  # fmt: skip
_OWN_TEXT = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f-]{21}|run [0-9a-f]{8}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00| UTC)?"
)


@dataclass(frozen=True)
class Case:
    """``extra`` selects four rows that no document has. ``ways`` are the numbers of shards, and whether each
    step is for itself. ``whole``: all kinds of runs."""

    name: str
    table: str
    mapping: Mapping[str, Any]
    documents: Documents
    ways: Sequence[tuple[int, bool]]
    extra: str = "'9999' || n, 't', n"
    whole: bool = False


def _mixed() -> Documents:
    """Every kind of id, good and bad, several with one text; some are left out by the filter."""
    numbers = range(30)
    kinds: list[Any] = [
        *(ObjectId(f"{number * 7919:08x}{number:016x}") for number in numbers),
        *(f"sku-{number}" for number in numbers),
        *(str(number * 13) for number in numbers),
        *(Int64(number * 17 + 1_000) for number in numbers),
        *(Binary.from_uuid(UUID(int=number << 120 | number)) for number in range(20)),
        *(ObjectId(f"{5:024x}"), f"{5:024x}", 7, "7", 1.5, {"a": 1}),
    ]
    good = [product("x", _id=bson_id, title=f"t{n}", cents=f"{n}.50") for n, bson_id in enumerate(kinds)]
    bad = [product("bad", cents="ask"), product("sku-bad", cents="1", title=None), product("off", status="gone")]
    return [*good, *bad]


def _with_ids(ids: Sequence[Any]) -> Documents:
    return [{"_id": bson_id, "title": f"t{number}", "price": number} for number, bson_id in enumerate(ids)]


def _mapping(**columns: Any) -> dict[str, Any]:
    own = {"id": {"source": "_id"}, "title": {"source": "title"}, "price": {"source": "price"}}
    return {"source": {"collection": "products"}, "target": {"table": "item"}, "columns": {**own, **columns}}


_NUMBERS = range(40)
CASES = [
    Case(
        "mixed ids, a filter and an expression",
        "id text PRIMARY KEY, title text NOT NULL, price numeric(10, 2)",
        {
            "source": {"collection": "products", "filter": {"status": {"$ne": "gone"}}},
            "target": {"table": "item"},
            "columns": {
                "id": {"source": "_id"},
                "title": {"source": "title"},
                "price": {"expression": {"$toDecimal": "$cents"}},
            },
        },
        _mixed(),
        [(8, False), (2, True)],
        whole=True,
    ),
    Case(
        "integers, of which some are texts and some fit no bigint",
        "id bigint PRIMARY KEY, title text, price int",
        _mapping(),
        _with_ids([*(Int64(n * n * 7_001 - 9_000) for n in _NUMBERS), "12", "012", "x", -1, Int64(2**62)]),
        [(3, True)],
        "99990 + n, 't', n",
    ),
    Case(
        "uuids, and more shards than there are",
        "id uuid PRIMARY KEY, title text, price int",
        _mapping(),
        _with_ids([Binary.from_uuid(UUID(int=n * 7919 << 100 | n)) for n in range(12)]),
        [(50, False)],
        "('00000000-0000-4000-8000-00000000000' || n)::uuid, 't', n",
    ),
    Case(
        "the rows of a tenant",
        "tenant int, id text, title text, price int, PRIMARY KEY (tenant, id)",
        _mapping(tenant={"value": 7}),
        _with_ids([f"p{n}" for n in _NUMBERS]),
        [(3, True)],
        "7, '9999' || n, 't', n",
    ),
    Case("an empty source", "id text PRIMARY KEY, title text, price int", _mapping(), [], [(8, False)]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_everything_is_the_same_with_any_number_of_shards(shop: Shop, tmp_path: Path, case: Case) -> None:
    shop.sql(f"CREATE TABLE item ({case.table})")
    if case.documents:
        shop.put(*case.documents)
    wanted = list(Story(shop, case, tmp_path / "1", 1, by_steps=False).told())
    assert dict(wanted)["deletion"].get("proven", False) is bool(case.documents), "it is not equal because it failed"
    for shards, by_steps in case.ways:
        made = Story(shop, case, tmp_path / f"{shards}", shards, by_steps=by_steps).told()
        for (name, one), (_, other) in zip(wanted, made, strict=True):
            assert {key: value for key, value in other.items() if value != one[key]} == {}, (shards, name)
            assert other.keys() == one.keys()
        cut_into = max(len(list(path.iterdir())) for path in (tmp_path / f"{shards}").glob("*/runs/*/shards"))
        assert min(shards, len(case.documents)) // 2 < cut_into <= shards


@dataclass
class Story:
    """All kinds of runs on one table, one after the other."""

    shop: Shop
    case: Case
    state: Path
    shards: int
    by_steps: bool

    def told(self) -> Iterator[tuple[str, Any]]:
        """What each of them came to."""
        self.shop.state = self.state
        self.shop.sql("TRUNCATE item")
        if "tenant" in self.case.table:
            self.shop.sql("INSERT INTO item SELECT 8, 'p' || n, 'theirs', 1 FROM generate_series(1, 100, 3) AS n")
        yield "dry run", self._dry_run()
        yield "plan", self._planned()
        self.shop.sql("DELETE FROM item WHERE price % 7 = 3 AND title <> 'theirs'")
        self.shop.sql("UPDATE item SET price = price + 1000 WHERE price % 11 = 5 AND title <> 'theirs'")
        self.shop.sql(f"INSERT INTO item SELECT {self.case.extra} FROM generate_series(1, 4) AS n")
        if self.case.whole:
            yield "drifted dry run", self._dry_run(extra="delete")
            yield "too many to delete", self._run(extra="delete", max_delete_share=0.001)
        yield "deletion", self._run(extra="delete", max_delete_share=1.0)
        if self.case.whole:
            yield "validation", self._validated()
            self.shop.sql("UPDATE item SET title = 'x'")
            yield "too many to change", self._run()
            yield "accepted", self._run(accept_changes=True)
            yield "nothing to do", self._run()
            yield "shown", {row_id: _plain(self._shown(row_id)) for row_id in ("0", f"{5:024x}", "9999")}

    def _step(self, run_id: str, **settings: Any) -> SyncRun:
        databases = Databases(
            SyncDefinition.model_validate(self.case.mapping),
            SourceAddress(self.shop.mongodb_url),
            TargetAddress(self.shop.cart_url),
        )
        return begin(
            self.shop, run_id=run_id, databases=databases, shards=self.shards, quarantine_budget=1.0, **settings
        )

    def _dry_run(self, **settings: Any) -> dict[str, Any]:
        self.plan = str(uuid4())
        step = partial(self._step, self.plan, dry_run=True, **settings)
        return _said(lambda: {**self._read(step), **asdict(dry_run(step()))})

    def _planned(self) -> dict[str, Any]:
        """A product has changed since the plan."""
        first = next(iter(self.case.documents), None)
        if first is None:
            return {}
        self.shop.put(dict(first) | {"title": "later"})
        try:
            return self._run(plan=self.plan)
        finally:
            self.shop.put(first)

    def _run(self, **settings: Any) -> dict[str, Any]:
        step = partial(self._step, str(uuid4()), **settings)
        return _said(lambda: {**self._read(step), **self._written(step)})

    def _validated(self) -> dict[str, Any]:
        step = partial(self._step, str(uuid4()))
        return _said(lambda: {"source": run_checks.check_snapshot(step())[0], **self._concluded(step)})

    def _read(self, step: Callable[[], SyncRun]) -> dict[str, Any]:
        run = step()
        if self.by_steps:
            for number in range(sharded_run.cut(step())):
                sharded_run.read_and_diff(step(), number)
            source, target = sharded_run.gather(step())
        else:
            source, target = run.snapshot_both()
        run = step() if self.by_steps else run
        made = run.diff()
        return {
            "source": replace(source, sample=NO_SAMPLE),
            "target": target,
            "counts": asdict(made.counts),
            "changed columns": made.changed_columns,
            "first": made.first,
            "first rejects": read_back.first_rejects(run),
            "differences": sorted(_rows(run.files.path(store.DIFF)), key=lambda row: str(row["id"])),
            "checks": [*run_checks.check_snapshot(run), read_back.check_change(run)],
            "sample": read_back.sample_product(run.files),
        }

    def _written(self, step: Callable[[], SyncRun]) -> dict[str, Any]:
        if self.by_steps:
            for number in range(sharded_run.begin_load(step())):
                sharded_run.load(step(), number)
            for number in range(sharded_run.settle(step())):
                sharded_run.verify(step(), number)
        else:
            load(step())
        result = loaded(step())
        return {"result": asdict(result), **self._concluded(step, result)}

    def _concluded(self, step: Callable[[], SyncRun], result: LoadResult | None = None) -> dict[str, Any]:
        run = step()
        report = drift_report.gather(run, "", result) if result else None
        judged = run_checks.check_result(run)
        quarantine = run.folder.quarantine
        return {
            "page": drift_page.render(report).splitlines() if report else [],
            "judged": judged.check_results,
            "proven": judged.proven is not None,
            "baseline": run.folder.read_baseline(),
            "quarantine": _rows(quarantine) if quarantine.exists() else [],
            "table": self.shop.sql("SELECT * FROM item ORDER BY 1, 2"),
        }

    def _shown(self, row_id: str) -> ProductReport:
        run = self._step(str(uuid4()))
        report = ProductReport(id=row_id)
        show_product(report, run.databases, self.shop.state)
        return report


def _said(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a run came to, without what differs from run to run."""
    try:
        found: Any = run()
    except ProductSyncError as error:
        found = {"error": type(error).__name__, "said": f"{error} {error.hint}"}
    made: dict[str, Any] = _plain(found)
    return made


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items() if name not in _OWN}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _OWN_TEXT.sub("…", value) if isinstance(value, str) else value


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table(path).to_pylist()
    return rows
