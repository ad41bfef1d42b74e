"""RoboStig's metadata; the tools' configuration is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version():
    """Read the version from the package without importing it, which would need its dependencies."""
    text = (HERE / "robostig" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def read_readme():
    """Read the long description."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


SAGEMAKER = ["sagemaker>=2.150,<3"]  # version 3 has no MXNet estimator
TUNE = ["optuna>=4", "scikit-learn"]  # the latter for the importances of settings
# SageMaker without an account: moto keeps S3's and the control plane's books, Optuna chooses a tuner's settings.
LOCAL = [*SAGEMAKER, "moto[iam,s3,sagemaker,server,sts]>=5", "optuna>=4"]
ONNX = ["onnx>=1.15", "onnxruntime>=1.10"]
HDF5 = ["h5py>=3"]  # comma.ai's research data
TEST = ["boto3", "hypothesis", "pytest>=7", "pytest-timeout", "pytest-xdist>=3", *HDF5, *ONNX]

EXTRAS = {
    # mxnet is no requirement of the package itself: the SageMaker images bring Amazon's own build of it.
    "cpu": [
        "mxnet>=1.9,<2",
        "setuptools; python_version >= '3.12'",  # mxnet imports distutils
    ],
    # What libmxnet.so of mxnet-cu112 links: CUDA 11's libraries, from NVIDIA's wheels. robostig loads them.
    "gpu": [
        "mxnet-cu112>=1.9,<2",
        "setuptools; python_version >= '3.12'",
        "nvidia-cublas-cu11>=11.10,<12",
        "nvidia-cuda-nvrtc-cu11>=11.7,<12",
        "nvidia-cuda-runtime-cu11>=11.7,<12",
        "nvidia-cudnn-cu11>=8.5,<9",  # libcudnn.so.8
        "nvidia-cufft-cu11>=10.7,<11",
        "nvidia-curand-cu11>=10.2,<11",
        "nvidia-cusolver-cu11>=11.4,<12",
        "nvidia-nccl-cu11>=2.14,<3",
        "nvidia-nvtx-cu11>=11.7,<12",
    ],
    "sagemaker": SAGEMAKER,
    "tune": TUNE,
    "local": LOCAL,
    "notebooks": ["ipykernel", "ipywidgets", "jupyterlab>=4", *LOCAL, *TUNE, *ONNX],
    "onnx": ONNX,  # to export
    "hdf5": HDF5,
    "test": TEST,
    "bench": ["torch==2.13.0"],  # a peer to measure against
    "dev": ["ipykernel", "ipywidgets", "mypy", "nbclient", "ruff>=0.9", *LOCAL, *TUNE, *TEST],
}

setup(
    name="robostig",
    version=read_version(),
    description="A steering-model zoo and pipeline on Gluon/MXNet: train, compare, serve and drive.",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.8,<3.13",
    packages=find_packages(include=["robostig", "robostig.*"]),
    package_data={
        "robostig": ["py.typed", "*.html.j2", "**/*.html.j2", "driving/*.html", "container/*.txt", "weights/**/*"]
    },
    zip_safe=False,
    # No lower bounds beyond the SageMaker images' versions: Python 3.8, numpy 1.19, gluoncv 0.8.
    install_requires=[
        "aiohttp>=3.10,<4",  # the driving server
        "gluoncv>=0.8",
        "jinja2",
        "matplotlib",
        "numpy<2",
        "opencv-python>=4.5,<4.12",  # 4.12 wants numpy 2
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["robostig = robostig.cli:main"]},
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(8, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
