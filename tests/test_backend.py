from __future__ import annotations

import ctypes
import importlib
import logging
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from robostig import backend
from robostig.backend import Gpu, choose_contexts, make_beside, mx, view_memory

T4 = Gpu("Tesla T4", (7, 5))
L4 = Gpu("NVIDIA L4", (8, 9))
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0))
K80 = Gpu("Tesla K80", (3, 7))


@pytest.fixture
def machine(monkeypatch):
    """Make this process see a machine with these GPUs, and an MXNet with or without CUDA."""

    class Features:
        def __init__(self, has_cuda):
            self.has_cuda = has_cuda

        def is_enabled(self, name):
            return {"CUDA": self.has_cuda}[name]

    def set_up(*gpus, has_cuda=True):
        monkeypatch.setattr(backend, "list_gpus", lambda: list(gpus))
        monkeypatch.setattr(mx.runtime, "Features", lambda: Features(has_cuda))

    return set_up


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("auto", [], ["cpu(0)"]),
        ("auto", [T4], ["gpu(0)"]),
        ("auto", [T4, L4], ["gpu(0)", "gpu(1)"]),
        ("auto", [H100], ["cpu(0)"]),
        ("auto", [K80, T4, H100, L4], ["gpu(1)", "gpu(3)"]),
        ("cpu", [T4], ["cpu(0)"]),
        ("cpu:1", [], ["cpu(0)"]),
        ("cpu:4", [T4], ["cpu(0)", "cpu(1)", "cpu(2)", "cpu(3)"]),
        ("gpu", [T4, L4], ["gpu(0)", "gpu(1)"]),
        ("gpu:1", [T4, L4], ["gpu(0)"]),
        ("gpu:2", [H100, T4, L4], ["gpu(1)", "gpu(2)"]),
    ],
)
def test_the_choice(machine, device, gpus, expected):
    machine(*gpus)
    assert [str(context) for context in choose_contexts(device)] == expected


def test_auto_is_the_default_and_logs_the_gpu_that_it_leaves_out(machine, caplog):
    machine(H100)
    with caplog.at_level(logging.WARNING):
        assert choose_contexts() == [mx.cpu()]
    assert "NVIDIA H100 80GB HBM3 (compute capability 9.0)" in caplog.text


@pytest.mark.parametrize("device", ["gpu", "gpu:2"])
def test_a_gpu_without_kernels_is_refused_by_name(machine, device):
    machine(H100, K80)
    with pytest.raises(ValueError, match=r"no kernels for NVIDIA H100.*9\.0.*K80.*3\.7.*5\.0 to 8\.9.*device=\"cpu\""):
        choose_contexts(device)


def test_more_gpus_than_there_are(machine):
    machine(T4)
    with pytest.raises(ValueError, match=r"'gpu:2'.*only 1 here: Tesla T4"):
        choose_contexts("gpu:2")


def test_no_gpu_at_all(machine):
    machine()
    with pytest.raises(ValueError, match=r"'gpu'.*shows no GPU.*device=\"cpu\""):
        choose_contexts("gpu")


def test_a_gpu_with_the_mxnet_for_the_cpu(machine):
    machine(T4, has_cuda=False)
    assert choose_contexts("auto") == [mx.cpu()]
    with pytest.raises(ValueError, match=r"built for the CPU.*robostig\[gpu\]"):
        choose_contexts("gpu")


@pytest.mark.parametrize(
    "device", ["", "GPU", "cpu4", "cpu:", "cpu:0", "cpu:-1", "auto:2", "cuda", "gpu:0,gpu:1", "gpu:1 "]
)
def test_a_bad_device_says_what_came_and_what_is_allowed(device):
    with pytest.raises(ValueError, match=r'"auto", "cpu" or "gpu".*"cpu:4" or "gpu:2"') as error:
        choose_contexts(device)
    assert repr(device) in str(error.value)


def test_contexts_on_the_cpu_compute():
    assert [float(mx.nd.ones(2, ctx=context).sum().asscalar()) for context in choose_contexts("cpu:2")] == [
        2,
        2,
    ]


class FakeDriver:
    """libcuda.so.1 with these GPUs; device handles are the ordinals plus 10."""

    def __init__(self, gpus, status=0):
        self.gpus, self.status = gpus, status

    def cuInit(self, flags):  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.gpus)

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        device._obj.value = ordinal + 10

    def cuDeviceGetName(self, name, length, device):  # noqa: N802
        name.value = self.gpus[device.value - 10].name.encode()[:length]

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = self.gpus[device.value - 10].capability[{75: 0, 76: 1}[attribute]]


def test_gpus_are_read_from_the_driver(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([T4, H100]))
    assert backend.list_gpus() == [T4, H100]


