"""Frame in to command out through the driving server's socket: it should be little more than the model's own time.

Starts ``robostig drive`` with a freshly made network as a process of its own, sends it frames as the simulator does and
times each answer; between two of them, the same frame is steered by ``Pilot.steer`` in this process, already decoded.
Both processes share one core. Prints median, 99th percentile, and the ratio of the two medians.

    python benchmarks/bench_drive.py [--data recording] [--model nvidia] [--frames 1000] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import aiohttp
import numpy as np

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.driving import protocol
from robostig.driving.driver import decode_jpeg
from robostig.driving.simulator import parse_address
from robostig.driving_log import LOG_NAME, read_driving_log
from robostig.metrics import summarize_latency
from robostig.models import get_model, get_spec
from robostig.picture import encode_jpeg
from robostig.pilot import Pilot
from robostig.simulation import Simulation, load_track

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "lake"
WARM_UP = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("ROBOSTIG_DATA", str(DEFAULT_DATA)), help="a driving log")
    parser.add_argument("--model", default="nvidia", help="whose network")
    parser.add_argument("--frames", type=int, default=1000, help="how many are timed")
    parser.add_argument("--quick", action="store_true", help="200 frames: under ten seconds")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    count = 200 if arguments.quick else arguments.frames
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the server inherits it
    pictures, source = read_pictures(Path(arguments.data), min(count, 200))
    with tempfile.TemporaryDirectory() as scratch:
        net = get_model(arguments.model)
        net.initialize(mx.init.Xavier())
        spec = get_spec(arguments.model)
        artifact = save_artifact(Path(scratch) / "artifact", net, spec.input, {"model": arguments.model})
        through_socket, in_process = asyncio.run(measure(artifact, pictures, count))
    results = {"socket_ms": summarize_latency(through_socket), "pilot_ms": summarize_latency(in_process)}
    ratio = results["socket_ms"]["p50"] / results["pilot_ms"]["p50"]
    print(f"{arguments.model}, {count:,} frames of {source}, one core")
    print(
        "frame in to command out  {p50:.2f} ms (median), {p99:.2f} ms (99th percentile)".format(**results["socket_ms"])
    )
    print(
        "Pilot.steer in process   {p50:.2f} ms (median), {p99:.2f} ms (99th percentile)".format(**results["pilot_ms"])
    )
    print(f"ratio of the medians     {ratio:.2f} (1.00 would be a server that costs nothing)")
    if arguments.json:
        record = {"model": arguments.model, "frames": count, **results, "ratio": ratio}
        Path(arguments.json).write_text(json.dumps(record, indent=2) + "\n")
    return 0


def read_pictures(folder: Path, count: int) -> tuple[list[bytes], str]:
    """Return JPEGs of a recording, or of the built-in track where there is none."""
    if (folder / LOG_NAME).is_file():
        paths = read_driving_log(folder).pictures["center"]
        return [Path(path).read_bytes() for path in paths[:: max(1, len(paths) // count)]], folder.name
    simulation = Simulation(load_track("lake"))
    pictures = []
    for _ in range(count):
        pictures.append(encode_jpeg(simulation.look()))
        simulation.step(0.0)
        simulation.put_back()
    return pictures, "the built-in track"


async def measure(artifact: Path, pictures: list[bytes], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds of each frame through the socket, and of the same frame in this process, in turns."""
    pilot = Pilot.load(artifact)
    frames = [decode_jpeg(picture) for picture in pictures]
    messages = [
        protocol.encode_telemetry(
            protocol.Telemetry(base64.b64encode(picture).decode(), steering_deg=0.0, throttle=0.5, speed_mph=14.0)
        )
        for picture in pictures
    ]
    command = [sys.executable, "-m", "robostig.cli", "drive", str(artifact), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        address = server.stderr.readline().split("http://")[1].split("/")[0]
        seconds = np.empty((count + WARM_UP, 2))
        async with aiohttp.ClientSession() as session, session.ws_connect(parse_address(address)) as socket:
            for turn in range(count + WARM_UP):
                message, frame = messages[turn % len(messages)], frames[turn % len(frames)]
                started = time.perf_counter()
                await socket.send_str(message)
                while not (await socket.receive_str(timeout=20)).startswith('42["steer"'):
                    pass
                answered = time.perf_counter()
                pilot.steer(frame)
                seconds[turn] = answered - started, time.perf_counter() - answered
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    return seconds[WARM_UP:, 0], seconds[WARM_UP:, 1]


if __name__ == "__main__":
    sys.exit(main())
