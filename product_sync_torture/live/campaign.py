"""One round of the campaign: syncs run one after the other while the shop writes, then a last sync and the verdict.

In a round that follows the changes, the watch looks at short intervals and asks for passes, as its sensor does. Full
syncs run between them.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psycopg
from pymongo import MongoClient

from product_sync import api
from product_sync.embedded.servers import Servers
from product_sync.orchestration.watch_sensor import RETRY_S
from product_sync.pipeline.kept_databases import KeptDatabases
from product_sync.pipeline.watch import look
from product_sync.schema.definition import load_definitions
from product_sync.state.store import StateFolder
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_torture.live import judge
from product_sync_torture.live.histories import AUDIT, LINGER, read_audit, version_of
from product_sync_torture.live.judge import Run, Verdict
from product_sync_torture.live.repairs import Repairs, judge_repairs
from product_sync_torture.live.shop import TOMBSTONES, Consumer, LiveShop, Traffic
from product_sync_torture.surroundings import environment

_PRODUCT_ID = re.compile(r"p\d{6}")
_SETTLE_S = 0.5
#: Small batches with pauses, so that many events happen between two steps of a sync.
_BATCH_SIZE, _BATCH_DELAY_MS = 5, 5
#: Seconds between two looks of the watch, and looks between two full syncs.
_LOOK_EVERY_S: Final = 0.5
_FULL_SYNC_EVERY: Final = 6


@dataclass(frozen=True, slots=True)
class Round:
    """The counts of ``judged`` include those that `product_sync` reported (``said: …``). ``repairs`` belong to a round
    that follows the changes."""

    consumer: str
    seed: int
    events: int
    lost: int
    delivered: int
    seconds: float
    judged: Verdict
    repairs: Repairs | None = None


def play(servers: Servers, consumer: Consumer, traffic: Traffic, seed: int, *, follows: bool = False) -> Round:
    """A round with its own databases. Raises errors of the shop and the consumer; faults of the sync are violations."""
    with (
        mongodb_database(servers) as mongodb_url,
        cart_database(servers) as cart_url,
        tempfile.TemporaryDirectory(prefix="product_sync_torture_") as state,
        environment(mongodb_url, cart_url, Path(state)),
        dg.DagsterInstance.ephemeral() as instance,
    ):
        create_product_table(cart_url)
        with psycopg.connect(cart_url) as cart:
            for statement in (AUDIT, LINGER, TOMBSTONES):
                cart.execute(statement.encode())
        shop = LiveShop(mongodb_url, cart_url, consumer, traffic, seed)
        shop.open()
        started = time.monotonic()
        said: Counter[str] = Counter()
        runs: list[Run] = []
        if follows:
            runs.append(_sync(instance, said))  # stores the first position
        shop.start()
        if follows:
            _follow(instance, shop, Path(state), said, runs)
        for number in itertools.count():
            if not shop.is_writing:
                break
            # Alternate: extra rows are reported or deleted, and inserted values come from the snapshot or are read
            # again.
            extra, recheck = ("delete", "report")[number % 2], (60.0, 0.0)[number // 2 % 2]
            runs.append(_sync(instance, said, extra=extra, source_recheck_after_s=recheck))
        shop.finish()
        ended = time.time()
        reinserted = judge.judge_reinserted(shop.history, read_audit(cart_url), shop.deletions)
        runs.append(_sync(instance, said, extra="delete"))
        last = [f"the last sync failed: {runs[-1].complaint}"] if runs[-1].complaint else []
        audit = read_audit(cart_url)
        judged = judge.together(
            [
                judge.judge_writes(shop.history, audit, runs),
                reinserted,
                judge.judge_runs(shop.history, audit, runs),
                judge.judge_end(shop.history, _source(mongodb_url), _target(cart_url)),
                Verdict(last, said),
            ]
        )
        if consumer.keeps_order:
            backwards = judged.counts["consumer's: went back"]
            judged.violations += [
                f"{backwards} rows went back to an older version under a consumer that keeps order"
            ] * bool(backwards)
        repairs = None
        if follows:
            repairs = judge_repairs(shop.history, audit, shop.lost, bound_s=_bound_s(runs), ended=ended)
            judged.violations += repairs.violations
        seconds = time.monotonic() - started
        name = f"{consumer.name}, followed" if follows else consumer.name
        return Round(name, seed, traffic.events, len(shop.lost), shop.delivered, seconds, judged, repairs)


def _follow(instance: dg.DagsterInstance, shop: LiveShop, state: Path, said: Counter[str], runs: list[Run]) -> None:
    """Look, and run what the sensor of the watch would ask for, until all events have arrived and are compared."""
    [definition] = load_definitions(os.environ)
    kept = KeptDatabases(definition)
    tried_at, give_up_at = time.monotonic(), math.inf
    for number in itertools.count(1):
        time.sleep(_LOOK_EVERY_S)
        with kept.use(os.environ) as databases:
            found = look(databases, StateFolder(state, databases.state_key), settle_s=_SETTLE_S)
        said["watch: looks"] += 1
        said["watch: products compared"] += found.compared
        recheck = (60.0, 0.0)[number % 2]
        if found.stored is None or number % _FULL_SYNC_EVERY == 0:
            runs.append(_sync(instance, said, extra="delete", source_recheck_after_s=recheck))
            said["watch: full syncs"] += 1
        elif found.backlog or found.due or (found.tried and time.monotonic() - tried_at > RETRY_S):
            tried_at = time.monotonic()
            runs.append(_sync(instance, said, extra="delete", source_recheck_after_s=recheck, changes=True))
            said["watch: passes"] += 1
        elif not shop.is_busy and not found.unsettled:
            return
        if not shop.is_busy and give_up_at == math.inf:
            give_up_at = time.monotonic() + _bound_s(runs)
        if time.monotonic() > give_up_at:
            return  # what still stands is a violation


def _bound_s(runs: Sequence[Run]) -> float:
    """The most seconds from a lost event to its repair: a run that had begun before it, the settle time, which the
    source counts in whole seconds, two looks, and the run that repairs it."""
    return 2 * max(run.ended - run.started for run in runs) + _SETTLE_S + 1 + 2 * _LOOK_EVERY_S


def _sync(instance: dg.DagsterInstance, said: Counter[str], **switches: Any) -> Run:
    started = time.time()
    report = api.sync(
        instance=instance,
        batch_size=_BATCH_SIZE,
        batch_delay_ms=_BATCH_DELAY_MS,
        settle_seconds=_SETTLE_S,
        max_delete_share=1.0,
        **switches,
    )
    for name in ("inserted", "updated", "deleted", "conflicts", "taken_back", "in_flight"):
        said[f"said: {name}"] += getattr(report, name) or 0
    complaint = f"{report.failure.code}: {report.failure.message}" if report.failure else ""
    return Run(started, time.time(), _SETTLE_S, complaint, tuple(sorted(set(_PRODUCT_ID.findall(complaint)))))


def _source(mongodb_url: str) -> dict[str, int | None]:
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        documents = list(client.get_default_database()["products"].find())
    rows = [{"id": document.pop("_id"), **document} for document in documents]
    return {row["id"]: version_of(row) for row in rows}


def _target(cart_url: str) -> dict[str, int | None]:
    with psycopg.connect(cart_url) as connection:
        rows = connection.execute("SELECT to_jsonb(product) FROM product").fetchall()
    return {row["id"]: version_of(row) for (row,) in rows}
