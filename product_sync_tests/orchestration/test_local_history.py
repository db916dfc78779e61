"""The local run history: made once, kept small, replaced where it is damaged; and what Dagster's storage raises."""

import logging
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from product_sync.errors import ConfigurationError, LocalStorageError, Unreachable
from product_sync.orchestration import local_history
from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.names import PRODUCT, STATE_KEY
from product_sync_tests.state.test_access import as_another_user, reachable  # noqa: F401 - a fixture

DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dg.op
def load(context: dg.OpExecutionContext) -> None:
    key = context.run.tags["key"]
    context.log_event(dg.AssetMaterialization(PRODUCT.load, metadata={STATE_KEY: key}))
    if context.run.tags.get("fails"):
        raise dg.Failure("it had to")


@dg.job
def job() -> None:
    load()


def run(instance: dg.DagsterInstance, **tags: str) -> str:
    return job.execute_in_process(run_config=QUIET, instance=instance, tags=tags, raise_on_error=False).run_id


def open_and_run(env: Mapping[str, str], root: Path) -> None:
    with open_instance(env, root) as instance:
        run(instance, key="one")


def files_of(folder: Path, run_id: str) -> list[Path]:
    return list(folder.rglob(f"*{run_id}*"))


def test_commands_that_start_at_once_on_a_new_folder_make_one_history(tmp_path: Path) -> None:
    def count() -> int:
        with open_instance({}, tmp_path) as instance:
            return len(instance.get_runs())

    with ThreadPoolExecutor(4) as threads:
        assert [future.result() for future in [threads.submit(count) for _ in range(4)]] == [0] * 4
    for name in DATABASES:
        with closing(sqlite3.connect(tmp_path / "dagster" / name)) as database:
            assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    assert count() == 0


def test_the_history_keeps_the_newest_runs_and_the_last_successful_sync_of_each_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_history, "KEPT_RUNS", 2)
    folder = tmp_path / "dagster"
    with open_instance({}, tmp_path) as instance:
        first, second, third = run(instance, key="one"), run(instance, key="two"), run(instance, key="one")
        later = [run(instance, key="one", fails="yes") for _ in range(2)]
    with open_instance({}, tmp_path) as instance:
        assert {found.run_id for found in instance.get_runs()} == {second, third, *later}
        assert files_of(folder, first) == []
        assert files_of(folder, second)
        newest = run(instance, key="two")
    with open_instance({}, tmp_path) as instance:
        assert {found.run_id for found in instance.get_runs()} == {third, later[1], newest}
    with closing(sqlite3.connect(folder / "history/runs/index.db")) as index:
        for table in ("event_logs", "asset_check_executions"):
            kept = {row[0] for row in index.execute(f"SELECT run_id FROM {table}")}
            assert kept <= {third, later[1], newest}


def test_a_damaged_history_is_set_aside_and_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "history/runs/index.db"
    with open_instance({}, tmp_path):
        pass
    (tmp_path / "dagster" / name).write_bytes(b"\0" * 9_000)
    with caplog.at_level(logging.WARNING, "product_sync"), open_instance({}, tmp_path) as instance:
        assert run(instance, key="one")
    [aside] = tmp_path.glob("dagster.damaged-*")
    assert (aside / name).read_bytes() == b"\0" * 9_000
    assert f"has been set aside as {aside}" in caplog.text


def test_a_history_that_is_damaged_during_a_run_is_named_and_set_aside(tmp_path: Path) -> None:
    def run_on_damaged() -> None:
        with open_instance({}, tmp_path) as instance:
            run(instance, key="one")
            for file in (tmp_path / "dagster/history/runs").glob("index.db*"):
                file.write_bytes(b"no database" * 1_000)
            run(instance, key="one")

    with pytest.raises(LocalStorageError, match=r"was damaged and has been set aside as .*Run it again"):
        run_on_damaged()
    with open_instance({}, tmp_path) as instance:
        assert instance.get_runs() == []


def test_an_empty_configuration_of_the_history_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster/dagster.yaml").touch()
    with open_instance({}, tmp_path) as instance:
        assert not instance.telemetry_enabled


