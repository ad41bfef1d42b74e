#!/usr/bin/env python3
"""Run a script of this folder until it ends, or the process that started it does, however that ends.

A container takes all that runs in it along. Here, without this, a notebook's kernel that is killed would leave its
training jobs and model servers running. Like the scripts, this file needs nothing but Python.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

LOOK_S = 0.5


def end_with(parent: int) -> None:
    """Kill this process's group, which must be its own, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
