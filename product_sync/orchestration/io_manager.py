"""Loads the result of a step as a pandas DataFrame, in a notebook or in a downstream asset.

The steps write their files themselves, as streams. Nothing is written here.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from product_sync.orchestration.names import SyncNames
from product_sync.pipeline.databases import Databases
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import state_root
from product_sync.state import store
from product_sync.state.files import opened, pages
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder, keys_with

if TYPE_CHECKING:
    import pandas as pd


def _files(names: SyncNames) -> dict[str, str]:
    return {
        names.source_snapshot: store.SOURCE_ROWS,
        names.target_snapshot: store.TARGET_ROWS,
        names.diff: store.DIFF,
        names.quarantine: store.QUARANTINE,
        names.load: store.LOAD_RESULT,
    }


class TableIOManager(dg.ConfigurableIOManager):
    """Loads the newest file of an asset of one sync. Only one run writes at a time, so in a run it is the file of that
    run."""

    definition: dg.ResourceDependency[SyncDefinition]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Does nothing: the steps return no values."""
        raise dg.DagsterInvariantViolationError(
            f"{context.asset_key.to_user_string()} handed a {type(obj).__name__} to the IO manager of the sync,"
            " which only reads. Choose another IO manager for this asset."
        )

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame":
        import pandas as pd

        name, files = context.asset_key.to_user_string(), _files(SyncNames.of(self.definition.name))
        root = state_root(os.environ)
        if name not in files:
            raise dg.DagsterInvariantViolationError(
                f"{name} is only recorded and holds no rows to load; these do: {', '.join(files)}."
            )
        path = _newest_file(self.definition, root, files[name])
        if path is None:
            raise dg.DagsterInvariantViolationError(
                f"{name} has no file under {root}. Materialise it first, with the same PRODUCT_SYNC_STATE."
            )
        with local_storage(root):
            # The result of a load is JSON, and becomes one row.
            if path.suffix == ".json":
                return pd.DataFrame([store.read_json(path)])
            # As datetime64: Python's own dates do not reach as far as PostgreSQL's.
            with opened(path) as file:
                rows = pa.Table.from_batches(pages(file), file.schema)
                frame: pd.DataFrame = rows.to_pandas(date_as_object=False)
            return frame


def _newest_file(definition: SyncDefinition, root: Path, name: str) -> Path | None:
    """Asks the databases only if there are several state folders: a notebook may not reach them."""
    keys = keys_with(root, name)
    if len(keys) > 1:
        keys = [Databases.of(definition, os.environ).state_key]
    return StateFolder(root, keys[0]).newest_file(name) if keys else None
