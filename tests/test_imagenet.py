"""GluonCV's weights, fetched from a server of our own: GluonCV's network, saved, stands in for the trained one."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from conftest import ROOT

from robostig.backend import mx
from robostig.imagenet import build_features, find_weights, import_gluoncv, load_features

CLASSIFIER = "mobilenetv2_0.25"


class Mirror:
    """A server of weights, and the user's folder that they are to be fetched to."""

    def __init__(self, served: Path, home: Path, address: str) -> None:
        self.home, self.folder, self.name = home, served / "gluon" / "models", ""
        self.folder.mkdir(parents=True)
        self.address = address

    def offer(self, content: bytes, name: str = "") -> None:
        """Put a file on the server, where GluonCV looks for the weights."""
        (self.folder / f"{self.name}.zip").write_bytes(zip_up(content, name or f"{self.name}.params"))

    def list_files(self) -> list:
        return sorted(path.name for path in self.home.rglob("*") if path.is_file())


def zip_up(content: bytes, name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a file of weights of GluonCV's own making."""
    path = tmp_path_factory.mktemp("weights") / "weights.params"
    mx.random.seed(1)
    net = import_gluoncv("model_zoo").get_model(CLASSIFIER)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(path))
    return path.read_bytes()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes) -> Iterator[Mirror]:
    """Return a running server, with the weights of which GluonCV knows the digest."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mirror = Mirror(tmp_path / "served", tmp_path / "home", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("MXNET_HOME", str(mirror.home))
        monkeypatch.setenv("MXNET_GLUON_REPO", mirror.address)
        digest = hashlib.sha1(weights).hexdigest()
        monkeypatch.setitem(import_gluoncv("model_zoo.model_store")._model_sha1, CLASSIFIER, digest)
        mirror.name = f"{CLASSIFIER}-{digest[:8]}"
        mirror.offer(weights)
        yield mirror
        server.shutdown()
        thread.join()


def test_weights_are_fetched_once_to_where_gluoncv_looks_for_them(mirror, weights, capfd):
    path = find_weights(CLASSIFIER)
    assert path.read_bytes() == weights and mirror.list_files() == [path.name]
    (mirror.folder / f"{mirror.name}.zip").unlink()
    assert find_weights(CLASSIFIER) == path
    assert str(path) == import_gluoncv("model_zoo.model_store").get_model_file(CLASSIFIER)
    assert not capfd.readouterr().out  # where a command's answer goes


def test_a_damaged_file_is_replaced(mirror, weights):
    path = find_weights(CLASSIFIER)
    path.write_bytes(weights[:-1])
    assert find_weights(CLASSIFIER).read_bytes() == weights


@pytest.mark.parametrize("is_damaged", [False, True])
@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (None, "File not found"),
        (b"<html>log in to this network</html>", "File is not a zip file"),
        ("cut", "File is not a zip file"),
        ("other name", "no item named"),
        ("other content", "its SHA-1 does not begin with"),
    ],
)
def test_what_cannot_be_fetched_leaves_everything_as_it_was(mirror, weights, served, reason, is_damaged):
    path = mirror.home / "models" / f"{mirror.name}.params"
    if is_damaged:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half of it")
    archive = mirror.folder / f"{mirror.name}.zip"
    if served is None:
        archive.unlink()
    elif served == "cut":
        archive.write_bytes(archive.read_bytes()[:-5000])
    elif isinstance(served, bytes):
        archive.write_bytes(served)
    else:
        mirror.offer(*((weights, "README") if served == "other name" else (weights[::-1],)))
    with pytest.raises(OSError, match=reason) as caught:
        find_weights(CLASSIFIER)
    assert f"{mirror.address}gluon/models/{mirror.name}.zip" in str(caught.value) and "\n" not in str(caught.value)
    assert (f"{path} is damaged" if is_damaged else f"not in {path.parent}") in str(caught.value)
    assert mirror.list_files() == ([path.name] if is_damaged else [])
    assert not is_damaged or path.read_bytes() == b"half of it"


@pytest.mark.parametrize(
    ("address", "reason"), [("http://127.0.0.1:1", "Connection refused"), ("nowhere", "unknown url type: .*")]
)
def test_without_a_connection_one_line_says_what_to_do(mirror, monkeypatch, address, reason):
    monkeypatch.setenv("MXNET_GLUON_REPO", address)
    with pytest.raises(OSError) as caught:
        find_weights(CLASSIFIER)
    assert f"no ImageNet weights of {CLASSIFIER}: they are not in {mirror.home / 'models'}" in str(caught.value)
    assert re.search(rf"\({reason}\). Try again with a connection, or unpack that file into", str(caught.value))


def test_loaded_features_see_what_gluoncvs_network_sees(mirror):
    features = build_features(CLASSIFIER)
    load_features(features, CLASSIFIER)
    whole = import_gluoncv("model_zoo").get_model(CLASSIFIER, pretrained=True)
    frames = mx.nd.random.normal(shape=(2, 3, 64, 96))
    seen = features(frames)
    assert seen.shape == (2, 1280, 2, 3)
    classes = whole.output(mx.nd.mean(seen, axis=(2, 3), keepdims=True))
    np.testing.assert_allclose(classes.asnumpy(), whole(frames).asnumpy(), rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_refused(mirror, weights, monkeypatch):
    path = find_weights(CLASSIFIER)
    store = import_gluoncv("model_zoo.model_store")
    digest = store._model_sha1[CLASSIFIER]
    monkeypatch.setitem(store._model_sha1, "mobilenetv2_0.5", digest)
    path.rename(path.with_name(f"mobilenetv2_0.5-{digest[:8]}.params"))
    features = build_features("mobilenetv2_0.5")
    with pytest.raises(ValueError, match=r"holds no weights of this GluonCV's mobilenetv2_0.5 \(.*\); remove it"):
        load_features(features, "mobilenetv2_0.5")


@pytest.mark.parametrize(("version", "first"), [("1.13.1", "torch, "), ("2.1.0", "")])
def test_gluoncv_is_silent_beside_pytorch_and_pytorch_can_still_be_imported(tmp_path, version, first):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"class Tensor: ...\n\n\n__version__ = '{version}'\n")
    code = f"import {first}robostig.imagenet as one; one.build_features('mobilenetv2_0.25'); import torch; torch.Tensor"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_gluoncv_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gluoncv.model_zoo", None)
    with pytest.raises(ImportError, match=r"cannot be imported \(.*gluoncv.*\): pip install 'gluoncv>=0.8'") as caught:
        build_features(CLASSIFIER)
    assert "\n" not in str(caught.value)
