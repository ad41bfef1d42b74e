from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest
import setuptools

import robostig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def metadata():
    """What setup.py hands to setuptools."""
    taken = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **keywords: taken.update(keywords))
        runpy.run_path(str(ROOT / "setup.py"))
    return taken


def test_the_version_is_the_package_s(metadata):
    assert metadata["version"] == robostig.__version__


def test_mxnet_comes_with_an_extra_only(metadata):
    assert not [line for line in metadata["install_requires"] if line.startswith("mxnet")]
    assert metadata["extras_require"]["cpu"][0].startswith("mxnet>=1.9")
    assert metadata["extras_require"]["gpu"][0].startswith("mxnet-cu112>=1.9")


def test_the_extras(metadata):
    assert set(metadata["extras_require"]) == {
        "cpu",
        "gpu",
        "sagemaker",
        "tune",
        "hdf5",
        "local",
        "notebooks",
        "onnx",
        "test",
        "bench",
        "dev",
    }
    for part in ("sagemaker", "tune", "onnx", "test"):
        assert set(metadata["extras_require"][part]) <= set(metadata["extras_require"]["dev"])


def test_the_gpu_extra_brings_every_library_that_is_loaded(metadata):
    from robostig._compat import CUDA_LIBRARIES

    wheels = {name.split("/")[0] for name in CUDA_LIBRARIES}
    required = " ".join(metadata["extras_require"]["gpu"])
    for wheel in wheels:
        assert f"nvidia-{wheel.replace('_', '-')}-cu11>=" in required


def test_every_folder_with_code_is_packaged(metadata):
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "robostig").rglob("*.py")}
    assert set(metadata["packages"]) == {".".join(folder.parts) for folder in folders}


def test_the_type_marker_the_templates_and_the_weights_are_packaged(metadata):
    patterns = metadata["package_data"]["robostig"]
    package = ROOT / "robostig"
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert package / "weights" / "nvidia" / "model-0000.params" in packaged
    assert set((package / "weights").rglob("*")) <= packaged
    assert package / "py.typed" in packaged
    assert {path for path in package.rglob("*") if path.name.endswith(".html.j2")} <= packaged


def test_python_3_8_can_parse_the_whole_package():
    """On newer Pythons too: feature_version refuses the syntax that came later, match statements for one."""
    for path in (ROOT / "robostig").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 8))


def test_this_python_is_one_that_the_metadata_allows(metadata):
    assert metadata["python_requires"] == ">=3.8,<3.13"
    assert (3, 8) <= sys.version_info[:2] < (3, 13)
