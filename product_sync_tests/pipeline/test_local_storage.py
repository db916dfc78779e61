"""A sync and what it has around it on its machine: damaged files, a full disk, no home, somebody else's files."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg
import psycopg.sql
import pytest

from product_sync import show, stats, sync, validate
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.progress import Progress
from product_sync.state.store import SOURCE_ROWS
from product_sync_tests.market import Market, product, products
from product_sync_tests.orchestration.test_local_history import CONFIG, storage_url
from product_sync_tests.receivers import web_receiver
from product_sync_tests.shop import Shop, shop  # noqa: F401 - a fixture
from product_sync_tests.state.test_access import as_another_user, reachable  # noqa: F401 - a fixture

BAD = product(7_000, price="a lot")


def test_damaged_files_are_said_and_begun_anew_and_the_sync_goes_on(
    market: Market, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    market.enter(monkeypatch)
    market.stock([*products(150), BAD])
    assert sync(settle_seconds=0, batch_delay_ms=0).valid
    [baseline] = market.state.glob("*/baseline.json")
    folder = baseline.parent
    damaged = [baseline, folder / "quarantine.arrow", folder / "reports" / "history.json"]
    for path, content in zip(damaged, (b"\0" * 60, b"ARROW1 cut", b""), strict=True):
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "product_sync"):
        assert show("p0001").exit_status == 0
        report = sync(settle_seconds=0)
    assert (report.valid, report.quarantined, report.exit_status) == (True, 1, 0)
    for path in damaged:
        [aside] = path.parent.glob(f"{path.name}.damaged-*")
        assert f"has been set aside as {aside}" in caplog.text
        assert path.stat().st_size > 10
    assert validate(settle_seconds=0).valid


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """What a full disk is to a process: the kernel refuses its writes to files, and nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def from_the_second_batch(do: Callable[[], object]) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if progress.stage == "load" and progress.done == 20:
            do()

    return listen


def test_a_disk_that_is_full_in_the_load_is_named_with_what_was_written_and_leaves_no_half_file(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.stock(products(60))
    full = no_file_may_grow()
    try:
        report = sync(
            batch_size=10, batch_delay_ms=0, settle_seconds=0, on_progress=from_the_second_batch(full.__enter__)
        )
    finally:
        full.__exit__(None, None, None)
    assert report.failure
    assert (report.failure.code, report.exit_status) == ("local_storage", 1)
    assert str(market.state) in report.failure.message
    written = len(market.rows())
    assert report.inserted == written >= 20
    assert f"What was written before stays: inserted {written}." in report.failure.hint
    assert list(market.state.rglob("*.tmp")) == []
    report = sync(batch_delay_ms=0, settle_seconds=0)
    assert (report.valid, report.inserted) == (True, 60 - written)


def test_a_disk_without_room_stops_a_sync_before_it_reads_and_a_person_hears_of_it(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.stock(products(3))
    monkeypatch.setattr("product_sync.state.access.MIN_FREE_BYTES", 2**60)
    with web_receiver() as receiver:
        monkeypatch.setenv("PRODUCT_SYNC_ALERT_URLS", receiver.apprise)
        report = sync()
        assert "of free space, and a run needs" in receiver.alerts[0]["message"]
    assert report.failure
    assert (report.failure.code, report.exit_status, report.run_id) == ("local_storage", 3, None)
    assert not list(market.state.glob("*/runs"))


def test_a_user_without_a_home_is_told_which_variable_to_set(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.enter(monkeypatch)
    for name in ("PRODUCT_SYNC_STATE", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid not found")))
    market.stock(products(3))
    for report in (sync(), validate(), stats(), show("p0001")):
        assert report.failure
        assert (report.failure.code, report.exit_status) == ("configuration", 2)
        assert "PRODUCT_SYNC_STATE is not set" in report.failure.message


@pytest.mark.parametrize("name", ["PRODUCT_SYNC_STATE", "DAGSTER_HOME"])
def test_a_home_of_a_user_who_does_not_exist_is_named(
    market: Market, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    market.enter(monkeypatch)
    monkeypatch.delenv("PRODUCT_SYNC_STATE")
    monkeypatch.setenv(name, "~nobody-here/x")
    report = sync()
    assert report.failure
    assert (report.failure.code, report.exit_status) == ("configuration", 2)
    assert f"{name} is '~nobody-here/x'" in report.failure.message


def test_files_of_another_user_stop_each_command_by_name(
    market: Market,
    monkeypatch: pytest.MonkeyPatch,
    reachable: Path,  # noqa: F811 - the fixture
) -> None:
    market.enter(monkeypatch)
    market.stock([*products(150), BAD])
    assert sync(settle_seconds=0, batch_delay_ms=0).valid
    for path in (market.state, *market.state.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o600)
    with as_another_user():
        reports = sync(), validate(), stats(), show("p0001")
    for report in reports:
        assert report.failure
        assert report.failure.code in ("configuration", "local_storage")
        assert str(market.state) in report.failure.message
        assert "DAGSTER_PG_URL" not in report.failure.hint


def test_a_run_that_dagster_starts_fails_with_the_same_sentence(
    shop: Shop,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path / "file" / "state"))
    outcome = shop.run()
    assert not outcome.success
    [failed, *_] = shop.instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event
    error = failed.dagster_event.step_failure_data.error
    assert error
    assert f"{tmp_path / 'file'} is not a directory. Set PRODUCT_SYNC_STATE" in error.message


def test_a_file_that_goes_away_in_a_step_is_named(
    shop: Shop,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare = SyncRun.diff

    def without_its_file(sync_run: SyncRun) -> object:
        sync_run.files.path(SOURCE_ROWS).unlink()
        return compare(sync_run)

    monkeypatch.setattr(SyncRun, "diff", without_its_file)
    shop.put(product(1))
    outcome = shop.run()
    assert not outcome.success
    assert f"{SOURCE_ROWS} is gone: another process removed it during the run. Run it again." in outcome.failures


def test_a_storage_of_dagster_that_goes_away_in_the_load_is_named_with_what_was_written(
    market: Market, cart_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.stock(products(60))
    (tmp_path / "dagster.yaml").write_text(CONFIG)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_PG_URL", storage_url(cart_url))
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda _: None)

    def lose_storage() -> None:
        with psycopg.connect(market.cart_url, autocommit=True) as other:
            name = psycopg.sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(cart_url)["dbname"]))
            other.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    report = sync(batch_size=10, batch_delay_ms=0, settle_seconds=0, on_progress=from_the_second_batch(lose_storage))
    with psycopg.connect(market.cart_url, autocommit=True) as other:  # the fixture drops it once more
        other.execute(f"CREATE DATABASE {psycopg.conninfo.conninfo_to_dict(cart_url)['dbname']}".encode())
    assert report.failure
    assert (report.failure.code, report.exit_status) == ("unreachable", 1)
    assert "Dagster's own storage cannot be reached" in report.failure.message
    assert report.inserted == len(market.rows()) >= 20
