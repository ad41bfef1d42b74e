"""What was driven, as a log to train on again. A full or slow disk costs rows, and never a moment of driving."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Optional, Union

from robostig.driving.driver import Command
from robostig.driving_log import DrivingLogWriter

__all__ = ["Recorder"]

BACKLOG = 150  # rows that may wait for the disk: ten seconds of driving


class Recorder:
    """Writes rows in a thread of its own.

    Parameters
    ----------
    folder
        As in :class:`robostig.driving_log.DrivingLogWriter`.
    warn
        Called with what went wrong, from the recorder's thread or the caller's.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Union[str, Path], warn: Callable[[str], None]) -> None:
        self.folder = str(folder)
        self.rows = 0
        self.fault: Optional[str] = None  # why the last row was not written
        self._warn = warn
        self._writer = DrivingLogWriter(folder, cameras=["center"])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._last_s = 0.0
        self._room = threading.Semaphore(BACKLOG)

    def record(self, jpeg: bytes, command: Command, speed_mph: float, time_s: float) -> None:
        """Hand over one row: the picture, and what the driver did at the sight of it."""
        if not self._room.acquire(blocking=False):
            self._fail("the disk is too slow")
            return
        self._thread.submit(self._write, jpeg, command, speed_mph, time_s).add_done_callback(self._finish)

    def close(self) -> None:
        """Write what waits, and close the log."""
        self._thread.shutdown()
        try:
            self._writer.close()
        except OSError as error:
            self._fail(str(error))

    def _write(self, jpeg: bytes, command: Command, speed_mph: float, time_s: float) -> None:
        # Rows are named by their milliseconds, and the simulator reports twice within one at times.
        self._last_s = max(time_s, self._last_s + 0.001)
        self._writer.write(
            {"center": jpeg},
            steering=command.steering,
            throttle=max(0.0, command.throttle),
            brake=max(0.0, -command.throttle),
            speed_mph=speed_mph,
            time_s=self._last_s,
        )

    def _finish(self, row: Future[None]) -> None:
        self._room.release()
        error = row.exception()
        if error is None:
            self.rows += 1
            self.fault = None
        else:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        self.fault = reason
        self._warn(f"a row was not recorded: {reason}")
