"""Answers of a real endpoint: a camera's JPEG, or its raw frame, against JSON of preprocessed pixels.

JSON of preprocessed pixels is what the pipeline's earlier client posts; its own preprocessing is at no charge here.
``robostig.container.Server`` runs SageMaker's inference toolkit and model server over a freshly made network, with one
worker. One client posts 20 requests of one kind, then of the next, and so on; then four clients post one kind for a
while, then the next. All kinds hold the same frames and must get the same answers, and each has been posted a hundred
times before: Java compiles what it has often done. How long the server takes to refuse a JPEG under a false name, which
reaches neither decoder nor network, is what no kind can get below.

    python benchmarks/endpoint.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import http.client
import io
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns, refuse
from recordings import read_pictures

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.container import Environment, NotAvailableError, Server, find_environment
from robostig.metrics import summarize_latency
from robostig.models import get_model, get_spec
from robostig.picture import decode_picture
from robostig.preprocessing import InputSpec, preprocess

MODELS = ("nvidia", "comma")
GOAL = 5.0
WARM_UP, QUICK_WARM_UP = 100, 20  # requests of each kind
BLOCK = 20
CLIENTS = 4
PICTURES = 8
TOLERANCE = 1e-3  # of steering: decoders of JPEG differ in the last bit
OURS, PEER = "JPEG", "JSON of pixels"
Request = Tuple[bytes, Dict[str, str]]


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    report = Report("endpoint", "requests to SageMaker's model server, against JSON of preprocessed pixels", arguments)
    try:
        environment = find_environment("serving")
    except NotAvailableError as error:
        refuse(str(error))
    report.note(f"served by {environment.description}")
    with tempfile.TemporaryDirectory() as scratch:
        pictures = read_pictures(find_log(arguments.data, Path(scratch)), PICTURES)
        for model in MODELS:
            measure_model(report, model, pictures, environment, Path(scratch))
    return report.finish()


def measure_model(
    report: Report, model: str, pictures: Sequence[bytes], environment: Environment, folder: Path
) -> None:
    """Serve one model, and add what came out."""
    quick = report.arguments.quick
    net = get_model(model)
    net.initialize(mx.init.Xavier())
    spec = get_spec(model).input
    kinds = {kind: [make(picture, spec) for picture in pictures] for kind, make in KINDS.items()}
    with Server(save_artifact(folder / model, net, spec, {"model": model}), environment=environment) as server:
        clients = {kind: Client(server.port, requests) for kind, requests in kinds.items()}
        report.note(f"{model}: {compare_answers(clients)}")
        for client in clients.values():
            client.post(QUICK_WARM_UP if quick else WARM_UP)
            client.seconds.clear()
        refused = Client(server.port, [(pictures[0], {"Content-Type": "no/picture"})], status=415)
        latencies = measure_in_turns(
            {kind: partial(client.post, BLOCK) for kind, client in {**clients, "refused": refused}.items()},
            3 if quick else 15,
            model,
        )
        rates = measure_in_turns(
            {kind: partial(count_answers, client, 0.5 if quick else 2.0) for kind, client in clients.items()},
            2 if quick else 5,
            model,
        )
    for kind in (kind for kind in KINDS if kind != PEER):
        goal = GOAL if kind == OURS else None
        for name, values, unit in ((", one client", latencies, "ms"), (f", {CLIENTS} clients", rates, "requests/s")):
            ours, peer = (Figure(each, values[each], unit) for each in (kind, PEER))
            report.add(Comparison(f"{model}{name}, {kind}", ours, peer, goal, more_is_better=unit != "ms"))
    report.add(Figure(f"{model}, one client, to refuse a request", latencies["refused"], "ms"))
    for kind, client in clients.items():
        slowest = summarize_latency(np.array(client.seconds))["p99"]
        report.add(Figure(f"{model}, one client, {kind}, 99th percentile", [slowest], "ms"))


def make_jpeg(picture: bytes, spec: InputSpec) -> Request:
    return picture, {"Content-Type": "image/jpeg"}


def make_json(picture: bytes, spec: InputSpec) -> Request:
    pixels = preprocess(decode_picture(picture, "a frame"), spec)[None].astype(np.float32)
    return json.dumps(pixels.tolist()).encode(), {"Content-Type": "application/json"}


def make_npy(picture: bytes, spec: InputSpec) -> Request:
    buffer = io.BytesIO()
    np.save(buffer, decode_picture(picture, "a frame"))
    return buffer.getvalue(), {"Content-Type": "application/x-npy"}


KINDS = {PEER: make_json, OURS: make_jpeg, "npy of the raw frame": make_npy}


class Client:
    """A connection that posts one kind of requests, in turns.

    Parameters
    ----------
    port
        Of the server on this machine.
    requests
        Bodies and their headers.
    status
        That the answers must have.
    """

    def __init__(self, port: int, requests: Sequence[Request], status: int = 200) -> None:
        self.port, self.requests, self.status = port, requests, status
        self.seconds: List[float] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(self, number: int) -> bytes:
        """Return the answer to a request."""
        body, headers = self.requests[number % len(self.requests)]
        self._connection.request("POST", "/invocations", body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != self.status:
            raise RuntimeError(f"the server answered {answer.status}: {content[:200]!r}")
        return content

    def post(self, count: int) -> float:
        """Post so many requests; return the median of the milliseconds to an answer, and keep them all, in seconds."""
        taken = []
        for number in range(count):
            started = time.perf_counter()
            self.ask(number)
            taken.append(time.perf_counter() - started)
        self.seconds += taken
        return 1000.0 * float(np.median(taken))


def compare_answers(clients: Mapping[str, Client]) -> str:
    """Say how far apart the answers to the same frames are, and how large a frame is.

    Raises
    ------
    RuntimeError
        If they are too far apart to be of the same network and frames.
    """
    answers = np.array([[json.loads(client.ask(each)) for each in range(PICTURES)] for client in clients.values()])
    apart = float(np.ptp(answers, axis=0).max())
    if apart > TOLERANCE:
        raise RuntimeError(f"the same frames get different answers: {dict(zip(clients, answers.tolist()))}")
    sizes = {kind: np.median([len(body) for body, _ in client.requests]) for kind, client in clients.items()}
    return f"the answers to the {len(sizes)} kinds of requests are at most {apart:.1g} apart; a frame is " + ", ".join(
        f"{size / 1000:,.0f} KB as {kind}" for kind, size in sizes.items()
    )


def count_answers(client: Client, seconds: float) -> float:
    """Return how many answers a second several clients get, all of whom post the same."""

    def work(_: int) -> int:
        each, count = Client(client.port, client.requests), 0
        while time.perf_counter() < deadline:
            each.ask(count)
            count += 1
        return count

    started = time.perf_counter()
    deadline = started + seconds
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(work, range(CLIENTS))) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
