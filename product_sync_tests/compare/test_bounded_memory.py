"""The memory of a comparison does not depend on how much differs, how wide the rows are or how they are ordered.

Each is made in a process of its own, whose peak the kernel keeps. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: On top of what Python and Arrow have when the comparison begins.
MOST_MB = 280

PROGRAM = """
import sys
from pathlib import Path
from product_sync.runtime.process import stay_small
stay_small()
import numpy as np
import pyarrow as pa
from product_sync.compare import quarantine
from product_sync.compare.diff import diff
from product_sync_tests.tables import write_table
from product_sync_tests.source_contract import product_row_schema

folder, rows, width, is_shuffled = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True"
row_schema = product_row_schema()
rng = np.random.default_rng(5)
noise = rng.bytes(width // 2 + rows).hex()

def side(schema, order, price):
    at_once = max(1, min(5_000, 2_000_000 // width))
    for start in range(0, rows, at_once):
        numbers = order[start : start + at_once]
        values = {
            "source_id_type": ["objectId"] * len(numbers),
            "id": [f"7{number:023x}" for number in numbers],
            "title": [noise[number : number + width] for number in numbers],
            "price": np.full(len(numbers), price),
        }
        columns = [pa.array(values.get(field.name, ["1"] * len(numbers))) for field in schema]
        cast = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(cast, schema=schema)

order = np.arange(rows)
write_table(folder / "source", row_schema.source_schema, side(row_schema.source_schema, order, 1), metadata={})
if is_shuffled:
    rng.shuffle(order)
write_table(folder / "target", row_schema.target_schema, side(row_schema.target_schema, order, 2), metadata={})
write_table(folder / "rejects", quarantine.rejects_schema(row_schema), [], metadata={})

def resident(name):
    [line] = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) / 1000

before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
paths = [folder / name for name in ("source", "rejects", "target")]
counts = diff(row_schema, *paths, None, folder / "diff", metadata={})
assert counts.changed == rows, counts
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("rows", "width", "is_shuffled"), [(10_000, 10_000, False), (10_000, 10_000, True), (4, 16_000_000, True)]
)
def test_a_comparison_in_which_everything_differs_stays_small(
    tmp_path: Path, rows: int, width: int, is_shuffled: bool
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(rows), str(width), str(is_shuffled)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < MOST_MB
