"""The log of a run, line by line; how a failure ends it, and what an interrupted run records."""

from __future__ import annotations

import signal
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEventType as Kind

from product_sync.errors import Unreachable
from product_sync.orchestration import names
from product_sync.orchestration.failures import own_sentence
from product_sync.orchestration.names import PRODUCT
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.progress import Progress
from product_sync_tests.shop import Outcome, Shop, ids, product


def lines(outcome: Outcome) -> list[str]:
    """The run's log at INFO and above without Dagster's events."""
    entries = outcome.instance.all_logs(outcome.run_id)
    return [entry.user_message for entry in entries if entry.dagster_event is None and int(entry.level) >= 20]


def ends(outcome: Outcome) -> list[dg.DagsterEvent]:
    """The events with which a step or the run failed."""
    return [event for event in outcome.events if event.event_type in (Kind.STEP_FAILURE, Kind.RUN_FAILURE)]


def error_of(event: dg.DagsterEvent) -> Any:
    is_step = event.event_type is Kind.STEP_FAILURE
    return event.step_failure_data.error if is_step else event.job_failure_data.error


def test_the_log_tells_the_story_of_a_sync_in_a_dozen_lines(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(5)), product("odd", price=2.5))
    shop.sql("INSERT INTO product VALUES ('p0001', 'The p0001', 7, 'i.jpg', 's1', 1), ('gone', 't', 1, 'i', 's', 1)")
    outcome = shop.run(quarantine_budget=1.0)
    assert outcome.success
    source, target = shop.mongodb_url.partition("?")[0], shop.cart_url.rpartition("@")[2]
    begin_with(
        lines(outcome),
        "Sync in batches of 100 rows, 0 ms apart; extra rows: report."
        f" From the collection products of {source} to the table public.product of {target}. Run {outcome.run_id}.",
        "Source: 6 documents read in ",
        "Target: 2 rows read in ",
        "Check source_looks_complete: passed. ",
        "Check mapping_fits_source: passed. ",
        "Differences: 4 missing, 1 changed (price 1), 1 extra, 1 quarantined (0 of them were refused by the data",
        "Check change_is_plausible: passed. ",
        "Load: 4 inserted, 1 updated, 0 deleted, 0 conflicts, 0 taken back, 0 kept because other rows"
        " reference them, 0 skipped because they changed since the plan; 1 batch, 0 failed, 0 not attempted,"
        " 0 retries; ",
        "Quarantine: 1 document (not_exact 1).",
        f"Drift report: {shop.state}",
        "Check every_batch_loaded: passed. ",
        "Result: 6 documents, 6 rows; 0 missing, 0 changed, 1 extra, 1 quarantined, 0 in flight.",
        "Check target_matches_source: passed. ",
        "Check no_extra_products: warning. 1 row ",
        "Check quarantine_within_budget: warning. 1 of 6 documents ",
    )


def begin_with(lines: list[str], *expected: str) -> None:
    assert [line[: len(begin)] for line, begin in zip(lines, expected, strict=True)] == list(expected)


def test_a_failed_check_ends_the_run_with_its_own_sentence(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = shop.run()
    said = "Check source_looks_complete: failed. The source is empty. Nothing was compared or written. Check that the"
    for event in ends(outcome):
        assert own_sentence(event).startswith(said)
        error = error_of(event)
        assert error.message.startswith(f"CheckFailed: {said}"), "this is what the UI shows"
        assert error.cause is None
        assert error.context is None
    assert len(ends(outcome)) == 2, "of the step and of the run"
    assert not outcome.checks[names.SOURCE_LOOKS_COMPLETE].passed, "the check is recorded too"
    printed = capsys.readouterr().err
    assert said in printed.splitlines()[-1]
    assert printed.count(said) == 1
    for noise in ("Dependencies for step", "Stack Trace", "Traceback"):
        assert noise not in printed


def test_an_error_of_ours_ends_the_run_with_its_sentence_and_hint(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CART_DB_URL", "postgresql://somebody:planted-secret@127.0.0.1:1/cart")
    outcome = shop.run()
    said = "PostgreSQL at 127.0.0.1:1/cart cannot be reached: "
    hint = "Check that the server runs and that CART_DB_URL names it: "
    step, *_, run = ends(outcome)
    for event in (step, run):
        assert said in own_sentence(event)
        assert hint in own_sentence(event)
    failure = step.step_failure_data.user_failure_data
    assert failure is not None
    assert failure.metadata["code"].value == "unreachable"
    assert str(failure.metadata["hint"].value).startswith(hint)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert "From the collection products of " in first, "what was to be synced is said before the server is asked"
    assert said in last
    assert hint in last
    assert "planted-secret" not in str(outcome.events) + last


def test_the_sentence_is_the_last_line_also_where_another_step_went_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise Unreachable("The source is down.", hint="Start it.")

    monkeypatch.setattr("product_sync.pipeline.read_back.check_source", fail)
    assert not shop.run(PRODUCT.validate_job).success
    printed = capsys.readouterr().err.splitlines()
    assert any("Check target_matches_source: passed" in line for line in printed)
    assert printed[-1].endswith("validate_sync - The source is down. Start it.")


def test_a_bug_keeps_its_traceback(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SyncRun, "snapshot_both", lambda _: dict[str, int]()["boom"])
    shop.put(product("a"))
    outcome = shop.run()
    assert not outcome.success
    assert "KeyError" in outcome.failures
    printed = capsys.readouterr().err
    assert 'lambda _: dict[str, int]()["boom"]' in printed
    last = printed.splitlines()[-1]
    assert "The step product_snapshots raised KeyError: 'boom'. This is a bug: please report it" in last


def test_an_interrupted_load_records_what_it_had_done(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.put(*(product(name) for name in ids(10)))

    def interrupt(progress: Progress) -> None:
        if progress.stage == "load" and progress.done == 3:
            signal.raise_signal(signal.SIGINT)

    outcome = shop.run(batch_size=1, on_progress=interrupt)
    assert not outcome.success
    assert len(shop.rows) == 3
    recorded = outcome.observed[PRODUCT.load]
    assert (recorded["inserted"], recorded["updated"], recorded["batches"]) == (3, 0, 3)
    assert "not_attempted_batches" not in recorded, "it is not known, so it is not shown as zero"
    assert PRODUCT.load not in outcome.materialized
    said = "The run was interrupted. The current batch was rolled back. Written before that, and kept: 3 inserted, "
    assert said in lines(outcome)[-1]
    assert said in own_sentence(ends(outcome)[-1])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_chain_of_errors_below_a_sentence_is_in_the_log_at_debug(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CART_DB_URL", "postgresql://somebody@127.0.0.1:1/cart")
    outcome = shop.run(config={"loggers": {"console": {"config": {"log_level": "DEBUG"}}}})
    assert "Traceback (most recent call last)" in outcome.log
