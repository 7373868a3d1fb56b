"""`python -m appliance.cli`, which the `carillon` command runs."""

import os
import sys
import threading

from appliance.cli.program import main


def leave(status: int) -> None:
    """End the process; a thread that a library left waiting after a failure does not keep it alive."""
    if threading.active_count() == 1:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
