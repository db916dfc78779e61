"""A command starts without pandas, which Arrow imports for anybody who converts a value, and ends at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest


@pytest.mark.parametrize(("prepare", "imported"), [("", True), ("leave_pandas_out()", False)])
def test_arrow_imports_pandas_unless_it_is_left_out(prepare: str, imported: bool) -> None:
    program = (
        "import sys, pyarrow as pa, pyarrow.compute as pc\n"
        "from product_sync.runtime.process import leave_pandas_out\n"
        f"{prepare}\n"
        "table = pa.table({'a': [1, 2]})\n"
        "assert table.filter(pc.equal(table['a'], 1)).to_pylist() == [{'a': 1}]\n"
        "assert table['a'].to_numpy().tolist() == [1, 2]\n"
        "print('pandas' in sys.modules)\n"
        "import pandas\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(imported)]


@pytest.mark.parametrize(("chosen", "pool"), [({}, "system"), ({"ARROW_DEFAULT_MEMORY_POOL": "mimalloc"}, "mimalloc")])
def test_arrow_takes_its_memory_from_the_system_unless_told_otherwise(chosen: dict[str, str], pool: str) -> None:
    program = (
        "from product_sync.runtime.process import stay_small\n"
        "stay_small()\n"
        "import sys, pyarrow as pa\n"
        "pa.array([1]).to_pylist()\n"
        "print(pa.default_memory_pool().backend_name, 'pandas' in sys.modules)\n"
    )
    assert run(program, **chosen).stdout.split() == [pool, "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_numpy_starts_no_threads() -> None:
    """Arrow starts one."""
    program = (
        "import os\n"
        "from product_sync.runtime.process import stay_small\n"
        "stay_small()\n"
        "import numpy\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    assert run(program).stdout.strip() == "2"


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is the GNU C library's")
@pytest.mark.parametrize(("prepare", "kept_mb"), [("", 8), ("stay_small()", 0)])
def test_a_large_block_goes_back_to_the_system_as_soon_as_it_is_freed(prepare: str, kept_mb: int) -> None:
    """A freed block of 30 MB raises the C library's limit, and the next one then comes from the heap, below others."""
    program = (
        "import numpy as np\n"
        "from product_sync.runtime.process import stay_small\n"
        f"{prepare}\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
        "np.ones(30_000_000, np.uint8)\n"
        "before = resident()\n"
        "blocks = [np.ones(10_000_000, np.uint8), np.ones(100_000, np.uint8)]\n"
        "del blocks[0]\n"
        "print(resident() - before)\n"
    )
    kept = float(run(program).stdout)
    assert kept_mb <= kept < kept_mb + 5


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is the GNU C library's")
@pytest.mark.parametrize(("prepare", "heaps"), [("", 3), ("stay_small()", 1)])
def test_what_one_thread_has_freed_serves_the_others(prepare: str, heaps: int) -> None:
    """With a heap for each thread, freed blocks of one thread stay in its heap while another thread asks for more."""
    program = (
        "import threading, numpy as np\n"
        "from product_sync.runtime.process import stay_small\n"
        f"{prepare}\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
        "def work(own, other):\n"
        "    own.wait()\n"
        "    blocks = [np.ones(100_000, np.uint8) for _ in range(200)]\n"
        "    kept = blocks[-1]\n"
        "    del blocks\n"
        "    other.set()\n"
        "    done.wait()\n"
        "done = threading.Event()\n"
        "turns = [threading.Event() for _ in range(4)]\n"
        "threads = [threading.Thread(target=work, args=(turns[at], turns[at + 1])) for at in range(3)]\n"
        "before = resident()\n"
        "for thread in threads: thread.start()\n"
        "turns[0].set(); turns[3].wait()\n"
        "print((resident() - before) / 20)\n"
        "done.set()\n"
    )
    assert float(run(program).stdout) == pytest.approx(heaps, abs=0.6)


