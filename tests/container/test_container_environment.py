"""The environments that stand for SageMaker's images: found, built once, and described as they are."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import in_container

from robostig.container import ContainerError, NotAvailableError, environment, find_environment

PYTHON = Path(getattr(sys, "_base_executable", sys.executable))


def can_import(python: Path, module: str) -> bool:
    return subprocess.run([str(python), "-c", f"import {module}"], capture_output=True).returncode == 0


@in_container
def test_the_serving_environment_holds_what_the_image_holds_and_no_more(serving_environment):
    if serving_environment.is_exact:
        assert "Python 3.8." in serving_environment.description and not serving_environment.notes
        assert "mxnet 1.9.0, numpy 1.19.5" in serving_environment.description
    else:
        assert "mxnet 1.9.1, numpy 1.23.5" in serving_environment.description
        assert "no Python 3.8 here" in serving_environment.notes[0]
    assert "sagemaker-inference 1.6.1, multi-model-server 1.1.8" in serving_environment.description
    imported = [name for name in ("PIL", "cv2", "gluoncv", "mxnet") if can_import(serving_environment.python, name)]
    assert imported == ["mxnet"]


@in_container
def test_the_training_environment_holds_what_the_image_holds(training_environment):
    assert "gluoncv 0.8.0, sagemaker-mxnet-training 4.3.0" in training_environment.description
    assert can_import(training_environment.python, "mxnet, gluoncv, cv2, sagemaker_training")


def test_a_process_in_it_gets_few_variables(training_environment, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    variables = training_environment.make_variables({"SAGEMAKER_BASE_DIR": "/base"})
    assert variables["SAGEMAKER_BASE_DIR"] == "/base"
    assert variables["PATH"].split(":")[0] == str(training_environment.python.parent)
    assert not {"OMP_NUM_THREADS", "PYTHONPATH"} & set(variables)


@pytest.mark.default_python("it starts pip and venv, and imports nothing of this Python's")
def test_what_cannot_be_installed_is_named_and_then_two_who_come_at_once_build_it_once(tmp_path, caplog):
    requirements, home = tmp_path / "requirements.txt", tmp_path / "home"

    def ensure(_: int = 0) -> dict:
        return environment.ensure(home, PYTHON, [requirements])

    requirements.write_text(f"{tmp_path}/missing-1.0-py3-none-any.whl\n")
    with pytest.raises(ContainerError, match=r"home cannot be built: .*missing-1\.0") as raised:
        ensure()
    assert not isinstance(raised.value, NotAvailableError)  # which tests would take for a reason to skip

    assert home.is_dir()  # cut short, and not to be mistaken for a whole one
    (home / "left-behind").touch()
    requirements.write_text("# none\n")
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ensure, range(2))
    assert len(caplog.messages) == 1 and "once" in caplog.messages[0]
    assert first == second == ensure() and not (home / "left-behind").exists()
    assert first["python"] == sys.version.split()[0] and "pip" in first["packages"]


def test_without_python_3_8_another_one_is_taken(monkeypatch):
    monkeypatch.setattr(environment, "EXACT", (2, 9))
    try:
        _, version = environment.find_python()
    except NotAvailableError as error:
        pytest.skip(str(error))
    assert version in environment.OTHERS
    assert version == sys.version_info[:2] or sys.version_info[:2] not in environment.OTHERS


def test_without_any_python_the_error_says_which_and_how(monkeypatch):
    monkeypatch.setattr(environment, "EXACT", (2, 9))
    monkeypatch.setattr(environment, "OTHERS", ())
    with pytest.raises(NotAvailableError, match=r"Python 3\.8 to 3\.11.* this is Python 3\."):
        environment.find_python()


def test_without_java_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(NotAvailableError, match=r"no java in JAVA_HOME .*apt-get install default-jre-headless"):
        find_environment("serving")


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match=r"'driving'.*training, serving"):
        find_environment("driving")
