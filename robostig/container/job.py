"""Training jobs as SageMaker runs them, in a folder that stands for ``/opt/ml``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Mapping, Optional, Union

from robostig._files import make_folder
from robostig.container.environment import Environment, find_environment

__all__ = ["run_training", "start_training", "stop_training"]

KILL_S = 10.0  # for the end of what is killed: more than a write to a slow disk holds it up


def start_training(
    base_dir: Union[str, Path],
    *,
    environment: Optional[Environment] = None,
    env: Optional[Mapping[str, str]] = None,
    output: Union[int, IO[Any]] = subprocess.PIPE,
) -> subprocess.Popen:
    """Start the training toolkit's own ``train``, as a container does.

    Parameters
    ----------
    base_dir
        Stands for ``/opt/ml``: ``input/config`` holds hyperparameters.json, resourceconfig.json and
        inputdataconfig.json, ``input/data`` the channels. ``code``, ``model`` and ``output`` are written.
    environment
        Where it runs; :func:`find_environment` if None.
    env
        Further environment variables.
    output
        Where stdout and stderr go; a pipe of text if not given.

    Returns
    -------
    subprocess.Popen
        The job, in a process group of its own (see :func:`stop_training`).

    Raises
    ------
    ContainerError
        As :func:`find_environment`.
    """
    base_dir = Path(base_dir).resolve()
    environment = environment or find_environment("training")
    for folder in ("model", "output/data"):
        make_folder(base_dir / folder)  # SageMaker's; a toolkit that cannot write why it failed would end with status 0
    return subprocess.Popen(
        environment.make_command("train.py"),
        cwd=base_dir,
        env=environment.make_variables({"SAGEMAKER_BASE_DIR": str(base_dir), **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def run_training(
    base_dir: Union[str, Path],
    *,
    environment: Optional[Environment] = None,
    env: Optional[Mapping[str, str]] = None,
    timeout: Optional[float] = None,
) -> subprocess.CompletedProcess:
    """Run a training job to its end; parameters as :func:`start_training`.

    Parameters
    ----------
    timeout
        Seconds after which the job is killed; none if None.

    Returns
    -------
    subprocess.CompletedProcess
        Its exit status, and all that it printed, as ``stdout``.

    Raises
    ------
    ContainerError
        As :func:`find_environment`.
    subprocess.TimeoutExpired
        If it took longer.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output:  # a pipe would stay open as long as any child lives
        job = start_training(base_dir, environment=environment, env=env, output=output)
        try:
            job.wait(timeout)
        finally:
            stop_training(job)  # a container takes all that it started along, such as parameter servers
        output.seek(0)
        return subprocess.CompletedProcess(job.args, job.returncode, output.read())


def stop_training(job: subprocess.Popen) -> None:
    """Kill a job and all that it started; one that has ended already is fine."""
    kill_group(job)


def kill_group(leader: subprocess.Popen) -> None:
    """Kill a process that has a session of its own, and all that it started there, and wait for their end."""
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        is_running = leader.poll() is None  # one that has ended stays in the group until it is asked
        try:
            os.killpg(leader.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        if not is_running and _is_dead(leader.pid):
            return
        time.sleep(0.02)


def _is_dead(group: int) -> bool:
    """Say whether nothing of a group runs; the dead stay in it until init collects them, which some inits never do."""
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, its_group = process.read_text(errors="replace").rpartition(")")[2].split()[:3]  # proc(5)
            if int(its_group) == group and state not in "XZ":
                return False
    return Path("/proc/self/stat").exists()  # else, as on a Mac, who is in the group says it alone
