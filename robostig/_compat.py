"""What MXNet 1.9 needs from the process before it is imported; standard library and numpy only.

MXNet's last release is older than the numpy, the CUDA wheels and the containers that it meets today. Each
function here closes one gap; :func:`prepare_for_mxnet` runs them all when ``robostig`` is imported, but for
:func:`hide_scikit_learn`, which is for the import alone, and :func:`restore_onnx_mapping`, which only an export needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import math
import os
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Iterable, Iterator, Mapping, MutableMapping, Sequence

import numpy as np

__all__ = [
    "count_threads",
    "count_usable_cpus",
    "hide_scikit_learn",
    "load_cuda_libraries",
    "prepare_for_mxnet",
    "restore_numpy_aliases",
    "restore_onnx_mapping",
    "set_openmp",
]

logger = logging.getLogger(__name__)

# What mxnet-cu112's libmxnet.so links, as the nvidia-*-cu11 wheels lay it out; each after what it needs.
CUDA_LIBRARIES = (
    "cuda_runtime/lib/libcudart.so.11.0",
    "cublas/lib/libcublasLt.so.11",
    "cublas/lib/libcublas.so.11",
    "cuda_nvrtc/lib/libnvrtc.so.11.2",
    "cufft/lib/libcufft.so.10",
    "curand/lib/libcurand.so.10",
    "cusolver/lib/libcusolver.so.11",
    "cudnn/lib/libcudnn.so.8",
    "nvtx/lib/libnvToolsExt.so.1",
    "nccl/lib/libnccl.so.2",
)

_SPINS = 20_000  # about a millisecond: longer than from one frame's network to the next one's, and no more


def prepare_for_mxnet() -> None:
    """Make MXNet importable and quick in this process; does nothing once it is imported."""
    if "mxnet" in sys.modules:
        return
    restore_numpy_aliases()
    set_openmp()
    if has_distribution("mxnet-cu112"):
        load_cuda_libraries(find_nvidia_folders())


def restore_numpy_aliases(numpy: Any = np) -> None:
    """Restore ``numpy.bool`` where numpy 1.24 or newer has taken it away.

    It is the only removed name that MXNet 1.9 uses while it is imported and in its operators. Numpy before
    1.24 has the name still, and numpy 2 has one of its own: there, nothing changes, and no warning is hidden.

    Parameters
    ----------
    numpy
        The module to complete.
    """
    major, minor = (int(part) for part in numpy.__version__.split(".")[:2])
    # vars(), because hasattr() asks numpy's module-level __getattr__, which warns about the name.
    if (major, minor) >= (1, 24) and "bool" not in vars(numpy):
        numpy.bool = bool


@contextlib.contextmanager
def hide_scikit_learn() -> Iterator[None]:
    """Hide scikit-learn while MXNet is imported, which would import it, SciPy and all, for its old ``FeedForward``."""
    if "sklearn" in sys.modules:
        yield
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # to the import system: there is none
    try:
        yield
    finally:
        sys.modules.pop("sklearn", None)


def restore_onnx_mapping(onnx: Any) -> None:
    """Restore ``onnx.mapping`` where a newer onnx has taken it away: MXNet's exporter looks types up in it.

    Parameters
    ----------
    onnx
        The module to complete.
    """
    if hasattr(onnx, "mapping"):
        return
    names = ("bool", "float16", "float32", "float64", "int8", "int32", "int64", "uint8")  # the types that MXNet has
    types = {np.dtype(name): onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in names}
    onnx.mapping = ModuleType("onnx.mapping")
    onnx.mapping.NP_TYPE_TO_TENSOR_TYPE = types
    onnx.mapping.TENSOR_TYPE_TO_NP_TYPE = {number: dtype for dtype, number in types.items()}


def set_openmp(environ: MutableMapping[str, str] | None = None) -> None:
    """Tell OpenMP how many threads to have and how long an idle one spins, unless the user has chosen.

    Left to itself, MXNet takes fewer threads than there are CPUs (``src/engine/openmp.cc``), and GNU's OpenMP lets them
    spin for ten milliseconds after each piece of work, in which other threads of the process lack the CPU.

    Parameters
    ----------
    environ
        The environment to complete; by default that of the process, which its children inherit.
    """
    environ = os.environ if environ is None else environ
    if "OMP_NUM_THREADS" not in environ and "MXNET_OMP_MAX_THREADS" not in environ:
        environ["OMP_NUM_THREADS"] = str(count_usable_cpus())
    if "GOMP_SPINCOUNT" not in environ and "OMP_WAIT_POLICY" not in environ:
        environ["GOMP_SPINCOUNT"] = str(_SPINS)


def count_threads(environ: Mapping[str, str] | None = None) -> int:
    """Return how many threads may compute at once: ``OMP_NUM_THREADS``, or as many as there are CPUs."""
    chosen = (os.environ if environ is None else environ).get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(chosen)) if chosen.isdecimal() else count_usable_cpus()


def count_usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the CPUs this process may use: its affinity, or its control group's quota where that is less.

    Parameters
    ----------
    cgroup_root
        Where control groups are mounted, version 1 or 2; inside a container, it is the container's own group.

    Returns
    -------
    int
        At least 1; a quota of two and a half CPUs counts as three.
    """
    # macOS and Windows have no affinity to ask for.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_cpu_quota(cgroup_root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _read_cpu_quota(cgroup_root: Path) -> float | None:
    try:
        if (cgroup_root / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
            limit, period = (cgroup_root / "cpu.max").read_text().split()
        else:
            limit = (cgroup_root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup_root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if limit == "max" or int(limit) <= 0:  # version 1 says -1
            return None
        return int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no control groups, or none that can be read: no quota is known


def has_distribution(name: str) -> bool:
    """Tell whether a distribution, such as ``"mxnet-cu112"``, is installed, without importing it."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def find_nvidia_folders() -> list[Path]:
    """Find the ``nvidia`` folders that the nvidia-*-cu11 wheels fill, one in each folder of site packages."""
    spec = importlib.util.find_spec("nvidia")
    locations: Sequence[str] = () if spec is None else spec.submodule_search_locations or ()
    return [Path(location) for location in locations]


def load_cuda_libraries(folders: Iterable[Path]) -> list[Path]:
    """Load the CUDA libraries that mxnet-cu112 links from their wheels, for MXNet to find them loaded.

    Parameters
    ----------
    folders
        The ``nvidia`` folders to look in. A library that is in none of them is left to the system's loader;
        so is one that cannot be loaded, which is logged.

    Returns
    -------
    list of Path
        The libraries loaded, in the order in which they were.
    """
    folders = list(folders)
    loaded = []
    for name in CUDA_LIBRARIES:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            continue
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            logger.warning("%s cannot be loaded and is left to the system's loader: %s", path, error)
        else:
            loaded.append(path)
    return loaded
