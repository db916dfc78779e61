"""The floor of the orchestrator: a Dagster job of four assets that do nothing, in one process."""

import dagster as dg


@dg.asset
def source() -> None: ...


@dg.asset
def target() -> None: ...


@dg.asset(deps=[source, target])
def difference() -> None: ...


@dg.asset(deps=[difference])
def loaded() -> None: ...


defs = dg.Definitions(
    assets=[source, target, difference, loaded],
    jobs=[dg.define_asset_job("empty", selection="*")],
    executor=dg.in_process_executor,
)
