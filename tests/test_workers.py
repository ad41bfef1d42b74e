from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from conftest import find_ports

from robostig import mesh, workers
from robostig.mesh import meet
from robostig.workers import WorkerGroup, join_workers


def make_environment(rank: int, count: int, port: int) -> Dict[str, str]:
    """Return what the training toolkit leaves in the environment of a host's script."""
    return {
        "SM_HOSTS": json.dumps([f"algo-{number}" for number in range(1, count + 1)]),
        "SM_CURRENT_HOST": f"algo-{rank + 1}",
        "SM_INPUT_DATA_CONFIG": '{"training": {"S3DistributionType": "FullyReplicated"}}',
        "DMLC_ROLE": "worker",
        "DMLC_NUM_WORKER": str(count),
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
    }


def run_together(act: Callable[[WorkerGroup], Any], count: int = 3) -> List[Any]:
    """Let each of several workers do something; return what came of it or what was raised, by rank."""
    port = find_ports()

    def work(rank: int) -> Any:
        try:
            with join_workers(make_environment(rank, count, port)) as group:
                return act(group)
        except (ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [each.result(timeout=30) for each in [pool.submit(work, rank) for rank in range(count)]]


def test_one_worker_is_a_group_that_waits_for_nobody():
    with join_workers({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"}) as group:
        assert (group.rank, group.count, group.is_first) == (0, 1, True)
        assert group.gather("word") == ["word"] and group.wait(max, 1, 2) == 2
        group.agree({"rows": 3})
        assert group.share(7) == (0, 7) and group.make_kvstore(lambda: 1) == "device"
    assert join_workers({}).count == 1
    assert join_workers({"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "1", "SM_HOSTS": '["algo-1"]'}).count == 1


@pytest.mark.parametrize(("count", "hosts"), [(7, 3), (64, 2), (2, 2), (1, 3), (0, 2)])
def test_every_thing_is_one_workers(count, hosts):
    shares = [range(*WorkerGroup(["host"] * hosts, rank).share(count)) for rank in range(hosts)]
    assert [number for share in shares for number in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_workers_hear_each_other_by_rank_and_to_the_last_bit():
    def act(group):
        said = [{"host": group.host, "value": math.pi ** (10 * group.rank)}, math.nan, group.rank]
        return [group.gather(value) for value in said]

    for names, undefined, ranks in run_together(act):
        assert names == [{"host": f"algo-{rank + 1}", "value": math.pi ** (10 * rank)} for rank in range(3)]
        assert all(map(math.isnan, undefined)) and ranks == [0, 1, 2]


def test_workers_that_differ_all_say_in_what():
    errors = run_together(lambda group: group.agree({"seed": 1, "rows": 60 - group.rank // 2}))
    assert len({str(error) for error in errors}) == 1 and isinstance(errors[0], ValueError)
    assert "rows is 60 on algo-1, 60 on algo-2, 59 on algo-3. Each needs all of the data" in str(errors[0])
    assert "seed" not in str(errors[0])


@pytest.mark.parametrize("failing", [0, 1])
def test_what_ends_one_worker_ends_all_and_they_say_why(failing):
    never = threading.Event()

    def act(group):
        group.gather()
        if group.rank == failing:
            raise ValueError("picture 7 is cut off")
        return group.gather() if group.rank == 2 else group.wait(never.wait)

    errors = run_together(act)
    never.set()
    assert str(errors.pop(failing)) == "picture 7 is cut off"
    assert [str(error) for error in errors] == [f"algo-{failing + 1} failed: picture 7 is cut off"] * 2
    assert all(isinstance(error, ConnectionError) for error in errors)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_vanishes_is_missed_by_all(killed):
    def act(group):
        group.gather()
        if group.rank == killed:
            with group._lock:  # as the kernel does for a process that was killed: all at once
                for link in group._links.values():
                    link._connection.shutdown(socket.SHUT_RDWR)
        return group.gather()

    errors = run_together(act)
    errors.pop(killed)
    assert [str(error) for error in errors] == [f"algo-{killed + 1} has gone without a word; look at its log"] * 2


def connect(group: WorkerGroup) -> None:
    """Connect all workers with each other, as a distributed store does."""
    group._mesh = group.wait(meet, group.hosts, group.rank, next(iter(group._links.values())).address, group.gather)


@pytest.mark.parametrize("count", [2, 3])
def test_workers_give_each_other_their_rows(count):
    sent = [np.arange(14.0).reshape(7, 2), np.random.default_rng(0).random((7, 500_000), np.float32)]

    def act(group):
        connect(group)
        for sign in (1, -1):
            found = [np.zeros_like(array) for array in sent]
            own = slice(*group.share(7))
            for rows, array in zip(found, sent):
                rows[own] = sign * array[own]
            group.wait(group.share_rows, found)
            yield from (np.array_equal(rows, sign * array) for rows, array in zip(found, sent))

    assert run_together(lambda group: list(act(group)), count) == [[True] * 4] * count


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [1, 10, 1_000_001])
def test_workers_add_up_to_the_same_bits(count, size):
    values = np.random.default_rng(1).random((count, size), np.float32)

    def act(group):
        connect(group)
        total = values[group.rank].copy()
        group.wait(group.add_up, total)
        return total

    first, *others = run_together(act, count)
    np.testing.assert_allclose(first, values.sum(axis=0, dtype=np.float64), rtol=1e-6)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("failing", [0, 1])
def test_who_waits_for_the_rows_of_one_that_fails_hears_why(failing):
    def act(group):
        connect(group)
        large = np.ones((3, 3_000_000), np.float32)  # more than lies on the way
        group.wait(group.share_rows, [large])
        if group.rank == failing:
            raise ValueError("picture 7 is cut off")
        return group.wait(group.share_rows, [large])

    errors = run_together(act)
    assert str(errors.pop(failing)) == "picture 7 is cut off"
    assert [str(error) for error in errors] == [f"algo-{failing + 1} failed: picture 7 is cut off"] * 2


def test_who_waits_for_one_that_fails_while_all_connect_hears_why():
    def act(group):
        if group.is_first:
            connect(group)
        group.gather([])  # where it listens, the others would say
        raise ValueError("no memory left")

    started = time.monotonic()
    errors = run_together(act, count=2)
    assert [str(error) for error in errors] == ["algo-2 failed: no memory left", "no memory left"]
    assert time.monotonic() - started < 0.5 * mesh._MEET_LIMIT_S


def test_a_connection_that_breaks_is_named(monkeypatch):
    monkeypatch.setattr(workers, "_LAST_WORDS_LIMIT_S", 0.1)

    def act(group):
        connect(group)
        if group.is_first:
            next(iter(group._mesh._peers.values())).shutdown(socket.SHUT_RDWR)
        group.wait(group.share_rows, [np.zeros((2, 2))])

    # Whoever notices it first tells the other.
    assert all("the connection with algo-" in str(error) for error in run_together(act, count=2))


def test_rows_are_not_shared_before_all_are_connected():
    group = WorkerGroup(["algo-1", "algo-2"], 0)
    with pytest.raises(RuntimeError, match="not connected with each other yet"):
        group.add_up(np.zeros(3))


def test_nobody_leaves_before_the_first_has_finished():
    finished = threading.Event()

    port = find_ports()

    def work(rank: int) -> bool:
        with join_workers(make_environment(rank, 3, port)) as group:
            if group.is_first:
                time.sleep(0.1)
                finished.set()
        return finished.is_set()

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))


def test_others_that_have_finished_hear_of_the_firsts_failure():
    def act(group):
        if group.is_first:
            raise OSError("the disk is full")

    assert [str(error) for error in run_together(act)[1:]] == ["algo-1 failed: the disk is full"] * 2


def test_a_function_that_fails_while_workers_wait_for_it_fails_as_ever():
    def act(group):
        return group.wait(int, "seven") if group.is_first else group.wait(int, "7")

    errors = run_together(act, count=2)
    assert "invalid literal" in str(errors[0]) and str(errors[1]).startswith("algo-1 failed: invalid literal")


def test_a_parameter_server_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(workers, "STALL_LIMIT_S", 0.2)
    never = threading.Event()
    errors = run_together(lambda group: group.wait(never.wait), count=2)
    never.set()
    assert all(isinstance(error, OSError) for error in errors)
    assert any("nor the parameter server has answered" in str(error) for error in errors)


@pytest.mark.parametrize(("rank", "missing"), [(0, "algo-2, algo-3"), (2, "algo-1")])
def test_a_host_that_does_not_come_is_named(monkeypatch, rank, missing):
    monkeypatch.setattr(workers, "JOIN_LIMIT_S", 0.3)
    with pytest.raises(TimeoutError, match=f"^{missing} did not come within"):
        join_workers(make_environment(rank, 3, find_ports()))


def test_strangers_at_the_port_are_turned_away(monkeypatch):
    monkeypatch.setattr(workers, "_HELLO_LIMIT_S", 0.2)
    port = find_ports()

    def knock(words: bytes) -> bytes:
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", port + 1), 10) as connection:
                    connection.sendall(words)
                    return connection.recv(1)
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError("nobody listens")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(join_workers, make_environment(0, 2, port))
        for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": "x", "hosts": 7}\n', b"[]\n", b"", b"\xff\n"):
            assert knock(words) == b""
        second = join_workers(make_environment(1, 2, port))
        told = pool.submit(first.result(timeout=10).gather, "one")
        assert second.gather("two") == told.result(timeout=10) == ["one", "two"]


def test_a_port_that_somebody_else_has_is_named_and_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr(workers, "_HELLO_LIMIT_S", 0.1)
    monkeypatch.setattr(workers, "JOIN_LIMIT_S", 0.3)
    port = find_ports()
    with socket.create_server(("127.0.0.1", port + 1)):  # listens, and says nothing
        with pytest.raises(OSError, match=f"port {port + 1}, the one after DMLC_PS_ROOT_PORT, where nobody can listen"):
            join_workers(make_environment(0, 2, port))
        with pytest.raises(TimeoutError, match=r"algo-1 did not come within .* \(somebody else listens there\)"):
            join_workers(make_environment(1, 2, port))


BAD = [
    ({"DMLC_ROLE": ""}, r'3 hosts.* give the estimator distribution={"parameter_server": {"enabled": True}}'),
    ({"DMLC_NUM_WORKER": "2"}, "DMLC_NUM_WORKER is 2; it must be one of as many"),
    ({"SM_CURRENT_HOST": "algo-9"}, "this host is 'algo-9' of"),
    (
        {"SM_INPUT_DATA_CONFIG": '{"training": {"S3DistributionType": "ShardedByS3Key"}}'},
        "the channel training gives each host a part of the data .* Use FullyReplicated",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_a_job_that_cannot_train_together_is_refused_before_it_begins(changes, message):
    with pytest.raises(ValueError, match=message):
        join_workers({**make_environment(0, 3, 1), **changes})


def test_a_host_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr(mesh, "_MEET_LIMIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = [["127.0.0.1", port, "token"], None]
    with pytest.raises(OSError, match=rf"algo-2 cannot reach algo-1 at 127.0.0.1, port {port} \(.+at all ports"):
        meet(["algo-1", "algo-2"], 1, "127.0.0.1", lambda own: told)
    with pytest.raises(TimeoutError, match=r"algo-2 did not connect to algo-1 within 0 s.+at all ports"):
        meet(["algo-1", "algo-2"], 0, "127.0.0.1", lambda own: [own, None])


def test_strangers_get_nobodys_rows(monkeypatch):
    monkeypatch.setattr(mesh, "_HELLO_LIMIT_S", 0.2)
    strangers = []

    def gather(own):
        for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n" * 4, f"{'0' * 32} 00000001".encode()):
            strangers.append(socket.create_connection(("127.0.0.1", own[1])))
            strangers[-1].sendall(greeting)
        friend = socket.create_connection(("127.0.0.1", own[1]))
        friend.sendall(f"{own[2]} 00000001".encode())
        strangers.append(friend)
        return [own, None]

    met = meet(["algo-1", "algo-2"], 0, "127.0.0.1", gather)
    incoming = bytearray(4)
    strangers[-1].sendall(b"ROWS")
    met.exchange([[], [memoryview(b"rows")]], [[], [memoryview(incoming)]])
    assert incoming == b"ROWS" and strangers[-1].recv(4) == b"rows"
    for stranger in strangers[:-1]:
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    met.close()
    for each in strangers:
        each.close()