def test_a_history_that_this_user_may_not_write_is_named(reachable: Path) -> None:  # noqa: F811 - the fixture
    with open_instance({}, reachable):
        pass
    with as_another_user(), pytest.raises((ConfigurationError, LocalStorageError), match=str(reachable)) as raised:
        open_and_run({}, reachable)
    assert "DAGSTER_PG_URL" not in str(raised.value)


def test_a_full_disk_of_the_history_is_named(tmp_path: Path) -> None:
    def run_on_full() -> None:
        with open_instance({}, tmp_path), closing(sqlite3.connect(tmp_path / "dagster/history/runs.db")) as database:
            database.execute("PRAGMA max_page_count = 1")
            database.execute("CREATE TABLE more AS SELECT randomblob(1000000) AS data")

    with pytest.raises(LocalStorageError, match="no space is left on its disk"):
        run_on_full()


CONFIG = "storage:\n  postgres:\n    postgres_url: {env: DAGSTER_PG_URL}\ntelemetry: {enabled: false}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DAGSTER_HOME on PostgreSQL; what is down is found to be down without waiting."""
    (tmp_path / "dagster.yaml").write_text(CONFIG)
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda _: None)
    return tmp_path


@pytest.mark.parametrize(
    ("user", "database", "said"),
    [("nobody9", None, 'user "nobody9"'), (None, "nodb", 'reached: database "nodb" does not exist')],
)
def test_a_storage_that_cannot_be_reached_is_named_by_its_own_words(
    home: Path, cart_url: str, monkeypatch: pytest.MonkeyPatch, user: str | None, database: str | None, said: str
) -> None:
    url = storage_url(cart_url, user, database)
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    with pytest.raises(Unreachable, match=f"{said}.*DAGSTER_PG_URL, which is used by {home}/dagster.yaml") as raised:
        open_and_run({"DAGSTER_HOME": str(home), "DAGSTER_PG_URL": url}, home)
    assert str(psycopg.conninfo.conninfo_to_dict(cart_url)["password"]) not in str(raised.value)


def storage_url(cart_url: str, user: str | None = None, database: str | None = None) -> str:
    found = psycopg.conninfo.conninfo_to_dict(cart_url)
    login, where = f"{user or found['user']}:{found['password']}", f"{found['host']}:{found['port']}"
    return f"postgresql+psycopg2://{login}@{where}/{database or found['dbname']}"


def test_a_storage_that_goes_away_during_a_run_is_named(
    home: Path, cart_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PG_URL", storage_url(cart_url))

    def run_on_gone() -> None:
        with open_instance({"DAGSTER_HOME": str(home)}, home) as instance:
            run(instance, key="one")
            with psycopg.connect(cart_url, autocommit=True) as connection:
                [name] = connection.execute("SELECT current_database()").fetchone() or ()
                connection.execute("ALTER SCHEMA public RENAME TO gone")
                connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
                connection.execute("CREATE SCHEMA public")
            run(instance, key="one")

    with pytest.raises(Unreachable, match="Dagster's own storage") as raised:
        run_on_gone()
    assert "DAGSTER_PG_URL" not in str(raised.value), "it is not in the environment that was given"


def test_a_variable_that_the_configuration_reads_and_nobody_has_set_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_PG_URL", raising=False)
    with pytest.raises(ConfigurationError, match=f"DAGSTER_PG_URL is not set, and {home}/dagster.yaml reads it"):
        open_and_run({"DAGSTER_HOME": str(home)}, home)


@pytest.mark.parametrize("text", ["a: [", "unknown: 1\n"])
def test_a_configuration_that_dagster_does_not_accept_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "dagster.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=f"does not accept {tmp_path}/dagster.yaml"):
        open_and_run({"DAGSTER_HOME": str(tmp_path)}, tmp_path)


def test_a_home_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=f"DAGSTER_HOME is '{tmp_path}', which cannot be used: Is a directory"):
        open_and_run({"DAGSTER_HOME": str(tmp_path)}, tmp_path)


def test_a_history_that_another_command_does_not_let_go_of_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_history, "_LOCK_S", 0.1)
    with local_history.opening(tmp_path), pytest.raises(LocalStorageError, match=r"dagster\.lock"):
        open_and_run({}, tmp_path)
