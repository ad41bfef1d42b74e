"""The one place that imports MXNet, and the choice of the devices it computes on.

Everything else in the package writes ``from robostig.backend import mx``. Where MXNet cannot be imported, the
error names the command that helps.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import math
import mmap
import os
import re
import tempfile
from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np

from robostig import _compat

__all__ = [
    "CHANNEL_BLOCK",
    "Gpu",
    "choose_contexts",
    "count_parameters",
    "find_context",
    "list_gpus",
    "make_beside",
    "mx",
    "view_memory",
]

logger = logging.getLogger(__name__)

# The kernels in the 1.9 wheels are built for sm_50 to sm_86, without PTX: they run on every GPU with one of
# these major compute capabilities (an L4, 8.9, runs those of 8.6), and on none that came later (H100: 9.0).
KERNEL_MAJORS = (5, 6, 7, 8)

# Floats in the widest vector of today's processors, and channels in a block of oneDNN's: it computes 24, 36 or 40
# channels more slowly than 48. GPUs' tensor cores want multiples of 8.
CHANNEL_BLOCK = 16

_CU_MAJOR, _CU_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR} in cuda.h
_CUDA_ERROR_NO_DEVICE = 100


def import_mxnet() -> Any:
    """Import MXNet, or say what to install.

    Returns
    -------
    module
        The module ``mxnet``.

    Raises
    ------
    ImportError
        If MXNet or something that it needs is missing, or numpy is too new for it.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        raise ImportError(f'MXNet 1.9 does not run on numpy {np.__version__}: pip install "numpy<2"')
    _compat.prepare_for_mxnet()
    try:
        with _compat.hide_scikit_learn():
            return importlib.import_module("mxnet")
    except ModuleNotFoundError as error:
        if error.name == "mxnet":
            raise ImportError(
                'MXNet is not installed: pip install "robostig[cpu]", or "robostig[gpu]" for an NVIDIA GPU'
            ) from error
        if error.name is not None and error.name.split(".")[0] == "distutils":
            raise ImportError(
                "MXNet needs distutils, which Python 3.12 has from setuptools only: pip install setuptools"
            ) from error
        raise
    except OSError as error:  # the loader could not find or open a shared library
        raise ImportError(explain_loader_error(str(error))) from error


def explain_loader_error(message: str) -> str:
    """Say what to do about a shared library that MXNet could not load.

    Parameters
    ----------
    message
        The loader's own words, such as ``"libcuda.so.1: cannot open shared object file"``.
    """
    if "libcuda.so" in message:
        remedy = (
            "this is the MXNet for NVIDIA GPUs, and the NVIDIA driver is missing. Install the driver, or do "
            'without a GPU: pip uninstall mxnet mxnet-cu112, then pip install "robostig[cpu]"'
        )
    elif re.search(r"lib(cu[a-z]|nv|nccl)", message):
        remedy = 'it is one of the CUDA libraries, which come with: pip install "robostig[gpu]"'
    else:
        # The wheels bring neither libgomp.so.1 nor libquadmath.so.0, which a slim image lacks.
        remedy = "install the library that it names; on Debian and Ubuntu: apt-get install libgomp1 libquadmath0"
    return f"MXNet cannot be loaded ({message}): {remedy}"


def start_engine(mxnet: Any) -> None:
    """Have an MXNet for CPUs compute in the thread that asks it, unless the environment says otherwise.

    The engine of threads that it starts by itself keeps several devices busy. A CPU is one: training is as quick
    without them, and a single frame does not wait for another thread to wake up. The parameter server needs them.

    Parameters
    ----------
    mxnet
        The module. If it has computed before, its engine stays.
    """
    if "MXNET_ENGINE_TYPE" in os.environ or "DMLC_ROLE" in os.environ or mxnet.runtime.Features().is_enabled("CUDA"):
        return
    os.environ["MXNET_ENGINE_TYPE"] = "NaiveEngine"
    try:
        with _hide_line("MXNet start using engine"):
            mxnet.nd.waitall()  # reads the variable
    finally:
        del os.environ["MXNET_ENGINE_TYPE"]  # not for child processes, which may be a parameter server's


@contextlib.contextmanager
def _hide_line(part: str) -> Iterator[None]:
    """Leave lines that hold a text out of what a library writes to the standard error stream."""
    try:
        stream = os.dup(2)
    except OSError:  # a process without one
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stream, 2)
            os.close(stream)
            written.seek(0)
            for line in written:
                if part.encode() not in line:
                    os.write(2, line)


mx: Any = import_mxnet()
start_engine(mx)


