"""``python -m product_sync.embedded FOLDER`` deletes the servers' data, for ``make clean``.

`rm -rf` would not delete the data outside the folder, and would delete the data of running servers.
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
