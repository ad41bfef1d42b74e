"""A JPEG frame against JSON of preprocessed pixels, through SageMaker's real model server with one worker.

JSON of preprocessed pixels is what the pipeline's earlier client posts. Serves each model's freshly made network with
``robostig.container.Server``, posts a few requests of each kind in turns and times the answers; then lets several
clients post one kind for a while, then the next, and so on, and counts the answers a second. Prints medians, and their
ratios to JSON's: an answer should take a fifth of the time, and there should be five times as many.

    python benchmarks/bench_serving.py [--data recording] [--models nvidia,comma] [--requests 200] [--quick]
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.container import Server
from robostig.driving_log import LOG_NAME, read_driving_log
from robostig.metrics import summarize_latency
from robostig.models import get_model, get_spec
from robostig.picture import decode_picture, encode_jpeg
from robostig.preprocessing import InputSpec, preprocess
from robostig.simulation import Simulation, load_track

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "lake"
WARM_UP = 100  # Java compiles what it has often done
BLOCK = 20  # requests of one kind before the next kind's turn: a client posts one kind
CLIENTS = 4
PEER = "JSON, preprocessed"
Request = Tuple[bytes, Dict[str, str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("ROBOSTIG_DATA", str(DEFAULT_DATA)), help="a driving log")
    parser.add_argument("--models", default="nvidia,comma", help="whose networks, with commas between")
    parser.add_argument("--requests", type=int, default=200, help="of each kind, for the median")
    parser.add_argument("--quick", action="store_true", help="40 requests of each kind, and shorter rounds")
    arguments = parser.parse_args()
    count, round_s = (40, 1.0) if arguments.quick else (arguments.requests, 3.0)
    for name in arguments.models.split(","):
        measure_model(name, Path(arguments.data), count, round_s)
    return 0


def measure_model(name: str, data: Path, count: int, round_s: float) -> None:
    """Serve one model, and print what was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        net = get_model(name)
        net.initialize(mx.init.Xavier())
        spec = get_spec(name).input
        artifact = save_artifact(Path(scratch) / "artifact", net, spec, {"model": name})
        pictures = read_pictures(data)
        kinds = {kind: [make(picture, spec) for picture in pictures] for kind, make in KINDS.items()}
        with Server(artifact, workers=1) as server:
            print(f"{name}, one worker, {count} requests of each kind; {server.environment.description}")
            seconds = time_answers(server.port, kinds, count)
            rates = count_answers(server.port, kinds, round_s)
    latency = {kind: summarize_latency(np.array(values)) for kind, values in seconds.items()}
    print(
        f"{'request':20s} {'bytes':>9s} {'p50 ms':>8s} {'p99 ms':>8s} {'of JSON':>8s} {'a second':>9s} {'x JSON':>7s}"
    )
    for kind, requests in kinds.items():
        size = int(np.median([len(body) for body, _ in requests]))
        share = latency[kind]["p50"] / latency[PEER]["p50"]
        print(
            f"{kind:20s} {size:9,d} {latency[kind]['p50']:8.2f} {latency[kind]['p99']:8.2f} {share:8.3f} "
            f"{rates[kind]:9.1f} {rates[kind] / rates[PEER]:7.2f}"
        )
    print()


def read_pictures(folder: Path) -> List[bytes]:
    """Return a few JPEGs of a recording, or of the built-in track where there is none."""
    if (folder / LOG_NAME).is_file():
        paths = read_driving_log(folder).pictures["center"]
        return [Path(path).read_bytes() for path in paths[:: max(1, len(paths) // 8)]]
    simulation = Simulation(load_track("lake"))
    pictures = []
    for _ in range(8):
        pictures.append(encode_jpeg(simulation.look()))
        simulation.step(0.0)
    return pictures


def make_jpeg(picture: bytes, spec: InputSpec) -> Request:
    return picture, {"Content-Type": "image/jpeg"}


def make_json(picture: bytes, spec: InputSpec) -> Request:
    pixels = preprocess(decode_picture(picture, "a frame"), spec)[None].astype(np.float32)
    return json.dumps(pixels.tolist()).encode(), {"Content-Type": "application/json"}


def make_npy(picture: bytes, spec: InputSpec) -> Request:
    buffer = io.BytesIO()
    np.save(buffer, decode_picture(picture, "a frame"))
    return buffer.getvalue(), {"Content-Type": "application/x-npy"}


KINDS = {PEER: make_json, "JPEG frame": make_jpeg, "npy, raw frame": make_npy}


def ask(connection: http.client.HTTPConnection, request: Request) -> float:
    """Post one request and return the seconds to its answer."""
    body, headers = request
    started = time.perf_counter()
    connection.request("POST", "/invocations", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200 or len(json.loads(content)) != 1:
        raise RuntimeError(f"the server answered {answer.status}: {content[:200]!r}")
    return seconds


def time_answers(port: int, kinds: Dict[str, List[Request]], count: int) -> Dict[str, List[float]]:
    """Return seconds to the answer of each kind, asked in turns of a few."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    seconds: Dict[str, List[float]] = {kind: [] for kind in kinds}
    for start in range(0, WARM_UP + count, BLOCK):
        for kind, requests in kinds.items():
            for turn in range(start, start + BLOCK):
                taken = ask(connection, requests[turn % len(requests)])
                if turn >= WARM_UP:
                    seconds[kind].append(taken)
    return seconds


def count_answers(port: int, kinds: Dict[str, List[Request]], round_s: float, rounds: int = 3) -> Dict[str, float]:
    """Return the median answers a second of each kind, over rounds in turns, with several clients at once."""
    rates: Dict[str, List[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, requests in kinds.items():
            answered: List[int] = []
            deadline = time.perf_counter() + round_s

            def work(requests: List[Request] = requests, deadline: float = deadline, answered: Any = answered) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                count = 0
                while time.perf_counter() < deadline:
                    ask(connection, requests[count % len(requests)])
                    count += 1
                answered.append(count)

            started = time.perf_counter()
            clients = [threading.Thread(target=work) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            rates[kind].append(sum(answered) / (time.perf_counter() - started))
    return {kind: float(np.median(values)) for kind, values in rates.items()}


if __name__ == "__main__":
    sys.exit(main())
