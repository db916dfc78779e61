"""The check `full_proof_is_recent`: only a full run sees what somebody has changed in the target alone."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import dagster as dg

from product_sync.orchestration.names import FULL_PROOF_IS_RECENT, SyncNames
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.pending_diff import CLOCKS_DIFFER
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import ScheduleSettings, state_root
from product_sync.state.change_position import read_last_proof
from product_sync.state.store import StateFolder

_Result = TypeVar("_Result")


def full_proof_check(definition: SyncDefinition, settings: ScheduleSettings) -> dg.AssetChecksDefinition:
    names = SyncNames.of(definition.name)

    @dg.asset_check(
        asset=names.proof,
        name=FULL_PROOF_IS_RECENT,
        description=(
            f"A full sync has passed within {settings.full_proof_hours} hours (warning), or twice that (error). The"
            f" sensor `{names.watch_sensor}` evaluates this check."
        ),
    )
    def check() -> dg.AssetCheckResult:
        """Looks up the last full proof now."""
        folder = StateFolder(state_root(os.environ), Databases.of(definition, os.environ).state_key)
        return full_proof(dg.AssetCheckResult, names, settings, folder, time.time())

    return check


def full_proof(
    kind: Callable[..., _Result], names: SyncNames, settings: ScheduleSettings, folder: StateFolder, now: float
) -> _Result:
    """Whether the last full proof is recent enough: the result of a step or, as an evaluation, of a sensor."""
    result = partial(kind, asset_key=dg.AssetKey(names.proof), check_name=FULL_PROOF_IS_RECENT)
    proof, limit_h = read_last_proof(folder), settings.full_proof_hours
    if proof is None:
        text = f"No full run of the sync {names.sync} has passed on these two sides yet."
        return result(passed=False, severity=dg.AssetCheckSeverity.WARN, description=text, metadata={})
    age_h = (now - proof.at.timestamp()) / 3_600
    is_ahead = age_h < -CLOCKS_DIFFER.total_seconds() / 3_600
    passed = age_h <= limit_h and not is_ahead
    text = f"The last full sync that passed is run {proof.run_id}, which began to read"
    if is_ahead:  # it would count as recent for years
        text += f" {-age_h:.1f} hours from now, by this machine's clock. Look at the clock, then start a full sync."
    else:
        text += f" {max(0.0, age_h):.1f} hours ago."
    if age_h > limit_h:
        text += f" The limit is {limit_h} hours. Start a full sync, and look at the schedule."
    return result(
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if passed or age_h > 2 * limit_h else dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={"full_proof_at": dg.MetadataValue.timestamp(proof.at), "age_h": round(age_h, 2)},
    )
