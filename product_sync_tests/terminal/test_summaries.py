"""What people see: a bar on a terminal, lines elsewhere, and standard output free for the answer."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import closing, suppress

import pytest

from product_sync.results import (
    ConnectionReport,
    DifferenceReport,
    DoctorReport,
    ErrorInfo,
    ProductReport,
    SampleValue,
    StatsReport,
    SyncReport,
    ValidationReport,
)
from product_sync.runtime.progress import Progress
from product_sync.terminal import summaries
from product_sync.terminal.product import show_product
from product_sync.terminal.progress import progress_bar

HALF = Progress("load", 5, 10, 2.0, 2.5)
WHOLE = Progress("load", 10, 10, 2.0, 0.0)

_DRAW = """
import sys
from product_sync.runtime.progress import Progress
from product_sync.terminal.progress import progress_bar
with progress_bar() as on_progress:
    on_progress(Progress("load", 5, 10, 2.0, 2.5))
    on_progress(Progress("load", 10, 10, 1234.0, 0.0))
print("the answer")
"""


class TestProgress:
    def test_on_a_terminal_it_is_a_bar_with_rate_on_standard_error(self) -> None:
        ours, theirs = pty.openpty()
        with closing(os.fdopen(ours, "rb", buffering=0)) as screen:
            environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
            drawn = subprocess.run(
                [sys.executable, "-c", _DRAW], stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True
            )
            os.close(theirs)
            shown = b""
            with suppress(OSError):  # the end of a pseudo-terminal
                while part := screen.read(4096):
                    shown += part
        assert drawn.stdout == b"the answer\n"
        assert "━" in shown.decode()
        assert "10/10" in shown.decode()
        assert "1,234 rows/s" in shown.decode()

    def test_elsewhere_it_is_lines_first_and_last_of_a_stage_at_least(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress_bar() as on_progress:
            for progress in (HALF, HALF, HALF, WHOLE):
                on_progress(progress)
        printed = capsys.readouterr()
        assert printed.err.splitlines() == [str(HALF), str(WHOLE)]
        assert printed.out == ""

    def test_a_line_is_not_folded(self, capsys: pytest.CaptureFixture[str]) -> None:
        long = Progress("a stage with a very long name " * 5, 10, 10, 2.0, 0.0)
        with progress_bar() as on_progress:
            on_progress(long)
        assert capsys.readouterr().err == f"{long}\n"


class TestSummaries:
    def test_a_sync_shows_its_counts_and_its_verdict(self, capsys: pytest.CaptureFixture[str]) -> None:
        summaries.show_sync(SyncReport(run_id="r1", source_count=5000, target_count=4690, inserted=310, valid=True))
        printed = capsys.readouterr().out
        for each in ("5,000", "4,690", "310", "r1", "agrees with the source"):
            assert each in printed

    def test_a_dry_run_says_that_nothing_was_written_and_shows_old_and_new(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        difference = {"op": "update", "id": "p1", "column": "price", "old": "1", "new": "2"}
        summaries.show_sync(SyncReport(run_id="r1", dry_run=True, source_count=1, first_differences=[difference]))
        printed = capsys.readouterr().out
        assert "nothing was written" in printed
        assert all(value in printed for value in difference.values())

    @pytest.mark.parametrize("would_pass", [True, False])
    def test_a_plan_that_would_fail_is_not_offered_as_the_next_step(
        self, would_pass: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        summaries.show_sync(SyncReport(plan_id="p1", dry_run=True, source_count=1, would_pass=would_pass))
        title, command, *_ = capsys.readouterr().out.splitlines()[-2:]
        assert title == ("To do exactly this:" if would_pass else "When that is corrected, to do exactly this:")
        assert command == "  product-sync sync --plan p1"

    @pytest.mark.parametrize(
        "show", [lambda: summaries.show_sync(SyncReport(run_id="r1")), lambda: summaries.show_stats(StatsReport())]
    )
    def test_what_is_not_known_is_not_shown(self, show: object, capsys: pytest.CaptureFixture[str]) -> None:
        assert callable(show)
        show()
        assert capsys.readouterr().out == ""

    def test_values_are_shown_as_they_are_and_never_read_as_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        summaries.show_validation(ValidationReport(source_count=1, target_count=1, missing_ids=["[red]p1[/red]"]))
        broken = ErrorInfo("unreachable", "no answer from [host]", "look at [/etc/hosts]")
        summaries.show_doctor(DoctorReport(mongodb=ConnectionReport(error=broken)))
        printed = capsys.readouterr().out
        for each in ("[red]p1[/red]", "no answer from [host]", "look at [/etc/hosts]"):
            assert each in printed

    def test_a_wrong_mapping_is_one_problem(self, capsys: pytest.CaptureFixture[str]) -> None:
        both = ConnectionReport(error=ErrorInfo("mapping", "line 1 is wrong.", "Correct it."))
        problem = "line 1 is wrong. Correct it."
        summaries.show_doctor(DoctorReport(mongodb=both, postgres=both, settings_problems=[problem]))
        assert capsys.readouterr().out.count("line 1 is wrong") == 1

    def test_statistics_before_the_first_sync_say_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        summaries.show_stats(StatsReport(source_count=3, target_count=0))
        assert "none yet" in capsys.readouterr().out

    def test_an_empty_text_does_not_look_like_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        note = DifferenceReport(column="note", target="", source=None)
        show_product(ProductReport(id="a", state="changed", target_row={"note": ""}, differences=[note]))
        sample = [SampleValue("note", "note", "string", '""', "", None)]
        summaries.show_sync(SyncReport(dry_run=True, source_count=1, sample_product=sample))
        printed = capsys.readouterr().out
        assert 'note: "" in the target, NULL in the source' in printed
        assert '│ note │ ""' in printed
        assert printed.replace(" ", "").splitlines()[-2] == '│note│note│""(string)│""│'
