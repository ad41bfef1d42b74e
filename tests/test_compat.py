from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from robostig import _compat


@pytest.mark.parametrize("version", ["1.24.0", "1.26.4"])
def test_the_alias_that_numpy_removed_comes_back(version):
    numpy = types.SimpleNamespace(__version__=version)
    _compat.restore_numpy_aliases(numpy)
    assert numpy.bool is bool


@pytest.mark.parametrize("version", ["1.19.5", "1.23.5"])
def test_numpy_that_has_the_alias_keeps_its_own_ways(version):
    numpy = types.SimpleNamespace(__version__=version)
    _compat.restore_numpy_aliases(numpy)
    assert not hasattr(numpy, "bool")


def test_a_numpy_with_a_bool_of_its_own_keeps_it():
    numpy = types.SimpleNamespace(__version__="2.1.0rc1", bool=np.bool_)
    _compat.restore_numpy_aliases(numpy)
    assert numpy.bool is np.bool_


def test_restoring_emits_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _compat.restore_numpy_aliases()


def test_the_types_that_onnx_no_longer_maps_are_mapped():
    import onnx

    newer = types.SimpleNamespace(helper=onnx.helper)
    _compat.restore_onnx_mapping(newer)
    numbers = newer.mapping.NP_TYPE_TO_TENSOR_TYPE
    assert (
        numbers[np.dtype("float32")] == onnx.TensorProto.FLOAT and numbers[np.dtype("int64")] == onnx.TensorProto.INT64
    )
    assert all(newer.mapping.TENSOR_TYPE_TO_NP_TYPE[number] == dtype for dtype, number in numbers.items())


def test_an_onnx_that_maps_types_itself_keeps_its_own():
    older = types.SimpleNamespace(mapping="its own")
    _compat.restore_onnx_mapping(older)
    assert older.mapping == "its own"


def write_cgroup(folder: Path, version: int, quota: str, period: str) -> Path:
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu").mkdir()
        (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return folder


@pytest.mark.parametrize(
    ("version", "quota", "expected"),
    [
        (2, "max", 8),
        (2, "150000", 2),
        (2, "50000", 1),
        (2, "3200000", 8),
        (1, "-1", 8),
        (1, "250000", 3),
        (2, "nonsense", 8),
    ],
)
def test_the_quota_limits_the_cpus(tmp_path, monkeypatch, version, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert _compat.count_usable_cpus(write_cgroup(tmp_path, version, quota, "100000")) == expected


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 6}, raising=False)
    assert _compat.count_usable_cpus(tmp_path / "none") == 3


def test_openmp_is_told_only_where_the_user_has_not_chosen(monkeypatch):
    monkeypatch.setattr(_compat, "count_usable_cpus", lambda: 6)
    spins = {"GOMP_SPINCOUNT": "20000"}
    for environ, expected in [
        ({}, {"OMP_NUM_THREADS": "6", **spins}),
        ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1", **spins}),
        ({"MXNET_OMP_MAX_THREADS": "2"}, {"MXNET_OMP_MAX_THREADS": "2", **spins}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "6"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "6"}),
    ]:
        _compat.set_openmp(environ)
        assert environ == expected


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, 6), ("", 6), ("2", 2), ("4,2", 4), ("0", 1), (" 3 ", 3), ("many", 6), ("-1", 6)]
)
def test_as_many_threads_as_openmp_has_may_compute(monkeypatch, chosen, expected):
    monkeypatch.setattr(_compat, "count_usable_cpus", lambda: 6)
    assert _compat.count_threads({} if chosen is None else {"OMP_NUM_THREADS": chosen}) == expected


def test_nothing_changes_once_mxnet_is_imported(monkeypatch):
    def fail(*args):
        raise AssertionError("too late to prepare")

    monkeypatch.setitem(sys.modules, "mxnet", types.ModuleType("mxnet"))
    for step in ("restore_numpy_aliases", "set_openmp", "load_cuda_libraries"):
        monkeypatch.setattr(_compat, step, fail)
    _compat.prepare_for_mxnet()


