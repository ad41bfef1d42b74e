"""A training run that is killed outright, and started again."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Tuple

from conftest import ROOT

from robostig.cli import main


def make_words(data: Path, out: Path) -> List[str]:
    flags = ["--epochs", "6", "--batch-size", "8", "--gap-s", "0.2", "--side-cameras", "0", "--patience", "0"]
    return ["train", "--data", str(data), "--out", str(out), "--device", "cpu", *flags]


def start(data: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "robostig.cli", *make_words(data, out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def read_outcome(out: Path) -> Tuple[List[List[str]], str]:
    """Return the history without its durations, and a digest of the parameters."""
    with open(out / "training" / "history.csv", newline="") as file:
        history = [
            [row[name] for name in row if name not in ("seconds", "images_per_second")] for row in csv.DictReader(file)
        ]
    return history, hashlib.sha256((out / "model-0000.params").read_bytes()).hexdigest()


def test_a_run_killed_in_mid_epoch_goes_on_and_ends_as_one_that_was_not(make_recording, tmp_path):
    data = make_recording(60, size=(80, 160))
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    checkpoint = killed / "training" / "checkpoint.npz"
    run = start(data, killed)
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)  # into the next epoch
    run.send_signal(signal.SIGKILL)
    text, _ = run.communicate(timeout=30)
    assert run.returncode == -signal.SIGKILL, text
    assert checkpoint.exists() and not (killed / "robostig.json").exists()

    resumed = start(data, killed)
    assert main(make_words(data, whole)) == 0  # meanwhile
    text, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, text
    assert "resumed after epoch" in text and "epoch=1 " not in text and "epoch=6 " in text
    history, digest = read_outcome(whole)
    assert len(history) == 6 and history[0][1] != history[5][1]
    assert read_outcome(killed) == (history, digest)
    assert not checkpoint.exists()
