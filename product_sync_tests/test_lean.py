"""A command that syncs never imports pandas, which Arrow does for anybody who converts a value."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("prepare", "imported"), [("", True), ("leave_pandas_out()", False)])
def test_arrow_imports_pandas_unless_it_is_left_out(prepare: str, imported: bool) -> None:
    program = (
        "import sys, pyarrow as pa, pyarrow.compute as pc\n"
        "from product_sync.lean import leave_pandas_out\n"
        f"{prepare}\n"
        "table = pa.table({'a': [1, 2]})\n"
        "assert table.filter(pc.equal(table['a'], 1)).to_pylist() == [{'a': 1}]\n"
        "assert table['a'].to_numpy().tolist() == [1, 2]\n"
        "print('pandas' in sys.modules)\n"
        "import pandas\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(imported)]
