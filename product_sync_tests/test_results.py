"""The answers as data: all keys always, the error last, and nothing lost on the way."""

from __future__ import annotations

import json

import pytest

from product_sync.errors import SyncAlreadyRunning
from product_sync.results import ConnectionReport, DoctorReport, ErrorInfo, StatsReport, SyncReport, ValidationReport

RUNNING = SyncAlreadyRunning("Taken.", holder="another", hint="Wait.")


@pytest.mark.parametrize("report", [SyncReport, ValidationReport, StatsReport, DoctorReport])
def test_an_error_adds_one_key_and_takes_none_away(
    report: type[SyncReport | ValidationReport | StatsReport | DoctorReport],
) -> None:
    good, bad = report().as_json(), report(failure=RUNNING).as_json()
    assert list(bad) == [*good, "error"]
    assert bad["error"] == {"code": "already_running", "message": "Taken.", "hint": "Wait."}
    json.dumps(bad)


def test_what_was_done_before_an_error_is_still_told() -> None:
    assert SyncReport(inserted=3, failure=RUNNING).as_json()["inserted"] == 3


def test_the_exit_status_is_that_of_the_error() -> None:
    assert (StatsReport().exit_status, StatsReport(failure=RUNNING).exit_status) == (0, 3)


def test_a_script_can_ask_for_an_exception_instead() -> None:
    good = StatsReport(source_count=1)
    assert good.raise_for_error() is good
    with pytest.raises(SyncAlreadyRunning) as caught:
        StatsReport(failure=RUNNING).raise_for_error()
    assert caught.value.holder == "another"


def test_each_connection_tells_its_own_error() -> None:
    down = ConnectionReport(reachable=False, error=ErrorInfo("unreachable", "Gone.", "Start it."))
    answer = DoctorReport(mongodb=down).as_json()
    assert answer["mongodb"]["error"] == {"code": "unreachable", "message": "Gone.", "hint": "Start it."}
    assert answer["postgres"]["error"] is None
