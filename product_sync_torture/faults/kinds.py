"""The faults: the point at which each is injected, what it does, and how a run may end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from product_sync_torture.faults.gates import Gate, Side, Stop, Way
from product_sync_torture.faults.judge import Ending, Expected
from product_sync_torture.faults.scene import HALT_KEY, Scene
from product_sync_torture.faults.wire import Step

_STALL_S: Final = (1.0, 5.0)
#: About the number of requests of a run to each server. A later point is never reached, and the attempt is repeated.
_SOURCE_REQUESTS, _TARGET_REQUESTS, _CHANGE_REQUESTS = 25, 120, 2
_LOAD: Final = (Step.BEGIN, Step.WRITE, Step.COMMIT)
_ANY: Final = tuple(step for step in Step if step is not Step.NOISE)


class Process(Protocol):
    """The process of a run, as `subprocess.Popen` has it."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Injection:
    """The fault of one round. ``stack`` undoes it."""

    scene: Scene
    random: random.Random
    process: Process
    go_on: Callable[[Way], None]
    stack: ExitStack


class Place:
    """The point at which a fault is injected. `prepare` is called before the run starts. `reached` is polled; when it
    is true, the run stands still until `go_on`."""

    def prepare(self, scene: Scene, random_: random.Random, stack: ExitStack) -> None:
        raise NotImplementedError

    def reached(self) -> bool:
        raise NotImplementedError

    def go_on(self, way: Way) -> None:
        raise NotImplementedError


@dataclass
class AtRequest(Place):
    """At a random request of one of ``steps`` to one of the servers."""

    steps: tuple[Step, ...]
    side: Side | None = None
    of_source: bool = False

    def prepare(self, scene: Scene, random_: random.Random, stack: ExitStack) -> None:
        gate = scene.machines.source_gate if self.of_source else scene.machines.target_gate
        if self.steps == (Step.CHANGES,):
            count = _CHANGE_REQUESTS
        elif self.steps == _ANY:
            count = _SOURCE_REQUESTS if self.of_source else _TARGET_REQUESTS
        else:
            count = scene.drift.batches * len(self.steps)
        side = self.side or random_.choice([Side.BEFORE, Side.AFTER])
        self._stop = Stop(self.steps, random_.randint(1, count), side)
        gate.stop_at(self._stop)
        stack.callback(gate.stop_at, None)
        stack.callback(self._stop.go_on, Way.RESET)

    def reached(self) -> bool:
        return self._stop.reached.is_set()

    def go_on(self, way: Way) -> None:
        self._stop.go_on(way)


@dataclass
class InServer(Place):
    """During a statement or a COMMIT (``at``), at a random row that the run has to write."""

    at: str

    def prepare(self, scene: Scene, random_: random.Random, stack: ExitStack) -> None:
        self._scene = scene
        scene.halt(random_.choice([key for key in scene.drift.planned if key not in scene.drift.refused]), self.at)
        stack.callback(scene.halt_nowhere)
        self._barrier = stack.enter_context(scene.target())
        self._barrier.execute("SELECT pg_advisory_lock(%s)", [HALT_KEY])

    def reached(self) -> bool:
        return self._scene.is_halted(self._barrier)

    def go_on(self, _way: Way) -> None:
        self._barrier.execute("SELECT pg_advisory_unlock(%s)", [HALT_KEY])


@dataclass
class AtTime(Place):
    """At a random time after the first request to the target, or after the start of the process."""

    def prepare(self, scene: Scene, random_: random.Random, stack: ExitStack) -> None:
        self._first = Stop(_ANY, 1, Side.BEFORE)
        self._first.go_on(Way.ON)
        scene.machines.target_gate.stop_at(self._first)
        stack.callback(scene.machines.target_gate.stop_at, None)
        self._delay_s = random_.uniform(0.0, 2.5)
        self._since: float | None = time.monotonic() if random_.random() < 0.2 else None

    def reached(self) -> bool:
        if self._since is None and self._first.reached.is_set():
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > self._delay_s

    def go_on(self, way: Way) -> None:
        """The run did not stand still."""


# What a fault does.


def kill_the_run(injection: Injection) -> None:
    injection.process.kill()
    injection.process.wait()
    injection.go_on(Way.RESET)


def terminate_the_run(injection: Injection) -> None:
    injection.process.send_signal(signal.SIGTERM)
    injection.go_on(Way.ON)


def kill_postgres(injection: Injection) -> None:
    injection.scene.machines.kill_postgres()
    injection.go_on(Way.ON)
    time.sleep(injection.random.uniform(0.0, 1.0))
    injection.scene.machines.start_again()


