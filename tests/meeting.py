"""One of several processes that meet, as a program: ``meeting.py WHAT SPECIAL COUNT PORT PROCESS``.

All ``compute`` something together, or ``wait`` for the special one, which sleeps; or it is to ``fail`` or to ``abort``.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from jax.experimental import multihost_utils

from framework import failures, hosts

failures.PATIENCE_SECONDS, failures.PATIENCE_AFTER_AN_ERROR_SECONDS = 10.0, 4.0


def meet(what: str, special: int, count: int, port: int, process: int) -> None:
    hosts.join(f"localhost:{port}", count, process)
    with failures.FailureWatch() as watch:
        watch.last_words = lambda reason: f"{reason}; step 7 is saved"
        multihost_utils.process_allgather(np.ones(2))
        hosts.wait_for_all()
        print("together", flush=True)
        while True:
            if what == "compute":
                multihost_utils.process_allgather(np.ones(2))
            elif process != special:
                hosts.wait_for_all()
            elif what == "fail":
                raise ValueError("broken")
            elif what == "abort":
                os.abort()
            else:
                time.sleep(1)


if __name__ == "__main__":
    meet(sys.argv[1], *map(int, sys.argv[2:]))
