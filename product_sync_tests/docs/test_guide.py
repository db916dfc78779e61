"""What the guide says of the code is compared with the code: settings with their defaults, errors, reasons, checks."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import click
import pytest

import product_sync
from product_sync import cli, errors, settings
from product_sync.compare.quarantine import quarantine_schema, rejects_schema
from product_sync.compare.quarantine_reasons import ADVICE
from product_sync.definitions import defs
from product_sync.orchestration.resources import RUN_CONFIG
from product_sync.results import (
    ConnectionReport,
    DoctorReport,
    ProductReport,
    QuarantineListing,
    QuarantineReport,
    Report,
    StatsReport,
    SyncReport,
    ValidationReport,
)
from product_sync.schema.column_spec import ColumnSpec
from product_sync.schema.definition import MAPPING, load_definition
from product_sync.schema.records import Reason, Stage
from product_sync.settings import ExecutorSettings, NotificationSettings, PageSettings, RunOptions, ScheduleSettings
from product_sync_tests.docs.pages import ROOT, Page, Row, all_pages, codes, page
from product_sync_tests.row_schemas import TEXT, row_schema_of

SETTINGS, ERRORS = page("settings.md"), page("errors.md")
PACKAGE = Path(product_sync.__file__).parent
#: Read by the operating system's conventions, and not ours to explain.
CONVENTIONS = {"PATH"}
#: Whose default is a rule and not a value; the rules have tests of their own (`test_settings.py`, `embedded/`).
RULES = {MAPPING, settings.STATE, settings.SCRATCH, "XDG_STATE_HOME", "PRODUCT_SYNC_MONGOD", "TMPDIR"}


@cache
def variables_read() -> set[str]:
    """Every variable that the package, or the project's ``dagster.yaml``, asks the environment for."""
    found = set(re.findall(r"\{env: (\w+)\}", (ROOT / "dagster.yaml").read_text()))
    found |= {value for value in vars(settings).values() if isinstance(value, str) and is_name(value)}
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        found |= set(re.findall(r'(?:env|environ|environment)(?:\.get\(|\[)"([A-Z_]+)"', text))
        found |= set(re.findall(r'(?:getenv\(|\(env, )"([A-Z_]+)"', text))
        literals = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        found |= {value for value in literals if isinstance(value, str) and is_name(value) and is_ours(value)}
    return found - CONVENTIONS


def is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", text) is not None and len(text) > 4


def is_ours(name: str) -> bool:
    return name.startswith(("PRODUCT_S", "CART_", "MONGO_", "SYNC_", "DAGSTER_"))


def defaults() -> dict[str, object]:
    """What the code takes for a variable that is not set."""
    schedule, pages = ScheduleSettings.from_environment({}), PageSettings.from_environment({})
    notification, sync = NotificationSettings.from_environment({}), RunOptions.resolve({}, {})
    known: dict[str, object] = {
        settings.SHARDS: sync.shards,
        settings.BATCH_SIZE: sync.batch_size,
        settings.BATCH_DELAY_MS: sync.batch_delay_ms,
        settings.PACING: sync.pacing,
        settings.QUARANTINE_BUDGET: sync.quarantine_budget,
        settings.CRON: schedule.cron,
        settings.TIME_ZONE: schedule.time_zone,
        settings.ENABLE_SCHEDULER: schedule.enabled,
        settings.CHANGES_SECONDS: schedule.changes_seconds,
        settings.CHANGES_LAG: schedule.changes_lag_minutes,
        settings.FULL_PROOF_HOURS: schedule.full_proof_hours,
        settings.EXECUTOR: ExecutorSettings.from_environment({}).executor,
        settings.FRESH_MINUTES: pages.fresh_minutes,
        settings.OWNERS: ",".join(pages.owners),
        settings.ALERT_QUIET: notification.quiet_minutes,
        settings.ALERT_WARN_QUIET: notification.warn_quiet_minutes,
    }
    return {name: known.get(name) for name in variables_read() - RULES}


def told(cell: str) -> str:
    """A default as a page writes it."""
    return "none" if cell in ("", "none") else cell.strip("`")


