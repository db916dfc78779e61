"""Checks `deploy/` as far as it goes without a container engine, a cluster or a running systemd.

That its commands start, `test_deployment_services.py` shows.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from psycopg.conninfo import conninfo_to_dict

from product_sync.embedded.servers import Servers
from product_sync_tests.databases import cart_database
from product_sync_tests.deploy import (
    DEPLOY,
    OURS,
    ROOT,
    UNITS,
    compose,
    env_file,
    env_files,
    helm_values,
    started,
    unit,
)
from product_sync_tests.docs.test_guide import defaults, told, variables_read, written
from product_sync_tests.market import Market, products

STATE = "PRODUCT_SYNC_STATE"

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
FOR_DAGSTER = {"DAGSTER_HOME", "DAGSTER_PG_URL"}
#: Where the files of `deploy/` set the variable, or nobody needs it there.
ELSEWHERE = FOR_DAGSTER | {"PRODUCT_SYNC_STATE", "XDG_STATE_HOME", "PRODUCT_SYNC_MONGOD", "TMPDIR"}
#: Of the driver of S3 (docs/scale.md).
OF_S3 = {"AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
#: Of the official image of PostgreSQL.
OF_POSTGRES = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
#: Directives of systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5) and systemd.timer(5) in use.
KNOWN = {
    "Unit": {"Description", "Documentation", "After", "Wants", "AssertPathExists"},
    "Service": {
        "Type", "User", "WorkingDirectory", "StateDirectory", "StateDirectoryMode", "Environment", "EnvironmentFile",
        "ExecStart", "Restart", "RestartSec", "TimeoutStopSec", "NoNewPrivileges", "PrivateTmp", "ProtectHome",
        "ProtectSystem",
    },
    "Timer": {"OnCalendar", "RandomizedDelaySec", "Persistent"},
    "Install": {"WantedBy"},
}  # fmt: skip
#: Keys of the chart that are in use, as its own schema names them (helm/dagster/schema in dagster-io/dagster). What is
#: below a key that holds None is Kubernetes' or Dagster's.
CHART: dict[str, Any] = {
    "dagsterHome": None,
    "dagsterWebserver": {
        "image": {"repository", "tag", "pullPolicy"}, "service": {"type", "port"}, "readinessProbe": None,
    },
    "dagsterDaemon": {
        "image": {"repository", "tag", "pullPolicy"},
        "runCoordinator": {
            "enabled": None,
            "type": None,
            "config": {"queuedRunCoordinator": {"maxConcurrentRuns", "dequeueIntervalSeconds"}},
        },
        "runMonitoring": {"enabled"},
    },
    "dagster-user-deployments": {
        "enabled": None,
        "deployments": [
            {
                "name": None, "image": {"repository", "tag", "pullPolicy"}, "dagsterApiGrpcArgs": None, "port": None,
                "env": None, "envSecrets": None, "volumes": None, "volumeMounts": None, "podSecurityContext": None,
                "securityContext": None, "resources": None, "readinessProbe": None,
                "includeConfigInLaunchedRuns": {"enabled"},
            }
        ],
    },
    "runLauncher": {
        "type": None,
        "config": {"customRunLauncher": {"module", "class", "config"}, "k8sRunLauncher": {"imagePullPolicy"}},
    },
    "postgresql": {"enabled", "postgresqlHost", "postgresqlScheme", "postgresqlUsername", "postgresqlDatabase"},
    "generatePostgresqlPasswordSecret": None,
    "rabbitmq": {"enabled"},
    "redis": {"enabled"},
    "flower": {"enabled"},
    "telemetry": {"enabled"},
    "pythonLogs": {"pythonLogLevel", "managedPythonLoggers"},
    "retention": {"enabled": None, "schedule": {"purgeAfterDays"}, "sensor": {"purgeAfterDays"}},
    "additionalInstanceConfig": None,
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_file_of_yaml_is_valid(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


class TestVariables:
    def test_every_variable_of_an_env_file_is_read_by_somebody(self) -> None:
        assert env_file("dagster.env").keys() <= FOR_DAGSTER | OF_POSTGRES
        assert env_file("sync.env").keys() <= variables_read()
        assert env_file("store.env").keys() == {STATE} | OF_S3

    def test_every_variable_of_the_sync_is_in_its_env_file(self) -> None:
        assert env_file("sync.env").keys() == variables_read() - ELSEWHERE

    def test_what_is_commented_out_is_the_default(self) -> None:
        commented = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (DEPLOY / "sync.env.example").read_text(), re.MULTILINE))
        expected = defaults()
        assert {name: told(value) for name, value in commented.items()} == {
            name: written(expected.get(name)) for name in commented
        }

    def test_variables_that_are_set_elsewhere_are_read_too(self) -> None:
        for service in compose()["services"].values():
            assert service.get("environment", {}).keys() <= variables_read() | OF_POSTGRES
        for path in UNITS:
            assert {name for name, _ in set_by(path)} <= variables_read() | {"PATH"}, path.name
        own = {"PATH", "PYTHONUNBUFFERED", "ARROW_DEFAULT_MEMORY_POOL"}
        assert set(re.findall(r"^(?:ENV|   ) (\w+)=", DOCKERFILE, re.MULTILINE)) <= variables_read() | own
        assert {variable["name"] for variable in deployment(folder=True)["env"]} <= variables_read()

    def test_only_the_code_location_knows_the_two_sides(self) -> None:
        services = compose()["services"]
        for file in ("sync.env", "store.env"):
            assert [name for name in OURS if file in env_files(services[name])] == ["code-location"]
        assert all("dagster.env" in env_files(services[name]) for name in OURS)
        for name in OURS:
            files = unit(DEPLOY / "systemd" / f"product-sync-{name}.service")["Service"]["EnvironmentFile"]
            assert ("/etc/product_sync/sync.env" in files) is (name == "code-location")
            assert "/etc/product_sync/dagster.env" in files


def set_by(path: Path) -> Iterator[tuple[str, str]]:
    for text in unit(path).get("Service", {}).get("Environment", ()):
        for word in shlex.split(text):
            name, _, value = word.partition("=")
            yield name, value


class TestDockerfile:
    def test_what_is_copied_exists_and_is_sent_to_the_builder(self) -> None:
        ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
        kept = [line[1:] for line in ignored if line.startswith("!")]
        assert ignored[0] == "*"
        for source in copied():
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
        assert sorted(kept) == sorted(copied()), "nothing else is sent"

    def test_what_is_copied_is_enough_to_build_the_package(self, tmp_path: Path) -> None:
        """The step of the image that can fail for lack of a file; what it installs besides comes from the index."""
        context = tmp_path / "context"
        context.mkdir()
        for source in copied():
            if source.startswith(("deploy", "dagster.yaml")):
                continue
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, context)
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(tmp_path)]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=context, check=True, timeout=120)
        [wheel] = tmp_path.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        data = {"schema/product.yaml", "report/drift_page.html", "py.typed", "cli.py"}
        assert {f"product_sync/{name}" for name in data} <= set(names)

    def test_it_runs_as_nobody_in_particular_and_knows_no_index(self) -> None:
        assert re.search(r"^USER \d+$", DOCKERFILE, re.MULTILINE)
        assert "://" not in DOCKERFILE
        assert DOCKERFILE.count("--constraint constraints.txt") == DOCKERFILE.count("pip install ")

    def test_the_state_and_the_logs_are_volumes_of_the_compose_file(self) -> None:
        mounted = {volume.partition(":")[2] for volume in compose()["services"]["code-location"]["volumes"]}
        declared = set(re.findall(r'"([^"]+)"', DOCKERFILE.partition("VOLUME")[2].partition("\n")[0]))
        assert mounted == declared


def test_without_the_services_an_empty_dagster_home_is_none(market: Market) -> None:
    """The image sets it; `docs/deployment.md` unsets it in this way for a sync by a timer."""
    market.stock(products(2))
    counted = market.run("stats", "--json", DAGSTER_HOME="")
    assert (counted.status, counted.answer["source_count"]) == (0, 2)
    assert (market.state / "dagster" / "dagster.yaml").exists()


def copied() -> list[str]:
    """What the Dockerfile copies from its context."""
    found: list[str] = []
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        if not line.startswith("--from"):
            found += line.split()[:-1]
    return found


class TestSystemd:
    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
    def test_every_key_is_one_that_systemd_knows(self, path: Path) -> None:
        for section, keys in unit(path).items():
            assert keys.keys() <= KNOWN[section], section

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="the keys are compared with a list above")
    def test_systemd_itself_finds_no_fault(self, tmp_path: Path) -> None:
        for path in UNITS:
            text = path.read_text().replace("/opt/product_sync/.venv/bin", str(Path(sys.executable).parent))
            (tmp_path / path.name).write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")

    def test_the_services_are_started_as_in_the_compose_file(self) -> None:
        """Which `test_deployment_services.py` starts."""
        for name in OURS:
            command = compose()["services"][name]["command"]
            here = [word.replace("0.0.0.0", "127.0.0.1") for word in command]  # noqa: S104 - that it is not, here
            here = [word.replace("/opt/dagster/dagster_home", "/etc/product_sync") for word in here]
            assert started(DEPLOY / "systemd" / f"product-sync-{name}.service") == here

    def test_the_timer_starts_a_plain_sync(self) -> None:
        """Which `test_cli.py` does all the time."""
        assert started(DEPLOY / "systemd" / "product-sync.service") == ["product-sync", "sync"]
        assert (DEPLOY / "systemd" / "product-sync.timer") in UNITS


def deployment(*, folder: bool) -> dict[str, Any]:
    """The code location in the values of Helm."""
    [found] = helm_values(folder=folder)["dagster-user-deployments"]["deployments"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("folder", [False, True], ids=["the state in a store", "the state in a folder"])
class TestHelm:
    def test_every_key_is_one_that_the_chart_knows(self, folder: bool) -> None:
        unknown(helm_values(folder=folder), CHART, "values")

    def test_the_code_location_is_started_as_in_the_compose_file(self, folder: bool) -> None:
        command = compose()["services"]["code-location"]["command"]
        assert command[-2:] == deployment(folder=folder)["dagsterApiGrpcArgs"]
        assert command[command.index("-p") + 1] == str(deployment(folder=folder)["port"])

    def test_its_user_and_folders_are_those_of_the_image(self, folder: bool) -> None:
        assert f"USER {deployment(folder=folder)['securityContext']['runAsUser']}\n" in DOCKERFILE
        assert f"DAGSTER_HOME={helm_values(folder=folder)['dagsterHome']} " in DOCKERFILE
        mounts = [mount["mountPath"] for mount in deployment(folder=folder).get("volumeMounts", ())]
        assert mounts == (re.findall(r"PRODUCT_SYNC_STATE=(.+)\n", DOCKERFILE) if folder else [])

    def test_the_instance_that_the_chart_makes_of_it_is_one(
        self, folder: bool, servers: Servers, tmp_path: Path
    ) -> None:
        """The chart's templates write this into dagster.yaml."""
        values = helm_values(folder=folder)
        queue = values["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
        (tmp_path / "kubeconfig").write_text(KUBECONFIG)
        with cart_database(servers) as url:
            content = {
                "storage": {"postgres": {"postgres_db": database(url, values["postgresql"])}},
                "run_launcher": launcher(values["runLauncher"], tmp_path / "kubeconfig"),
                "run_coordinator": {
                    "module": "dagster",
                    "class": values["dagsterDaemon"]["runCoordinator"]["type"],
                    "config": {
                        "max_concurrent_runs": queue["maxConcurrentRuns"],
                        "dequeue_interval_seconds": queue["dequeueIntervalSeconds"],
                    },
                },
                "run_monitoring": {"enabled": values["dagsterDaemon"]["runMonitoring"]["enabled"]},
                **values["additionalInstanceConfig"],
            }
            (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(content))
            with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
                run = instance.create_run_for_job(nothing)
                instance.report_engine_event("an event is written, which is what the driver decides about", run)
                assert instance.run_launcher.__class__ is (dg.DefaultRunLauncher if folder else K8sRunLauncher)
                if not folder:
                    nothing_is_mounted_in_the_pod_of(run, instance, deployment(folder=False))


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {token: none}}]
current-context: none
"""


def launcher(values: dict[str, Any], kubeconfig: Path) -> dict[str, Any]:
    """What the chart's template writes of ``runLauncher``; in the cluster it finds the config of the cluster."""
    if values["type"] == "CustomRunLauncher":
        given: dict[str, Any] = values["config"]["customRunLauncher"]
        return given
    assert values["type"] == "K8sRunLauncher", "the chart's own"
    config = {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
        "job_namespace": "shop",
        "image_pull_policy": values["config"]["k8sRunLauncher"]["imagePullPolicy"],
        "service_account_name": "dagster",
        "dagster_home": helm_values()["dagsterHome"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": "dagster-postgresql-secret",
    }
    return {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}


def nothing_is_mounted_in_the_pod_of(
    run: dg.DagsterRun, instance: dg.DagsterInstance, code_location: dict[str, Any]
) -> None:
    """The job of Kubernetes for a run, as the launcher makes it of what the chart gives the code location."""
    assert code_location["includeConfigInLaunchedRuns"] == {"enabled": True}
    run_launcher = instance.run_launcher
    assert isinstance(run_launcher, K8sRunLauncher)
    context = run_launcher.get_container_context_for_run(run).merge(
        K8sContainerContext(
            env_secrets=[secret["name"] for secret in code_location["envSecrets"]],
            resources=code_location["resources"],
            run_k8s_config=UserDefinedDagsterK8sConfig(
                container_config={"security_context": code_location["securityContext"]}
            ),
        )
    )
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(job_image="product_sync:0.1.0", run_launcher=run_launcher),
        args=["dagster", "api", "execute_run"],
        job_name="run",
        user_defined_k8s_config=context.run_k8s_config,
    )
    pod = job.spec.template.spec
    [container] = pod.containers
    assert (pod.volumes, container.volume_mounts) == ([], [])
    assert {source.secret_ref.name for source in container.env_from} == {"product-sync", "product-sync-store"}
    assert container.security_context.run_as_non_root
    assert container.resources.limits == {"memory": "1Gi"}


@dg.op
def none() -> None: ...


@dg.job
def nothing() -> None:
    none()


def database(url: str, values: dict[str, Any]) -> dict[str, Any]:
    known = conninfo_to_dict(url)
    return {
        "username": known["user"],
        "password": known.get("password", ""),
        "hostname": known["host"],
        "port": int(str(known["port"])),
        "db_name": known["dbname"],
        "scheme": values["postgresqlScheme"],
    }


def unknown(values: object, known: object, where: str) -> None:
    """Fail for a key of ``values`` that is not in ``known``."""
    if isinstance(values, dict) and isinstance(known, dict | set):
        assert values.keys() <= (known if isinstance(known, set) else known.keys()), where
        for key, value in values.items():
            unknown(value, known[key] if isinstance(known, dict) else None, f"{where}.{key}")
    elif isinstance(values, list) and isinstance(known, list):
        for value in values:
            unknown(value, known[0], where)
