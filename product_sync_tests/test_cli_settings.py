"""A setting that is given on the command line wins, and one that cannot be is refused before anything is read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from product_sync import api, cli
from product_sync.results import StatsReport, SyncReport, ValidationReport
from product_sync.settings import RunOptions
from product_sync_tests.market import Market

PLAN = "00000000-0000-4000-8000-000000000000"
#: Each setting as a person types it, and what comes of it. ``--no-probe`` and ``--delay-ms`` are told otherwise.
TYPED: dict[str, tuple[list[str], Any]] = {
    "dry_run": (["--dry-run"], True),
    "batch_size": (["--batch-size", "7"], 7),
    "batch_delay_ms": (["--delay-ms", "0"], 0),
    "pacing": (["--pacing", "adaptive"], "adaptive"),
    "ids": (["--id", "a", "--id", "b"], ["a", "b"]),
    "changes": (["--changes"], True),
    "target_batch_s": (["--target-batch-s", "0.5"], 0.5),
    "max_duty": (["--max-duty", "0.5"], 0.5),
    "extra": (["--extra", "delete"], "delete"),
    "accept_source_count": (["--accept-source-count", "0"], 0),
    "accept_changes": (["--accept-changes"], True),
    "settle_seconds": (["--settle-seconds", "1"], 1.0),
    "source_recheck_after_s": (["--source-recheck-after-s", "2"], 2.0),
    "retry_s": (["--retry-s", "3"], 3.0),
    "lock_wait_s": (["--lock-wait-s", "5"], 5.0),
    "max_isolated_rows": (["--max-isolated-rows", "4"], 4),
    "shards": (["--shards", "8"], 8),
    "max_delete_share": (["--max-delete-share", "0.1"], 0.1),
    "quarantine_budget": (["--quarantine-budget", "0"], 0.0),
    "probe": (["--no-probe"], False),
    "plan": (["--plan", PLAN], PLAN),
    "max_plan_age_s": (["--max-plan-age-s", "60"], 60.0),
    "max_drift_growth": (["--max-drift-growth", "0"], 0.0),
}


class Called(dict[str, Any]):
    """What the functions behind the commands were called with."""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    found = Called()
    reports = {"sync": SyncReport(), "validate": ValidationReport(), "stats": StatsReport()}
    for name, report in reports.items():
        monkeypatch.setattr(api, name, lambda *_, report=report, **arguments: [found.update(arguments), report][1])
    return found


def typed(*arguments: str) -> None:
    assert CliRunner().invoke(cli.cli, arguments).exit_code == 0, arguments


def test_every_setting_has_a_flag() -> None:
    assert TYPED.keys() == RunOptions.model_fields.keys()


@pytest.mark.parametrize("name", TYPED)
def test_a_flag_of_sync_reaches_its_setting_and_no_other(name: str, called: Called) -> None:
    flags, value = TYPED[name]
    typed("sync")
    left_out = dict(called)
    typed("sync", *flags)
    assert called[name] == value
    for other in TYPED.keys() - {name}:
        assert called[other] == left_out[other] in (None, False), other


@pytest.mark.parametrize("name", ["settle_seconds", "accept_source_count", "quarantine_budget"])
def test_validate_takes_those_that_concern_it(name: str, called: Called) -> None:
    flags, value = TYPED[name]
    typed("validate", *flags)
    assert called[name] == value


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), (" 1d ", 86_400)])
def test_the_age_of_the_last_sync_has_a_unit(text: str, seconds: int, called: Called) -> None:
    typed("stats", "--max-age", text)
    assert called["max_age"] == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "1.5h", "30 m", "5w", "9999999d"])
def test_another_form_of_that_age_is_named_and_refused(text: str) -> None:
    refused = CliRunner().invoke(cli.cli, ["stats", "--max-age", text])
    assert refused.exit_code == 2
    assert f"Invalid value for '--max-age': {text!r} is not a number with s, m, h or d" in refused.output


@pytest.mark.parametrize("name", sorted(TYPED.keys() - {"dry_run"}))
def test_the_function_behind_it_refuses_a_value_that_cannot_be_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("PRODUCT_SERVICE_MONGODB_URL", "CART_DB_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path / "state"))
    impossible: dict[str, Any] = {name: -1}
    report = api.sync(**impossible)
    assert report.exit_status == 2
    assert name in str(report.failure)
    assert not (tmp_path / "state").exists()


def test_a_negative_count_of_the_source_is_refused_before_anything_is_read(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.forget_all()
    for report in (api.sync(accept_source_count=-1), api.validate(accept_source_count=-1)):
        assert report.exit_status == 2
        assert "accept_source_count is -1. Expected: a whole number, 0 or more (documents)." in str(report.failure)
    assert not market.state.exists()


def test_the_source_has_at_least_the_accepted_count_and_the_help_says_so(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.stock([{"_id": "a"}])
    market.unstock({})
    with dg.DagsterInstance.ephemeral() as instance:
        refused = api.validate(instance=instance)
        assert refused.exit_status == 1
        assert "run `product-sync sync --accept-source-count 0`" in str(refused.failure)
        assert api.validate(accept_source_count=0, instance=instance).exit_status == 0
    for command in ("sync", "validate"):
        shown = " ".join(CliRunner().invoke(cli.cli, [command, "--help"]).output.split())
        assert "Accept a source of at least this many documents" in shown
