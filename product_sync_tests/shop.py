"""A small shop on the real servers: a few products in MongoDB, the cart's table, and runs of the Dagster jobs on them.

Runs are made in this process and recorded in an instance of the test's own; what a test looks at is what Dagster
recorded, and what the two databases hold afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from psycopg.rows import tuple_row
from pymongo import MongoClient, ReplaceOne

from product_sync.orchestration.build import build_definitions
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.resources import Listener
from product_sync.runtime.progress import OnProgress, no_progress
from product_sync.schema.definition import load_definitions
from product_sync_tests.databases import another_sync
from product_sync_tests.run_history import history_in_memory

#: Quick settings for tests; each can be overridden by a run.
QUICK = {"batch_delay_ms": 0, "settle_seconds": 0.0, "lock_wait_s": 0.0}
_PROJECTS: dict[str, dg.Definitions] = {}


def product(name: str, **fields: Any) -> dict[str, Any]:
    """A product document with the id ``name``."""
    return {
        "_id": name,
        "title": f"The {name}",
        "price": 500,
        "image": "i.jpg",
        "sellerId": "s1",
        "quantity": 1,
    } | fields


def ids(count: int) -> list[str]:
    return [f"p{number:04}" for number in range(count)]


def record_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    *,
    job: str = PRODUCT.sync_job,
    tags: Mapping[str, str] | None = None,
    assets: frozenset[dg.AssetKey] | None = None,
    parent: str | None = None,
) -> str:
    """A run that Dagster knows of, as somebody else's process left it; returns its id."""
    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("product_sync"), "__repository__"), job
    )
    run = dg.DagsterRun(
        job_name=job, status=status, tags=dict(tags or {}), asset_selection=assets, remote_job_origin=origin,
        parent_run_id=parent, root_run_id=parent,
    )  # fmt: skip
    instance.add_run(run)
    return run.run_id


def project(**settings: Any) -> dg.Definitions:
    """What Dagster would load with the variables of this process. Without settings it is made once for each mapping."""
    syncs = load_definitions(os.environ)
    if settings:
        return build_definitions(syncs, **settings)
    key = "".join(sync.model_dump_json() for sync in syncs)
    if key not in _PROJECTS:
        _PROJECTS[key] = build_definitions(syncs)
    return _PROJECTS[key]