class Gpu(NamedTuple):
    """A GPU as the NVIDIA driver describes it.

    Parameters
    ----------
    name
        The name that it is sold by.
    capability
        Its compute capability, (major, minor).
    """

    name: str
    capability: tuple[int, int]

    @property
    def is_usable(self) -> bool:
        """Whether MXNet has kernels for it."""
        return self.capability[0] in KERNEL_MAJORS

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def choose_contexts(device: str = "auto") -> list[Any]:
    """Choose the MXNet contexts to compute on.

    Parameters
    ----------
    device
        ``"gpu"`` is every GPU that MXNet has kernels for, and ``"gpu:2"`` the first two of them. ``"cpu"`` is
        the CPU, and ``"cpu:4"`` four contexts on it, which behave like four devices. ``"auto"``, the default,
        is ``"gpu"`` where there is one, else ``"cpu"``.

    Returns
    -------
    list of mx.Context
        At least one; with several, a batch is to be split among them.

    Raises
    ------
    ValueError
        If `device` is none of these, or asks for GPUs that are not there or that MXNet has no kernels for.
    """
    kind, count = parse_device(device)
    if kind == "cpu":
        return [mx.cpu(index) for index in range(count or 1)]

    has_cuda = mx.runtime.Features().is_enabled("CUDA")
    gpus = list_gpus() if has_cuda else []
    usable = [index for index, gpu in enumerate(gpus) if gpu.is_usable]
    if kind == "gpu" and len(usable) < (count or 1):
        raise ValueError(f"device={device!r} cannot be had: {_explain_no_gpu(has_cuda, gpus)}")
    for gpu in gpus:
        if not gpu.is_usable:
            logger.warning("%s is not used: MXNet 1.9 has no kernels for it, only for 5.0 to 8.9", gpu)
    if not usable:
        return [mx.cpu()]
    return [mx.gpu(index) for index in usable[: count or None]]


def parse_device(device: str) -> tuple[str, int | None]:
    """Take a device string apart: ``"gpu:2"`` is ``("gpu", 2)``, and ``"auto"`` is ``("auto", None)``.

    Raises
    ------
    ValueError
        If it is no device string.
    """
    match = re.fullmatch(r"(auto|cpu|gpu)(?:(?<!auto):([1-9][0-9]?))?", device)
    if match is None:
        raise ValueError(
            f'device is {device!r}: it can be "auto", "cpu" or "gpu", or several, as in "cpu:4" or "gpu:2"'
        )
    return match.group(1), int(match.group(2)) if match.group(2) else None


def _explain_no_gpu(has_cuda: bool, gpus: Sequence[Gpu]) -> str:
    if not has_cuda:
        return (
            "the MXNet that is installed is built for the CPU. "
            'Choose device="cpu", or: pip uninstall mxnet, then pip install "robostig[gpu]"'
        )
    if not gpus:
        return 'the NVIDIA driver shows no GPU (does CUDA_VISIBLE_DEVICES hide it?). Choose device="cpu"'
    usable = [str(gpu) for gpu in gpus if gpu.is_usable]
    if usable:
        return f"MXNet can use only {len(usable)} here: {', '.join(usable)}"
    return (
        f"MXNet 1.9 has no kernels for {', '.join(map(str, gpus))}, only for compute capability 5.0 to 8.9 "
        '(V100, T4, A10G, A100, L4). Choose device="cpu"'
    )


def list_gpus() -> list[Gpu]:
    """List the GPUs that the NVIDIA driver shows this process, in MXNet's order.

    Returns
    -------
    list of Gpu
        Empty without a driver or a GPU; ``list_gpus()[i]`` is ``mx.gpu(i)``.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []  # no driver, no GPU
    status = driver.cuInit(0)
    if status != 0:
        if status != _CUDA_ERROR_NO_DEVICE:
            logger.warning("no GPU is used: the NVIDIA driver answered CUDA error %d to cuInit", status)
        return []
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return [_read_gpu(driver, index) for index in range(count.value)]


def _read_gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _CU_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _CU_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value))


def count_parameters(net: Any) -> int:
    """Return how many numbers of a block learn: those with gradients, so no running means, nor what is frozen."""
    return sum(math.prod(each.shape) for each in net.collect_params().values() if each.grad_req != "null")


def find_context(net: Any) -> Any:
    """Return the device that a block's parameters are on; the first, if they are on several."""
    return next(iter(net.collect_params().values())).list_ctx()[0]


def view_memory(array: Any) -> np.ndarray:
    """Return the memory of an NDArray on a CPU as (1, size) of its type, for what NumPy and OpenCV do sooner.

    It is for use at once, when nothing that reads or writes the array is under way: what MXNet does next may put its
    values elsewhere.
    """
    dtype = np.dtype(array.dtype)
    memory = (ctypes.c_char * (array.size * dtype.itemsize)).from_address(_find_address(array))
    return np.frombuffer(memory, dtype).reshape(1, -1)


def make_beside(array: Any) -> Any:
    """Return zeros of an NDArray's shape and type on its device, to be passed over together with it.

    On a CPU, their memory begins at the same place of a page of memory, so that such a pass enters new pages of both at
    once. A core waits for each page, and does so for all of them in the time that it does for one.
    """
    if array.context.device_type != "cpu":
        return mx.nd.zeros_like(array)
    size = np.dtype(array.dtype).itemsize
    page = mmap.PAGESIZE // size
    room = mx.nd.zeros(array.size + page, ctx=array.context, dtype=array.dtype)
    for each in (array, room):  # it gets its memory with its values, in one of the engine's threads
        each.wait_to_read()
    start = (_find_address(array) - _find_address(room)) % mmap.PAGESIZE // size
    return room[start : start + array.size].reshape(array.shape)


def _find_address(array: Any) -> int:
    """Return where the values of an array on a CPU are that has them already."""
    address = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    return address.value or 0
