"""However a run fails, nothing that it writes holds a password: not as it is, percent-encoded or in base64.

Every test fails a run in another way, with passwords planted in both addresses; one search at the end of each goes
through the state folder (snapshots, diff, quarantine, plans), Dagster's runs, events and compute logs, the report, the
log and both output streams.
"""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.results import Report
from product_sync.runtime.progress import Progress
from product_sync_tests.databases import another_sync
from product_sync_tests.market import Market, product, products
from product_sync_tests.network import proxy
from product_sync_tests.planted import findings, forms
from product_sync_tests.run_history import put_history
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod
from product_sync_tests.targets.postgres_tables import Role, role
from product_sync_tests.tls import issue, through, tls_proxy
from product_sync_tests.warm_process import started

SOURCE_PASSWORD = "m0ngo p@ss/w:rd%é-planted"
TARGET_PASSWORD = "pg p@ss/w:rd%ü-planted"
SECRETS = (SOURCE_PASSWORD, TARGET_PASSWORD)
NOBODY = "127.0.0.1:1"
_HOME = "telemetry: {enabled: false}\npython_logs: {managed_python_loggers: [product_sync], python_log_level: DEBUG}\n"


@pytest.fixture(scope="module")
def guarded() -> Iterator[PrivateMongod]:
    with private_mongod("--auth") as server:
        with MongoClient[dict[str, Any]]("127.0.0.1", server.port) as client:
            client.admin.command("createUser", "root", pwd="root-of-the-test", roles=["root"])
        with MongoClient[dict[str, Any]](
            "127.0.0.1", server.port, username="root", password="root-of-the-test"
        ) as root:
            root["shop"].command("createUser", "reader", pwd=SOURCE_PASSWORD, roles=["read"])
            root["shop"]["products"].insert_many([*products(20), product(20, price="dear")])
        yield server


@dataclass
class Scene:
    """Both sides with planted passwords, and what a run on them said and left behind."""

    market: Market
    guarded: PrivateMongod
    clerk: Role
    home: Path
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    log: pytest.LogCaptureFixture
    said: list[str] = field(default_factory=list)

    @property
    def source_url(self) -> str:
        return self.guarded.url(
            login=f"reader:{quote(SOURCE_PASSWORD, safe='')}@", options="?serverSelectionTimeoutMS=500"
        )

    def fails(self, code: str, run: Callable[[], Report] | None = None, **env: str) -> None:
        """A run that is to fail in this way."""
        self.market.env |= env
        self.market.enter(self.monkeypatch)
        report = (run or self.sync)()
        assert report.failure is not None
        assert report.failure.code == code, report.failure
        self.said += [json.dumps(report.as_json()), repr(report), "".join(traceback.format_exception(report.failure))]

    def sync(self, **switches: Any) -> Report:
        return api.sync(
            **{
                "batch_delay_ms": 0,
                "settle_seconds": 0.0,
                "retry_s": 0.3,
                "lock_wait_s": 0.0,
                "batch_size": 5,
                **switches,
            }
        )

    def dagster(self) -> int:
        """`dagster job execute` in a process, with compute logs in DAGSTER_HOME."""
        job = ("job", "execute", "-m", "product_sync.definitions", "-j", "product_sync")
        with started("dagster", *job, env={**self.market.env, "DAGSTER_HOME": str(self.home)}) as process:
            ended = process.completed()
        self.said += [ended.stdout, ended.stderr]
        return ended.returncode

    def leaks(self) -> list[str]:
        captured = self.capture.readouterr()
        said = "\n".join([*self.said, captured.out, captured.err, self.log.text, *map(repr, self.log.records)])
        return findings([self.market.state, self.home], said, SECRETS)


@pytest.fixture
def scene(
    market: Market,
    guarded: PrivateMongod,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Scene]:
    caplog.set_level("DEBUG", logger="product_sync")
    home = tmp_path / "home"
    put_history(home)
    (home / "dagster.yaml").write_text(_HOME)
    with role(market.cart_url, "GRANT SELECT, INSERT, UPDATE ON product TO {}", password=TARGET_PASSWORD) as clerk:
        made = Scene(market, guarded, clerk, home, monkeypatch, capfd, caplog)
        market.env |= {"PRODUCT_SERVICE_MONGODB_URL": made.source_url, "CART_DB_URL": clerk.url}
        yield made
        assert made.leaks() == []