@dataclass
class Outcome:
    """What Dagster recorded of one run."""

    instance: dg.DagsterInstance
    run_id: str
    success: bool

    @cached_property
    def events(self) -> list[dg.DagsterEvent]:
        entries = self.instance.all_logs(self.run_id)
        return [entry.dagster_event for entry in entries if entry.dagster_event]

    @property
    def log(self) -> str:
        return "\n".join(entry.user_message or entry.message for entry in self.instance.all_logs(self.run_id))

    @property
    def failures(self) -> str:
        """The errors of the steps that raised, with their causes."""
        texts = [str(event.step_failure_data.error) for event in self.events if event.is_step_failure]
        return "\n".join(texts)

    @property
    def checks(self) -> dict[str, dg.AssetCheckEvaluation]:
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
        found = [event.asset_check_evaluation_data for event in self.events if event.event_type is kind]
        return {evaluation.check_name: evaluation for evaluation in found}

    @property
    def materialized(self) -> dict[str, dict[str, Any]]:
        """The metadata of each materialised asset, tables as lists of dicts."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        found = [event.step_materialization_data.materialization for event in self.events if event.event_type is kind]
        return {item.asset_key.to_user_string(): _plain(item.metadata) for item in found}

    @property
    def observed(self) -> dict[str, dict[str, Any]]:
        kind = dg.DagsterEventType.ASSET_OBSERVATION
        found = [event.asset_observation_data.asset_observation for event in self.events if event.event_type is kind]
        return {item.asset_key.to_user_string(): _plain(item.metadata) for item in found}


def _plain(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {
        name: [dict(record.data) for record in value.records]
        if isinstance(value, dg.TableMetadataValue)
        else value.value
        for name, value in metadata.items()
    }


@dataclass
class Shop:
    mongodb_url: str
    cart_url: str
    state: Path
    instance: dg.DagsterInstance

    # Both sides.

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Insert or replace documents in the collection."""
        with MongoClient[dict[str, Any]](self.mongodb_url) as client:
            requests = [ReplaceOne({"_id": each["_id"]}, dict(each), upsert=True) for each in documents]
            client.get_default_database()["products"].bulk_write(requests)

    def remove(self, *keys: Any) -> None:
        with MongoClient[dict[str, Any]](self.mongodb_url) as client:
            client.get_default_database()["products"].delete_many({"_id": {"$in": list(keys)}})

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Execute as the owner of the cart's database, and commit."""
        with psycopg.connect(self.cart_url, row_factory=tuple_row) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    @property
    def rows(self) -> dict[str, tuple[Any, ...]]:
        """The cart's table: price, title by id."""
        return {row[0]: row[1:] for row in self.sql("SELECT id, price, title FROM product ORDER BY id")}

    @property
    def fingerprint(self) -> list[tuple[Any, ...]]:
        """All rows with the transactions that wrote them: equal only if nothing was written."""
        return self.sql("SELECT xmin::text, ctid::text, product FROM product ORDER BY id")

    def files(self) -> dict[str, bytes]:
        """What outlives runs: the quarantine and the baseline."""
        return {path.name: path.read_bytes() for path in self.state.glob("*/*") if path.is_file()}

    def frame(self, asset: str) -> pd.DataFrame:
        """The asset as a notebook would load it."""
        frame = project().load_asset_value(asset, instance=self.instance)
        assert isinstance(frame, pd.DataFrame)
        return frame

    @property
    def quarantine(self) -> dict[str, dict[str, Any]]:
        """The entries by their source key."""
        return {entry["source_key"]: dict(entry) for _, entry in self.frame(PRODUCT.quarantine).iterrows()}

    # Runs.

    def run(
        self,
        job: str = PRODUCT.sync_job,
        *,
        config: Mapping[str, Any] | None = None,
        on_progress: OnProgress = no_progress,
        tags: Mapping[str, str] | None = None,
        **switches: Any,
    ) -> Outcome:
        """Run a job in this process. ``switches`` are those of the ``sync`` resource, ``config`` the rest."""
        heard = {} if on_progress is no_progress else {"listener": Listener(on_progress)}
        definition = project(**heard).resolve_job_def(job)
        sync = {"resources": {"sync": {"config": {**QUICK, **switches}}}}
        result = definition.execute_in_process(
            instance=self.instance, run_config={**sync, **(config or {})}, tags=tags, raise_on_error=False
        )
        return Outcome(self.instance, result.run_id, result.success)

    def materialize(self, *assets: str, **switches: Any) -> Outcome:
        """As the UI's Materialize button does with these assets selected."""
        definition = project().resolve_implicit_global_asset_job_def()
        result = definition.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            run_config={"resources": {"sync": {"config": {**QUICK, **switches}}}},
            raise_on_error=False,
        )
        return Outcome(self.instance, result.run_id, result.success)

    def locked(self) -> AbstractContextManager[psycopg.Connection]:
        """Another sync holds the lock."""
        return another_sync(self.cart_url)


@pytest.fixture
def shop(
    mongodb_url: str, cart_url: str, product_table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    """An empty shop: no product on either side. The collection exists."""
    environment = {
        "PRODUCT_SERVICE_MONGODB_URL": mongodb_url,
        "CART_DB_URL": cart_url,
        "PRODUCT_SYNC_STATE": str(tmp_path / "state"),
    }
    unset: Sequence[str] = ("MONGO_USER", "MONGO_PASSWORD", "PRODUCT_SYNC_MAPPING", "SYNC_BATCH_SIZE", "DAGSTER_HOME")
    for name in unset:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        client.get_default_database().create_collection("products")
    with history_in_memory() as instance:
        yield Shop(mongodb_url, cart_url, tmp_path / "state", instance)
