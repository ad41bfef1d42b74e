"""Training as it grows: two hosts against one, and a log 4 and 16 times as long.

A host is one core here: a process of one thread that may run nowhere else and, if there are two hosts, a parameter
server beside it on the same core, as SageMaker's toolkit starts one a host (and a scheduler on the first). Two hosts
share every batch of 64 frames; one host trains alone, without a server. Both learn from the same augmented batches
without dropout, whose masks each host would draw for itself, and their losses must agree. Two hosts are measured with a
batch twice as large as well, so that each has as many frames a step as the one alone. What two hosts cannot exceed is
measured too: two that train as many frames a step each, and exchange nothing.

For length, each training is one epoch from the JPEGs on, with an empty frame cache, in a process of its own, of a log
and of the same drive 4 and 16 times over. Memory is private memory at its peak, time that of a row.

    python benchmarks/scaling.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns
from recordings import repeat_recording
from side import Side

from robostig._compat import count_usable_cpus
from robostig.container import stop_training
from robostig.container.server import find_free_port
from robostig.models import get_spec

MODELS = ("nvidia", "comma")
TIMES = (1, 4, 16)
DISTRIBUTED_GOAL, MEMORY_GOAL, TIME_GOAL = 1.7, 0.8, 0.9  # of the last two, 1 would be flat and linear
BATCH = 64
STEPS = {"nvidia": 20, "comma": 12}  # an epoch: two seconds or so on one core
HOSTS = ("algo-1", "algo-2")
TWO, ONE, LARGER = "two hosts", "one host", f"two hosts, {2 * BATCH} frames a step"
SILENT, SILENT_LARGER = (f"two hosts that exchange nothing, {frames} frames each" for frames in (BATCH // 2, BATCH))
# Adam reads a weight, its gradient and two means, and writes three of them; the average reads two, and writes one.
UPDATE_PASSES = 10
TOLERANCE = 1e-4  # of a loss: sums of gradients are rounded in another order


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    report = Report("scaling", "training on two hosts against one, and on long logs against short ones", arguments)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = find_log(arguments.data, scratch)
        os.environ["ROBOSTIG_CACHE"] = str(scratch / "frames")
        measure_hosts(report, folder, scratch)
        measure_lengths(report, folder, scratch)
    return report.finish()


def measure_hosts(report: Report, folder: Path, scratch: Path) -> None:
    """Train on one host and on two in turns, and add what came out."""
    if count_usable_cpus() < 2:
        report.note("two hosts were not measured: each needs a core of its own, and there is one")
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    loopback = Figure("loopback, from one core to the other", measure_loopback(cores), "GB/s")
    copying = Figure("copying memory on both cores at once, read and written by each", measure_copying(cores), "GB/s")
    quick = report.arguments.quick
    for model in MODELS[:1] if quick else MODELS:
        repeats, steps = (2, STEPS[model] // 3) if quick else (5, STEPS[model])
        sizes = {TWO: BATCH, ONE: BATCH, SILENT: BATCH // 2, LARGER: 2 * BATCH, SILENT_LARGER: BATCH}
        with ExitStack() as stack:
            places = {TWO: cores, ONE: cores[1:], SILENT: cores}
            if not quick:
                places.update({LARGER: cores, SILENT_LARGER: cores})
            groups = {}
            for name, its_cores in places.items():
                environments: List[Mapping[str, str]] = [{} for _ in its_cores]
                if name in (TWO, LARGER):
                    variables = stack.enter_context(start_servers(cores, scratch))
                    environments = [{**variables, "SM_CURRENT_HOST": host} for host in HOSTS]
                groups[name] = Group(stack, environments, its_cores)
            for name, group in groups.items():
                options = {"rows": sizes[name] * steps, "batch_size": sizes[name], "epochs": repeats + 1}
                group.prepare(str(folder), model, options)
            sides = {name: group.train_epoch for name, group in groups.items()}
            rates = measure_in_turns(sides, repeats, model)
        found = {name: Figure(name, values, "images/s") for name, values in rates.items()}
        two, one, silent = (found[name] for name in (TWO, ONE, SILENT))
        for whole, alone, how in (
            (TWO, SILENT, f"{BATCH} frames a step, whoever shares them"),
            (LARGER, SILENT_LARGER, f"{BATCH} frames a step on each host"),
        ):
            if whole in found:
                report.add(Comparison(f"{model}, {how}", found[whole], one, DISTRIBUTED_GOAL))
                report.add(Comparison(f"{model}, {how}, and nothing exchanged", found[alone], one))
        report.note(f"{model}: {compare_losses(groups[ONE].losses, groups[TWO].losses)}")
        summed, shared = groups[TWO].exchanged
        # Of what is added up, each sends half before and the other half after; of what is shared, its half.
        megabytes = 4e-6 * (summed + shared / 2)
        updated = UPDATE_PASSES * 4e-6 * get_spec(model).parameters
        step_ms = {each.name: 1000 * BATCH / each.median for each in (one, two, silent)}
        fixed = 2 * step_ms[SILENT] - step_ms[ONE]
        report.note(
            f"{model}: {BATCH} frames take {step_ms[ONE]:.0f} ms on one host, {step_ms[TWO]:.0f} ms on two, and "
            f"{step_ms[SILENT]:.0f} ms on two that exchange nothing; for the goal, they may take "
            f"{step_ms[ONE] / DISTRIBUTED_GOAL:.0f} ms. Each of two sends {megabytes:.1f} MB of gradients, or their "
            f"factors, a step and receives as much: to carry that over loopback, and do nothing with it, takes both "
            f"cores {2 * megabytes / loopback.median:.1f} ms"
        )
        if fixed > 0:  # else it is lost in what the frames' time varies by
            report.note(
                f"{model}: what a step takes for no frame at all, as those of {BATCH // 2} and of {BATCH} tell, is "
                f"{fixed:.0f} ms on every host: Adam and the average alone read and write {updated:.0f} MB, which "
                f"takes {updated / copying.median:.0f} ms to copy"
            )
    for figure in (loopback, copying):
        report.add(figure)


class Group:
    """Hosts that train at the same time, one epoch after the other.

    Parameters
    ----------
    stack
        What ends them.
    environments, cores
        One a host.
    """

    def __init__(self, stack: ExitStack, environments: Sequence[Mapping[str, str]], cores: Sequence[int]) -> None:
        self.hosts = [stack.enter_context(Side("training_sides.Host", 1, each)) for each in environments]
        self.cores, self.is_joined = cores, "SM_HOSTS" in environments[0]
        self.losses: List[float] = []
        self.exchanged = (0, 0)
        for host in self.hosts:
            stack.callback(host.call, "leave")

    def prepare(self, folder: str, model: str, options: Dict[str, int]) -> None:
        """Have all get ready to train a model."""
        for host, core in zip(self.hosts, self.cores):
            self.exchanged = host.call("prepare", core, folder, model, options)

    def train_epoch(self) -> float:
        """Return images a second of all hosts."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            records = list(pool.map(lambda host: host.call("train_epoch"), self.hosts))
        self.losses.append(records[0][1])
        rates = [rate for rate, _ in records]
        # Those who train together know the rate of all; the others could not go on before the slower one.
        return float(rates[0] if self.is_joined else len(rates) * min(rates))


