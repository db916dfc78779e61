"""``product-sync dev``: the embedded servers, the sample catalogue and the Dagster UI, until Ctrl-C."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from product_sync.embedded import environment
from product_sync.embedded.catalogue import fill
from product_sync.embedded.process import is_free, port_in_use
from product_sync.embedded.servers import Servers, running

_STOP_S = 30.0


def run_dev(folder: Path, port: int, tell: Callable[[str], None]) -> None:
    """Returns when it is interrupted, with everything stopped. ``port`` is the UI's."""
    if not is_free(port):
        raise port_in_use("the Dagster UI", port)
    new = not (folder / "dagster").exists()
    with running(folder, tell=tell) as servers:
        if new:
            fill(servers.mongodb_url, servers.cart_url)
            tell("Filled the sample catalogue, with drift planted in the cart's copy.")
        tell(_where(servers, port, environment.enter(servers)))
        _serve(port)
    tell("Everything is stopped.")


def _where(servers: Servers, port: int, script: Path) -> str:
    return (
        f"Dagster UI   http://127.0.0.1:{port}\n"
        f"Data         {servers.folder}\n"
        f"In another shell: `source {script}`, then `product-sync sync`.\n"
        "Ctrl-C stops all of it."
    )


def _serve(port: int) -> None:
    dagster = shutil.which("dagster", path=str(Path(sys.executable).parent)) or "dagster"
    command = [dagster, "dev", "-m", "product_sync.definitions", "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command)  # noqa: S603 - our own command line
    try:
        process.wait()
    except KeyboardInterrupt:
        # A Ctrl-C on the terminal reached it too; a SIGTERM reached only us.
        process.terminate()
        process.wait(_STOP_S)
    finally:
        if process.poll() is None:
            process.kill()
