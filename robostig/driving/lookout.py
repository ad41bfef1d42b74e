"""Looking at the road: the model at work in a thread of its own, for as long as the car can wait."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import Any, Callable, Optional, Tuple

import numpy as np

from robostig.driving.driver import Sight, Steer, look, read_steering

__all__ = ["Lookout"]

PATIENCE_S = 1.0  # for the model: a car at 15 mph is 7 metres further by then
ENDING_S = 0.5

_Outcome = Tuple[Any, Optional[BaseException]]
_Job = Tuple["asyncio.Future[_Outcome]", Callable[[], Any]]


class Lookout:
    """Looks at the road for every simulator, one look after the other.

    The thread is none that the process waits for at its end: a model may never answer.

    Parameters
    ----------
    steer
        Frame (H, W, 3) uint8 RGB -> steering, -1..1.
    """

    def __init__(self, steer: Steer) -> None:
        self._steer = steer
        self._jobs: queue.SimpleQueue[Optional[_Job]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._overdue: Optional[asyncio.Future[_Outcome]] = None

    async def begin(self) -> None:
        """Start the thread, and let the model steer once: that builds the graph, or finds that there is no endpoint.

        Raises
        ------
        Exception
            Whatever the model raises; ValueError if its answer is no number.
        """
        self._thread.start()
        answer = _unpack(await self._call(lambda: self._steer(np.zeros((160, 320, 3), np.uint8))))
        try:
            read_steering(answer)
        except ValueError as error:
            raise ValueError(f"{error}; this one cannot drive: train it again, or choose another") from error

    async def see(self, image: Optional[str]) -> Sight:
        """Look at the road; the image is a JPEG in base64.

        Raises
        ------
        TimeoutError
            If the model takes too long; until it is done, further calls raise at once.
        Exception
            As :func:`robostig.driving.driver.look`.
        """
        if self._overdue is not None and not self._overdue.done():
            raise TimeoutError("the model is still busy with an earlier frame")
        outcome = self._call(lambda: look(image, self._steer))
        self._overdue = None
        done, _ = await asyncio.wait({outcome}, timeout=PATIENCE_S)
        if not done:
            self._overdue = outcome
            raise TimeoutError(f"the model took more than {PATIENCE_S:g} s")
        sight: Sight = _unpack(outcome.result())
        return sight

    def end(self) -> None:
        """Let the thread go, once it is done; wait for that only a moment."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join(ENDING_S)

    def _call(self, job: Callable[[], Any]) -> asyncio.Future[_Outcome]:
        future: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, job))
        return future

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            future, call = job
            outcome: _Outcome
            try:
                outcome = call(), None
            except BaseException as error:  # SystemExit as well: the car waits for an answer
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                future.get_loop().call_soon_threadsafe(_finish, future, outcome)


def _finish(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not future.done():  # the simulator may have gone
        future.set_result(outcome)


def _unpack(outcome: _Outcome) -> Any:
    result, error = outcome
    if error is None:
        return result
    if isinstance(error, Exception):
        raise error
    raise RuntimeError(f"the model raised {error!r}") from error
