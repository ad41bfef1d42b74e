"""What was driven, as a log to train on again. A full or slow disk costs rows, and never a moment of driving."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Optional, Union

import numpy as np

from robostig.driving.driver import Command
from robostig.driving_log import LOG_NAME, RECORDING_HZ, DrivingLogWriter, read_driving_log

__all__ = ["Recorder"]

BACKLOG = 150  # rows that may wait for the disk: ten seconds of driving
ROW_S = 1.0 / RECORDING_HZ


class Recorder:
    """Writes rows in a thread of its own, and goes on with a log that is there.

    Rows are 1/15 second apart at least, as the simulator's own, however quickly they come: a client that drives faster
    than the clock would else leave a log of seconds for minutes of driving.

    Parameters
    ----------
    folder
        As in :class:`robostig.driving_log.DrivingLogWriter`.
    warn
        Called with the kind of fault and what went wrong, from the recorder's thread or the caller's.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    ValueError
        If it holds a log that cannot be gone on with.
    """

    def __init__(self, folder: Union[str, Path], warn: Callable[[str, str], None]) -> None:
        self.folder = str(folder)
        self.rows = 0
        self.fault: Optional[str] = None  # why the last row was not written
        self._warn = warn
        self._writer = DrivingLogWriter(folder, cameras=["center"])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._last_s = _find_end(Path(folder))
        self._room = threading.Semaphore(BACKLOG)

    def record(self, jpeg: bytes, command: Command, speed_mph: float, time_s: float) -> None:
        """Hand over one row: the picture, and what the driver did at the sight of it."""
        if not self._room.acquire(blocking=False):
            self._fail("backlog", "the disk is too slow")
            return
        self._thread.submit(self._write, jpeg, command, speed_mph, time_s).add_done_callback(self._finish)

    def close(self) -> None:
        """Write what waits, and close the log."""
        self._thread.shutdown()
        try:
            self._writer.close()
        except OSError as error:
            self._fail(type(error).__name__, str(error))

    def _write(self, jpeg: bytes, command: Command, speed_mph: float, time_s: float) -> None:
        self._last_s = max(time_s, self._last_s + ROW_S)
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
            self._fail(type(error).__name__, str(error))

    def _fail(self, kind: str, reason: str) -> None:
        self.fault = reason
        self._warn(f"recorder: {kind}", f"a row was not recorded: {reason}")


def _find_end(folder: Path) -> float:
    """Return the time of the newest row that is there, in seconds since 1970: rows are named by their time."""
    log = folder / LOG_NAME
    if not log.is_file() or not log.stat().st_size:
        return 0.0
    return float(np.nan_to_num(read_driving_log(log, on_error="skip").time_s).max())