def kill_a_server_process(injection: Injection) -> None:
    """As the kernel does when memory runs out. PostgreSQL then ends all sessions and recovers."""
    if (pid := injection.scene.lock_session()) is not None:
        os.kill(pid, signal.SIGKILL)
    injection.go_on(Way.ON)


def kill_mongod(injection: Injection) -> None:
    injection.scene.machines.kill_mongod()
    injection.go_on(Way.ON)
    time.sleep(injection.random.uniform(0.0, 1.0))
    injection.scene.machines.start_again()


def reset_target(injection: Injection) -> None:
    injection.scene.machines.target_gate.reset()
    injection.go_on(Way.RESET)


def reset_source(injection: Injection) -> None:
    injection.scene.machines.source_gate.reset()
    injection.go_on(Way.RESET)


def stall_target(injection: Injection) -> None:
    _stall(injection, injection.scene.machines.target_gate)


def stall_source(injection: Injection) -> None:
    _stall(injection, injection.scene.machines.source_gate)


def _stall(injection: Injection, gate: Gate) -> None:
    gate.hold()
    injection.stack.callback(gate.let_through)
    injection.go_on(Way.ON)
    time.sleep(injection.random.uniform(*_STALL_S))
    gate.let_through()


def lose_the_answer(injection: Injection) -> None:
    injection.go_on(Way.RESET)


def lose_the_request(injection: Injection) -> None:
    injection.go_on(Way.STRAND)


def end_the_session(injection: Injection) -> None:
    if (pid := injection.scene.lock_session()) is not None:
        with injection.scene.target() as target:
            target.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    injection.go_on(Way.ON)


def take_the_lock(injection: Injection) -> None:
    """End the session with the lock, and let another sync take the lock first."""
    gate = injection.scene.machines.target_gate
    other = injection.stack.enter_context(injection.scene.target())
    gate.hold()  # otherwise the run might take it first
    injection.stack.callback(gate.let_through)
    if (pid := injection.scene.lock_session()) is not None:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    injection.scene.take_lock(other)
    gate.let_through()
    injection.go_on(Way.ON)


def fill_the_disk(injection: Injection) -> None:
    scene = injection.scene
    if scene.on_small_disk and scene.machines.disk is not None:
        filler = scene.machines.disk / "filler"
        injection.stack.callback(filler.unlink)
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
    else:
        for key in scene.drift.planned:
            scene.halt(key, "full disk")
        injection.stack.callback(scene.halt_nowhere)
    injection.go_on(Way.ON)


# All faults.


@dataclass(frozen=True)
class Fault:
    name: str
    place: Callable[[], Place]
    inject: Callable[[Injection], None]
    expected: Expected
    fills_disk: bool = False
    in_pass: bool = False


def _may(*endings: Ending, naming: str = ".") -> Expected:
    return Expected(frozenset(endings), naming)


_KILLED = _may(Ending.KILLED)
_POSTGRES_LOST = "connection was lost|cannot be reached|PostgreSQL"
_MONGODB_LOST = "MongoDB at .* (stopped answering|cannot be reached)"
_ANY_ENDING = (Ending.RECOVERED, Ending.FAILED, Ending.TURNED_AWAY)


def _kill_at(name: str, *steps: Step, side: Side, of_source: bool = False) -> Fault:
    return Fault(f"SIGKILL {name}", lambda: AtRequest(steps, side, of_source), kill_the_run, _KILLED)


