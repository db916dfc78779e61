"""The console logger of `dagster job execute`: each line of the run's log once, and a failure as one sentence.

Dagster's own console logger prints the traceback of a failed step twice and a line for each step that was not executed,
so the cause scrolls away. This logger replaces it under the same name; at DEBUG it prints everything.
"""

import logging
import re
from typing import Any

import dagster as dg
from dagster import DagsterEventType as Kind

from product_sync.orchestration.failures import own_sentence

_FAILED = (Kind.STEP_FAILURE, Kind.RUN_FAILURE, Kind.RUN_CANCELED)
#: Dagster's lines for the steps behind a failed or skipped one.
_NOT_EXECUTED = re.compile(
    r"(Dependencies for step .* Not executing|Skipping step .* due to skipped dependencies: .*)\."
)
_SCHEMA = {
    "log_level": dg.Field(str, default_value="INFO", description="DEBUG also prints every event of Dagster."),
    "name": dg.Field(str, default_value="product_sync", description="The name of the logger, in each line."),
}


@dg.logger(config_schema=_SCHEMA, description="The run's log in short lines, and a failure as one sentence.")
def console(context: dg.InitLoggerContext) -> logging.Logger:
    logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
    if context.logger_config["log_level"].upper() != "DEBUG":
        logger.addFilter(_Brief())
    return logger


class _Brief(logging.Filter):
    """Shortens each record. No other logger gets these records."""

    #: The run and the failure of the last printed line, if it was a failure. Dagster makes several loggers for a run.
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
    """The last line of a run in which a step raised an error that is not ours. Its traceback is already printed."""
    data: Any = event.event_specific_data
    failed = event.event_type is Kind.RUN_FAILURE and data is not None and data.first_step_failure_event
    if not failed:
        return ""
    error = failed.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    text = error.message.strip() if error else "an unknown error"
    return f"The step {failed.step_key} raised {text}. This is a bug: please report it, with the traceback above."
