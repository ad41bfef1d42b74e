"""What importing the package costs beside importing MXNet, which it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Dict, List, Set

import pytest
from conftest import ROOT

MXNET = "import numpy; numpy.bool = bool; import mxnet"  # it wants the alias that NumPy 1.24 took away
OURS = "import robostig, robostig.models, robostig.pilot, robostig.cli"
HEAVY = {"boto3", "gluoncv", "h5py", "matplotlib", "onnx", "onnxruntime", "optuna", "sagemaker", "scipy", "torch"}
LIMIT = 1.3


class Imports:
    """What imports took, each in processes of its own."""

    def __init__(self) -> None:
        self.seconds: Dict[str, List[float]] = {MXNET: [], OURS: []}
        self.loaded: Dict[str, Set[str]] = {}

    def repeat(self) -> None:
        """Import each once more, in turns, so that a busy moment meets both."""
        for statement, seconds in self.seconds.items():
            # Processor time: other processes have little influence on it.
            code = f"import sys, time; {statement}; print(time.process_time(), *sys.modules)"
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-W", "ignore", "-c", code]
            taken, *modules = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout.split()
            seconds.append(float(taken))
            self.loaded[statement] = set(modules)

    @property
    def ratio(self) -> float:
        """How many times as long as MXNet's alone ours takes, the best of each."""
        return min(self.seconds[OURS]) / min(self.seconds[MXNET])


@pytest.fixture(scope="module")
def imports() -> Imports:
    imports = Imports()
    imports.repeat()
    return imports


def test_importing_the_package_takes_little_more_than_importing_mxnet(imports):
    for _ in range(5):
        if imports.ratio < LIMIT:
            break
        imports.repeat()
    assert imports.ratio < LIMIT, imports.seconds


def test_nothing_heavy_is_imported_before_it_is_needed(imports):
    ours = imports.loaded[OURS]
    assert "robostig.models.backbones" in ours and not HEAVY & (ours - imports.loaded[MXNET])  # it brings some along
    assert "sklearn" not in ours  # which MXNet would bring along, where it is installed
