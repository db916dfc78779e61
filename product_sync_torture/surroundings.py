"""Two real servers in a temporary folder, and an environment in which only they are configured."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from product_sync.embedded.servers import Servers, remove, running

Round = TypeVar("Round")
#: Prefixes of variables that would configure other servers.
_OURS = ("PRODUCT_", "CART_", "MONGO_", "SYNC_", "DAGSTER_", "PG")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the data of servers. The data is deleted at the end."""
    base = Path(tempfile.mkdtemp(prefix="product_sync_torture_"))
    # For root: the servers' user has to enter the folder.
    base.chmod(0o711)
    try:
        yield base
    finally:
        remove(base / "data")
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def servers() -> Iterator[Servers]:
    with temporary_folder() as folder, running(folder / "data", durable=False) as started:
        yield started


@contextmanager
def environment(mongodb_url: str, cart_url: str, state: Path, **more: str) -> Iterator[None]:
    """The environment variables that `product_sync.api` reads, during the block."""
    before = dict(os.environ)
    wanted: Mapping[str, str] = {
        "PRODUCT_SERVICE_MONGODB_URL": mongodb_url,
        "CART_DB_URL": cart_url,
        "PRODUCT_SYNC_STATE": str(state),
        **more,
    }
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def markdown(title: str, module: str, body: Sequence[str], violations: Sequence[str]) -> str:
    """The report of a campaign."""
    return "\n".join(
        [
            f"# {title}: results of the campaign",
            "",
            f"Written by `python -m {module}` on {platform.system()}, Python {platform.python_version()}.",
            "",
            *body,
            "",
            "## Violations",
            "",
            *(violations or ["None."]),
            "",
        ]
    )


def keep(path: Path | None, played: Any) -> None:
    """Add a round to the file of those that need not be played again."""
    if path:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(played)) + "\n")


def kept(path: Path | None, round_of: Callable[..., Round]) -> list[Round]:
    """The rounds in a file of `keep`; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
    return [round_of(**json.loads(line)) for line in lines]


def finish(text: str, path: Path | None) -> None:
    """Print the report, and write it to ``path``."""
    if path:
        path.write_text(text, encoding="utf-8")
    say(text)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
