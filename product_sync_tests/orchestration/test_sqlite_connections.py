"""A run's event log stays open, so that each event costs one wait for the disk."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.storage import sql

from product_sync.orchestration.sqlite_connections import _MODULES, kept_open


@dg.op
def say(context: dg.OpExecutionContext) -> None:
    context.log.info("said")


@dg.job
def saying() -> None:
    say()


def test_the_log_of_sqlite_is_not_written_back_after_each_event(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run_id = str(uuid4())
        with kept_open(instance, run_id):
            saying.execute_in_process(instance=instance, run_id=run_id)
            left = {path.name for path in tmp_path.rglob("*.db-wal")}
        assert {f"{run_id}.db-wal", "index.db-wal"} <= left
        assert list(tmp_path.rglob("*.db-wal")) == []
        events = instance.all_logs(run_id)
        assert [event.user_message for event in events if event.dagster_event is None] == ["said"]


def test_each_file_has_one_engine_while_a_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    create_engine = sql.create_engine

    def counting(url: str, **options: Any) -> Any:
        made.append(Path(url).name)
        return create_engine(url, **options)

    monkeypatch.setattr(sql, "create_engine", counting)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run_id = str(uuid4())
        with kept_open(instance, run_id):
            with kept_open(instance, run_id):
                instance.get_runs()
            saying.execute_in_process(instance=instance, run_id=run_id)
        assert sorted(made) == sorted([f"{run_id}.db", "index.db", "runs.db"])
    assert [vars(module)["create_engine"] for module in _MODULES] == [create_engine, create_engine], "it is Dagster's"


def test_a_log_that_cannot_be_opened_is_left_to_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        monkeypatch.setattr(instance.event_log_storage, "path_for_shard", lambda shard: str(tmp_path / "no" / shard))
        with kept_open(instance, "run"):
            assert instance.get_runs() == []


def test_another_storage_is_left_alone() -> None:
    with dg.DagsterInstance.ephemeral() as instance, kept_open(instance, "run"):
        assert saying.execute_in_process(instance=instance).success
