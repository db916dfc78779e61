"""The three services of `deploy/compose.yaml` on one storage: its very commands, on free ports, without the containers.

The units of systemd and the values of Helm start the same ones (`test_deployment.py`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from product_sync.embedded.process import free_port
from product_sync.embedded.servers import Servers
from product_sync_tests.databases import cart_database
from product_sync_tests.deploy import DEPLOY, OURS, ROOT, compose, env_file, env_files
from product_sync_tests.market import Market, clean_environment, open_market, products

_LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""
_STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_LOCATION = {"repositoryLocationName": "product_sync", "repositoryName": "__repository__", "jobName": "product_sync"}


@dataclass(frozen=True)
class Services:
    """The started services by name. ``check`` runs the health check of the compose file."""

    market: Market
    port: int
    processes: Mapping[str, subprocess.Popen[bytes]]
    logs: Path
    check: Callable[[str], subprocess.CompletedProcess[str]]

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self.port}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own
            content: dict[str, Any] = json.load(answer)
        assert "errors" not in content, content
        data: dict[str, Any] = content["data"]
        return data

    def status(self, run: str) -> str:
        return str(self.ask(_STATUS, run=run)["runOrError"]["status"])

    def wait_until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 180
        while not holds():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not dead, (self.logs / f"{dead[0]}.log").read_text()
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=5):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def services(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    ports = {"4000": str(free_port()), "3000": str(free_port())}
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    workspace = (DEPLOY / "workspace.yaml").read_text().replace("code-location", "127.0.0.1")
    (home / "workspace.yaml").write_text(workspace.replace("4000", ports["4000"]))

    def here(word: str) -> str:
        """A word of a command as it is outside of a container."""
        for there, found in {"/opt/dagster/dagster_home": str(home), "0.0.0.0": "127.0.0.1", **ports}.items():  # noqa: S104
            word = word.replace(there, found)
        return word

    with open_market(servers, folder / "state") as market, cart_database(servers) as storage_url:
        market.stock(products(25))
        known = {
            **market.env,
            "DAGSTER_PG_URL": storage_url.replace("postgresql://", "postgresql+psycopg2://"),
            "ENABLE_SCHEDULER": "false",
        }

        def environment(name: str) -> dict[str, str]:
            """What the image and the env files of the service give it."""
            given = [variable for file in env_files(compose()["services"][name]) for variable in env_file(file)]
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            image = {"PATH": path, "DAGSTER_HOME": str(home), "PRODUCT_SYNC_STATE": str(market.state)}
            return {**clean_environment(), **image, **{name: known[name] for name in given if name in known}}

        def check(name: str) -> subprocess.CompletedProcess[str]:
            _, *command = compose()["services"][name]["healthcheck"]["test"]
            return subprocess.run(
                list(map(here, command)),
                env=environment(name),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        with ExitStack() as running:
            processes: dict[str, subprocess.Popen[bytes]] = {}
            found = Services(market, int(ports["3000"]), processes, folder, check)
            for name in OURS:
                command = [here(word) for word in compose()["services"][name]["command"]]
                processes[name] = running.enter_context(_service(command, environment(name), folder / f"{name}.log"))
                if name == "code-location":
                    # As depends_on has it. It would do without, a little later.
                    found.wait_until(lambda: _listens(int(ports["4000"])))
                    found.wait_until(lambda: check("code-location").returncode == 0)
            found.wait_until(found.answers)
            yield found


def _listens(port: int) -> bool:
    """Cheaper to ask than the health check, which is a process that imports Dagster."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def _service(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            yield process
            assert process.poll() is None, log.read_text()
            process.terminate()  # what docker and systemd send
            assert process.wait(90) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), log.read_text()
        finally:
            process.kill()


def test_a_run_that_the_webserver_launches_is_executed_by_the_code_location(services: Services) -> None:
    config = {"resources": {"sync": {"config": {"batch_delay_ms": 0, "settle_seconds": 0.0}}}}
    launched = services.ask(_LAUNCH, parameters={"selector": _LOCATION, "runConfigData": config})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run = launched["run"]["runId"]
    services.wait_until(lambda: services.status(run) in {"SUCCESS", "FAILURE", "CANCELED"})
    assert services.status(run) == "SUCCESS", (services.logs / "code-location.log").read_text()
    assert len(services.market.rows()) == 25


@pytest.mark.parametrize("name", ["daemon", "webserver"])
def test_the_health_checks_say_that_all_is_well(services: Services, name: str) -> None:
    services.wait_until(lambda: services.check(name).returncode == 0)
