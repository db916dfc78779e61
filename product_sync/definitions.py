"""What Dagster loads: ``dagster dev``, ``dagster job execute -m product_sync.definitions``, the daemon.

Loads with no variable set and no server reachable. Only wrong mapping files and wrong settings of the schedule or of
the asset pages are refused here, by name.
"""

import os

import dagster as dg

from product_sync.runtime.process import collect_seldom, end_sooner, stay_small

# Before Arrow is imported (docs/decisions/0112).
collect_seldom()
stay_small()

from product_sync.orchestration.build import build_definitions  # noqa: E402
from product_sync.orchestration.executor import executor_of  # noqa: E402
from product_sync.orchestration.schedules import check_schedule  # noqa: E402
from product_sync.schema.definition import load_definitions  # noqa: E402
from product_sync.settings import ExecutorSettings, PageSettings, RunOptions, ScheduleSettings  # noqa: E402

end_sooner()
check_schedule(os.environ)

defs: dg.Definitions = build_definitions(
    load_definitions(os.environ),
    schedule=ScheduleSettings.from_environment(os.environ),
    pages=PageSettings.from_environment(os.environ),
    executor=executor_of(ExecutorSettings.from_environment(os.environ)),
    shards=RunOptions.with_mistakes(os.environ)[0].shards,  # a mistake in another option is one of the run
)
