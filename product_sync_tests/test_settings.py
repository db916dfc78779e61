"""Every setting: its source, its precedence, and the error of a value that is not valid."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from product_sync.errors import ConfigurationError
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import SourceSpec, load_definition
from product_sync.settings import (
    NotificationSettings,
    RunOptions,
    ScheduleSettings,
    state_root,
)

WHOLE_NUMBERS = {"batch_size", "batch_delay_ms", "accept_source_count", "max_isolated_rows", "shards"}
#: Settings that a person gives as a number. New ones belong here: the test below compares this with the declaration.
NUMBERS = {
    "target_batch_s", "max_duty", "settle_seconds", "source_recheck_after_s", "retry_s", "lock_wait_s",
    "max_delete_share",
    "quarantine_budget", "max_plan_age_s", "max_drift_growth", *WHOLE_NUMBERS,
}  # fmt: skip
ABOVE_ZERO = {"batch_size", "shards", "target_batch_s", "max_duty"}
UNLIMITED = {"accept_source_count", "max_isolated_rows", "max_drift_growth"}


def test_every_number_is_known_to_the_tests_of_the_bounds() -> None:
    numbers = {name: option for name, option in RunOptions.each().items() if option.type in (int, float)}
    assert numbers.keys() == NUMBERS
    assert all(option.bounds and option.unit for option in numbers.values())


class TestRunOptions:
    def test_the_defaults_are_those_of_the_original_design(self) -> None:
        settings = RunOptions.resolve({}, {})
        assert (settings.batch_size, settings.batch_delay_ms) == (100, 100)
        assert (settings.dry_run, settings.extra, settings.settle_seconds) == (False, "report", 5.0)

    def test_the_environment_wins_over_the_defaults_and_a_caller_over_both(self) -> None:
        env = {"SYNC_BATCH_SIZE": "7", "SYNC_BATCH_DELAY_MS": "0"}
        assert RunOptions.resolve(env, {}).batch_size == 7
        assert RunOptions.resolve(env, {"batch_size": 9}).batch_size == 9
        assert RunOptions.resolve(env, {"batch_size": None}).batch_delay_ms == 0

    def test_the_pacing_is_fixed_unless_it_is_told_otherwise(self) -> None:
        settings = RunOptions.resolve({}, {})
        assert (settings.pacing, settings.target_batch_s, settings.max_duty) == ("fixed", 0.006, 0.03)
        assert RunOptions.resolve({"SYNC_PACING": "adaptive"}, {}).pacing == "adaptive"
        assert RunOptions.resolve({"SYNC_PACING": "adaptive"}, {"pacing": "fixed"}).pacing == "fixed"
        with pytest.raises(ConfigurationError, match="SYNC_PACING is 'off'"):
            RunOptions.resolve({"SYNC_PACING": "off"}, {})

    def test_an_empty_variable_is_as_good_as_none(self) -> None:
        assert RunOptions.resolve({"SYNC_BATCH_SIZE": " "}, {}) == RunOptions()

    @pytest.mark.parametrize("value", ["0", "-5", "100001", "1e3", "ten", "1.5"])
    def test_a_batch_size_that_cannot_be_is_named(self, value: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            RunOptions.resolve({"SYNC_BATCH_SIZE": value}, {})
        assert "SYNC_BATCH_SIZE" in caught.value.message
        assert value in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("dry_run", "yes"),
            ("accept_changes", 1),
            ("probe", "false"),
            ("extra", "remove"),
            ("pacing", "slow"),
            ("target_batch_s", 0),
            ("max_duty", 0),
            ("quarantine_budget", -0.01),
            ("max_delete_share", 1.1),
            *((name, value) for name in sorted(NUMBERS) for value in (-1, True, "7")),
            *((name, 10**30) for name in sorted(NUMBERS - UNLIMITED)),
            *((name, value) for name in sorted(NUMBERS - WHOLE_NUMBERS) for value in (math.nan, math.inf)),
            *((name, 1.5) for name in sorted(WHOLE_NUMBERS)),
        ],
    )
    def test_every_bound_is_kept_and_named(self, name: str, value: object) -> None:
        with pytest.raises(ConfigurationError, match=name) as refused:
            RunOptions.resolve({}, {name: value})
        assert f"{value}" in refused.value.message

    @pytest.mark.parametrize(
        ("name", "value"), [*((name, 0) for name in sorted(NUMBERS - ABOVE_ZERO)), ("retry_s", 86_400)]
    )
    def test_the_bounds_themselves_are_allowed(self, name: str, value: float) -> None:
        assert getattr(RunOptions.resolve({}, {name: value}), name) == value

    def test_the_budget_of_the_quarantine_may_stand_in_the_environment(self) -> None:
        env = {"SYNC_QUARANTINE_BUDGET": "0.2"}
        assert RunOptions.resolve(env, {}).quarantine_budget == 0.2
        assert RunOptions.resolve(env, {"quarantine_budget": 0.0}).quarantine_budget == 0
        for text in ("2", "nan", "a lot"):
            with pytest.raises(ConfigurationError, match=f"SYNC_QUARANTINE_BUDGET is .*{text}"):
                RunOptions.resolve({"SYNC_QUARANTINE_BUDGET": text}, {})


class TestSchedule:
    def test_the_defaults_are_every_ten_minutes_in_utc_and_off(self) -> None:
        assert ScheduleSettings.from_environment({}) == ScheduleSettings(
            cron="*/10 * * * *", time_zone="UTC", enabled=False
        )

    @pytest.mark.parametrize(("text", "enabled"), [("true", True), ("1", True), ("OFF", False), ("no", False)])
    def test_it_is_switched_in_the_usual_words(self, text: str, enabled: bool) -> None:
        assert ScheduleSettings.from_environment({"ENABLE_SCHEDULER": text}).enabled is enabled

    @pytest.mark.parametrize(
        ("name", "value"), [("TIMEZONE", "Mars/Olympus"), ("TIMEZONE", "../etc"), ("ENABLE_SCHEDULER", "maybe")]
    )
    def test_what_cannot_be_is_named_with_the_form(self, name: str, value: str) -> None:
        with pytest.raises(ConfigurationError, match=name) as caught:
            ScheduleSettings.from_environment({name: value})
        assert value in caught.value.message
        assert caught.value.hint.startswith("Expected: ")


class TestAddresses:
    def test_they_do_not_show_what_they_hold(self) -> None:
        source = SourceAddress("mongodb://u:secret@h/shop", "u", "secret")
        assert "secret" not in f"{source!r} {TargetAddress('postgresql://u:secret@h/cart')!r}"

    def test_an_empty_user_or_password_counts_as_none(self) -> None:
        env = {"PRODUCT_SERVICE_MONGODB_URL": " mongodb://h/shop ", "MONGO_USER": "", "MONGO_PASSWORD": ""}
        assert SourceAddress.from_environment(env, load_definition().source) == SourceAddress("mongodb://h/shop")

    def test_one_that_is_not_set_is_named_with_its_form(self) -> None:
        with pytest.raises(ConfigurationError, match="SHOP_URL is not set") as caught:
            SourceAddress.from_environment({}, SourceSpec(collection="products", url_variable="SHOP_URL"))
        assert "SHOP_URL=mongodb://" in caught.value.hint
        with pytest.raises(ConfigurationError, match="CART_DB_URL is not set") as caught:
            TargetAddress.from_environment({}, load_definition().target)
        assert "CART_DB_URL=postgresql://" in caught.value.hint


class TestFolders:
    def test_the_state_lies_where_it_is_told_to(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        assert state_root({"PRODUCT_SYNC_STATE": str(tmp_path), "DAGSTER_HOME": str(home)}) == tmp_path

    def test_else_it_lies_beside_the_dagster_instance(self, tmp_path: Path) -> None:
        assert state_root({"DAGSTER_HOME": str(tmp_path)}).parent == tmp_path

    def test_else_in_the_user_s_state_folder(self, tmp_path: Path) -> None:
        assert state_root({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "product_sync"
        assert state_root({}) == Path.home() / ".local" / "state" / "product_sync"


class TestNotificationSettings:
    def test_nobody_is_told_by_default(self) -> None:
        assert NotificationSettings.from_environment({}) == NotificationSettings()
        assert (NotificationSettings().quiet_minutes, NotificationSettings().warn_quiet_minutes) == (60, 1_440)

    def test_alert_urls_stand_on_lines_or_between_commas_and_may_hold_commas(self) -> None:
        text = "slack://a/b/c, mailto://u:p@h?to=a@x,b@y\n  json://h/1,json://h/2"
        assert NotificationSettings.from_environment({"PRODUCT_SYNC_ALERT_URLS": text}).alert_urls == (
            "slack://a/b/c", "mailto://u:p@h?to=a@x,b@y", "json://h/1", "json://h/2",
        )  # fmt: skip

    @pytest.mark.parametrize("value", ["-1", "an hour", "nan", "inf"])
    def test_a_quiet_time_that_cannot_be_is_named(self, value: str) -> None:
        for name in ("PRODUCT_SYNC_ALERT_QUIET_MINUTES", "PRODUCT_SYNC_ALERT_WARN_QUIET_MINUTES"):
            with pytest.raises(ConfigurationError, match=name):
                NotificationSettings.from_environment({name: value})

    @pytest.mark.parametrize(
        "name", ["PRODUCT_SYNC_UI_URL", "PRODUCT_SYNC_HEARTBEAT_URL", "PRODUCT_SYNC_METRICS_PUSH_URL"]
    )
    def test_an_address_that_is_none_is_named_and_not_shown(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=name) as refused:
            NotificationSettings.from_environment({name: "file:///sesame"})
        assert "sesame" not in str(refused.value)

    def test_it_shows_nothing_of_itself(self) -> None:
        settings = NotificationSettings.from_environment({"PRODUCT_SYNC_ALERT_URLS": "slack://sesame"})
        assert "sesame" not in f"{settings!r} {settings}"