@contextmanager
def start_servers(cores: Sequence[int], scratch: Path) -> Iterator[Dict[str, str]]:
    """Run a scheduler and a parameter server on each core, and return what a worker's environment says of them."""
    variables = {
        "DMLC_NUM_WORKER": str(len(cores)),
        "DMLC_NUM_SERVER": str(len(cores)),
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(find_ports()),
        "DMLC_NODE_HOST": "127.0.0.1",
        "SM_HOSTS": json.dumps(HOSTS),
    }
    with ExitStack() as stack:
        log = stack.enter_context(open(scratch / "servers.log", "a"))
        for role, core in [("scheduler", cores[0]), *(("server", core) for core in cores)]:
            code = f"import os; os.sched_setaffinity(0, {{{core}}}); import robostig.backend"
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, **variables, "DMLC_ROLE": role, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(stop_training, process)
        yield {**variables, "DMLC_ROLE": "worker"}


def find_ports() -> int:
    """Find two free ports beside each other, for the scheduler and for where the hosts meet, and return the first."""
    while True:
        port = find_free_port()
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port
        except (OSError, OverflowError):
            continue


def compare_losses(one: Sequence[float], two: Sequence[float]) -> str:
    """Say how far apart the losses on one host and on two are, and that they fall.

    Raises
    ------
    RuntimeError
        If they are too far apart to be of the same training, or do not fall.
    """
    apart = float(np.max(np.abs(np.divide(two, one) - 1.0)))
    if apart > TOLERANCE or one[-1] >= one[0]:
        raise RuntimeError(f"the losses on one host are {one}, on two {two}")
    return (
        f"within {len(one)} epochs, the RMSE of training falls from {one[0]:.6f} to {one[-1]:.6f} on one host and from "
        f"{two[0]:.6f} to {two[-1]:.6f} on two; no epoch's differ by more than {apart:.0e} of it"
    )