def run(program: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """A process that has nothing of what prepares the processes of the tests (`conftest.py` sees to that)."""
    assert not {"ARROW_DEFAULT_MEMORY_POOL", "OPENBLAS_NUM_THREADS"} & os.environ.keys()
    command, env = [sys.executable, "-c", dedent(program)], {**os.environ, **chosen}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_the_end_does_what_was_to_be_done_and_takes_nothing_apart(tmp_path: Path) -> None:
    done = tmp_path / "done"
    ended = run(
        f"""
        import atexit, sys
        from pathlib import Path
        from product_sync.runtime.process import end_at_once
        class TakenApart:
            def __del__(self):
                print("taken apart")
        kept = TakenApart()
        atexit.register(Path({str(done)!r}).write_text, "done")
        sys.stdout.write("said")
        end_at_once(3)
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said", "")
    assert done.read_text() == "done"


def test_the_end_waits_for_no_thread_of_a_client_that_is_closed() -> None:
    ended = run(
        """
        import atexit
        from pymongo import MongoClient
        from product_sync.runtime.process import end_at_once
        client = MongoClient("mongodb://127.0.0.1:1/shop", serverSelectionTimeoutMS=1)
        client.close()
        atexit.register(lambda: print("waited" if waiting else "went on"))
        from pymongo.synchronous import monitor
        waiting = []
        monitor._shutdown_executors = lambda: waiting.append(True)
        end_at_once(0)
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "went on\n", "")


def test_a_reader_that_has_gone_is_told_as_ever() -> None:
    script = "\n".join(
        (
            "from product_sync.runtime.process import end_at_once",
            "import time",
            "print('said')",
            "time.sleep(0.5)",
            "end_at_once(0)",
        )
    )
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "BrokenPipeError" in process.stderr.read()
    assert process.returncode == 120, "what Python ends with when it cannot write the rest"


def test_unused_objects_are_not_searched_for_at_the_end() -> None:
    program = (
        "from product_sync.runtime.process import end_sooner\n"
        "{prepare}\n"
        "class Ring:\n"
        "    def __init__(self): self.me = self\n"
        "    def __del__(self): print('found')\n"
        "Ring()\n"
    )
    assert run(program.format(prepare="")).stdout == "found\n"
    assert run(program.format(prepare="end_sooner()")).stdout == ""


def test_dagster_s_processes_do_not_wait_for_the_threads_of_closed_clients_at_the_end() -> None:
    program = (
        "{prepare}\nfrom pymongo.synchronous import monitor\nmonitor._shutdown_monitors = lambda: print('waits')\n"
    )
    assert run(program.format(prepare="")).stdout == "waits\n"
    assert run(program.format(prepare="import product_sync.definitions")).stdout == ""


COMMAND = """
import contextlib
from product_sync import cli
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
    cli.main(["{}"])
"""


@pytest.mark.parametrize(
    "start", ["import product_sync.definitions", COMMAND.format("sync"), COMMAND.format("validate")]
)
def test_a_process_with_a_run_is_prepared_before_arrow_is_imported(start: str) -> None:
    program = (
        f"{start}\n"
        "import sys, pyarrow as pa\n"
        "pa.array([1]).to_pylist()\n"
        "print(pa.default_memory_pool().backend_name, 'pandas' in sys.modules)\n"
        "print(pa.table({'a': [1]}).to_pandas()['a'][0])\n"
    )
    assert run(program).stdout.split() == ["system", "False", "1"]


@pytest.mark.parametrize(("prepare", "searched"), [("", True), ("collect_seldom()", False)])
def test_the_objects_that_importing_dagster_makes_are_not_searched_again_and_again(
    prepare: str, searched: bool
) -> None:
    program = (
        "import gc\n"
        "from product_sync.runtime.process import collect_seldom\n"
        f"{prepare}\n"
        "from product_sync.orchestration import run_in_process\n"
        "print(gc.get_stats()[2]['collections'] > 0)\n"
    )
    assert run(program).stdout.split() == [str(searched)]


def test_a_run_begins_with_python_s_own_limit_and_without_the_imported_objects() -> None:
    program = (
        "import gc\n"
        "before = gc.get_threshold()\n"
        "from product_sync.runtime.process import collect_again, collect_seldom\n"
        "collect_seldom()\n"
        "seldom = gc.get_threshold()\n"
        "collect_again()\n"
        "frozen = gc.get_freeze_count()\n"
        "ring = []\n"
        "ring.append(ring)\n"
        "collect_again()\n"
        "print(before != seldom, before == gc.get_threshold(), frozen > 0, gc.get_freeze_count() == frozen)\n"
    )
    assert run(program).stdout.split() == ["True"] * 4