def elsewhere(url: str, place: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{place}"))


class TestSearch:
    """A search that finds nothing must be one that would find something."""

    @pytest.mark.parametrize("form", sorted(forms(SOURCE_PASSWORD)))
    def test_every_form_is_found_in_every_kind_of_file(self, tmp_path: Path, form: str) -> None:
        (tmp_path / "log").write_text(f"... {form} ...")
        rows, packed = pa.table({"value": [f"<{form}>"] * 3}), pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(str(tmp_path / "rows.arrow"), rows.schema, options=packed) as writer:
            writer.write_table(rows)
        with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
            database.execute("CREATE TABLE event (text)")
            database.execute("INSERT INTO event VALUES (?)", [form])
            database.commit()
        found = {finding.partition(":")[0] for finding in findings([tmp_path], form, [SOURCE_PASSWORD])}
        assert found == {"what was said", *(str(tmp_path / name) for name in ("log", "rows.arrow", "runs.db"))}

    @pytest.mark.parametrize("before", ["", "r", "reader:", "mongodb://"])
    def test_it_is_found_in_base64_wherever_it_begins(self, tmp_path: Path, before: str) -> None:
        said = base64.b64encode(f"{before}{SOURCE_PASSWORD}@host".encode()).decode()
        assert findings([tmp_path], said, [SOURCE_PASSWORD])


class TestAddresses:
    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("PRODUCT_SERVICE_MONGODB_URL", f"mongodb://reader:{SOURCE_PASSWORD}@{NOBODY}/shop"),
            (
                "PRODUCT_SERVICE_MONGODB_URL",
                f"mongodb://{NOBODY}/shop?tls=maybe&tlsCertificateKeyFilePassword={SOURCE_PASSWORD}",
            ),
            ("PRODUCT_SERVICE_MONGODB_URL", f"http://reader:{SOURCE_PASSWORD}@{NOBODY}/shop"),
            ("CART_DB_URL", f"postgresql://clerk:{TARGET_PASSWORD}@{NOBODY}/cart"),
            ("CART_DB_URL", f"postgresql://clerk@{NOBODY}/cart?password={quote(TARGET_PASSWORD)}&pgbouncer=1"),
            ("CART_DB_URL", f"host=127.0.0.1 port=x user=clerk password='{TARGET_PASSWORD}'"),
        ],
    )
    def test_one_that_cannot_be_read(self, scene: Scene, name: str, url: str) -> None:
        scene.market.env[name] = url
        scene.fails("configuration")

    def test_servers_that_are_not_there(self, scene: Scene) -> None:
        scene.fails("unreachable", PRODUCT_SERVICE_MONGODB_URL=elsewhere(scene.source_url, NOBODY))
        scene.fails(
            "unreachable",
            PRODUCT_SERVICE_MONGODB_URL=scene.source_url,
            CART_DB_URL=elsewhere(scene.clerk.url, NOBODY),
        )
        scene.fails("unreachable", run=api.doctor)

    def test_passwords_that_are_wrong(self, scene: Scene) -> None:
        scene.fails(
            "access_denied",
            PRODUCT_SERVICE_MONGODB_URL=scene.guarded.url(),
            MONGO_USER="reader",
            MONGO_PASSWORD=TARGET_PASSWORD,
        )
        scene.fails(
            "access_denied",
            MONGO_PASSWORD=SOURCE_PASSWORD,
            CART_DB_URL=scene.clerk.url.replace(quote(TARGET_PASSWORD, safe=""), quote(SOURCE_PASSWORD, safe="")),
        )

    def test_servers_that_are_not_the_ones_asked_for(self, scene: Scene, tmp_path: Path) -> None:
        certificates = issue(tmp_path)
        with ExitStack() as stack:
            target = stack.enter_context(tls_proxy(scene.clerk.url, certificates.expired, greets=True))
            source = stack.enter_context(tls_proxy(scene.guarded.url(), certificates.expired, greets=False))
            tls = f"tls=true&tlsCAFile={certificates.ca}&serverSelectionTimeoutMS=500"
            scene.fails("untrusted", PRODUCT_SERVICE_MONGODB_URL=through(scene.source_url, source.port, options=tls))
            scene.fails(
                "untrusted",
                PRODUCT_SERVICE_MONGODB_URL=scene.source_url,
                CART_DB_URL=through(
                    scene.clerk.url, target.port, options=f"sslmode=verify-full&sslrootcert={certificates.ca}"
                ),
            )


