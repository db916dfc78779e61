"""The preconditions of a sync. A sync refuses to start if one fails, and `doctor` reports all, by the same code.

The checks of the two servers are in `sources.mongodb.collection` and `targets.postgres.requirements`, because the
reader and the writer call them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from product_sync.errors import AccessDenied, ProductSyncError
from product_sync.notify.channels import require_channels
from product_sync.pipeline.local_storage import require_local_storage
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
)
from product_sync.sources.mongodb import check_address
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
) -> Iterator[ProductSyncError]:
    """Every mistake in the settings of a run with the options ``overrides``, each once. ``more`` are the checks of
    higher layers."""
    said = set[str]()
    for problem in _found(definition, env, overrides, *more):
        if str(problem) not in said:
            said.add(str(problem))
            yield problem


def _found(
    definition: SyncDefinition | None, env: Environment, overrides: Mapping[str, Any], *more: Check
) -> Iterator[ProductSyncError]:
    for settings in _SETTINGS:
        yield from settings.with_mistakes(env)[1].values()
    addresses = address_checks(definition) if definition else ()
    for check in (lambda env: RunOptions.resolve(env, overrides), *addresses, require_local_storage, *more):
        try:
            check(env)
        except ProductSyncError as error:
            yield error


def address_checks(definition: SyncDefinition) -> tuple[Check, Check]:
    """The checks of the two addresses."""
    return (
        lambda env: check_address(SourceAddress.from_environment(env, definition.source)),
        lambda env: without_credentials(TargetAddress.from_environment(env, definition.target)),
    )


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
