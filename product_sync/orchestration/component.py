"""`SyncComponent`: a sync in another Dagster project, written as ``defs.yaml`` (docs/host-projects.md)."""

import os
from typing import Self

import dagster as dg
from pydantic import BaseModel, Field

from product_sync.orchestration.build import build_sync_definitions
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import PageSettings, ScheduleSettings


class SyncAttributes(SyncDefinition):
    """The attributes of ``defs.yaml``: those of a mapping file, and when the sync runs."""

    schedule: ScheduleSettings | None = Field(
        default=None, description="`cron`, `time_zone` and `enabled`; without it the sync has no schedule"
    )


class SyncScaffolder(dg.Scaffolder):
    """Writes a ``defs.yaml`` that is valid and has one column to start with."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        name = request.target_path.name
        attributes = {
            "name": name,
            "source": {"collection": name},
            "target": {"schema": "public", "table": name},
            "columns": {"id": {"source": "_id"}, "name": {"source": "name"}},
        }
        dg.scaffold_component(request, attributes)


@dg.scaffold_with(SyncScaffolder)
class SyncComponent(dg.Component, dg.Model, dg.Resolvable):
    """Compares a MongoDB collection with its copy in a PostgreSQL table, repairs it and verifies the result."""

    sync: SyncDefinition
    schedule: ScheduleSettings | None = None

    @classmethod
    def model(cls) -> type[BaseModel]:
        return SyncAttributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        given = dict(context.resolve_value(model.model_dump(by_alias=True, exclude_unset=True)))
        schedule = given.pop("schedule", None)
        return cls(
            sync=SyncDefinition.model_validate(given),
            schedule=ScheduleSettings.model_validate(schedule) if schedule is not None else None,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster passes it
        pages = PageSettings.from_environment(os.environ)
        return build_sync_definitions(self.sync, schedule=self.schedule, pages=pages)
