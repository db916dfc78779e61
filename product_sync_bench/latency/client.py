"""A shop on the target: point reads and cart inserts by turns, at a fixed rate, each one timed.

A process of its own, so that nothing that we do elsewhere holds it up in its interpreter. Latencies go to a file, one
line each: when it began (the machine's monotonic clock), what it was, how long it took.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Final, LiteralString

import psycopg

READ, CART = "point read", "cart insert"
KINDS: Final = (READ, CART)
_SEED: Final = 7
#: Seconds that the client may take to end.
_STOP_S: Final = 10.0

# known_products: what the shop has on its pages.
_KNOWN: LiteralString = "SELECT id FROM product ORDER BY md5(id) LIMIT 5000"

# point_read: the product that somebody looks at.
_READ: LiteralString = "SELECT title, price, quantity FROM product WHERE id = %s"

# cart_insert: the product that somebody puts into the cart.
_CART: LiteralString = "INSERT INTO cart_item (product_id, quantity) VALUES (%s, 1)"


@dataclass(frozen=True, slots=True)
class Sample:
    """One operation; ``at`` in seconds of the monotonic clock, ``seconds`` that it took."""

    at: float
    kind: str
    seconds: float


@contextmanager
def shopping(url: str, rate: float, file: Path) -> Iterator[None]:
    """The client runs for the length of the block, ``rate`` operations a second; then ``file`` is complete."""
    command = [sys.executable, "-m", __name__, url, str(rate), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # noqa: S603 - our own module
        try:
            yield
        finally:
            process.communicate(timeout=_STOP_S)
    if process.returncode:
        raise RuntimeError(f"The client ended with status {process.returncode}.")


def read(file: Path) -> list[Sample]:
    lines = (line.split("\t") for line in file.read_text().splitlines())
    return [Sample(float(at), kind, float(seconds)) for at, kind, seconds in lines]


def _shop(url: str, rate: float, file: Path, ended: threading.Event) -> None:
    dice = Random(_SEED)  # noqa: S311 - which products are looked at is no secret
    with psycopg.connect(url, autocommit=True) as connection, file.open("w") as output:
        known = [name for (name,) in connection.execute(_KNOWN)]
        due = free = time.monotonic()
        operations = cycle(((READ, _READ), (CART, _CART)))
        # Who came before the end is still served: those who wait longest would else be left out.
        while not ended.is_set() or due < time.monotonic():
            time.sleep(max(0.0, due - time.monotonic()))
            kind, statement = next(operations)
            # A shopper who comes while the one before is still waiting waits from then on. Whom this machine woke
            # late has not waited for the target.
            began = due if free > due else time.monotonic()
            connection.execute(statement, [dice.choice(known)])
            free = time.monotonic()
            output.write(f"{began}\t{kind}\t{free - began}\n")
            due += 1 / rate


def main() -> None:
    url, rate, file = sys.argv[1:]
    ended = threading.Event()
    shop = threading.Thread(target=_shop, args=(url, float(rate), Path(file), ended))
    shop.start()
    sys.stdin.read()
    ended.set()
    shop.join()


if __name__ == "__main__":
    main()
