"""Entry of a local worker process: Beam's own worker, quiet, and gone when its parent is.

Beam's worker logs every step of its start to standard error, where the progress bar is. Errors of a step do not need
that log: they travel back to the parent with the failed step.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

PARENT_CHECK_S = 1.0


def main() -> None:
    """Runs until the parent closes the control channel."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.CRITICAL)
    logging.getLogger().addHandler(handler)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    os.environ.pop("LOGGING_API_SERVICE_DESCRIPTOR", None)  # the parent would print what it is sent
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def _end_with_parent(parent: int) -> None:
    """Ends the process when it is orphaned: a killed parent cannot say goodbye, and Beam's worker would wait for ever."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


if __name__ == "__main__":
    main()