class TestRuns:
    def test_all_goes_well(self, scene: Scene) -> None:
        scene.market.enter(scene.monkeypatch)
        assert scene.sync(quarantine_budget=1.0).failure is None
        assert scene.sync(quarantine_budget=1.0, dry_run=True).failure is None

    def test_a_table_that_is_not_there_and_a_right_that_is_missing(self, scene: Scene) -> None:
        scene.market.sql(f"REVOKE INSERT ON product FROM {scene.clerk.name}")
        scene.fails("access_denied")
        scene.market.sql("ALTER TABLE product RENAME TO another")
        scene.fails("table")

    def test_the_lock_is_taken(self, scene: Scene) -> None:
        with another_sync(scene.market.cart_url):
            scene.fails("already_running")

    def test_the_database_refuses_rows(self, scene: Scene) -> None:
        scene.market.sql("ALTER TABLE product ADD CONSTRAINT fair CHECK (price < 110)")
        scene.fails("load_stopped", lambda: scene.sync(max_isolated_rows=2))
        scene.fails("checks_failed", lambda: scene.sync(max_isolated_rows=1000))

    def test_the_connection_is_lost_for_longer_than_a_batch_is_retried(self, scene: Scene) -> None:
        with proxy(scene.clerk.url) as network:

            def cut(progress: Progress) -> None:
                if progress.stage == "load":
                    network.close()

            url = network.url(scene.clerk.url)
            scene.fails("load_stopped", lambda: scene.sync(on_progress=cut, batch_size=1), CART_DB_URL=url)

    def test_the_right_is_taken_away_in_mid_load(self, scene: Scene) -> None:
        def revoke(progress: Progress) -> None:
            if progress.stage == "load" and progress.done == 5:
                scene.market.sql(f"REVOKE INSERT ON product FROM {scene.clerk.name}")

        scene.fails("load_stopped", lambda: scene.sync(on_progress=revoke))

    def test_it_is_cancelled(self, scene: Scene) -> None:
        def cancel(progress: Progress) -> None:
            if progress.stage == "load":
                raise KeyboardInterrupt

        scene.fails("cancelled", lambda: scene.sync(on_progress=cancel))

    def test_a_bug_ends_it(self, scene: Scene) -> None:
        def stumble(progress: Progress) -> None:
            if progress.stage == "load":
                raise RuntimeError("a bug of the test")

        scene.market.enter(scene.monkeypatch)
        with pytest.raises(RuntimeError, match="a bug of the test") as caught:
            scene.sync(on_progress=stumble)
        scene.said.append("".join(traceback.format_exception(caught.value)))

    def test_dagster_executes_it_and_keeps_its_output(self, scene: Scene) -> None:
        scene.market.sql("ALTER TABLE product ADD CONSTRAINT fair CHECK (price < 110)")
        assert scene.dagster() == 1
        assert list(scene.home.rglob("*.err")), "there are compute logs to look through"

    def test_it_is_killed(self, scene: Scene) -> None:
        with scene.market.start("sync", "--batch-size", "1", "--delay-ms", "500") as command:
            command.wait_until(lambda: scene.market.sql("SELECT 1 FROM product"))
            outcome = command.send(signal.SIGKILL)
        scene.said.append(outcome.everything)
        assert outcome.status == -signal.SIGKILL
