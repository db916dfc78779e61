"""``python -m product_sync.embedded FOLDER`` deletes the servers' data: ``make clean`` calls it.

`rm -rf` alone would leave what lies outside the folder, and would pull the data away from servers that run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from product_sync.embedded.servers import remove
from product_sync.errors import ProductSyncError

if __name__ == "__main__":
    try:
        remove(Path(sys.argv[1]))
    except ProductSyncError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)
