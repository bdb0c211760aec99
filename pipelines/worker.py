"""Entry of a local worker process: Beam's own worker, with its log in a file, that ends when its lease does.

The parent starts it with `command` and keeps a lease file. A worker whose lease file or parent is gone ends at once:
Beam's own would finish all its work first, or, orphaned, wait for ever.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import threading
import time

LEASE_CHECK_S = 0.25


def command(lease: str) -> str:
    """The shell command that starts a worker which imports the same code as this process.

    Args:
        lease: Path of the lease file; logs go beside it, as `PID.log`.
    """
    code = f"import sys; sys.path[:] = {json.dumps(sys.path)}; from pipelines import worker; worker.main()"
    return "exec " + shlex.join([sys.executable, "-c", code, lease, str(os.getpid())])


def main() -> None:
    """Runs until the parent closes the control channel, or the lease ends."""
    lease, parent = sys.argv[1], int(sys.argv[2])
    threading.Thread(target=_end_with_lease, args=(lease, parent), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends the lease
    log = os.open(os.path.join(os.path.dirname(lease), f"{os.getpid()}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO)
    os.environ.pop("LOGGING_API_SERVICE_DESCRIPTOR", None)  # the parent would print what it is sent
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def _end_with_lease(lease: str, parent: int) -> None:
    while os.getppid() == parent and os.path.exists(lease):
        time.sleep(LEASE_CHECK_S)
    os._exit(1)