_OF_EACH_RUN: Final[tuple[Fault, ...]] = (
    Fault("SIGKILL at a random moment", AtTime, kill_the_run, _may(Ending.KILLED, Ending.KILLED_EARLY)),
    _kill_at("before a batch is read again", Step.READ_AGAIN, side=Side.BEFORE, of_source=True),
    _kill_at("before BEGIN", Step.BEGIN, side=Side.BEFORE),
    _kill_at("after BEGIN", Step.BEGIN, side=Side.AFTER),
    Fault("SIGKILL in a statement", lambda: InServer("row"), kill_the_run, _KILLED),
    _kill_at("after a statement", Step.WRITE, side=Side.AFTER),
    _kill_at("before COMMIT", Step.COMMIT, side=Side.BEFORE),
    Fault("SIGKILL in COMMIT", lambda: InServer("commit"), kill_the_run, _KILLED),
    _kill_at("before COMMIT is answered", Step.COMMIT, side=Side.AFTER),
    _kill_at("before the post-commit check", Step.POST_COMMIT_CHECK, side=Side.BEFORE, of_source=True),
    _kill_at("after the post-commit check", Step.POST_COMMIT_CHECK, side=Side.AFTER, of_source=True),
    Fault("SIGTERM at a random moment", AtTime, terminate_the_run, _may(Ending.CANCELLED, Ending.KILLED_EARLY)),
    Fault("SIGTERM in the load", lambda: AtRequest(_LOAD), terminate_the_run, _may(Ending.CANCELLED)),
    Fault("SIGTERM in COMMIT", lambda: InServer("commit"), terminate_the_run, _may(Ending.CANCELLED)),
    Fault("PostgreSQL killed in the load", lambda: AtRequest(_LOAD), kill_postgres, _may(Ending.RECOVERED)),
    Fault(
        "a server process of PostgreSQL killed in the load",
        lambda: AtRequest(_LOAD),
        kill_a_server_process,
        _may(Ending.RECOVERED),
    ),
    Fault(
        "PostgreSQL killed at any request",
        lambda: AtRequest(_ANY),
        kill_postgres,
        _may(*_ANY_ENDING, naming=_POSTGRES_LOST),
    ),
    Fault("MongoDB killed in the load", lambda: AtRequest(_LOAD), kill_mongod, _may(Ending.RECOVERED)),
    Fault(
        "MongoDB killed at any request",
        lambda: AtRequest(_ANY, of_source=True),
        kill_mongod,
        _may(*_ANY_ENDING, naming=_MONGODB_LOST),
    ),
    Fault(
        "connections to PostgreSQL reset in the load", lambda: AtRequest(_LOAD), reset_target, _may(Ending.RECOVERED)
    ),
    Fault(
        "connections to PostgreSQL reset at any request",
        lambda: AtRequest(_ANY),
        reset_target,
        _may(*_ANY_ENDING, naming=_POSTGRES_LOST),
    ),
    Fault(
        "connections to MongoDB reset at any request",
        lambda: AtRequest(_ANY, of_source=True),
        reset_source,
        _may(*_ANY_ENDING, naming=_MONGODB_LOST),
    ),
    Fault("PostgreSQL stalls for 1 to 5 s", lambda: AtRequest(_ANY), stall_target, _may(Ending.RECOVERED)),
    Fault(
        "MongoDB stalls for 1 to 5 s",
        lambda: AtRequest(_ANY, of_source=True),
        stall_source,
        _may(*_ANY_ENDING, naming=_MONGODB_LOST),
    ),
    Fault(
        "the answer to COMMIT is lost",
        lambda: AtRequest((Step.COMMIT,), Side.AFTER),
        lose_the_answer,
        _may(Ending.RECOVERED),
    ),
    Fault(
        "COMMIT is lost, and the server does not notice",
        lambda: AtRequest((Step.COMMIT,), Side.BEFORE),
        lose_the_request,
        _may(Ending.RECOVERED),
    ),
    Fault("the lock's session is ended", lambda: AtRequest(_LOAD), end_the_session, _may(Ending.RECOVERED)),
    Fault(
        "the lock is lost to another sync",
        # Not after COMMIT: the last batch of a load does not need the lock any more.
        lambda: AtRequest((Step.BEGIN, Step.WRITE)),
        take_the_lock,
        _may(Ending.FAILED, naming="is being synced by"),
    ),
    Fault(
        "the target's disk is full",
        lambda: AtRequest((Step.BEGIN,), Side.AFTER),
        fill_the_disk,
        _may(Ending.FAILED, naming="(?s)No space left on device.*Free disk space"),
        fills_disk=True,
    ),
)

_OF_PASSES: Final[tuple[Fault, ...]] = (
    _kill_at("before the changes are read", Step.CHANGES, side=Side.BEFORE, of_source=True),
    _kill_at("after the changes are read", Step.CHANGES, side=Side.AFTER, of_source=True),
    Fault(
        "connections to MongoDB reset while the changes are read",
        lambda: AtRequest((Step.CHANGES,), of_source=True),
        reset_source,
        _may(Ending.RECOVERED),
    ),
    Fault(
        "MongoDB killed while the changes are read",
        lambda: AtRequest((Step.CHANGES,), of_source=True),
        kill_mongod,
        _may(Ending.RECOVERED),
    ),
)

#: Those of a full sync, and the same and more of a pass.
FAULTS: Final[tuple[Fault, ...]] = (
    *_OF_EACH_RUN,
    *(replace(fault, name=f"{fault.name}, in a pass", in_pass=True) for fault in (*_OF_EACH_RUN, *_OF_PASSES)),
)
