"""Training jobs through the image's own toolkit: what it is told, what it leaves, and that nothing outlives it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import in_container
from served import find_processes

from robostig.container import run_training, start_training, stop_training

SCRIPT = """\
import os, subprocess, sys
print("arguments", sys.argv[1:], flush=True)
subprocess.run("python -c 'import mxnet; print(\\"mxnet\\", mxnet.__version__)'", shell=True)
open(os.environ["SM_MODEL_DIR"] + "/model.txt", "w").write(os.environ["SM_CHANNEL_TRAINING"])
"""
FAILING = """\
import sys
sys.exit("error: there is nothing to learn from")
"""
LINGERING = """\
import subprocess, time
print("child", subprocess.Popen(["sleep", "600"]).pid, flush=True)
"""


@pytest.fixture
def make_job(tmp_path):
    def make(script: str) -> Path:
        base, source = tmp_path / "ml", tmp_path / "source"
        for folder in (source, base / "input" / "config", base / "input" / "data" / "training"):
            folder.mkdir(parents=True)
        (source / "go.py").write_text(script)
        hyperparameters = {"model": "comma", "sagemaker_program": "go.py", "sagemaker_submit_directory": str(source)}
        resources = {"current_host": "localhost", "hosts": ["localhost"], "network_interface_name": "lo"}
        channels = {"training": {"TrainingInputMode": "File"}}
        for name, content in (
            ("hyperparameters", {name: json.dumps(value) for name, value in hyperparameters.items()}),
            ("resourceconfig", resources),
            ("inputdataconfig", channels),
        ):
            (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
        return base

    return make


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_a_job_runs_as_sagemaker_runs_it(make_job, training_environment):
    base = make_job(SCRIPT)
    done = run_training(base, environment=training_environment, timeout=100)
    assert done.returncode == 0, done.stdout
    assert "arguments ['--model', 'comma']" in done.stdout
    version = training_environment.description.split("mxnet ")[1].split(",")[0]
    assert f"mxnet {version}\n" in done.stdout  # `python` is the environment's, whatever runs these tests
    assert "Imported framework sagemaker_mxnet_container.training" in done.stdout
    assert (base / "model" / "model.txt").read_text() == str(base / "input" / "data" / "training")
    assert (base / "output" / "success").exists()


@in_container
def test_a_job_that_fails_says_why_in_output_failure(make_job, training_environment):
    base = make_job(FAILING)
    done = run_training(base, environment=training_environment, timeout=100)
    assert done.returncode == 1
    assert "error: there is nothing to learn from" in done.stdout
    assert "ExitCode 1" in (base / "output" / "failure").read_text()


@in_container
def test_nothing_outlives_a_job(make_job, training_environment):
    done = run_training(make_job(LINGERING), environment=training_environment, timeout=100)
    assert done.returncode == 0, done.stdout
    child = next(line for line in done.stdout.splitlines() if line.startswith("child "))
    assert not is_running(int(child.split()[1]))


@in_container
def test_a_job_can_be_stopped_in_the_middle(make_job, training_environment):
    job = start_training(make_job(LINGERING + "time.sleep(600)\n"), environment=training_environment)
    child = next(line for line in job.stdout if line.startswith("child "))
    stop_training(job)
    assert job.returncode == -9 and not is_running(int(child.split()[1]))
    job.stdout.close()


@in_container
def test_a_job_that_takes_too_long_is_ended(make_job, training_environment):
    base = make_job("import time; time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_training(base, environment=training_environment, timeout=2.0)
    assert not find_processes(str(base))
