"""The image's files agree with each other and with the package, as far as can be seen without building it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from robostig._compat import CUDA_LIBRARIES
from robostig.container import environment

DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "container" / "Dockerfile").read_text())
COPIES = [line.split() for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
REQUIREMENTS = sorted((ROOT / "robostig" / "container").glob("requirements-*.txt"))


def test_what_it_copies_is_there():
    sources = [
        word for _, *words, _ in COPIES if "--from=builder" not in words for word in words if not word.startswith("--")
    ]
    assert sources and [source for source in sources if not (ROOT / source).is_file()] == []
    assert {"robostig/container/train.py", "robostig/container/serve.py"} < set(sources)
    for script in ("train.py", "serve.py"):
        assert (ROOT / "robostig" / "container" / script).read_text().startswith("#!/usr/bin/env python3\n")


def test_train_and_serve_take_the_place_of_the_toolkits_own():
    (first,) = set(re.findall(r"PATH=([^:]+):\$PATH", DOCKERFILE))
    places = {words[-2]: words[-1] for words in COPIES}
    for name in ("train", "serve"):  # the toolkits install commands of these names, which would come first elsewhere
        assert places[f"robostig/container/{name}.py"] == f"{first}/{name}"


def test_it_installs_the_packages_own_requirements():
    copied = {Path(word).name for words in COPIES for word in words if "requirements-" in word}
    installed = {
        name.replace("${DEVICE}", device)
        for name in re.findall(r"-r /build/(\S+)", DOCKERFILE)
        for device in ("cpu", "gpu")
    }
    assert copied == installed == {path.name for path in REQUIREMENTS}


def test_its_python_is_one_that_the_environments_know():
    (version,) = re.findall(r"^ARG PYTHON=(\d+)\.(\d+)-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    assert tuple(map(int, version)) in environment.OTHERS
    assert f"/lib/python{'.'.join(version)}/site-packages/nvidia" in DOCKERFILE


def test_cuda_is_found_before_robostig_could_load_it():
    folders = {path.rsplit("/", 1)[0] for path in CUDA_LIBRARIES}
    assert set(re.findall(r"\$NVIDIA/([^:\s]+)", DOCKERFILE)) == folders


def test_the_gpu_requirements_are_those_of_the_extra():
    required = re.findall(r"^(nvidia-\S+)", (environment.HERE / "requirements-gpu.txt").read_text(), re.MULTILINE)
    assert sorted(required) == sorted(re.findall(r'"(nvidia-[^"]+)"', (ROOT / "setup.py").read_text()))


def test_sagemaker_can_start_it():
    assert re.search(r'^ENTRYPOINT \["entrypoint.sh"\]$', DOCKERFILE, re.MULTILINE)
    assert "LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true" in DOCKERFILE
    assert re.search(r"^HEALTHCHECK .*sagemaker-mms\.properties .*/ping", DOCKERFILE, re.MULTILINE)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="stepping down takes root and setpriv")
def test_a_container_that_starts_as_root_does_not_stay_so():
    with tempfile.TemporaryDirectory() as base:  # where any user may look
        os.chmod(base, 0o755)
        Path(base, "checkpoints").mkdir(mode=0o700)
        Path(base, "checkpoints", "epoch-3").touch(mode=0o600)
        program = "id -u && touch model/new output/failure code/new . && echo resumed >> checkpoints/epoch-3"
        done = subprocess.run(
            ["sh", str(ROOT / "container" / "entrypoint.sh"), "sh", "-c", program],
            cwd=base,
            env={**os.environ, "SAGEMAKER_BASE_DIR": base},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "1000\n", "")
        assert Path(base, "model", "new").stat().st_uid == 1000


def test_a_container_that_starts_as_somebody_goes_on_as_that_one():
    words, user = ["sh", "-s", "sh", "-c", "id -u; exit 7"], os.getuid()
    if user == 0:
        words, user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *words], 12345
    if not shutil.which(words[0]):
        pytest.skip("no setpriv to become another user with")
    with open(ROOT / "container" / "entrypoint.sh") as script:
        done = subprocess.run(words, stdin=script, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (7, f"{user}\n")
