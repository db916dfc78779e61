"""Where it was measured: figures without their machine mean nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
import psycopg
from pymongo import MongoClient

from product_sync.embedded.servers import Servers


def describe() -> str:
    """Such as ``AMD EPYC, 2 cores, 24 GB, Linux 6.18``."""
    memory = round(psutil.virtual_memory().total / 2**30)
    release = ".".join(platform.release().split(".")[:2])
    return f"{_processor()}, {os.cpu_count()} cores, {memory} GiB of memory, {platform.system()} {release}"


def server_versions(servers: Servers) -> dict[str, str]:
    with MongoClient[dict[str, Any]](servers.mongodb_url) as client:
        mongodb = str(client.server_info()["version"])
    with psycopg.connect(servers.postgres_url) as connection:
        version, fsync = connection.execute(
            "SELECT current_setting('server_version'), current_setting('fsync')"
        ).fetchone() or ("?", "?")
    return {"MongoDB": mongodb, "PostgreSQL": f"{version}, fsync {fsync}", "Python": platform.python_version()}


def commit() -> dict[str, str]:
    """Which commit of this repository was measured, with ``-dirty`` if it was changed; nothing without git."""
    if (git := shutil.which("git")) is None:
        return {}
    command = [git, "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603 - constant arguments
    return {"commit": found.stdout.strip()} if found.returncode == 0 else {}


def load() -> float:
    """The mean number of processes that wanted a core in the last minute, before we begin."""
    return os.getloadavg()[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
