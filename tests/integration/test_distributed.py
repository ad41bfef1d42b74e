"""Two hosts that train one network with MXNet's parameter server, as SageMaker starts them, on loopback."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import train_together
from conftest import ROOT, find_ports, in_container

from robostig.container import start_training, stop_training
from robostig.workers import WorkerGroup

logger = logging.getLogger(__name__)  # pytest --log-cli-level INFO shows the hosts' logs

HOSTS = ("algo-1", "algo-2")
LIMIT_S = 100.0


class Cluster:
    """A scheduler, a server and two workers with this interpreter; all of them gone at the end.

    Parameters
    ----------
    folder
        For the workers' logs.
    words
        What they are told.
    """

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DMLC_NUM_WORKER": "2",
            "DMLC_NUM_SERVER": "1",
            "DMLC_PS_ROOT_URI": "127.0.0.1",
            "DMLC_PS_ROOT_PORT": str(find_ports()),
            "DMLC_NODE_HOST": "127.0.0.1",
            "SM_HOSTS": json.dumps(HOSTS),
        }
        self.others = [self._start(role, "-c", "import robostig.backend") for role in ("scheduler", "server")]
        self.workers = [self._start("worker", train_together.__file__, *words, host=host) for host in HOSTS]

    def _start(self, role: str, *words: str, host: str = "") -> subprocess.Popen:
        with open(self.folder / f"{host or role}.log", "w") as log:
            return subprocess.Popen(
                [sys.executable, *words],
                env={**self.variables, "DMLC_ROLE": role, "SM_CURRENT_HOST": host},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, *self.others):
            stop_training(process)

    def wait(self) -> List[int]:
        """Wait for the workers, and return their exit statuses."""
        return [process.wait(LIMIT_S) for process in self.workers]

    def read_log(self, host: str) -> str:
        return (self.folder / f"{host}.log").read_text()


def read_outcome(folder: Path, name: str, host: str) -> Dict[str, Any]:
    with np.load(folder / f"{host} {name}.npz") as file:
        return dict(file)


def measure_distance(one: Dict[str, Any], other: Dict[str, Any]) -> float:
    """Return how far the parameters and histories of two runs are from each other at the most."""
    assert one.keys() == other.keys()
    numbers = [name for name, value in one.items() if value.dtype.kind == "f"]
    return max(float(np.abs(one[name] - other[name]).max()) for name in numbers)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Return the folder of two workers that have trained five networks without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    with Cluster(folder, str(folder), "nvidia,two devices,batch norm,frozen,resumable") as cluster:
        statuses = cluster.wait()
        for host in HOSTS:
            logger.info("%s:\n%s", host, cluster.read_log(host))
        assert statuses == [0, 0]
        assert [process.wait(LIMIT_S) for process in cluster.others] == [0, 0]  # nothing outlives the workers
    return folder


@pytest.mark.parametrize("name", ["nvidia", "two devices"])
def test_two_workers_learn_what_one_does(whole, tmp_path, name):
    alone = train_together.train(name, WorkerGroup(), tmp_path)
    alone = {key: np.asarray(value) for key, value in alone.items()}
    distance = measure_distance(alone, read_outcome(whole, name, "algo-1"))
    logger.info("%s on two hosts and on one differ by %.1e at the most", name, distance)
    assert distance < 3e-5  # Adam makes much of the rounding of small gradients


@pytest.mark.parametrize("name", ["nvidia", "two devices", "batch norm", "frozen", "resumable"])
def test_both_workers_end_with_the_same_network_and_history(whole, name):
    first, second = (read_outcome(whole, name, host) for host in HOSTS)
    assert measure_distance(first, second) == 0.0


def test_with_a_frozen_backbone_two_workers_learn_what_one_does_until_it_is_thawed(whole, tmp_path):
    alone, together = train_together.train("frozen", WorkerGroup(), tmp_path), read_outcome(whole, "frozen", "algo-1")
    differences = np.abs(alone["history"] - together["history"]).max(axis=1)
    assert differences[0] < 1e-5 < differences[1]  # then each normalises batches by its share


def test_the_first_host_alone_writes_and_each_says_what_it_does(whole):
    assert {path.name for path in (whole / "algo-1").iterdir()} == {"history.csv", "loss_curve.png"}
    assert not (whole / "algo-2").exists()
    first, second = ((whole / f"{host}.log").read_text() for host in HOSTS)
    assert "2 hosts, this is algo-1 (1 of 2): 4 of every batch of 9 frames here" in first
    assert "2 hosts, this is algo-2 (2 of 2): 5 of every batch of 9 frames here" in second
    assert "epoch=1 " in first and "epoch=1 " not in second
    assert first.count("not the gradient travels but its factors: 12024 numbers for 336000") == 2
    assert "its factors" not in second
    devices = read_outcome(whole, "two devices", "algo-1")["devices"]
    assert list(devices) == ["algo-1 cpu(0)", "algo-1 cpu(1)", "algo-2 cpu(0)", "algo-2 cpu(1)"]


def test_a_killed_worker_is_missed_and_the_job_goes_on_as_if_nothing_had_been(whole, tmp_path):
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    with Cluster(killed, str(killed), "resumable", str(train_together.FATAL_READ)) as cluster:
        statuses = cluster.wait()
        assert statuses == [1, -9], cluster.read_log("algo-1")
        assert "algo-2 has gone without a word" in cluster.read_log("algo-1")
    for host in HOSTS:  # as SageMaker does, which keeps every host's folder the same as S3's
        shutil.copytree(killed / "algo-1", resumed / host)
    with Cluster(resumed, str(resumed), "resumable") as cluster:
        assert cluster.wait() == [0, 0], cluster.read_log("algo-1")
    for host in HOSTS:
        outcome = read_outcome(resumed, "resumable", host)
        assert outcome["resumed from"] == 2
        assert measure_distance(outcome, read_outcome(whole, "resumable", host)) == 0.0
        assert not list((resumed / host).glob("checkpoint*"))


@in_container
def test_the_training_toolkit_starts_two_hosts_that_train_one_model(training_environment, make_recording, tmp_path):
    recording, port = make_recording(60, size=(80, 160)), find_ports()
    hosts = ["127.0.0.1", "127.0.0.2"]  # names that resolve
    jobs = []
    try:
        for host in hosts:
            base = lay_out(tmp_path / host, hosts, host, port, recording)
            with open(tmp_path / f"{host}.log", "w") as log:
                environment = {"DMLC_NODE_HOST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
                jobs.append(start_training(base, environment=training_environment, env=environment, output=log))
        statuses = [job.wait(LIMIT_S) for job in jobs]
    finally:
        for job in jobs:
            stop_training(job)
    logs = [(tmp_path / f"{host}.log").read_text() for host in hosts]
    for host, log in zip(hosts, logs):
        logger.info("%s, with %s:\n%s", host, training_environment.description, log)
    assert statuses == [0, 0]
    for rank, log in enumerate(logs):
        assert f"2 hosts, this is {hosts[rank]} ({rank + 1} of 2): {4 + rank} of every batch of 9 frames here" in log
    assert "epoch=2 " in logs[0] and "final model=nvidia" in logs[0]
    first, second = (tmp_path / host for host in hosts)
    assert json.loads((first / "model" / "robostig.json").read_text())["model"] == "nvidia"
    assert {path.name for path in (first / "output" / "data").iterdir()} == {"history.csv", "loss_curve.png"}
    assert not [path for folder in ("model", "output/data", "checkpoints") for path in (second / folder).iterdir()]


def lay_out(base: Path, hosts: List[str], host: str, port: int, recording: Path) -> Path:
    """Lay out what SageMaker gives a host of a job."""
    source = base / "source"
    shutil.copytree(ROOT / "robostig", source / "robostig", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "robostig" / "entry_point.py", source)
    for folder in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (base / folder).mkdir(parents=True)
    (base / "input" / "data" / "training").symlink_to(recording)
    hyperparameters = {
        "model": "nvidia",
        "epochs": 2,
        "batch_size": 9,
        "gap_s": 0.2,
        "sagemaker_program": "entry_point.py",
        "sagemaker_submit_directory": str(source),
        "sagemaker_parameter_server_enabled": True,
        "_ps_port": str(port),
    }
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    for name, content in (
        ("hyperparameters", {name: json.dumps(value) for name, value in hyperparameters.items()}),
        ("resourceconfig", {"current_host": host, "hosts": hosts, "network_interface_name": "lo"}),
        ("inputdataconfig", {"training": channel}),
    ):
        (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
    return base
