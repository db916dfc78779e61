"""The folder that outlives a run: snapshots, diffs, the quarantine, the source baseline.

Everything is keyed by what is synced with what (`Layout.state_key`), so that a run against another target, or with
another mapping, never meets the state of the first: it would compare a shop with the wrong past, and could
take every row of it for extra. Files appear whole or not at all (temporary file and rename).

    <root>/<state key>/quarantine.parquet
    <root>/<state key>/baseline.json
    <root>/<state key>/runs/<run id>/{source,rejects,target,diff,...}.parquet, load.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product_sync.core.errors import ConfigurationError

#: How many runs keep their files; older ones are removed when a new run begins.
KEPT_RUNS = 5

SOURCE_ROWS = "source.parquet"
SOURCE_COUNT = "source.json"
REJECTS = "rejects.parquet"
TARGET_ROWS = "target.parquet"
DIFF = "diff.parquet"
DIFF_COUNTS = "diff.json"
LOAD_REJECTS = "load_rejects.parquet"
LOAD_RESULT = "load.json"
VERIFIED_TARGET_ROWS = "verified_target.parquet"
VERIFIED_DIFF = "verified_diff.parquet"
QUARANTINE = "quarantine.parquet"
BASELINE = "baseline.json"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run. Names that begin with ``verified_`` belong to the reading made to prove the result."""

    folder: Path

    @property
    def run_id(self) -> str:
        return self.folder.name

    def path(self, name: str) -> Path:
        return self.folder / name

    def has(self, name: str) -> bool:
        return self.path(name).exists()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_json(self.path(name), content)

    def read_json(self, name: str) -> dict[str, Any] | None:
        return read_json(self.path(name))


@dataclass(frozen=True, slots=True)
class StateFolder:
    """State of one state key below ``root``."""

    root: Path
    key: str

    @property
    def folder(self) -> Path:
        return self.root / self.key

    @property
    def quarantine(self) -> Path:
        return self.folder / QUARANTINE

    def run(self, run_id: str) -> RunFiles:
        """The files of this run, its folder made; the oldest runs beyond `KEPT_RUNS` are removed."""
        files = RunFiles(self.folder / "runs" / run_id)
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot write to the state folder {self.root}: {error.strerror}.",
                hint="Set PRODUCT_SYNC_STATE to a folder that this user can write to.",
            ) from error
        for old in self._runs()[KEPT_RUNS:]:
            if old != files.folder:
                shutil.rmtree(old, ignore_errors=True)
        return files

    def newest(self, name: str) -> RunFiles | None:
        """The newest run that has this file."""
        runs = [RunFiles(folder) for folder in self._runs()]
        having = [run for run in runs if run.has(name)]
        return max(having, key=lambda run: run.path(name).stat().st_mtime_ns, default=None)

    def read_baseline(self) -> int | None:
        """How many documents the source had when the target was last proven to match it."""
        content = read_json(self.folder / BASELINE)
        return None if content is None else int(content["source_count"])

    def write_baseline(self, source_count: int, run_id: str) -> None:
        write_json(self.folder / BASELINE, {"source_count": source_count, "run_id": run_id})

    def _runs(self) -> list[Path]:
        folder = self.folder / "runs"
        found = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        return sorted(found, key=lambda entry: entry.stat().st_mtime_ns, reverse=True)


def newest_file(root: Path, name: str) -> Path | None:
    """The newest file of this name under any state key."""
    found = [*root.glob(f"*/runs/*/{name}"), *root.glob(f"*/{name}")]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content
