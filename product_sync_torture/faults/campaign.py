"""One round of the campaign: planted drift, a run with an injected fault, the next run, and the verdict.

In a round of passes, both runs are passes (``sync --changes``). A full sync of two equal sides comes before them, then
the events that are lost; a full validation comes after them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import dagster as dg

from product_sync import api
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.watch import look
from product_sync.schema.definition import load_definitions
from product_sync.state.store import StateFolder
from product_sync_torture.faults.judge import Ending, Evidence, Run, judge
from product_sync_torture.faults.kinds import Fault, Injection, Place, Process
from product_sync_torture.faults.machines import Machines
from product_sync_torture.faults.scene import BATCH_SIZE, Scene, plan_drift
from product_sync_torture.surroundings import environment

#: Seconds for a run to end after the fault, and for the server to notice its end.
_RUN_S: Final = 240.0
_LEAVE_S: Final = 60.0
_POLL_S: Final = 0.01
_DELAY_MS: Final = 20
_ATTEMPTS: Final = 20
#: Of passes and of what comes before and after them.
_SETTLE_S: Final = 1.0


@dataclass
class Round:
    """``missed`` counts attempts in which the run ended before the fault. ``ending`` is how the faulted run ended,
    ``None`` for an ending that must not happen."""

    fault: str
    seed: int
    missed: int = 0
    ending: Ending | None = None
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ending = Ending(self.ending) if self.ending else None  # a text, if it was kept in a file


def make_history(folder: Path) -> Path:
    """Create a Dagster home for all runs of a worker. This takes as long as a run."""
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n", encoding="utf-8")
    return folder


def play(machines: Machines, home: Path, fault: Fault, seed: int) -> Round:
    """A round with its own databases. Only the speed of the machine does not depend on the seed. ``home`` comes from
    `make_history`."""
    played = Round(fault.name, seed)
    started = time.monotonic()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for attempt in range(_ATTEMPTS):
            random_ = random.Random(f"{fault.name} {seed} {attempt}")  # noqa: S311 - it has to be repeatable
            if _attempt(machines, home, instance, fault, random_, played):
                break
            played.missed += 1
        else:
            played.violations.append(f"the fault could not be injected in {_ATTEMPTS} attempts")
    played.seconds = time.monotonic() - started
    return played


def _attempt(
    machines: Machines, home: Path, instance: dg.DagsterInstance, fault: Fault, random_: random.Random, played: Round
) -> bool:
    """Whether the fault was injected before the run ended."""
    small_disk = fault.fills_disk and machines.disk is not None
    scene = Scene(machines, f"round_{random_.getrandbits(48):012x}", plan_drift(random_), on_small_disk=small_disk)
    with tempfile.TemporaryDirectory(prefix="product_sync_torture_") as state, ExitStack() as stack:
        stack.callback(scene.remove)
        scene.make(equal=fault.in_pass)
        variables = {"DAGSTER_HOME": str(home)}
        stack.enter_context(environment(scene.source_url, scene.target_url, Path(state), **variables))
        switches: dict[str, Any] = {"batch_size": BATCH_SIZE, "batch_delay_ms": 0}
        if fault.in_pass:
            _store_position(scene, Path(state))
            scene.lose_events()
            switches |= {"changes": True, "settle_seconds": _SETTLE_S}
        known = {run.run_id for run in instance.get_runs(limit=10)}
        faulted = _faulted_run(scene, fault, random_, Path(state))
        if faulted is None:
            return False
        left = _left(scene)
        faulted_id = next((run.run_id for run in instance.get_runs(limit=1) if run.run_id not in known), "")
        report = api.sync(**switches)
        proof = api.validate(settle_seconds=_SETTLE_S) if fault.in_pass else None
        evidence = Evidence(
            scene.drift,
            _run(instance, faulted_id, *faulted),
            _run(instance, report.run_id or "", report.exit_status, report.as_json()),
            scene.documents(),
            scene.rows(),
            scene.writes(),
            left + _left(scene),
            str(proof.failure) if proof and proof.failure else "",
        )
        verdict = judge(evidence, fault.expected)
        played.ending, played.violations = verdict.ending, verdict.violations
    return True


def _store_position(scene: Scene, state: Path) -> None:
    """Prove with a full sync that both sides are equal, and let the watch look at one change: with an event in it, the
    stored position also holds after a restart of the server."""
    api.sync(settle_seconds=_SETTLE_S).raise_for_error()
    scene.touch()
    [definition] = load_definitions(os.environ)
    databases = Databases.of(definition, os.environ)
    found = look(databases, StateFolder(state, databases.state_key), settle_s=_SETTLE_S)
    if found.stored is None or found.events != 1:
        raise AssertionError(f"the watch has found {found}")


def _faulted_run(
    scene: Scene, fault: Fault, random_: random.Random, folder: Path
) -> tuple[int | None, dict[str, Any]] | None:
    """The exit status and the answer of the run; ``None`` if it ended before the fault."""
    place = fault.place()
    with ExitStack() as stack, (folder / "out").open("w+b") as out:
        place.prepare(scene, random_, stack)
        process = stack.enter_context(start(_command(in_pass=fault.in_pass), out))
        if not _reach(place, process):
            return None
        fault.inject(Injection(scene, random_, process, place.go_on, stack))
        try:
            status: int | None = process.wait(_RUN_S)
        except subprocess.TimeoutExpired:
            status = None
        out.seek(0)
        lines = out.read().decode("utf-8", "replace").splitlines()
    return status, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}


def _command(*, in_pass: bool) -> list[str]:
    command = ["product_sync.cli", "sync", "--json", "--batch-size", str(BATCH_SIZE), "--delay-ms", str(_DELAY_MS)]
    return [*command, "--changes", "--settle-seconds", str(_SETTLE_S)] if in_pass else command


@contextmanager
def start(command: Sequence[str], out: IO[bytes]) -> Iterator[Process]:
    """Run a module and its arguments in a process of its own."""
    with subprocess.Popen([sys.executable, "-m", *command], stdout=out, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            yield process
        finally:
            process.kill()


def _reach(place: Place, process: Process) -> bool:
    while not place.reached():
        if process.poll() is not None:
            return False
        time.sleep(_POLL_S)
    return True


def _left(scene: Scene) -> list[str]:
    """Sessions and locks that ended runs still have after the server had time to notice their end."""
    deadline = time.monotonic() + _LEAVE_S
    while (sessions := scene.sessions()) and time.monotonic() < deadline:
        time.sleep(10 * _POLL_S)
    return sessions


def _run(instance: dg.DagsterInstance, run_id: str, exit_status: int | None, answer: dict[str, Any]) -> Run:
    run = instance.get_run_by_id(run_id) if run_id else None
    if run is None:
        return Run(exit_status, answer, "", "", "")
    log = []
    for entry in instance.all_logs(run_id):
        log.append(entry.user_message or entry.message)
        if entry.dagster_event and entry.dagster_event.is_step_failure:
            log.append(str(entry.dagster_event.step_failure_data.error))
    return Run(exit_status, answer, run_id, run.status.value, "\n".join(log))
