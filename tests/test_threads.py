from __future__ import annotations

import os
import threading
from contextlib import closing

import pytest

from robostig import _compat, threads
from robostig.threads import get_pool, map_in_chunks, map_tasks, share_out


@pytest.fixture(autouse=True)
def two_threads_and_small_chunks(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    get_pool.cache_clear()
    monkeypatch.setattr(threads, "_CHUNK", 5)
    monkeypatch.setattr(threads, "_TASK", 2)
    yield
    get_pool.cache_clear()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 12])
def test_results_come_in_order_and_in_chunks(count):
    chunks = list(map_in_chunks(lambda number: number * number, range(count)))
    assert [result for chunk in chunks for result in chunk] == [number * number for number in range(count)]
    assert all(len(chunk) == 5 for chunk in chunks[:-1])


def test_what_one_thread_does_alone_this_one_does(monkeypatch):
    assert list(map_in_chunks(lambda _: threading.get_ident(), range(2))) == [[threading.get_ident()] * 2]
    (others,) = map_in_chunks(lambda _: threading.get_ident(), range(3))
    assert threading.get_ident() not in others
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert list(map_in_chunks(lambda _: threading.get_ident(), range(7))) == [
        [threading.get_ident()] * n for n in (5, 2)
    ]


@pytest.mark.parametrize("threads_there", ["1", "2"])
def test_work_on_several_items_gets_those_that_follow_each_other(monkeypatch, threads_there):
    monkeypatch.setenv("OMP_NUM_THREADS", threads_there)
    tasks = list(map_tasks(lambda task: [task] * len(task), range(7)))
    assert tasks == [[[0, 1], [0, 1], [2, 3], [2, 3], [4]], [[5, 6], [5, 6]]]


def test_no_more_than_two_chunks_are_asked_for_ahead_of_what_was_taken():
    asked = []
    with closing(map_in_chunks(lambda number: number, (asked.append(n) or n for n in range(100)))) as chunks:
        next(chunks)
        assert len(asked) == 10


def test_an_error_comes_through_and_nothing_goes_on_in_the_back():
    done = []

    def work(number):
        done.append(number)
        return 1 // (number - 7)

    with pytest.raises(ZeroDivisionError):
        list(map_in_chunks(work, range(1000)))
    before = len(done)
    assert before < 20
    get_pool().submit(lambda: None).result()
    assert len(done) == before


def test_there_are_as_many_threads_as_may_compute_and_one_more(monkeypatch):
    assert get_pool()._max_workers == 2 + 1
    get_pool.cache_clear()
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(_compat, "count_usable_cpus", lambda: 3)
    assert get_pool()._max_workers == 3 + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    list(map_in_chunks(lambda number: number, range(9)))
    child = os.fork()
    if child == 0:  # pragma: no cover
        result = [each for chunk in map_in_chunks(lambda number: number, range(9)) for each in chunk]
        os._exit(0 if result == list(range(9)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_each_of_many_things_is_some_threads_once(count):
    done, names = [], set()

    def work(start, stop):
        done.extend(range(start, stop))
        names.add(threading.get_ident())

    share_out(work, count)
    assert sorted(done) == list(range(count))
    assert len(names) == (2 if count >= 4 else 1) and threading.get_ident() in names


@pytest.mark.parametrize("failing", [0, 4])
def test_what_goes_wrong_in_any_part_is_raised_when_all_have_ended(failing):
    ended = []

    def work(start, stop):
        if start == failing:
            raise ValueError(f"number {start}")
        ended.append(start)

    with pytest.raises(ValueError, match=f"number {failing}"):
        share_out(work, 8)
    assert ended == [4 - failing]
