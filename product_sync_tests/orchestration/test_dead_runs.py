"""A run whose process was killed does not block the queue and the schedule; one that lives is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import dagster as dg
import psutil
import pytest

from product_sync.orchestration import names
from product_sync.orchestration.dead_runs import SILENCE_S, process_tag, process_tags, reap_dead_runs
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.sensors import reap_dead_runs_sensor
from product_sync_tests.shop import Shop, project, record_run

STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def gone() -> dict[str, str]:
    """The tags of a run whose process was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tag = process_tag(process.pid)
    process.kill()
    process.communicate()
    return process_tags() | {names.PROCESS_TAG: tag}


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def free() -> bool:
    return True


def taken() -> bool:
    return False


@pytest.mark.parametrize("job", [PRODUCT.sync_job, PRODUCT.dry_run_job, PRODUCT.validate_job])
def test_a_run_whose_process_is_gone_is_marked_as_failed(
    instance: dg.DagsterInstance, gone: dict[str, str], job: str
) -> None:
    run_id = record_run(instance, tags=gone, job=job)
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=taken) == [run_id]
    assert status_of(instance, run_id) is dg.DagsterRunStatus.FAILURE
    assert "is gone" in "".join(entry.message for entry in instance.all_logs(run_id))


def test_a_process_that_got_the_number_of_a_killed_one_does_not_pass_for_it(instance: dg.DagsterInstance) -> None:
    run_id = record_run(instance, tags=process_tags() | {names.PROCESS_TAG: f"{os.getpid()}@1"})
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=taken) == [run_id]


def test_a_run_that_lives_is_left_alone(instance: dg.DagsterInstance) -> None:
    run_id = record_run(instance, tags=process_tags())
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free) == []
    assert status_of(instance, run_id) is STARTED


def test_a_reexecution_that_starts_is_not_judged_by_the_tags_of_its_parent(
    instance: dg.DagsterInstance, gone: dict[str, str]
) -> None:
    parent = record_run(instance, dg.DagsterRunStatus.CANCELED, tags=gone)
    starting = record_run(instance, dg.DagsterRunStatus.STARTING, tags=gone, parent=parent)
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=taken) == []
    instance.add_run_tags(starting, {names.PROCESS_TAG: f"{os.getpid()}@1"})
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=taken) == [starting]


def test_a_clock_that_is_set_during_a_run_does_not_make_its_process_another_one(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record_run(instance, tags=process_tags())
    # The kernel counts the start of a process from the start of the machine, and moves that when the clock is set.
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted + 3_600)
    assert psutil.boot_time() == booted + 3_600
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free) == []
    assert status_of(instance, run_id) is STARTED


def test_a_run_whose_process_lives_on_this_host_is_never_taken_for_dead_however_silent(
    instance: dg.DagsterInstance,
) -> None:
    run_id = record_run(instance, tags=process_tags())
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: time.time() + 100 * SILENCE_S) == []
    assert status_of(instance, run_id) is STARTED


def test_a_silent_run_of_another_host_is_dead_whatever_runs_here(instance: dg.DagsterInstance) -> None:
    run_id = record_run(instance, tags=process_tags() | {names.HOST_TAG: "elsewhere"})
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: time.time() + SILENCE_S + 1) == [run_id]


def test_a_process_on_another_host_is_not_looked_for_on_this_one(
    instance: dg.DagsterInstance, gone: dict[str, str]
) -> None:
    record_run(instance, tags=gone | {names.HOST_TAG: "elsewhere"})
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free) == []


@pytest.mark.parametrize("status", [STARTED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.CANCELING])
def test_a_silent_run_is_dead_if_nobody_holds_the_lock(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run_id = record_run(instance, status)
    later = time.time() + SILENCE_S + 1
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=taken, clock=lambda: later) == []
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: later - 60) == []
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: later) == [run_id]


@pytest.mark.parametrize(
    ("selected", "is_ours"), [((), False), ((PRODUCT.diff, "a_report"), False), ((PRODUCT.diff, PRODUCT.load), True)]
)
def test_a_run_with_steps_of_somebody_else_may_be_silent_for_hours(
    instance: dg.DagsterInstance, selected: tuple[str, ...], is_ours: bool
) -> None:
    assets = frozenset(map(dg.AssetKey, selected)) or None
    run_id = record_run(instance, job="their_job", tags={names.SYNC_TAG: PRODUCT.sync}, assets=assets)
    reaped = reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: time.time() + 100 * SILENCE_S)
    assert reaped == [run_id] * is_ours


def test_a_run_that_waits_in_the_queue_is_not_silent(instance: dg.DagsterInstance) -> None:
    record_run(instance, dg.DagsterRunStatus.QUEUED)
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: time.time() + 10 * SILENCE_S) == []


def test_a_run_that_said_something_a_minute_ago_is_alive(instance: dg.DagsterInstance) -> None:
    run_id = record_run(instance)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_engine_event("load: 100/200", run)
    assert reap_dead_runs(instance, PRODUCT, lock_is_free=free, clock=lambda: time.time() + 60) == []


def test_the_sensor_reaps_and_says_what_it_did(shop: Shop, instance: dg.DagsterInstance, gone: dict[str, str]) -> None:
    run_id = record_run(instance, tags=gone)
    context = dg.build_sensor_context(instance=instance, repository_def=project().get_repository_def())
    said = reap_dead_runs_sensor(context)
    assert isinstance(said, dg.SkipReason)
    assert run_id in (said.skip_message or "")
    again = reap_dead_runs_sensor(context)
    assert isinstance(again, dg.SkipReason)
    assert again.skip_message == "No dead run."