@pytest.mark.parametrize(("status", "logged"), [(100, False), (803, True)])
def test_a_driver_that_does_not_start_shows_no_gpu(monkeypatch, caplog, status, logged):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([T4], status))
    with caplog.at_level(logging.WARNING):
        assert backend.list_gpus() == []
    assert (f"CUDA error {status}" in caplog.text) == logged


def test_no_driver_no_gpu(monkeypatch):
    def fail(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert backend.list_gpus() == []


@pytest.mark.parametrize(
    ("failure", "remedies"),
    [
        (ModuleNotFoundError("No module named 'mxnet'", name="mxnet"), ["robostig[cpu]", "robostig[gpu]"]),
        (ModuleNotFoundError("No module named 'distutils'", name="distutils"), ["pip install setuptools"]),
        (
            OSError("libcuda.so.1: cannot open shared object file"),
            ["NVIDIA driver is missing", "robostig[cpu]"],
        ),
        (OSError("libcudnn.so.8: cannot open shared object file"), ["libcudnn.so.8", "robostig[gpu]"]),
        (
            OSError("libgomp.so.1: cannot open shared object file"),
            ["libgomp.so.1", "apt-get install libgomp1"],
        ),
    ],
)
def test_an_mxnet_that_cannot_be_imported_says_what_helps(monkeypatch, failure, remedies):
    def fail(name):
        raise failure

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError) as error:
        backend.import_mxnet()
    assert error.value.__cause__ is failure
    for remedy in remedies:
        assert remedy in str(error.value)


def test_another_missing_module_is_named_as_it_is(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'graphviz'", name="graphviz")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="graphviz"):
        backend.import_mxnet()


def test_numpy_2_is_refused(monkeypatch):
    monkeypatch.setattr(backend.np, "__version__", "2.1.0")
    with pytest.raises(ImportError, match=r'numpy 2\.1\.0.*pip install "numpy<2"'):
        backend.import_mxnet()


def test_without_mxnet_the_import_names_the_command():
    program = 'import sys; sys.modules["mxnet"] = None; import robostig.backend'
    run = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert 'ImportError: MXNet is not installed: pip install "robostig[cpu]"' in run.stderr.splitlines()[-1]


def count_threads(**environ):
    """Count the threads of a process that has computed with MXNet, which must write nothing of its own to stderr."""
    code = (
        "import os, robostig.backend as backend; backend.mx.nd.ones(3).asnumpy();"
        "print(len(os.listdir('/proc/self/task')), os.environ.get('MXNET_ENGINE_TYPE'))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MXNET_", "DMLC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**inherited, **environ}
    )
    threads, engine = done.stdout.split()
    assert engine == environ.get("MXNET_ENGINE_TYPE", "None")
    return int(threads), done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc, which only Linux has")
@pytest.mark.skipif(mx.runtime.Features().is_enabled("CUDA"), reason="an MXNet for GPUs keeps its threads")
def test_a_cpu_computes_without_the_engines_threads_unless_told_otherwise():
    threads, written = count_threads()
    assert not written
    by_wish, written = count_threads(MXNET_ENGINE_TYPE="ThreadedEnginePerDevice")
    assert by_wish > threads and "ThreadedEnginePerDevice" in written


def test_one_line_is_hidden_and_all_others_are_written(capfd):
    with pytest.raises(KeyError), backend._hide_line("noise"):
        os.write(2, b"first\nsome noise here\nlast")
        raise KeyError
    assert capfd.readouterr().err == "first\nlast"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_the_memory_of_an_array_is_read_and_written_in_place(dtype):
    array = mx.nd.array([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    memory = view_memory(array)
    assert memory.shape == (1, 6) and memory.dtype == np.dtype(dtype) and memory.tolist() == [[1, 2, 3, 4, 5, 6]]
    memory += 10
    assert array.asnumpy().tolist() == [[11, 12, 13], [14, 15, 16]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_arrays_made_beside_another_begin_at_the_same_place_of_a_page(dtype):
    arrays = [mx.nd.ones(shape, dtype=dtype) for shape in [(3,), (70, 30), (2, 5, 40_000)]]
    for array in (*arrays, arrays[1][3:]):
        made = make_beside(array)
        addresses = [view_memory(each).ctypes.data for each in (array, made)]
        assert addresses[0] % mmap.PAGESIZE == addresses[1] % mmap.PAGESIZE and addresses[0] != addresses[1]
        assert made.shape == array.shape and made.dtype == array.dtype and not made.asnumpy().any()
        made[:] = 7
        assert (made.asnumpy() == 7).all() and (array.asnumpy() == 1).all()
