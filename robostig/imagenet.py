"""GluonCV's classifiers of ImageNet, as far as they are of use to others: their convolutional part, and its weights."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import shutil
import sys
import tempfile
import urllib.request
import warnings
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any, Iterator

from tqdm import tqdm

from robostig._files import describe_error, make_folder
from robostig.backend import mx

__all__ = ["MEAN", "STD", "build_features", "find_weights", "import_gluoncv", "load_features"]

logger = logging.getLogger(__name__)

# Of ImageNet's training pictures, RGB, 0..255: what GluonCV's weights were trained with (its ImageNet tutorial).
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_REPOSITORY = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/"
_STALL_LIMIT_S = 30.0


def build_features(classifier: str) -> mx.gluon.nn.HybridSequential:
    """Build the layers of one of GluonCV's classifiers that come before its global pooling.

    Parameters
    ----------
    classifier
        GluonCV's name of it, such as ``"mobilenetv2_0.5"``; one that keeps its layers in ``features``.

    Returns
    -------
    mxnet.gluon.nn.HybridSequential
        Not initialised: (N, 3, H, W) float32, normalised by :data:`MEAN` and :data:`STD` -> (N, C, H / 32, W / 32).

    Raises
    ------
    ImportError
        If there is no GluonCV.
    """
    return _keep_features(_build_classifier(classifier))


def load_features(features: mx.gluon.nn.HybridSequential, classifier: str) -> None:
    """Put GluonCV's ImageNet weights into what :func:`build_features` returned.

    Parameters
    ----------
    features
        Not initialised, as they were built; they are on the CPU afterwards.
    classifier
        The name that they were built by.

    Raises
    ------
    ImportError, OSError
        As :func:`find_weights`.
    ValueError
        If they are not of the classifier that this GluonCV builds.
    """
    path = find_weights(classifier)
    trained = _build_classifier(classifier)
    try:
        trained.load_parameters(str(path))
    except (mx.MXNetError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} holds no weights of this GluonCV's {classifier} ({reason}); remove it") from error
    theirs = _keep_features(trained).collect_params().values()
    features.initialize()
    for parameter, value in zip(features.collect_params().values(), theirs):
        parameter.set_data(value.data())


def find_weights(classifier: str) -> Path:
    """Return the file of GluonCV's ImageNet weights of a classifier, which is fetched once.

    It lies where GluonCV itself keeps it: in ``~/.mxnet/models``, or the folder ``models`` of ``MXNET_HOME``. It comes
    from where GluonCV has it from, or from the mirror that ``MXNET_GLUON_REPO`` names.

    Raises
    ------
    ImportError
        If there is no GluonCV, which knows what the file's digest is.
    OSError
        If it is not there, or damaged, and cannot be fetched. What was there before stays as it was.
    """
    store = import_gluoncv("model_zoo.model_store")
    check_sha1 = import_gluoncv("utils").check_sha1
    digest = store.short_hash(classifier)
    folder = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser() / "models"
    path = folder / f"{classifier}-{digest}.params"
    is_damaged = path.is_file() and not check_sha1(str(path), digest)
    if path.is_file() and not is_damaged:
        return path
    address = f"{(os.environ.get('MXNET_GLUON_REPO') or _REPOSITORY).rstrip('/')}/gluon/models/{path.stem}.zip"
    make_folder(folder)
    # Beside, then renamed: a fetch that is cut short leaves nothing that could be taken for weights.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as beside:
        try:
            _download(address, Path(beside) / f"{path.stem}.zip")
            with zipfile.ZipFile(Path(beside) / f"{path.stem}.zip") as archive:
                fetched = archive.extract(path.name, beside)
            if not check_sha1(fetched, digest):
                raise zipfile.BadZipFile(f"its SHA-1 does not begin with {digest}")
        except (OSError, HTTPException, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = describe_error(getattr(error, "reason", error))
            state = f"{path} is damaged, and they" if is_damaged else f"they are not in {folder}, and"
            raise OSError(
                f"no ImageNet weights of {classifier}: {state} cannot be fetched from {address} ({reason}). Try again "
                f"with a connection, or unpack that file into {folder}; or train without them"
            ) from error
        os.replace(fetched, path)
    return path


def _download(address: str, path: Path) -> None:
    with urllib.request.urlopen(address, timeout=_STALL_LIMIT_S) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm.wrapattr(file, "write", size, desc=path.name, disable=None, leave=None) as target:
            shutil.copyfileobj(answer, target)


def _build_classifier(name: str) -> Any:
    return import_gluoncv("model_zoo").get_model(name)


def _keep_features(classifier: Any) -> mx.gluon.nn.HybridSequential:
    features = mx.gluon.nn.HybridSequential(prefix="features_")
    features.add(
        *itertools.takewhile(lambda each: not isinstance(each, mx.gluon.nn.GlobalAvgPool2D), classifier.features)
    )
    return features


def import_gluoncv(module: str) -> Any:
    """Import one of GluonCV's modules.

    It is shown no PyTorch meanwhile, which it warns of, and refuses to be imported beside from PyTorch 2 on.

    Parameters
    ----------
    module
        Its name within the package, such as ``"model_zoo"``.

    Raises
    ------
    ImportError
        If it cannot be imported; the message says what to install.
    """
    try:
        with _hide("torch"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"gluoncv.{module}")
    except ImportError as error:
        raise ImportError(
            f"this network is GluonCV's, which cannot be imported ({error}): pip install 'gluoncv>=0.8'"
        ) from error


@contextlib.contextmanager
def _hide(package: str) -> Iterator[None]:
    """Let a package seem not to be installed."""
    hidden = {name: sys.modules[name] for name in [package] if name in sys.modules}
    sys.modules[package] = None  # type: ignore[assignment]  # as the documentation of sys.modules has it
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(hidden)
