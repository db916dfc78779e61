"""`SyncComponent`: a sync in another Dagster project, written as ``defs.yaml`` (docs/host-projects.md)."""

import os
from functools import partial
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from product_sync.errors import MappingError
from product_sync.orchestration.build import build_sync_definitions
from product_sync.schema.definition import SyncDefinition, require_distinct
from product_sync.schema.mapping_errors import Place, all_of
from product_sync.settings import PageSettings, RunOptions, ScheduleSettings


class SyncAttributes(SyncDefinition):
    """The attributes of ``defs.yaml``: those of a mapping file, when the sync runs, and its run options."""

    schedule: ScheduleSettings | None = Field(
        default=None, description="`cron`, `time_zone` and `enabled`; without it the sync has no schedule"
    )
    options: RunOptions = Field(
        default_factory=RunOptions, description="The options of every run; the run config of one run overrides them"
    )


class GivenAttributes(BaseModel):
    """What ``defs.yaml`` holds, with the schema of `SyncAttributes` for editors and ``dg check yaml``. It is validated
    when templates are resolved: `SyncAttributes` then says what is wrong, and Dagster knows the lines."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        return SyncAttributes.model_json_schema(*args, **options)


def _where(context: dg.ResolutionContext, place: Place) -> str:
    if context.source_position_tree is None:
        return ""
    position, _ = context.source_position_tree.lookup_closest_and_path([*context.path, *place], None)
    return f"{position.filename}, line {position.start.line}: "


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
    options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def model(cls) -> type[BaseModel]:
        return GivenAttributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """Raises `MappingError` with every mistake and its line."""
        try:
            attributes = SyncAttributes.model_validate(context.resolve_value(model.model_dump()))
        except MappingError as error:
            raise all_of(error.mistakes, partial(_where, context)) from None
        given = attributes.model_dump(by_alias=True, exclude={"schedule", "options"}, exclude_unset=True)
        options = attributes.options.model_dump(exclude_unset=True)
        return cls(sync=SyncDefinition.model_validate(given), schedule=attributes.schedule, options=options)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Raises `MappingError` if another component of the project has the same table."""
        components = context.component_tree.get_all_components(SyncComponent)
        require_distinct({f"component {each.sync.name}": each.sync for each in components})
        pages = PageSettings.from_environment(os.environ)
        return build_sync_definitions(self.sync, schedule=self.schedule, pages=pages, options=self.options)
