"""The environment of the demo and of ``product-sync dev``: the variables that a user would set, for our servers."""

import os
import shlex
import shutil
from pathlib import Path

from product_sync.embedded.servers import Servers
from product_sync.settings import MAPPING, SOURCE_PASSWORD, SOURCE_URL, SOURCE_USER, STATE, TARGET_URL


def enter(servers: Servers) -> Path:
    """Point this process, and those it starts, at the embedded servers and at a Dagster instance beside them.

    Returns a file of the same variables for other shells to source. Only its owner may read it: it holds a password.
    """
    home = servers.folder / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("dagster.yaml"), home / "dagster.yaml")
    for name in (SOURCE_USER, SOURCE_PASSWORD, MAPPING, STATE):
        os.environ.pop(name, None)
    variables = {
        SOURCE_URL: servers.mongodb_url,
        TARGET_URL: servers.cart_url,
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_URL": servers.dagster_url,
    }
    os.environ.update(variables)
    script = servers.folder / "environment.sh"
    script.touch(mode=0o600)
    script.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    return script
