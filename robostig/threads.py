"""Threads that all of the process shares, for work that does not hold Python's lock, such as OpenCV's."""

from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import chain, islice
from typing import Callable, Generator, Iterable, List, TypeVar

from robostig._compat import count_threads

__all__ = ["get_pool", "give_way", "map_in_chunks", "map_tasks", "share_out"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 128  # items at once: bounds the memory
_NICENESS = 10  # a tenth of a CPU that others want as well: more than a batch takes of its step
_SPARE = 1  # threads beyond the CPUs: now and then one waits for Python's lock, or the disk
_TASK = 16  # items that a thread takes at once: handing over one picture costs a tenth of decoding it


@lru_cache(maxsize=None)
def get_pool() -> ThreadPoolExecutor:
    """Return the threads, one a CPU or as many as ``OMP_NUM_THREADS`` says, and one for when another waits."""
    return ThreadPoolExecutor(max_workers=count_threads() + _SPARE, thread_name_prefix="robostig")


def give_way() -> None:
    """Let others go first from now on, where this thread and they want the same CPU; on Linux, and nowhere else.

    For a thread that prepares what is not yet waited for: all of OpenMP's threads wait for the one that it held up.
    """
    if sys.platform == "linux":  # where a thread has a niceness of its own
        with contextlib.suppress(OSError):  # a sandbox that allows none
            process = os.getpriority(os.PRIO_PROCESS, os.getpid())  # not this thread's, which it may have from another
            os.setpriority(os.PRIO_PROCESS, 0, min(process + _NICENESS, 19))


# Threads do not survive a fork, as of gluon's DataLoader with worker processes.
os.register_at_fork(after_in_child=get_pool.cache_clear)


def map_in_chunks(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[List[Result], None, None]:
    """Yield results in order, a chunk at a time, while the next chunk is under way on all threads.

    Parameters
    ----------
    work
        What to do with an item. What it raises is raised here.
    items
        Each an object of its own: one that changes when the next is asked for would change under a thread's hands.

    Yields
    ------
    list
        The next results: 128, but for the last chunk.
    """
    return map_tasks(lambda task: [work(item) for item in task], items)


def map_tasks(work: Callable[[List[Item]], List[Result]], items: Iterable[Item]) -> Generator[List[Result], None, None]:
    """Do the same as :func:`map_in_chunks` with work that takes up to 16 items at once, which follow each other."""
    iterator = iter(items)
    chunks = iter(lambda: list(islice(iterator, _CHUNK)), [])
    first = next(chunks, [])
    if count_threads() == 1 or len(first) <= _TASK:  # what one thread does, this one does best
        for chunk in chain([first], chunks):
            if chunk:
                yield list(chain.from_iterable(map(work, _cut(chunk))))
        return

    def submit(chunk: List[Item]) -> List[Future[List[Result]]]:
        return [get_pool().submit(work, task) for task in _cut(chunk)]

    current, ahead = [], submit(first)
    try:
        while ahead:
            current, ahead = ahead, submit(next(chunks, []))
            yield [result for future in current for result in future.result()]
    finally:  # if something went wrong, nothing of it goes on in the back
        for future in (*current, *ahead):
            future.cancel()
        wait((*current, *ahead))


def _cut(chunk: List[Item]) -> List[List[Item]]:
    """Return a chunk's tasks."""
    return [chunk[start : start + _TASK] for start in range(0, len(chunk), _TASK)]


def share_out(work: Callable[[int, int], None], count: int) -> None:
    """Do something with each of a number of things, on all threads at once if they are many.

    Not for use in one of these threads: all of them could wait for each other.

    Parameters
    ----------
    work
        What to do with those from a start to a stop. What it raises is raised here, when all have ended.
    count
        How many things there are.
    """
    threads = count_threads() if count >= 2 * _TASK else 1
    cuts = [count * number // threads for number in range(threads + 1)]
    others = [get_pool().submit(work, start, stop) for start, stop in zip(cuts[1:], cuts[2:])]
    try:
        work(0, cuts[1])
    finally:
        wait(others)
    for future in others:
        future.result()
