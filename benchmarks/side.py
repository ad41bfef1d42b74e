"""One side of a comparison, in a process of its own.

Two frameworks in one process share its OpenMP libraries, whose idle threads spin, and its memory allocator: each would
slow the other down. Here each has a process with as many threads as it is told, and does a round of work when it is
asked to; whoever is not asked waits for its pipe, which costs nothing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import traceback
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Callable, Iterator, Mapping, Optional, Tuple, Type

import cv2

__all__ = ["Side"]


class Side:
    """An object in another process, whose methods can be called.

    Parameters
    ----------
    maker
        The class to make it of, as ``"module.Class"``; the module is one of this folder's, and only that process
        imports what it needs.
    threads
        How many threads OpenMP and OpenCV may use there.
    environment
        Further variables of its environment.

    Raises
    ------
    RuntimeError
        If something goes wrong there, with the other process's own words.
    """

    def __init__(self, maker: str, threads: int, environment: Optional[Mapping[str, str]] = None) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads that do not exist in it
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, maker, threads))
        with _set_environment({"OMP_NUM_THREADS": str(threads), **(environment or {})}):  # read by libraries, once
            self._process.start()
        theirs.close()
        self._receive()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the object returns."""
        self._pipe.send((method, arguments))
        return self._receive()

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._pipe.close()  # the other process ends when there is nobody left to ask it
        self._process.join()

    def _receive(self) -> Any:
        try:
            failure, result = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the process ended with status {self._process.exitcode}") from None
        if failure:
            raise RuntimeError(failure)
        return result


def _answer(pipe: Connection, maker: str, threads: int) -> None:
    """Make the object, and do what is asked for until nobody is there to ask."""
    cv2.setNumThreads(threads)
    module, _, name = maker.rpartition(".")
    failure, side = _try(lambda: getattr(importlib.import_module(module), name)())
    pipe.send((failure, None))
    try:
        while True:
            method, arguments = pipe.recv()
            pipe.send(_try(partial(getattr(side, method), *arguments)))
    except (EOFError, KeyboardInterrupt):
        return


def _try(work: Callable[[], Any]) -> Tuple[Optional[str], Any]:
    """Return what went wrong, if anything, and what came out."""
    try:
        return None, work()
    except Exception:  # whatever it is, it is raised again where it was asked for
        return traceback.format_exc(), None


@contextmanager
def _set_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)
