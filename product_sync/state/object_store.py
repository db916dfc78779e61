"""Objects below a URL such as ``s3://bucket/state``: list, read, create, remove, through a driver of fsspec.

Only whole objects are read and written, as streams of bounded memory. Every driver error is translated here, once. A
store that does not answer is asked again for `retry_s` seconds.
"""

from __future__ import annotations

import errno
import filecmp
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from product_sync.errors import AccessDenied, ConfigurationError, ProductSyncError, StateStoreError
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import SYSTEM_TIMING, Timing

#: Bytes of each part of a large object. `_PARTS` of them are in memory at once.
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS: Final = 4
_S3_PARTS: Final = {"chunksize": _PART_BYTES, "max_concurrency": _PARTS}
#: What a test of the store writes and removes.
TRIAL: Final = ".trial"


@dataclass(frozen=True, slots=True)
class _Driver:
    """``extra`` of product_sync installs it. ``options`` are those of the file system, ``put`` and ``get`` of one
    transfer. Waiting and trying again is done here, for all drivers alike."""

    extra: str
    options: dict[str, Any]
    put: dict[str, Any]
    get: dict[str, Any]


_DRIVERS: Final = {
    "s3": _Driver(
        "s3",
        {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}},
        _S3_PARTS,
        _S3_PARTS,
    ),
    "gs": _Driver("gcs", {}, {"chunksize": _PART_BYTES}, {}),
    "az": _Driver("azure", {}, {"max_concurrency": _PARTS}, {"max_concurrency": _PARTS}),
}
_EXPECTED: Final = "Expected: s3://bucket/folder, gs://bucket/folder or az://container/folder."
_CREDENTIALS: Final = "Check the credentials and the rights: docs/object-store.md lists them."
#: What a server of S3 answers where a new object is there already, or is being created by somebody else.
_EXISTS: Final = ("PreconditionFailed", "ConditionalRequestConflict")
_OF_DISKS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE)
#: Packages of the drivers. Errors of other packages are faults of this program.
_OF_DRIVERS: Final = ("aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs")
_WRONG_CREDENTIALS: Final = re.compile("Credential|ClientAuthentication|Refresh|TokenRetrieval|ProfileNotFound|Login")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object. ``name`` is its path below the URL, ``modified`` its time by the clock of the store, in seconds since
    1970."""

    name: str
    size: int
    modified: float


def checked_url(text: str, variable: str) -> str:
    """The URL without a slash at its end. Raises `ConfigurationError`, without showing what may be a password."""
    scheme, _, rest = text.partition("://")
    place = rest.partition("/")[0]
    if "@" in place or "?" in text or "#" in text:
        raise ConfigurationError(
            f"{variable} is a URL with credentials or parameters, which would be shown in logs.",
            hint=f"Give the credentials in the ways of the driver (docs/object-store.md). {_EXPECTED}",
        )
    if scheme not in _DRIVERS:
        raise ConfigurationError(f"{variable} is {text!r}, and {scheme}:// is not supported.", hint=_EXPECTED)
    if not place:
        raise ConfigurationError(f"{variable} is {text!r}, which names no bucket.", hint=_EXPECTED)
    return text.rstrip("/")


class ObjectStore:
    """The objects below ``url``. Opening it asks nothing of the store."""

    def __init__(self, url: str, *, retry_s: float = 10.0, timing: Timing = SYSTEM_TIMING) -> None:
        """Raises `ConfigurationError` if the driver is not installed."""
        import fsspec

        self.url = url
        self.retry_s = retry_s
        scheme, _, self._base = url.partition("://")
        self._driver = _DRIVERS[scheme]
        self.timing = timing
        try:
            self._fs: Any = fsspec.filesystem(
                scheme, use_listings_cache=False, skip_instance_cache=True, **self._driver.options
            )
            self._fs.retries = 1
        except ImportError as error:
            raise ConfigurationError(
                f"The driver for {scheme}:// is not installed.",
                hint=f'pip install "product_sync[{self._driver.extra}]"',
            ) from error
        except Exception as error:
            raise self._translated(error) from error

    def entries(self, prefix: str = "") -> list[Entry]:
        """The objects whose names begin with ``prefix``, a folder with a slash at its end, or all."""
        found = self._patiently(lambda: self._fs.find(self._base, prefix=prefix, detail=True), missing={})
        cut = len(self._base) + 1
        listed = (
            Entry(name[cut:], int(info["size"] or 0), _modified(info))
            for name, info in found.items()
            if info["type"] == "file"
        )
        return [entry for entry in listed if entry.name and entry.name.startswith(prefix)]

    def get(self, name: str, path: Path) -> bool:
        """Write the object to ``path``, whole or not at all. False if there is no such object."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".get.") as folder:
            part = Path(folder) / path.name
            get = partial(self._fs.get_file, self._at(name), str(part), **self._driver.get)
            if self._patiently(get, missing=False) is False:
                return False
            part.replace(path)
        return True

    def read(self, name: str, use: Callable[[Any], _T]) -> _T | None:
        """The result of ``use``, which reads parts of the object as of a file. ``None`` if there is no such object."""

        def read() -> _T | None:
            with self._fs.open(self._at(name), "rb", cache_type="none") as file:
                return use(file)

        return self._patiently(read, missing=None)

    def put(self, name: str, path: Path, retry_s: float | None = None) -> None:
        """Make ``path`` the object of this name, which may exist. ``retry_s`` replaces that of the store."""
        self._patiently(lambda: self._fs.put_file(str(path), self._at(name), **self._driver.put), retry_s)

    def create(self, name: str, path: Path) -> bool:
        """Make ``path`` a new object. False if there is another one of this name."""
        create = partial(self._fs.put_file, str(path), self._at(name), mode="create", **self._driver.put)
        return self._patiently(create, exists=False) is not False or self._is_ours(name, path)

    def _is_ours(self, name: str, path: Path) -> bool:
        """Whether the object has the content of ``path``: an attempt without an answer may have created it."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".get.") as folder:
            other = Path(folder) / path.name
            return self.get(name, other) and filecmp.cmp(path, other, shallow=False)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects. One that is gone already is no error."""
        if paths := [self._at(name) for name in names]:
            self._patiently(lambda: self._fs.rm(paths), missing=None)

    def require_usable(self) -> None:
        """Create a small object, try to create it again, and remove it. Raises `ConfigurationError`, `AccessDenied` or
        `StateStoreError` if a sync could not use the store."""
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder) / "first", Path(folder) / "second"
            first.write_text("1")
            second.write_text("2")
            name = f"{TRIAL}/{Path(folder).name}"
            self.create(name, first)
            try:
                if self.create(name, second):
                    raise ConfigurationError(
                        f"The store {self.url} replaces an object that should only be created.",
                        hint="Two runs could lose each other's results. Use a store that honours If-None-Match.",
                    )
                self.entries(f"{TRIAL}/")
            finally:
                self.remove([name])

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _patiently(self, attempt: Callable[[], _T], retry_s: float | None = None, **answers: Any) -> _T:
        """The result of ``attempt``, or that of ``answers`` if the object is ``missing`` or ``exists``."""
        total_s = self.retry_s if retry_s is None else retry_s
        backoff = Backoff(RetryPolicy(longest_s=5.0, total_s=total_s), self.timing)
        while True:
            backoff.attempt()
            try:
                return attempt()
            except Exception as error:
                if (answer := _answer(error)) in answers:
                    return answers[answer]  # type: ignore[no-any-return]
                translated = self._translated(error)
                if not isinstance(translated, StateStoreError) or not backoff.wait():
                    raise translated from error

    def _translated(self, error: Exception) -> ProductSyncError:
        """The error in words. Another library's text may hold a secret, so only its class and code are shown. Raises
        ``error`` if it is none of the store."""
        if _is_of_this_machine(error):
            raise error
        code = _code(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            return ConfigurationError(
                f"There is no bucket for the store {self.url}.",
                hint="Create the bucket, or correct PRODUCT_SYNC_STATE.",
            )
        if isinstance(error, PermissionError) or _is_about_credentials(error):
            return AccessDenied(f"The store {self.url} refuses this user: {code}.", hint=_CREDENTIALS)
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _OF_DRIVERS:
            raise error
        return StateStoreError(
            f"The store {self.url} does not answer as it should: {code}.",
            hint="Check that it is up and can be reached from here, then run it again.",
        )


def _answer(error: Exception) -> str:
    """What the error says about the object: it is ``missing``, it ``exists``, or nothing."""
    code = _code(error)
    if isinstance(error, FileNotFoundError):
        return "" if code == "NoSuchBucket" else "missing"
    return "exists" if isinstance(error, FileExistsError) or code in _EXISTS else ""


def _code(error: BaseException) -> str:
    """The code that the store has answered, if any."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _is_about_credentials(error: Exception) -> bool:
    """As the drivers say it that do not raise `PermissionError`: by the status of the answer, or the error's name."""
    status = getattr(error, "status_code", getattr(error, "code", None))
    return status in (401, 403) or _WRONG_CREDENTIALS.search(type(error).__name__) is not None


def _is_of_this_machine(error: Exception) -> bool:
    """Whether the local file system has raised it: it names the local file, or says what no driver says."""
    if not isinstance(error, OSError):
        return False
    return error.errno in _OF_DISKS or (isinstance(error.filename, str) and error.filename.startswith("/"))


def _modified(info: dict[str, Any]) -> float:
    """Each driver has its own name and form for it."""
    found = next(info[name] for name in ("LastModified", "last_modified", "mtime", "updated") if info.get(name))
    return (found if isinstance(found, datetime) else datetime.fromisoformat(str(found))).timestamp()
