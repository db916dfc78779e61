"""The floor of an initial load: binary COPY of rows made beforehand into the keyed table. Run with the rows' file."""

import os
import sys
from pathlib import Path

import psycopg

# copy_in: every row as it was stored.
_COPY_IN = "COPY product FROM STDIN (FORMAT binary)"
_BLOCK = 1 << 20

if __name__ == "__main__":
    with (
        psycopg.connect(os.environ["BENCH_TARGET"]) as connection,
        Path(sys.argv[1]).open("rb") as rows,
        connection.cursor().copy(_COPY_IN) as copy,
    ):
        while block := rows.read(_BLOCK):
            copy.write(block)
