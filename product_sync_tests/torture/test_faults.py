"""A short version of the fault campaign. Its judge finds planted harm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from product_sync_tests.warm_process import WarmProcess
from product_sync_torture.faults import campaign
from product_sync_torture.faults.campaign import Round, make_history, play
from product_sync_torture.faults.judge import Drift, Ending, Evidence, Expected, Row, Run, Write, judge
from product_sync_torture.faults.kinds import FAULTS
from product_sync_torture.faults.machines import Machines, machines
from product_sync_torture.faults.report import report
from product_sync_torture.faults.wire import MongoRequests, PostgresRequests, Step
from product_sync_torture.surroundings import keep, kept

#: One whose rounds have no extra rows: those cost two waits of five seconds.
SEED = 13
SLICE = [
    "SIGKILL in a statement",
    "SIGKILL before COMMIT is answered",
    "PostgreSQL killed in the load",
    "the answer to COMMIT is lost",
    "the target's disk is full",
    "SIGKILL before COMMIT is answered, in a pass",
    "MongoDB killed while the changes are read, in a pass",
]


@contextmanager
def warm(command: Sequence[str], out: Any) -> Iterator[WarmProcess]:
    """Without the imports of each command."""
    module, *arguments = command
    process = WarmProcess(module, *arguments, env=os.environ, output=(Path(out.name), Path(os.devnull)))
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Machines]:
    """Servers that may be killed."""
    with machines() as started:
        yield started


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_history(tmp_path_factory.mktemp("faults") / "home")


@pytest.mark.parametrize("name", SLICE)
def test_after_a_fault_at_any_step_the_next_run_does_the_rest(
    own_servers: Machines, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "start", warm)
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    played = play(own_servers, home, fault, seed=SEED)
    assert played.violations == []
    assert played.ending in fault.expected.endings


# The judge, on a round that was planned by hand: four products missing, one changed, batches of two.


def row(key: str, version: int = 2) -> Row:
    return (key, f"{key} in version {version}", version)


SOURCE = {key: row(key) for key in "abcde"}
DRIFT = Drift(SOURCE, {"e": row("e", 1), "x": row("x")}, frozenset(), 2)
WANTED = [*SOURCE.values(), row("x")]
FIRST, SECOND = "11111111-first", "22222222-second"
LOG = "Trying again after: the connection was lost"
CAUSE = Expected(frozenset({Ending.RECOVERED, Ending.FAILED, Ending.KILLED}), "connection was lost")


def wrote(keys: str, transaction: str, run: str, op: str = "INSERT") -> list[Write]:
    return [Write(key, op, transaction, f"product_sync {run[:8]} host:1") for key in keys]


WRITES = [*wrote("ab", "1", FIRST), *wrote("cd", "2", SECOND), *wrote("e", "3", SECOND, "UPDATE")]
KILLED = Run(-9, {}, FIRST, "FAILURE", "its process 17 is gone")
NEXT = Run(0, {"inserted": 2, "updated": 1, "valid": True}, SECOND, "SUCCESS", LOG)
GOOD = Evidence(DRIFT, KILLED, NEXT, SOURCE, WANTED, WRITES)


def violations(evidence: Evidence, expected: Expected = CAUSE) -> list[str]:
    return judge(evidence, expected).violations


def failed(error: str, log: str = LOG, *, inserted: int = 2, exit_status: int = 1) -> Run:
    answer = {"inserted": inserted, "updated": 0, "error": {"code": "load_stopped", "message": error, "hint": ""}}
    return Run(exit_status, answer, FIRST, "FAILURE", log)


#: What is changed in the evidence of a good round, and what the judge says of it.
HARM: list[tuple[dict[str, Any], str]] = [
    ({"rows": [*WANTED, row("a")]}, "row a is there 2 times"),
    ({"rows": WANTED[1:]}, "row a is None"),
    ({"rows": [row("a", 1), *WANTED[1:]]}, "row a is ('a', 'a in version 1', 1)"),
    ({"rows": [*WANTED, row("y")]}, "row y is"),
    ({"rows": WANTED[:-1]}, "row x is None"),
    ({"documents": {}}, "the source was changed"),
    ({"writes": [*WRITES, *wrote("a", "9", SECOND, "UPDATE")]}, "row a was written 2 times: INSERT, UPDATE"),
    (
        {"writes": [*wrote("a", "1", FIRST), *wrote("bc", "2", SECOND), *wrote("de", "3", SECOND)]},
        "wrote ['a'] of the batch ['a', 'b']",
    ),
    (
        {"writes": [*wrote("ab", "1", FIRST), *wrote("c", "2", SECOND), *wrote("de", "3", SECOND)]},
        "wrote ['c'] of the batch ['c', 'd']",
    ),
    ({"writes": wrote("abcd", "1", FIRST)}, "['a', 'b', 'c', 'd']"),
    ({"left": ["advisory lock of product_sync"]}, "left behind: advisory lock of product_sync"),
    ({"unproven": "checks_failed: a is missing"}, "a is missing"),
    (
        {"next": replace(NEXT, exit_status=3, status="FAILURE", answer={**NEXT.answer, "valid": None})},
        "the next run ended with 3",
    ),
    ({"faulted": replace(KILLED, log="")}, "does not say that it was killed"),
    ({"faulted": Run(0, {"inserted": 2, "valid": None}, FIRST, "SUCCESS", LOG)}, "without having compared"),
]


class TestJudge:
    def test_a_round_that_converged_is_right(self) -> None:
        judged = judge(GOOD, CAUSE)
        assert (judged.ending, judged.violations) == (Ending.KILLED, [])

    @pytest.mark.parametrize(("changed", "found"), HARM)
    def test_planted_harm_is_found(self, changed: dict[str, Any], found: str) -> None:
        assert any(found in text for text in violations(replace(GOOD, **changed)))

    def test_a_batch_with_a_refused_row_may_be_halved_but_not_mixed(self) -> None:
        drift = replace(DRIFT, refused=frozenset("b"))
        rows = [one for one in WANTED if one[0] != "b"]
        halved = [*wrote("a", "1", FIRST), *wrote("cd", "2", SECOND), *wrote("e", "3", SECOND, "UPDATE")]
        assert violations(replace(GOOD, drift=drift, rows=rows, writes=halved)) == []
        mixed = [*wrote("ac", "1", FIRST), *wrote("d", "2", SECOND), *wrote("e", "3", SECOND, "UPDATE")]
        assert any(
            "wrote ['a', 'c']" in text for text in violations(replace(GOOD, drift=drift, rows=rows, writes=mixed))
        )

    def test_a_writer_that_no_history_knows_is_found(self) -> None:
        silent = replace(GOOD, faulted=Run(-9, {}, "", "", ""))
        assert any("is not recorded" in text for text in violations(silent, Expected(frozenset(Ending))))

    def test_wrong_counts_are_found(self) -> None:
        assert violations(replace(GOOD, faulted=failed("the connection was lost"))) == []
        wrong = violations(replace(GOOD, faulted=failed("the connection was lost", inserted=4)))
        assert wrong == ["run 11111111 says that it wrote 4 rows by INSERT, it wrote 2"]

    @pytest.mark.parametrize(
        "faulted",
        [
            Run(1, {}, FIRST, "FAILURE", LOG),
            Run(-9, {}, FIRST, "STARTED", ""),
            Run(None, {}, FIRST, "STARTED", ""),
            Run(-11, {}, FIRST, "FAILURE", "its process 17 is gone"),
            Run(0, {"inserted": 2, "valid": True}, FIRST, "FAILURE", LOG),
            Run(1, {"inserted": 2, "error": {"code": "x", "message": "the connection was lost"}}, FIRST, "SUCCESS", ""),
            failed("the connection was lost", exit_status=2),
        ],
        ids=[
            "no error",
            "never marked",
            "endless",
            "crash",
            "green and failed",
            "red and succeeded",
            "blames settings",
        ],
    )
    def test_an_end_that_is_silent_or_contradicts_itself_is_found(self, faulted: Run) -> None:
        judged = judge(replace(GOOD, faulted=faulted), CAUSE)
        assert judged.ending is None
        assert "the history says" in judged.violations[0]

    def test_an_ending_that_the_fault_does_not_excuse_is_found(self) -> None:
        only_recovered = Expected(frozenset({Ending.RECOVERED}))
        assert violations(GOOD, only_recovered)[0].startswith("it killed")

    def test_an_error_that_does_not_name_the_cause_is_found_on_both_sides(self) -> None:
        assert "its error does not name" in violations(replace(GOOD, faulted=failed("something went wrong")))[0]
        found = violations(replace(GOOD, faulted=failed("the connection was lost", log="step failed")))
        assert "the history does not name" in found[0]


def test_a_violation_is_in_the_report_with_what_it_takes_to_see_it_again() -> None:
    bad = Round(FAULTS[0].name, 5, ending=None, violations=["row a is there 2 times"])
    good = Round(FAULTS[0].name, 6, missed=2, ending=Ending.KILLED)
    text = report([bad, good], asked=3, workers=1, disk=False)
    assert "Unfinished: 2 of 3" in text
    assert f"- `--only '{FAULTS[0].name}' --seed 5`: row a is there 2 times" in text
    assert f"| {FAULTS[0].name} | 2 | 0 | 0 | 0 | 0 | 1 | 0 | 2 | 1 |" in text


def test_rounds_that_were_kept_are_the_same_when_the_campaign_goes_on(tmp_path: Path) -> None:
    rounds = [Round("a", 1, missed=2, ending=Ending.KILLED), Round("b", 2, ending=None, violations=["row a is lost"])]
    assert kept(tmp_path / "rounds", Round) == []
    for one in rounds:
        keep(tmp_path / "rounds", one)
    assert kept(tmp_path / "rounds", Round) == rounds


# The steps, as the campaign reads them off the wire.


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


class TestWire:
    STARTUP = (8 + 5).to_bytes(4, "big") + (196608).to_bytes(4, "big") + b"user\0"

    def steps(self, data: bytes, chunk: int) -> list[Step]:
        requests = PostgresRequests()
        return [step for start in range(0, len(data), chunk) for step, _ in requests.feed(data[start : start + chunk])]

    @pytest.mark.parametrize("chunk", [1, 7, 10_000])
    def test_the_steps_of_a_batch_are_distinguished_however_the_bytes_arrive(self, chunk: int) -> None:
        parse = message(b"P", b"insert\0INSERT INTO product\0\0\0")
        execute = message(b"B", b"\0insert\0rest") + message(b"E", b"\0\0\0\0\0") + message(b"S", b"")
        data = b"".join(
            [
                self.STARTUP,
                message(b"Q", b"COMMIT\0"),  # of no batch
                message(b"Q", b"BEGIN; SELECT pg_catalog.pg_current_xact_id()\0"),
                parse + execute,
                message(b"Q", b"COMMIT\0"),
                message(b"Q", b"BEGIN; SELECT pg_catalog.pg_current_xact_id()\0"),
                execute,  # by its name only
                message(b"Q", b"ROLLBACK\0"),
                message(b"X", b""),
            ]
        )
        begin, write, commit, other, noise = Step.BEGIN, Step.WRITE, Step.COMMIT, Step.OTHER, Step.NOISE
        assert self.steps(data, chunk) == [noise, other, begin, write, commit, begin, write, other, noise]

    def test_what_mongodb_is_asked_for_is_distinguished(self) -> None:
        def query(body: bytes) -> bytes:
            return (16 + len(body)).to_bytes(4, "little") + bytes(12) + body

        ids = b"\x03projection\0\x0e\0\0\0\x10_id\0\x01\0\0\0\0"
        data = b"".join(
            map(
                query,
                [
                    b"\x10hello\0",
                    b"\x02find\0",
                    b"\x02find\0\x04$in\0",
                    b"\x02find\0" + ids,
                    b"\x02aggregate\0\x03$changeStream\0",
                    b"\x12getMore\0",
                    b"\x02count\0",
                ],
            )
        )
        assert [step for step, _ in MongoRequests().feed(data)] == [
            Step.NOISE,
            Step.PAGE,
            Step.READ_AGAIN,
            Step.POST_COMMIT_CHECK,
            Step.CHANGES,
            Step.CHANGES,
            Step.OTHER,
        ]
