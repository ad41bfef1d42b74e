"""Python environments with what SageMaker's MXNet images hold, built once and kept in the user's cache."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from robostig._files import make_folder, replace_file
from robostig.frame_cache import default_cache_folder

__all__ = ["ContainerError", "Environment", "NotAvailableError", "find_environment"]

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
KINDS = ("training", "serving")
EXACT = (3, 8)  # the Python of SageMaker's mxnet 1.9.0 images
OTHERS = ((3, 11), (3, 10), (3, 9))  # Pythons that have a numpy with which MXNet 1.9 imports by itself
SHOWN = {
    "training": ("mxnet", "numpy", "gluoncv", "sagemaker-mxnet-training", "sagemaker-training"),
    "serving": ("mxnet", "numpy", "sagemaker-mxnet-inference", "sagemaker-inference", "multi-model-server"),
}
MARKER = "robostig-environment.json"  # written last: an environment without it was cut short
# Of this process's environment, what a container would also be given. Python's and MXNet's variables stay outside.
INHERITED = ("HOME", "JAVA_HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")

_LIST_VERSIONS = """\
import json, platform
from importlib.metadata import distributions
packages = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions()}
print(json.dumps({"python": platform.python_version(), "packages": packages}))
"""


class ContainerError(OSError):
    """What SageMaker's containers do cannot be done here, and why."""


class NotAvailableError(ContainerError):
    """The machine lacks something that RoboStig cannot install: Python, Java, or the way to a package index."""


@dataclass(frozen=True)
class Environment:
    """A Python environment in which SageMaker's toolkit runs.

    Parameters
    ----------
    kind
        ``"training"`` or ``"serving"``.
    python
        Its interpreter.
    is_exact
        Whether it holds the versions of SageMaker's images.
    description
        Which versions it holds.
    notes
        What differs from the images, and why.
    """

    kind: str
    python: Path
    is_exact: bool
    description: str
    notes: Tuple[str, ...] = ()

    def make_command(self, script: str) -> List[str]:
        """Return how to run a script of this folder in it, in a session of its own, until this process ends."""
        return [str(self.python), str(HERE / "child.py"), str(os.getpid()), str(HERE / script)]

    def make_variables(self, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        """Return the environment variables of a process in it: few, as in a container, and ``extra``."""
        variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # The toolkits start `python`, `multi-model-server` and the like by their names alone.
        path = os.pathsep.join([str(self.python.parent), os.environ.get("PATH", os.defpath)])
        return {**variables, "PATH": path, "PYTHONUNBUFFERED": "1", **(extra or {})}


def find_environment(kind: str) -> Environment:
    """Return an environment, building it the first time, which takes a minute or two.

    Python 3.8 gives the very versions of SageMaker's images; without it, Python 3.9 to 3.11 give those of
    ``container/Dockerfile``.

    Parameters
    ----------
    kind
        ``"training"`` or ``"serving"``.

    Raises
    ------
    NotAvailableError
        If there is no such Python, no Java to serve with, or no way to a package index.
    ContainerError
        If the packages cannot be installed.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no environment {kind!r}; there are: {', '.join(KINDS)}")
    if kind == "serving":
        find_java()
    return _find_environment(kind, (default_cache_folder() / "containers").resolve())


@functools.lru_cache(maxsize=None)
def _find_environment(kind: str, folder: Path) -> Environment:
    python, version = find_python()
    is_exact = version == EXACT
    requirements = [HERE / f"requirements-{part}.txt" for part in ("base", "cpu", kind)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in requirements)).hexdigest()[:12]
    home = make_folder(folder) / f"{kind}-{version[0]}.{version[1]}-{digest}"
    # The model server wants Pillow for old models alone; SageMaker's image does without, and so must RoboStig.
    installed = ensure(home, python, requirements, without=["pillow"] if kind == "serving" else [])
    packages = installed["packages"]
    shown = [f"{name} {packages[name]}" for name in SHOWN[kind]]
    notes = []
    if not is_exact:
        notes.append(
            f"no Python {EXACT[0]}.{EXACT[1]} here, on the PATH or in pyenv's versions: these are the versions of "
            "container/Dockerfile, not those of SageMaker's own images"
        )
    return Environment(
        kind, home / "bin" / "python", is_exact, ", ".join([f"Python {installed['python']}", *shown]), tuple(notes)
    )


def find_python() -> Tuple[Path, Tuple[int, int]]:
    """Find the Python to build with, and its version: 3.8, else the one that runs, else 3.11, 3.10 or 3.9.

    Raises
    ------
    NotAvailableError
        If there is none of them that can make environments.
    """
    running = sys.version_info[:2]
    wanted: List[Tuple[int, int]] = [EXACT, *sorted(OTHERS, key=lambda version: version != running)]
    for version in wanted:
        for python in _list_pythons(version):
            if _can_build(python, version):
                return python, version
    raise NotAvailableError(
        f"SageMaker's toolkits need Python 3.8 to 3.11 with venv and pip, on the PATH or in pyenv's versions; this is "
        f"Python {running[0]}.{running[1]} (Debian and Ubuntu: apt-get install python3-venv; or: pyenv install 3.8)"
    )


def _list_pythons(version: Tuple[int, int]) -> Iterator[Path]:
    name = "{}.{}".format(*version)
    if version == sys.version_info[:2]:
        yield Path(getattr(sys, "_base_executable", sys.executable))
    found = shutil.which(f"python{name}")
    if found:
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    yield from sorted(pyenv.glob(f"versions/{name}.*/bin/python"))


def _can_build(python: Path, version: Tuple[int, int]) -> bool:
    program = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != {version})"
    try:
        return subprocess.run([str(python), "-c", program], capture_output=True).returncode == 0
    except OSError:
        return False


def find_java() -> Path:
    """Find the Java that the model server would run.

    Raises
    ------
    NotAvailableError
        If there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(home) / "bin" / "java") if home else "java")
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise NotAvailableError(
            f"SageMaker's model server is a Java program, and there is no java {where} "
            "(Debian and Ubuntu: apt-get install default-jre-headless)"
        )
    return Path(java)


def ensure(home: Path, python: Path, requirements: Sequence[Path], *, without: Sequence[str] = ()) -> Dict[str, Any]:
    """Build an environment if it is not there, and return what is installed in it.

    Whoever comes while another process builds waits for it. What was cut short is built anew.
    """
    with open(f"{home}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel takes it back when the process ends, however it does
        if not ((home / MARKER).is_file() and (home / "bin" / "python").exists()):
            _build(home, python, requirements, without)
        installed: Dict[str, Any] = json.loads((home / MARKER).read_text())
    return installed


def _build(home: Path, python: Path, requirements: Sequence[Path], without: Sequence[str]) -> None:
    logger.info("building %s, with what SageMaker's images hold: once, for about two minutes", home)
    shutil.rmtree(home, ignore_errors=True)
    _run([python, "-m", "venv", home], home)
    pip = [home / "bin" / "python", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    _run([*pip, "install", *(word for path in requirements for word in ("-r", path))], home)
    if without:
        _run([*pip, "uninstall", "--yes", *without], home)
    installed = _run([home / "bin" / "python", "-I", "-c", _LIST_VERSIONS], home)
    with replace_file(home / MARKER, "w") as file:
        file.write(installed)


def _run(words: Sequence[Any], home: Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no message"]
        said = next((line for line in reversed(lines) if "ERROR" in line), lines[-1]).strip()
        is_offline = "Retrying (Retry(" in done.stderr
        raise (NotAvailableError if is_offline else ContainerError)(f"{home} cannot be built: {said}")
    return done.stdout
