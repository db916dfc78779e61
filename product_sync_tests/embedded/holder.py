"""A process that holds embedded servers until it is told to end or is killed: what the tests kill.

Prints one line of JSON when the servers are up, then waits for the end of its standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from product_sync.embedded.servers import running
from product_sync.errors import ProductSyncError


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    folder = Path(sys.argv[1])
    try:
        with running(folder, durable=False, say=_tell) as servers:
            sys.stdout.write(json.dumps({"mongodb_url": servers.mongodb_url, "cart_url": servers.cart_url}) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
    except ProductSyncError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
