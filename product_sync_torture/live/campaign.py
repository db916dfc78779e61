"""One round of the campaign: syncs run one after the other while the shop writes, then a last sync and the verdict."""

from __future__ import annotations

import itertools
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from pymongo import MongoClient

from product_sync import api
from product_sync.embedded.servers import Servers
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_torture.live import judge
from product_sync_torture.live.histories import AUDIT, LINGER, read_audit, version_of
from product_sync_torture.live.judge import Run, Verdict
from product_sync_torture.live.shop import TOMBSTONES, Consumer, LiveShop, Traffic
from product_sync_torture.surroundings import environment

_PRODUCT_ID = re.compile(r"p\d{6}")
_SETTLE_S = 0.5
#: Small batches with pauses, so that many events happen between two steps of a sync.
_BATCH_SIZE, _BATCH_DELAY_MS = 5, 5


@dataclass(frozen=True, slots=True)
class Round:
    """The counts of ``judged`` include those that `product_sync` reported (``said: …``)."""

    consumer: str
    seed: int
    events: int
    lost: int
    delivered: int
    seconds: float
    judged: Verdict


def play(servers: Servers, consumer: Consumer, traffic: Traffic, seed: int) -> Round:
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
        shop.start()
        for number in itertools.count():
            if not shop.is_writing:
                break
            # Alternate: extra rows are reported or deleted, and inserted values come from the snapshot or are read
            # again.
            extra, recheck = ("delete", "report")[number % 2], (60.0, 0.0)[number // 2 % 2]
            runs.append(_sync(instance, said, extra=extra, source_recheck_after_s=recheck))
        shop.finish()
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
        seconds = time.monotonic() - started
        return Round(consumer.name, seed, traffic.events, shop.lost, shop.delivered, seconds, judged)


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
