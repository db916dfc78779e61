"""The environment variables of the demo and of ``product-sync dev``: what a user would set for these servers."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from product_sync.embedded.servers import Servers
from product_sync.schema.definition import MAPPING, SOURCE_PASSWORD, SOURCE_URL, SOURCE_USER, TARGET_URL
from product_sync.settings import REPORTS_URL, STATE, UI_URL

#: The state folder of the Dagster instance, below the servers' folder (`state_root`).
STATE_FOLDER = Path("dagster", "product_sync_state")


def enter(servers: Servers, *, mapping: Path | None = None, ui_url: str = "", reports_url: str = "") -> Path:
    """Let this process and its children use the embedded servers and a Dagster instance beside them, and the mapping
    files of ``mapping``, if given. The URLs of the UI and of the drift reports are used if none are set. Returns a file
    of the same variables for other shells to source; only its owner may read it, because it holds a password."""
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
        **({MAPPING: str(mapping)} if mapping else {}),
    }
    for name, address in ((UI_URL, ui_url), (REPORTS_URL, reports_url)):
        if address:
            variables[name] = os.environ.get(name) or address
    os.environ.update(variables)
    script = servers.folder / "environment.sh"
    script.touch(mode=0o600)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    # The commands of this virtual environment.
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"\n')
    script.write_text("".join(lines))
    return script