@pytest.mark.parametrize("installed", [True, False])
def test_cuda_libraries_are_loaded_only_for_mxnet_cu112(tmp_path, monkeypatch, installed):
    if installed:
        (tmp_path / "mxnet_cu112-1.9.1.dist-info").mkdir()
        metadata = "Metadata-Version: 2.1\nName: mxnet-cu112\nVersion: 1.9.1\n"
        (tmp_path / "mxnet_cu112-1.9.1.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "nvidia" / "cudnn" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mxnet", raising=False)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    asked = []
    monkeypatch.setattr(_compat, "load_cuda_libraries", asked.extend)

    _compat.prepare_for_mxnet()

    assert (tmp_path / "nvidia" in asked) == installed


@pytest.fixture
def loads(monkeypatch):
    """The libraries that were asked for, in order; those whose content is "broken" fail to load."""
    asked = []

    def load(path, mode):
        assert mode == _compat.ctypes.RTLD_GLOBAL
        asked.append(Path(path).name)
        if Path(path).read_text() == "broken":
            raise OSError("file too short")

    monkeypatch.setattr(_compat.ctypes, "CDLL", load)
    return asked


def add_library(nvidia: Path, name: str, content: str = "") -> Path:
    path = nvidia / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_scikit_learn_is_hidden_for_a_while_unless_it_is_there_already(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    with _compat.hide_scikit_learn():
        import sklearn
    assert sys.modules["sklearn"] is sklearn
    monkeypatch.delitem(sys.modules, "sklearn")
    with _compat.hide_scikit_learn(), pytest.raises(ImportError):
        import sklearn.base
    assert "sklearn" not in sys.modules


def test_cuda_libraries_load_in_the_order_of_their_needs(tmp_path, loads):
    system, user = tmp_path / "system" / "nvidia", tmp_path / "user" / "nvidia"
    for index, name in enumerate(reversed(_compat.CUDA_LIBRARIES)):
        add_library(system if index % 2 else user, name)

    loaded = _compat.load_cuda_libraries([system, user])

    assert [path.name for path in loaded] == loads
    assert loads == [
        "libcudart.so.11.0",
        "libcublasLt.so.11",
        "libcublas.so.11",
        "libnvrtc.so.11.2",
        "libcufft.so.10",
        "libcurand.so.10",
        "libcusolver.so.11",
        "libcudnn.so.8",
        "libnvToolsExt.so.1",
        "libnccl.so.2",
    ]


def test_missing_and_broken_cuda_libraries_are_left_to_the_system(tmp_path, loads, caplog):
    add_library(tmp_path, "cuda_runtime/lib/libcudart.so.11.0", "broken")
    cudnn = add_library(tmp_path, "cudnn/lib/libcudnn.so.8")
    add_library(tmp_path, "cudnn/lib/libcudnn.so.9")

    with caplog.at_level(logging.WARNING):
        assert _compat.load_cuda_libraries([tmp_path]) == [cudnn]

    assert loads == ["libcudart.so.11.0", "libcudnn.so.8"]
    assert "libcudart.so.11.0 cannot be loaded" in caplog.text
    assert "file too short" in caplog.text


def test_the_package_prepares_the_process_and_imports_nothing_heavy():
    program = """
import os, sys
import robostig
import numpy
heavy = {"mxnet", "cv2", "matplotlib", "gluoncv", "pandas"} & set(sys.modules)
assert not heavy, heavy
assert numpy.bool is bool
assert int(os.environ["OMP_NUM_THREADS"]) >= 1
"""
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    # Numpy 1.20 to 1.23 warns when numpy.bool is read, and is right to.
    flags = ["-W", "error", "-W", "ignore:`np.bool` is a deprecated alias:DeprecationWarning"]
    run = subprocess.run([sys.executable, *flags, "-c", program], env=environ, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
