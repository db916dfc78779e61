"""A full, read-only or broken disk is named, whichever library met it; an error of the network is none of these."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from product_sync.errors import LocalStorageError
from product_sync.state.storage_errors import local_storage

ROWS = pa.table({"id": [str(number) * 50 for number in range(20_000)]})


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full: no space is left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "has failed"),
        (errno.EACCES, "by this user"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOTEMPTY, "Directory not empty"),
    ],
)
def test_what_the_file_system_says_is_translated_with_the_folder(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(LocalStorageError, match=said) as raised, local_storage(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))
    assert raised.value.hint
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), TimeoutError(), pa.ArrowInvalid("no column")]
)
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), local_storage(tmp_path):
        raise error


def test_a_write_that_arrow_cannot_finish_is_translated_and_leaves_nothing(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(LocalStorageError, match="is full"), local_storage(tmp_path), full.open("wb") as file:
        pa.ipc.new_file(file, ROWS.schema).write_table(ROWS)


def test_too_many_open_files_are_named_where_a_library_hides_the_errno(tmp_path: Path) -> None:
    with pytest.raises(LocalStorageError, match="ulimit -n 256"), local_storage(tmp_path):
        raise OSError(f'Cannot open file "{tmp_path}/x": Too many open files')