def measure_loopback(cores: Sequence[int], megabytes: int = 256) -> List[float]:
    """Return gigabytes a second through a connection of this machine with itself, a few times."""
    chunk, rates = bytes(1 << 18), []

    def send(port: int) -> None:
        os.sched_setaffinity(0, {cores[0]})  # of this thread alone
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(megabytes * 1_000_000 // len(chunk)):
                connection.sendall(chunk)

    def receive(server: socket.socket) -> float:
        os.sched_setaffinity(0, {cores[1]})
        buffer, count = bytearray(len(chunk)), 0
        connection, _ = server.accept()
        with connection:
            started = time.perf_counter()
            while True:
                received = connection.recv_into(buffer)
                if not received:
                    return count / 1e9 / (time.perf_counter() - started)
                count += received

    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as pool:
            rate = pool.submit(receive, server)
            pool.submit(send, server.getsockname()[1]).result()
            rates.append(rate.result())
    return rates


def measure_copying(cores: Sequence[int], megabytes: int = 128) -> List[float]:
    """Return gigabytes a second that a core reads and writes while the others do the same, a few times."""
    together = threading.Barrier(len(cores), timeout=60)

    def copy(core: int) -> List[float]:
        os.sched_setaffinity(0, {core})  # of this thread alone
        source, target, rates = np.ones((megabytes, 1_000_000), np.uint8), np.ones((megabytes, 1_000_000), np.uint8), []
        for _ in range(5):
            together.wait()
            started = time.perf_counter()
            np.copyto(target, source)
            rates.append(2 * megabytes / 1e3 / (time.perf_counter() - started))
        return rates

    with ThreadPoolExecutor(len(cores)) as pool:
        return np.mean(list(pool.map(copy, cores)), axis=0).tolist()


def measure_lengths(report: Report, folder: Path, scratch: Path) -> None:
    """Train on a log and on longer ones in turns, and add what came out."""
    quick = report.arguments.quick
    rows, repeats = (96, 1) if quick else (320, 2)
    logs = {times: repeat_recording(folder, times, scratch / f"x{times}", rows=rows, link=True) for times in TIMES}
    for model in MODELS[:1] if quick else MODELS:
        found: Dict[int, List[Tuple[float, float]]] = {times: [] for times in TIMES}
        for _ in range(repeats):
            for times, log in logs.items():
                with tempfile.TemporaryDirectory(dir=scratch) as cache, Side("training_sides.LongTraining", 1) as side:
                    found[times].append(side.call("train", str(log), model, cache))
        for position, what, unit, goal in (
            (1, "private memory", "MB", MEMORY_GOAL),
            (0, "time of a row", "ms", TIME_GOAL),
        ):
            figures = {
                times: Figure(
                    f"{times * rows:,} rows",
                    [values[position] * (1.0 if position else 1000.0 / (times * rows)) for values in found[times]],
                    unit,
                )
                for times in TIMES
            }
            for times in TIMES[1:]:
                name = f"{model}, {what}, {times} times the log"
                report.add(Comparison(name, figures[times], figures[1], goal, more_is_better=False))


if __name__ == "__main__":
    sys.exit(main())
