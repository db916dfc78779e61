"""The executor of a run: all steps in one process, unless the run config asks for one process each.

A separate process costs each step two seconds, and the steps run one after the other anyway. If a launcher needs it,
or a step must not share memory, ``execution: {config: {multiprocess: {}}}`` still works.
"""

from collections.abc import Mapping
from typing import Any, cast

import dagster as dg

_EITHER = dg.multi_or_in_process_executor


@dg.configured(_EITHER, config_schema=dg.Field(_EITHER.config_schema.config_type, default_value={"in_process": {}}))
def in_process_by_default(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Dagster's executor that offers both, with the other default."""
    return config


def shares_one_process(run: dg.DagsterRun) -> bool:
    """Whether all steps of ``run`` are executed in the process that executes the run."""
    execution = cast("Mapping[str, Any]", run.run_config.get("execution") or {})
    return "multiprocess" not in (execution.get("config") or {})
