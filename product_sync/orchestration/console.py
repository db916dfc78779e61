"""What `dagster job execute` prints: the lines of the run's log, each once, and a failure as its own sentence.

Dagster's console logger prints the traceback of a failed step twice and one line for each step that was not executed,
so the cause is far above the end. This logger has its name and its config; at DEBUG it prints what Dagster's own would.
"""

import logging
import re
from typing import Any

import dagster as dg
from dagster import DagsterEventType as Kind

from product_sync.orchestration.failures import own_sentence

_FAILED = (Kind.STEP_FAILURE, Kind.RUN_FAILURE, Kind.RUN_CANCELED)
#: Dagster logs one of these for each step behind a failed or a skipped one.
_NOT_EXECUTED = re.compile(
    r"(Dependencies for step .* Not executing|Skipping step .* due to skipped dependencies: .*)\."
)
_SCHEMA = {
    "log_level": dg.Field(str, default_value="INFO", description="DEBUG prints every event of Dagster too."),
    "name": dg.Field(str, default_value="product_sync", description="The name of the logger, in each line."),
}


@dg.logger(config_schema=_SCHEMA, description="The run's log in short lines, a failure as its own sentence.")
def console(context: dg.InitLoggerContext) -> logging.Logger:
    logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
    if context.logger_config["log_level"].upper() != "DEBUG":
        logger.addFilter(_Brief())
    return logger


class _Brief(logging.Filter):
    """Shortens each record; every record is made for this logger alone."""

    #: The run and the failure in the last printed line, if it was one. Dagster makes several loggers for a run.
    _last_failure = ("", "")

    def filter(self, record: logging.LogRecord) -> bool:
        about: dict[str, Any] = getattr(record, "dagster_meta", None) or {}
        event, text = about.get("dagster_event"), about.get("orig_message") or ""
        if event is None and _NOT_EXECUTED.fullmatch(text):
            return False
        if event is not None and event.event_type in _FAILED:
            text = own_sentence(event) or _bug(event) or record.getMessage()
            failure = (str(about.get("run_id")), text)
            if failure == _Brief._last_failure:
                return False
            _Brief._last_failure = failure
        else:
            _Brief._last_failure = ("", "")
        record.msg, record.args = f"{about.get('step_key') or about.get('job_name') or 'run'} - {text}", ()
        return True


def _bug(event: dg.DagsterEvent) -> str:
    """The end of a run of which a step raised something that is not ours: its traceback stands above already."""
    data: Any = event.event_specific_data
    failed = event.event_type is Kind.RUN_FAILURE and data is not None and data.first_step_failure_event
    if not failed:
        return ""
    error = failed.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    said = error.message.strip() if error else "an unknown error"
    return f"The step {failed.step_key} raised {said}. This is a bug: please report it, with the traceback above."
