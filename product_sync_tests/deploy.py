"""What `deploy/` holds, as data: the services of the compose file, the units of systemd, the variables of env files."""

from __future__ import annotations

import re
import shlex
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted([*(DEPLOY / "systemd").glob("*.service"), *(DEPLOY / "systemd").glob("*.timer")])
OURS = ("code-location", "daemon", "webserver")


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def helm_values(*, folder: bool = False) -> dict[str, Any]:
    """The values; with ``folder`` those of ``--values values.yaml --values values-folder.yaml``."""
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
    over = yaml.safe_load((DEPLOY / "helm" / "values-folder.yaml").read_text()) if folder else {}
    values: dict[str, Any] = _merged(content, over)
    return values


def _merged(below: Any, above: Any) -> Any:
    """As Helm does it: maps are merged, everything else is replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def env_files(service: dict[str, Any]) -> list[str]:
    """The names of the env files of a service of the compose file, those too that may be missing."""
    files = service["env_file"]
    return [each["path"] if isinstance(each, dict) else each for each in ([files] if isinstance(files, str) else files)]


class _Repeating(dict[str, Any]):
    """systemd collects what comes several times; `configparser` would keep the last."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, list) and isinstance(self.get(key), list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """The sections of a unit: the values of each key, in order."""
    parser = RawConfigParser(strict=False, dict_type=_Repeating, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign] # keys of systemd are in letter case
    parser.read_string(path.read_text())
    return {
        section: {key: value.split("\n") for key, value in parser.items(section, raw=True)}
        for section in parser.sections()
    }


def started(path: Path) -> list[str]:
    """The command of a unit, its program without the folder."""
    [line] = unit(path)["Service"]["ExecStart"]
    program, *arguments = shlex.split(line)
    return [Path(program).name, *arguments]


def env_file(name: str) -> dict[str, str]:
    """The variables of an example, those that are commented out too."""
    text = (DEPLOY / f"{name}.example").read_text()
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE))
