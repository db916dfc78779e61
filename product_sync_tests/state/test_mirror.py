"""The exchange with a real S3 server: what is half written is not read, what is old is removed, each error is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock

from product_sync.errors import (
    AccessDenied,
    ConfigurationError,
    LocalStorageError,
    ProductSyncError,
    StateStoreError,
)
from product_sync.settings import state_root
from product_sync.state import replaced
from product_sync.state.files import row_count
from product_sync.state.mirror import ALIVE, COMPLETE, Mirror, _remove_left_by_killed, here, mirror_of, open_mirror
from product_sync.state.object_store import Entry, ObjectStore
from product_sync.state.retention import KEPT_REPORTS, KEPT_RUNS, old_objects
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder
from product_sync_tests.object_store import S3Server
from product_sync_tests.tables import write_table

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def mirror(store_url: str, tmp_path: Path) -> Mirror:
    found = mirror_of(open_mirror(store_url, tmp_path / "scratch"))
    assert found is not None
    return found


def other_machine(mirror: Mirror, tmp_path: Path) -> StateFolder:
    return StateFolder(open_mirror(mirror.objects.url, tmp_path / "scratch of another machine"), "key")


def test_a_group_of_files_without_its_end_is_not_read(mirror: Mirror, tmp_path: Path) -> None:
    files = StateFolder(mirror.root, "key").begin("run", NOW)
    files.write_json("source.json", {"documents": 5})
    files.publish()
    [end] = [entry.name for entry in mirror.objects.entries() if entry.name.endswith(COMPLETE)]
    mirror.objects.remove([end])
    assert not other_machine(mirror, tmp_path).begin("run", NOW).has("source.json")


def test_of_two_attempts_of_a_step_the_files_do_not_mix(mirror: Mirror, tmp_path: Path) -> None:
    """The first attempt has not ended when the second is complete; its end comes while a third step reads."""
    first = StateFolder(mirror.root, "key").begin("run", NOW)
    second = other_machine(mirror, tmp_path).begin("run", NOW)
    for number, files in enumerate((first, second), 1):
        files.write_json("source.json", {"attempt": number})
        files.write_json("rejects.json", {"attempt": number})
    second.publish()
    reader = StateFolder(open_mirror(mirror.objects.url, tmp_path / "reader"), "key").begin("run", NOW)
    assert reader.read_json("source.json") == {"attempt": 2}
    first.publish()
    assert reader.read_json("rejects.json") == {"attempt": 2}


_UPLOAD = """
import os, sys
from datetime import UTC, datetime
from product_sync.settings import state_root
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder
from product_sync_tests.tables import write_table
files = StateFolder(state_root(os.environ), "key").begin("run", datetime.now(UTC))
files.path("source.arrow").write_bytes(os.urandom(30_000_000))
files.path("source.json").write_text("{}")
print("begins", flush=True)
files.publish()
print("has ended", flush=True)
"""


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_to_read_and_the_next_attempt_is_whole(
    mirror: Mirror, tmp_path: Path
) -> None:
    env = {**os.environ, "PRODUCT_SYNC_STATE": mirror.objects.url, "PRODUCT_SYNC_SCRATCH": str(tmp_path / "killed")}

    def upload() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", _UPLOAD], env=env, stdout=subprocess.PIPE, text=True)

    with upload() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout.read() == ""
    assert list((tmp_path / "killed").iterdir()), "its scratch folder is left"
    assert not other_machine(mirror, tmp_path).begin("run", NOW).has("source.json")
    with upload() as process:
        assert process.communicate()[0] == "begins\nhas ended\n"
    found = other_machine(mirror, tmp_path).begin("run", NOW)
    assert here(found.path("source.arrow")).stat().st_size == 30_000_000
    assert list((tmp_path / "killed").iterdir()) == [], "the next process has removed it"


_OPEN = """
import sys
from pathlib import Path
from product_sync.state.mirror import open_mirror
print(open_mirror(sys.argv[1], Path(sys.argv[2])))
"""


def test_a_process_that_starts_leaves_the_scratch_folder_of_another_one_at_work(mirror: Mirror) -> None:
    command = [sys.executable, "-c", _OPEN, mirror.objects.url, str(mirror.root.parent)]
    other = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert other.stdout.strip().startswith(str(mirror.root.parent))
    assert mirror.root.is_dir()


def test_a_process_that_starts_leaves_the_scratch_folder_of_one_that_is_starting(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, begun = FileLock.acquire, list[Path]()

    def acquired_late(lock: FileLock) -> Any:
        monkeypatch.undo()
        begun.append(Path(lock.lock_file))
        begun[0].touch()
        _remove_left_by_killed(mirror.root)  # as another process does
        assert begun[0].exists()
        return acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", acquired_late)
    assert open_mirror(f"{mirror.objects.url}/another", mirror.root.parent).is_dir()
    assert begun


def test_a_store_that_is_away_for_a_while_is_waited_for(
    mirror: Mirror, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StateFolder(mirror.root, "key").begin("run", NOW)
    files.write_json("source.json", {"documents": 5})
    s3_server.stop()
    monkeypatch.setattr(mirror.objects, "retry_s", 0.5)
    with pytest.raises(StateStoreError, match=r"does not answer as it should: EndpointConnectionError"):
        files.publish()
    monkeypatch.setattr(mirror.objects, "retry_s", 60.0)
    monkeypatch.setattr(mirror, "_alive_at", {})
    began = time.monotonic()
    files.touch(NOW)
    assert time.monotonic() - began < 10.0, "a run that needs no file now does not wait"
    back = threading.Timer(1.0, s3_server.start)
    back.start()
    files.publish()
    back.join()
    assert mirror.view(files.folder, afresh=True).keys() == {"source.json"}


def entry(name: str, age: timedelta) -> Entry:
    return Entry(name, 1, (NOW - age).timestamp())


def test_old_runs_plans_and_reports_are_removed_by_the_clock_of_the_store() -> None:
    day, hour, minute = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
    own = entry(f"key/runs/own/{ALIVE}", timedelta())
    old = [entry(f"key/runs/old{number}/g/x", (2 + number) * hour) for number in range(8)]
    works = entry(f"key/runs/old7/{ALIVE}", minute)
    young = [entry(f"key/partial_runs/young{number}/g/x", 50 * minute) for number in range(8)]
    unused = [entry("other/runs/a/g/x", 31 * day), entry("other/runs/b/g/x", 29 * day)]
    plans = [entry("other/plans/a/g/plan.json", 25 * hour), entry("key/plans/b/g/plan.json", 23 * hour)]
    reports = [entry(f"key/reports/{number}.html", number * day) for number in range(KEPT_REPORTS + 2)]
    kept = [entry("key/quarantine/00000001.arrow", 90 * day), entry("key/reports/history/00000001.json", 90 * day)]
    trials = [entry(".trial/a", 2 * hour), entry(".trial/b", minute)]
    entries = [own, *old, works, *young, *unused, *plans, *reports, *kept, *trials]
    removed = [each.name for each in old_objects(entries, "key/runs/own")]
    # The own run and the one that works are two of those that stay.
    expected = [*old[KEPT_RUNS - 2 : 7], unused[0], plans[0], *reports[KEPT_REPORTS:], trials[0]]
    assert sorted(removed) == sorted(each.name for each in expected)


def test_a_new_run_removes_the_objects_of_old_ones(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        files = StateFolder(mirror.root, "key").begin(f"run{number}", NOW)
        files.write_json("source.json", {})
        files.publish()
    monkeypatch.setattr("product_sync.state.retention.KEPT_RUNS", 1)
    monkeypatch.setattr("product_sync.state.retention.KEPT_AT_LEAST", timedelta(seconds=-1))
    folder = other_machine(mirror, tmp_path)
    folder.begin("last", NOW)
    assert folder.runs() == []


def test_the_newest_numbers_of_a_replaced_file_stay_and_older_ones_go_after_an_hour(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(mirror.root, "key")
    for count in range(4):
        folder.write_baseline(count, "run")
    numbers = [Path(each.name).stem for each in mirror.objects.entries("key/baseline/")]
    assert numbers == ["00000001", "00000002", "00000003", "00000004"], "none is an hour old"
    monkeypatch.setattr(replaced, "_KEPT_S", -1.0)
    folder.write_baseline(5, "run")
    numbers = [Path(each.name).stem for each in mirror.objects.entries("key/baseline/")]
    assert numbers == ["00000003", "00000004", "00000005"]


def test_what_somebody_else_has_put_beside_the_numbers_is_left_alone(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("hello")
    mirror.objects.put("key/baseline/note.txt", tmp_path / "note")
    folder = StateFolder(mirror.root, "key")
    folder.write_baseline(5, "run")
    assert other_machine(mirror, tmp_path).read_baseline() == 5


def test_a_large_file_that_another_run_has_removed_is_gone_and_not_a_missing_bucket(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product_sync.state.mirror._SMALL_BYTES", 0)
    files = StateFolder(mirror.root, "key").begin("run", NOW)
    rows = pa.table({"id": ["a"]})
    write_table(files.path("source.arrow"), rows.schema, rows.to_batches(), metadata={})
    files.publish()
    other = other_machine(mirror, tmp_path).begin("run", NOW)
    mirror.objects.remove([entry.name for entry in mirror.objects.entries("key/runs/")])
    with pytest.raises(LocalStorageError, match="is gone"), local_storage(mirror.root):
        row_count(other.path("source.arrow"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/state", "credentials"),
        ("s3://bucket/state?endpoint=x", "credentials or parameters"),
        ("ftp://host/state", "ftp:// is not supported"),
        ("s3://", "names no bucket"),
        ("gs://bucket/state", r'pip install "product_sync\[gcs\]"'),
        ("az://container/state", r'pip install "product_sync\[azure\]"'),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_shows_no_secret(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(ConfigurationError, match=said) as raised:
        state_root({"PRODUCT_SYNC_STATE": url})
    assert "secret" not in str(raised.value)


def test_what_keeps_a_run_from_using_the_store_is_said(
    store_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(url: str = store_url, **env: str) -> ProductSyncError:
        with monkeypatch.context() as patched:
            for name, value in {**s3_server.env, **env}.items():
                patched.setenv(name, value)
            with pytest.raises(ProductSyncError) as raised:
                ObjectStore(url, retry_s=0.2).require_usable()
        assert "the-secret" not in str(raised.value)
        return raised.value

    assert isinstance(refused("s3://no-such-bucket/state"), ConfigurationError)
    assert "There is no bucket" in str(refused("s3://no-such-bucket/state"))
    assert isinstance(refused(**s3_server.reader_env), AccessDenied)
    assert isinstance(refused(AWS_SECRET_ACCESS_KEY="wrong"), AccessDenied)
    assert isinstance(refused(AWS_ENDPOINT_URL="http://127.0.0.1:9"), StateStoreError)
    ObjectStore(store_url).require_usable()
    assert ObjectStore(store_url).entries() == [], "the trial leaves nothing"


def test_a_store_that_replaces_what_should_only_be_created_is_refused(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(store_url)
    put = store._fs.put_file
    monkeypatch.setattr(store._fs, "put_file", lambda one, other, **_: put(one, other))
    with pytest.raises(ConfigurationError, match="If-None-Match"):
        store.require_usable()


def test_an_answer_that_was_lost_is_not_taken_for_another_run(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has created the object, and the client did not hear it: the next attempt meets its own object."""
    put, lost = mirror.objects._fs.put_file, [True]

    def loses_an_answer(*paths: str, **options: object) -> None:
        put(*paths, **options)
        if options.get("mode") == "create" and lost.pop():
            lost.append(False)
            raise TimeoutError

    monkeypatch.setattr(mirror.objects._fs, "put_file", loses_an_answer)
    calls: list[int] = []

    def change(path: Path) -> None:
        calls.append(1)
        path.write_text("1")

    StateFolder(mirror.root, "key").replaced("baseline.json").replace(change)
    assert len(calls) == 1
    assert [each.name for each in mirror.objects.entries("key/baseline/")] == ["key/baseline/00000001.json"]


_FILLS_THE_DISK = """
import os, resource, sys
from datetime import UTC, datetime
from product_sync.settings import state_root
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder
from product_sync.state.mirror import here
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
root = state_root(os.environ)
with local_storage(root):
    here(StateFolder(root, "key").begin("run", datetime.now(UTC)).path("source.arrow"))
"""


def test_a_scratch_disk_that_takes_no_more_is_named(mirror: Mirror, tmp_path: Path) -> None:
    files = StateFolder(mirror.root, "key").begin("run", NOW)
    (files.folder / "source.arrow").write_bytes(bytes(3_000_000))
    files.publish()
    env = {**os.environ, "PRODUCT_SYNC_STATE": mirror.objects.url, "PRODUCT_SYNC_SCRATCH": str(tmp_path / "full")}
    ended = subprocess.run(
        [sys.executable, "-c", _FILLS_THE_DISK], env=env, capture_output=True, text=True, check=False
    )
    assert f"The scratch folder {tmp_path / 'full'}" in ended.stderr.splitlines()[-1]
    assert "may not hold a file that large" in ended.stderr