def written(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_variable_that_is_read_is_explained_once_and_no_other() -> None:
    explained = [name for row in SETTINGS.rows("variable", "default") for name in codes(row["variable"])]
    assert sorted(explained) == sorted(variables_read())


@pytest.mark.parametrize("shown", all_pages(), ids=lambda shown: shown.name)
def test_a_default_that_a_page_gives_is_the_one_of_the_code(shown: Page) -> None:
    expected = defaults()
    for row in shown.rows("variable", "default"):
        for name in codes(row["variable"]):
            assert name in expected.keys() | RULES, f"{shown.name} explains {name}, which nothing reads"
            if name in expected:
                assert told(row["default"]) == written(expected[name]), f"{shown.name}: {name}"


def test_every_option_of_a_run_has_a_row_that_says_what_the_launchpad_and_the_help_say() -> None:
    rows = {codes(row["run config"])[0]: row for row in SETTINGS.rows("run config")}
    assert rows.keys() == RunOptions.model_fields.keys()
    for name, option in RunOptions.each().items():
        given = {key: rows[name][key] for key in ("flag", "variable", "default", "what it does")}
        assert given == {
            "flag": f"`{option.flag}`",
            "variable": f"`{option.variable}`" if option.variable else "",
            "default": "none" if option.default is None else f"`{written(option.default)}`",
            "what it does": option.explained,
        }
        assert rows[name]["when to change it"], name
        assert (RUN_CONFIG[name].description or "").startswith(option.explained)


def test_every_flag_has_a_row_and_its_default() -> None:
    explained: dict[tuple[str, str], Row] = {}
    for row in SETTINGS.rows("flag"):
        for flag in codes(row["flag"]):
            for command in codes(row.get("command", "`sync`")):
                explained[command, flag] = row
    taken = {(command, option.opts[0]): option for command, option in options()}
    assert explained.keys() == taken.keys()
    for key, option in taken.items():
        if isinstance(option.default, str | int) and not option.is_flag:
            assert told(explained[key]["default"]) == str(option.default), key


def options() -> Iterator[tuple[str, click.Option]]:
    for name, command in cli.cli.commands.items():
        for parameter in command.get_params(click.Context(command)):
            if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
                yield name, parameter


def test_every_variable_of_the_makefile_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    given = dict(re.findall(r"^(\w+) \?= (.*)$", makefile, re.MULTILINE))
    used = set(re.findall(r"\$\((\w+)[:)]", makefile))
    explained = {codes(row["for make"])[0]: told(row["default"]) for row in SETTINGS.rows("for make")}
    assert explained == {name: given.get(name, "none") for name in used | given.keys()}


def all_errors() -> set[type[errors.ProductSyncError]]:
    """Every error of the package, wherever it is defined."""
    for module in pkgutil.walk_packages(product_sync.__path__, "product_sync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, new = set[type[errors.ProductSyncError]](), {errors.ProductSyncError}
    while new:
        found |= new
        new = {below for kind in new for below in kind.__subclasses__() if below.__module__.startswith("product_sync.")}
    return found


def test_every_error_code_has_a_row_with_its_exit_status() -> None:
    rows = ERRORS.rows("code", "exit status")
    explained = {(codes(row["code"])[0], codes(row["exit status"])[0]) for row in rows}
    assert explained == {(kind.code, str(kind.exit_status)) for kind in all_errors()}
    assert len(rows) == len(explained), "each stands there once"
    assert all(row["what happened"] and row["what to do"] for row in rows)


def test_every_exit_status_has_a_row() -> None:
    explained = [codes(row["exit status"])[0] for row in ERRORS.rows("exit status", "what it says")]
    assert explained == sorted({str(kind.exit_status) for kind in all_errors()} | {"0"}, key=int)


def test_every_check_has_a_row() -> None:
    explained = [codes(row["check"])[0] for row in ERRORS.rows("check", "what to do")]
    assert sorted(explained) == sorted(key.name for key in defs.resolve_asset_graph().asset_check_keys)


def test_every_reason_of_the_quarantine_has_a_row_with_its_meaning_and_the_advice_of_the_command() -> None:
    rows = {codes(row["reason"])[0]: row for row in page("quarantine.md").rows("reason", "stage")}
    assert {reason: plain(row["what to do"]) for reason, row in rows.items()} == ADVICE
    assert rows.keys() == {*Reason}
    for reason, row in rows.items():
        assert codes(row["stage"]) == [Stage.LOAD if reason.endswith("_by_database") else Stage.CONVERT]
        assert row["what it means"]


def plain(cell: str) -> str:
    """A cell without its marks; a link that is all of a bracket, such as ([why](…)), is left out."""
    text = re.sub(r" \(\[[^\]]*\]\([^)]*\)\)", "", cell)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def test_every_field_of_an_entry_is_explained() -> None:
    row_schema = row_schema_of({"title": TEXT})
    explained = [name for row in page("quarantine.md").rows("field") for name in codes(row["field"])]
    assert sorted(explained) == sorted(quarantine_schema(rejects_schema(row_schema)).names)


def test_every_key_of_the_answers_stands_in_its_order() -> None:
    rows = {row["command"]: codes(row["keys"]) for row in page("programs.md").rows("command", "keys")}
    reports: dict[str, type[Report]] = {
        "sync": SyncReport,
        "validate": ValidationReport,
        "stats": StatsReport,
        "show": ProductReport,
        "quarantine": QuarantineListing,
    }
    reports["doctor"] = DoctorReport
    expected = {f"`{name}`": list(report().as_json()) for name, report in reports.items()}
    expected["`quarantine`, each entry"] = [
        name
        for item in fields(QuarantineReport)
        for name in ([item.name] if item.name != "defects" else ["defects", "{column, reason, value}"])
    ]
    expected["`doctor`, each connection"] = [item.name for item in fields(ConnectionReport)]
    assert rows == expected


def test_every_key_of_the_mapping_has_a_row_with_its_default() -> None:
    rows = {codes(row["key of a column"])[0]: row["default"] for row in page("mapping.md").rows("key of a column")}
    for name, field in ColumnSpec.model_fields.items():
        assert told(rows.pop(name)) == written(None if field.is_required() else field.default), name
    assert not rows


@pytest.mark.parametrize("number", range(4), ids=["default", "a column more", "a filter", "another collection"])
def test_the_mappings_of_the_page_are_valid(number: int, tmp_path: Path) -> None:
    shown = [fence.text for fence in page("mapping.md").fences if fence.text.startswith("source:")]
    file = tmp_path / "mapping.yaml"
    file.write_text(shown[number])
    mapping = load_definition(file)
    if number == 0:
        assert mapping == load_definition()


def test_what_the_daemon_does_and_every_job_has_a_row() -> None:
    loaded = defs.resolve_all_job_defs(), defs.schedules or (), defs.sensors or ()
    jobs, schedules, sensors = loaded
    rows = {codes(row["what"])[0]: row["how often"] for row in page("deployment.md").rows("what", "how often")}
    expected = {sensor.name: f"{sensor.minimum_interval_seconds} s" for sensor in sensors}
    assert rows == {**expected, **{schedule.name: f"`{settings.CRON}`" for schedule in schedules}}
    explained = {codes(row["job"])[0] for row in Page(ROOT / "README.md").rows("job")}
    assert explained == {job.name for job in jobs if not job.name.startswith("__")}
