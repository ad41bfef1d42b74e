"""Peers that do not read, models that do not answer: the server goes on without them, and ends when it is told to."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from raw_simulator import RawSimulator, ServerThread, write_telemetry

from robostig.driving import line
from robostig.driving.server import DrivingServer

LARGE = [write_telemetry(np.random.default_rng(seed).integers(0, 256, (900, 900, 3), np.uint8)) for seed in (0, 1)]
PINGS = (struct.pack(">BB", 0x89, 0x80 | 125) + bytes(4 + 125)) * 100  # WebSocket's own: the answers are as long

SERVER = """
import sys, time
from robostig.driving.server import DrivingServer, serve

class Slow(DrivingServer):
    async def stop(self):
        print("stopping", flush=True)
        time.sleep(60)

looks = 0
def steer(frame):
    global looks
    looks += 1
    while looks > 1 and sys.argv[1] == "hang":
        time.sleep(60)
    return 0.0

server = (Slow if sys.argv[1] == "slow" else DrivingServer)(steer)
serve(server, "127.0.0.1", 0, announce=lambda page: print(page, flush=True))
print(server.summarize(), flush=True)
"""


class Process:
    """A driving server in a process of its own."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1].strip("/\n"))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int = signal.SIGINT) -> str:
        """Interrupt it, and return what it says at its end, which must come soon."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        assert self.process.returncode == 0 and "Traceback" not in err, err
        return out


def flood(client: RawSimulator) -> None:
    """Send pings and read no pong, until the server takes no more, or hangs up."""
    client.socket.settimeout(2.0)
    with contextlib.suppress(OSError):  # a timeout is one
        while True:
            client.socket.sendall(PINGS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_beside_a_page_that_does_not_read(number):
    with Process("good") as server, RawSimulator(server.port, path="/live", reads=False), RawSimulator(
        server.port
    ) as car:
        end = time.monotonic() + 3  # less than what a page is given
        while time.monotonic() < end:
            car.ask(LARGE[0]), car.ask(LARGE[1])  # a page gets what is new
        assert "model drove" in server.end(number)


def test_the_server_ends_beside_a_simulator_that_does_not_read():
    with Process("good") as server, RawSimulator(server.port, reads=False) as car:
        flood(car)
        assert "drove nothing" in server.end()


def test_the_server_ends_though_its_model_never_answers():
    with Process("hang") as server, RawSimulator(server.port) as car:
        assert car.ask(LARGE[0]) == (0.0, 0.0)
        assert "1 frames driven blind" in server.end()


def test_a_second_signal_does_not_wait():
    with Process("slow") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.stdout.readline() == "stopping\n"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == -signal.SIGINT


def test_the_signals_are_given_back():
    with Process("good") as server:
        server.end()
    code = """
import asyncio, os, signal, threading
from robostig.driving.server import DrivingServer, serve
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in a shell's background does not have
serve(DrivingServer(lambda frame: 0.0), "127.0.0.1", 0, announce=lambda page: os.kill(os.getpid(), signal.SIGTERM))
assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=30, env=dict(os.environ)).returncode == 0


def test_a_page_that_does_not_read_is_dropped_and_the_car_drives_on(monkeypatch):
    monkeypatch.setattr(line, "SENDING_S", 0.5)
    with ServerThread(DrivingServer(lambda frame: 0.25)) as server, RawSimulator(server.port) as car, RawSimulator(
        server.port, path="/live", reads=False
    ):
        end = time.monotonic() + 15
        assert server.server._pages
        while server.server._pages:
            assert car.ask(LARGE[0])[0] == car.ask(LARGE[1])[0] == 0.25 and time.monotonic() < end


def test_a_simulator_that_does_not_read_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(line, "SENDING_S", 0.5)
    with ServerThread(DrivingServer(lambda frame: 0.25)) as server, RawSimulator(server.port, reads=False) as stubborn:
        flood(stubborn)
        end = time.monotonic() + 10
        while server.server.describe()["simulators"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        with RawSimulator(server.port) as car:
            assert car.ask(LARGE[0])[0] == 0.25
