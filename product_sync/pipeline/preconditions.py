"""The preconditions of a sync. A sync refuses to start if one fails, and `doctor` reports all, by the same code.

The checks of the two servers are in `sources.mongodb.collection` and `targets.postgres.requirements`, because the
reader and the writer call them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from product_sync.errors import AccessDenied, LocalStorageError, ProductSyncError
from product_sync.notify.channels import require_channels
from product_sync.runtime import hints
from product_sync.runtime.typed_settings import Environment, Settings
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.settings import (
    PageSettings,
    ReportSettings,
    RunOptions,
    ScheduleSettings,
    dagster_home,
    history_root,
    state_root,
)
from product_sync.sources.mongodb import check_address
from product_sync.state.access import require_usable
from product_sync.state.retention import make_room
from product_sync.targets.postgres.connection import without_credentials
from product_sync.targets.postgres.health import TargetHealth

#: Raises `ProductSyncError` for a setting that cannot be used.
Check = Callable[[Environment], object]

#: The settings that the environment holds and every run uses.
_SETTINGS: tuple[type[Settings], ...] = (RunOptions, ScheduleSettings, PageSettings, ReportSettings)


def require_settings(definition: SyncDefinition, env: Environment, overrides: Mapping[str, Any]) -> None:
    """Raise the first of `problems`, or the first mistake in an alert channel."""
    for problem in problems(definition, env, overrides):
        raise problem
    require_channels(env)


def problems(
    definition: SyncDefinition | None, env: Environment, overrides: Mapping[str, Any], *more: Check
) -> list[ProductSyncError]:
    """Every mistake in the settings of a run with the options ``overrides``, each once. ``more`` are the checks of
    higher layers."""
    found: list[ProductSyncError] = [each for kind in _SETTINGS for each in kind.with_mistakes(env)[1].values()]
    addresses = address_checks(definition) if definition else ()
    for check in (lambda env: RunOptions.resolve(env, overrides), *addresses, require_local_storage, *more):
        try:
            check(env)
        except ProductSyncError as error:
            found.append(error)
    return list({str(problem): problem for problem in found}.values())


def address_checks(definition: SyncDefinition) -> tuple[Check, Check]:
    return (
        lambda env: check_address(SourceAddress.from_environment(env, definition.source)),
        lambda env: without_credentials(TargetAddress.from_environment(env, definition.target)),
    )


def require_local_storage(env: Mapping[str, str]) -> Path:
    """Return the state folder, if this user can use it. Creates nothing; removes old runs if the disk has no room. For
    a URL it is the scratch folder of this process, and the store is checked too. Raises `ConfigurationError` if a
    setting names a folder that cannot be used, `LocalStorageError` if its disk has no room."""
    root, history = state_root(env), history_root(env)
    records_here = dagster_home(env) is None
    if records_here and history != root:
        require_usable(history)
    has_history = records_here and history == root
    try:
        require_usable(root, run_history=has_history)
    except LocalStorageError:
        make_room(root, datetime.now(UTC))
        require_usable(root, run_history=has_history)
    return root


def denied(target: TargetHealth, table: TargetTable, needed: Sequence[str]) -> AccessDenied | None:
    """The error for the privileges (``INSERT`` …) that the role lacks, with their GRANT."""
    held = target.privileges
    missing = [name for name in needed if not getattr(held, name.lower())]
    if not missing:
        return None
    told = [right for right in held.lacking if right.startswith(("USAGE", *missing))]
    told += [name for name in missing if not any(right.startswith((name, "USAGE")) for right in told)]
    role = target.server.role
    grants = [hints.sql("GRANT USAGE ON SCHEMA {} TO {}", schema, role) for schema in held.schemas]
    grants.append(hints.sql(f"GRANT {', '.join(missing)} ON {{}} TO {{}}", (table.schema, table.name), role))
    if "INSERT" in missing:
        grants += [hints.sql("GRANT USAGE ON SEQUENCE {} TO {}", sequence, role) for sequence in held.sequences]
    return AccessDenied(
        f"The role {role!r} lacks privileges on {table.qualified_name}: {'; '.join(told)}.", hint=" ".join(grants)
    )
