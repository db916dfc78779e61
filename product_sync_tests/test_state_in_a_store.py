"""The state in an object store: the same results as with a folder, on a new machine each time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from product_sync import api
from product_sync.errors import NotAttempted
from product_sync.orchestration.after_command import notify_of_command
from product_sync.orchestration.names import PRODUCT
from product_sync.results import Report, SyncReport
from product_sync_tests.market import Market, product, products
from product_sync_tests.object_store import S3Server, s3_server, store_url  # noqa: F401 - fixtures
from product_sync_tests.receivers import web_receiver


@pytest.fixture
def in_store(market: Market, store_url: str, s3_server: S3Server, tmp_path: Path) -> Market:  # noqa: F811 - the fixtures
    """A market whose state is in the store."""
    market.env |= {
        **s3_server.env,
        "PRODUCT_SYNC_STATE": store_url,
        "PRODUCT_SYNC_SCRATCH": str(tmp_path / "scratch"),
        "XDG_STATE_HOME": str(tmp_path / "home"),
        "SYNC_QUARANTINE_BUDGET": "1",
        "SYNC_BATCH_DELAY_MS": "0",
    }
    return market


@pytest.fixture
def new_machine(in_store: Market, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Gives this process a scratch folder that knows nothing."""
    numbers = itertools.count()
    in_store.enter(monkeypatch)
    return lambda: monkeypatch.setenv("PRODUCT_SYNC_SCRATCH", str(tmp_path / f"machine{next(numbers)}"))


def story(market: Market, instance: dg.DagsterInstance, begins: Callable[[], None]) -> list[dict[str, Any]]:
    """What a sync, a dry run, its plan, a pass and a validation answer. ``begins`` is called before each."""

    def answer(report: Report) -> dict[str, Any]:
        counts = {name: value for name, value in asdict(report.raise_for_error()).items() if isinstance(value, int)}
        return counts | {"quarantined_by_reason": getattr(report, "quarantined_by_reason", None)}

    def sync(**options: Any) -> SyncReport:
        begins()
        return api.sync(instance=instance, settle_seconds=0.0, **options)

    market.stock([*products(19), product(70, price="12")])
    answers = [answer(sync())]
    market.sql("UPDATE product SET price = 1 WHERE id = 'p0001'")
    planned = sync(dry_run=True)
    answers += [answer(planned), answer(sync(plan=planned.run_id))]
    market.unstock({"_id": "p0002"})
    answers.append(answer(sync(changes=True)))
    begins()
    answers.append(answer(api.validate(instance=instance)))
    begins()
    [entry] = api.quarantine().raise_for_error().entries
    begins()
    shown = api.show("p0001").raise_for_error()
    begins()
    followed = api.stats(instance=instance).raise_for_error()
    answers.append({"attempts": entry.attempts, "earlier": [each.row for each in shown.earlier or ()]})
    answers.append({"unsettled": followed.unsettled, "has_proof": followed.full_proof_at is not None})
    return answers


def test_on_a_new_machine_each_time_the_answers_are_those_of_a_folder(
    in_store: Market,
    history: dg.DagsterInstance,
    new_machine: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    of_store = story(in_store, history, new_machine)
    in_store.unstock({})
    in_store.sql("TRUNCATE product")
    monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path / "state"))
    assert of_store == story(in_store, history, lambda: None)
    first, dry, applied, passed, valid, seen, followed = of_store
    assert (first["inserted"], dry["changed"], applied["updated"], passed["compared"], passed["extra"]) == (
        19,
        1,
        1,
        1,
        1,
    )
    assert (valid["extra_in_target"], seen["attempts"], followed["has_proof"]) == (1, 2, True)
    assert len(seen["earlier"]) > 3


def test_a_bucket_that_may_only_be_read_is_refused_before_anything_is_read(
    in_store: Market,
    history: dg.DagsterInstance,
    new_machine: Callable[[], None],
    s3_server: S3Server,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_store.stock(products(3))
    new_machine()
    for name, value in s3_server.reader_env.items():
        monkeypatch.setenv(name, value)
    refused = api.sync(instance=history).failure
    assert refused is not None
    assert (refused.code, refused.exit_status) == ("access_denied", 3)
    assert "refuses this user: AccessDenied" in refused.message
    assert in_store.rows() == {}
    new_machine()
    [problem] = api.doctor().settings_problems
    assert problem == str(refused)
    assert "the-secret" not in problem


def test_a_command_on_another_machine_knows_which_alerts_were_sent(
    in_store: Market, new_machine: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run history stays on each machine; the record of alerts does not. Of two commands that end at once, both
    are recorded."""
    with web_receiver() as web:
        monkeypatch.setenv("PRODUCT_SYNC_ALERT_URLS", web.apprise)

        def end(sync: str) -> None:
            new_machine()
            failure = NotAttempted("The source is away.")
            notify_of_command(os.environ, PRODUCT.sync_job, failure, datetime.now(UTC), sync)

        def another_one_ends() -> None:
            web.meanwhile = lambda: None
            # Within one process, deliveries to the same URL wait for each other.
            monkeypatch.setenv("PRODUCT_SYNC_ALERT_URLS", f"{web.apprise}&format=text")
            end("seller")

        web.meanwhile = another_one_ends
        end("product")
        assert len(web.titles()) == 2
        for sync in ("product", "seller"):
            end(sync)
        assert len(web.titles()) == 2, "the other machines keep the quiet times of the first two"


def test_a_command_leaves_nothing_in_its_scratch_folder_and_keeps_the_run_history_on_its_machine(
    in_store: Market, tmp_path: Path
) -> None:
    in_store.stock(products(3))
    outcome = in_store.run("sync", "--json")
    assert outcome.answer["inserted"] == 3, outcome.everything
    assert outcome.answer["drift_report"].startswith(in_store.env["PRODUCT_SYNC_STATE"])
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [path.name for path in (tmp_path / "home" / "product_sync").glob("dagster")] == ["dagster"]
