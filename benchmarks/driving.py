"""Frame in to command out through the driving server's socket, against the model's own time.

Starts ``robostig drive`` with a freshly made network as a process of its own, sends it frames as Udacity's simulator
does and times each answer; the peer is ``Pilot.steer`` with the same artifact in this process, given the same frames
already decoded, a few of each in turns. Both processes share one core. A server that costs nothing would be as good as
its peer; what it adds is the decoding of a JPEG in base64, the protocol, the throttle and the live page. The commands
that come out must be those of the peer.

    python benchmarks/driving.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

os.environ["OMP_NUM_THREADS"] = "1"  # before MXNet is loaded

import aiohttp
import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns
from recordings import read_pictures

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.driving import protocol
from robostig.driving.driver import decode_jpeg
from robostig.driving.simulator import parse_address
from robostig.metrics import summarize_latency
from robostig.models import get_model, get_spec
from robostig.pilot import Pilot

MODELS = ("nvidia", "comma")
BLOCK = 20  # frames of a round
PICTURES = 200
TOLERANCE = 1e-3  # of steering; the telemetry carries fewer digits


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    repeats = 10 if arguments.quick else 50
    report = Report("driving", "frame in to command out through the driving server, against the model alone", arguments)
    if hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})  # the server inherits it
    with tempfile.TemporaryDirectory() as scratch:
        pictures = read_pictures(find_log(arguments.data, Path(scratch)), PICTURES)
        for model in MODELS:
            net = get_model(model)
            net.initialize(mx.init.Xavier())
            artifact = save_artifact(Path(scratch) / model, net, get_spec(model).input, {"model": model})
            compare(report, model, artifact, pictures, repeats)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # which the report names
    return report.finish()


def compare(report: Report, model: str, artifact: Path, pictures: Sequence[bytes], repeats: int) -> None:
    """Drive with both in turns, and add what came out."""
    pilot = Pilot.load(artifact)
    frames = [decode_jpeg(picture) for picture in pictures]
    with Server(artifact) as server:
        messages = [make_telemetry(picture) for picture in pictures]
        apart = max(abs(server.steer(each) - pilot.steer(frame)) for each, frame in zip(messages, frames))
        if apart > TOLERANCE:
            raise RuntimeError(f"{model}: the server steers otherwise than its model, by {apart:.1e}")
        report.note(f"{model}: {len(frames)} commands differ from the model's own answers by {apart:.0e} at the most")
        seconds: Dict[str, List[float]] = {}

        def measure(name: str, work: Callable[[Any], object], items: Sequence[Any]) -> float:
            taken = seconds.setdefault(name, [])
            start = len(taken)
            for turn in range(start, start + BLOCK):
                started = time.perf_counter()
                work(items[turn % len(items)])
                taken.append(time.perf_counter() - started)
            return 1000.0 * float(np.median(taken[start:]))

        sides = {
            "through the socket": lambda: measure("socket", server.steer, messages),
            "Pilot.steer, frame decoded": lambda: measure("pilot", pilot.steer, frames),
        }
        medians = measure_in_turns(sides, repeats, model)
    ours, peer = (Figure(name, values, "ms") for name, values in medians.items())
    report.add(Comparison(f"{model}, one frame, one core", ours, peer, more_is_better=False))
    for name, values in zip(sides, seconds.values()):
        slowest = summarize_latency(np.array(values[BLOCK:]))["p99"]
        report.add(Figure(f"{model}, {name}, 99th percentile", [slowest], "ms"))


def make_telemetry(picture: bytes) -> str:
    """Return the message in which the simulator sends a picture."""
    image = base64.b64encode(picture).decode()
    return protocol.encode_telemetry(protocol.Telemetry(image, steering_deg=0.0, throttle=0.5, speed_mph=14.0))


class Server:
    """``robostig drive`` in a process of its own, and a connection to it as the simulator's.

    Parameters
    ----------
    artifact
        What steers.
    """

    def __init__(self, artifact: Path) -> None:
        command = [sys.executable, "-m", "robostig.cli", "drive", str(artifact), "--port", "0"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self._process.stderr is not None
        self._url = parse_address(self._process.stderr.readline().split("http://")[1].split("/")[0])
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Server:
        self._loop.run_until_complete(self._connect())
        return self

    async def _connect(self) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(self._url)

    def steer(self, telemetry: str) -> float:
        """Return the steering that the server commands, -1..1."""
        _, payload = protocol.decode_event(self._loop.run_until_complete(self._ask(telemetry)))
        return float(payload["steering_angle"])

    async def _ask(self, telemetry: str) -> str:
        await self._socket.send_str(telemetry)
        while True:
            answer = await self._socket.receive_str(timeout=20)
            if answer.startswith('42["steer"'):
                return answer

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)


if __name__ == "__main__":
    sys.exit(main())
