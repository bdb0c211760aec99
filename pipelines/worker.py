"""Entry of a local worker process: `python -m pipelines.worker LOG_FOLDER`, Beam's own worker with two changes.

Its log goes to a file, because the progress bar is on standard error; and it ends when its parent does.
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
    log = os.open(os.path.join(sys.argv[1], f"{os.getpid()}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO)
    os.environ.pop("LOGGING_API_SERVICE_DESCRIPTOR", None)  # the parent would print what it is sent
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def _end_with_parent(parent: int) -> None:
    """Ends the process when it is orphaned: a killed parent cannot say goodbye, and Beam's worker would wait for ever."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


if __name__ == "__main__":
    main()
