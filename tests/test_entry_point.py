from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
from conftest import ROOT, draw_road

from robostig import entry_point
from robostig.data import ARRAY_INPUT
from robostig.entry_point import main, model_fn, transform_fn
from robostig.preprocessing import preprocess

QUICK = ["--epochs", "1", "--batch-size", "8", "--device", "cpu"]


def write_arrays(folder: Path, *, count: int = 16) -> Path:
    """Write what the pipeline's first module writes."""
    folder.mkdir()
    for prefix, rows in (("train", count), ("valid", 4)):
        steering = 0.5 * np.sin(np.arange(rows, dtype=np.float32))
        frames = np.stack([preprocess(draw_road(float(angle)), ARRAY_INPUT) for angle in steering])
        np.save(folder / f"{prefix}_X.npy", frames.astype(np.float32))
        np.save(folder / f"{prefix}_Y.npy", steering)
    return folder


@pytest.fixture(autouse=True)
def job(tmp_path, monkeypatch) -> Path:
    """Stand in SageMaker's job folder, with its variables; the training channel is there, and empty."""
    for name in [name for name in os.environ if name.startswith("SM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SM_CHANNEL_TRAINING", str(tmp_path / "training"))
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "output"))
    return tmp_path


def facts_of(folder: Path) -> Any:
    return json.loads((folder / "robostig.json").read_text())


@pytest.mark.parametrize("model", ["nvidia", "comma"])
def test_the_earlier_modules_arrays_train_any_model_and_its_client_is_answered(job, model):
    frames = np.load(write_arrays(job / "training") / "valid_X.npy")
    assert main(["--model", model, *QUICK]) == 0
    assert facts_of(job / "model")["input"]["height"] == 66 and facts_of(job / "model")["input"]["width"] == 200
    assert {path.name for path in (job / "output").iterdir()} == {"history.csv", "loss_curve.png"}
    pilot = model_fn(str(job / "model"))
    body = json.dumps(frames[0].reshape(1, 66, 200, 3).tolist())
    answer = json.loads(transform_fn(pilot, body, "application/json", "application/json")[0])[0]
    assert float(answer) == pytest.approx(float(pilot.predict(frames[:1].astype(np.uint8))[0]), abs=1e-5)


def test_a_driving_log_and_a_log_to_validate_on_come_by_their_channels(make_recording, job, monkeypatch):
    monkeypatch.setenv("SM_CHANNEL_TRAINING", str(make_recording(24, name="a", size=(80, 160))))
    monkeypatch.setenv("SM_CHANNEL_VALIDATION", str(make_recording(8, name="b", size=(80, 160), seed=1)))
    assert main(["--side-cameras", "0", *QUICK]) == 0
    facts = facts_of(job / "model")
    assert facts["data"]["split"].startswith("24 rows to train on, 8 rows of a recording of their own")
    assert facts["scores"]["open_loop"]["frames"] == 8


def test_hyperparameters_come_in_both_spellings_as_texts_and_misspelt(job, caplog):
    write_arrays(job / "training")
    caplog.set_level(logging.INFO)
    flags = ["--learning-rate", "0.0005", "--batch_size", "8", "--optmizer", '"sgd"', "--weight-decay", "1e-3"]
    assert main([*flags, "--hybridize", "False", "--epochs", "1.0", "--flip", "0", "--device", "cpu"]) == 0
    config = facts_of(job / "model")["config"]
    expected = {
        "learning_rate": 0.0005,
        "batch_size": 8,
        "optimizer": "sgd",
        "weight_decay": 1e-3,
        "epochs": 1,
        "flip": 0.0,
    }
    assert {name: config[name] for name in expected} == expected
    assert config["hybridize"] is False
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    final = next(message for message in caplog.messages if message.startswith("final "))
    rmse = facts_of(job / "model")["scores"]["open_loop"]["rmse"]
    assert f"model=nvidia validation_rmse={rmse:.5f} " in final


def test_unknown_hyperparameters_are_named_and_left_aside(job, caplog):
    write_arrays(job / "training")
    unknown = [
        "--_tuning_objective_metric",
        "validation:rmse",
        "--sagemaker_job_name",
        "x",
        "--offset",
        "-1e-3",
        "--lambda=-5",
    ]
    assert main([*unknown[:4], *QUICK, *unknown[4:]]) == 0
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split('"')[1] for message in warned] == [
        "_tuning_objective_metric", "sagemaker_job_name", "offset", "lambda",
    ]  # fmt: skip
    assert all("left aside" in message for message in warned)


def test_an_unknown_hyperparameter_is_not_taken_for_the_beginning_of_a_known_one(job, caplog):
    write_arrays(job / "training")
    assert main(["--epoch", "7", "--mod", "comma", *QUICK]) == 0
    assert (facts_of(job / "model")["model"], facts_of(job / "model")["config"]["epochs"]) == ("nvidia", 1)


BAD: List[Tuple[List[str], str]] = [
    (["--epochs", "many"], "epochs is 'many'; it takes a whole number"),
    (["--learning_rate", "-0.1"], "learning_rate is -0.1"),
    (["--optmizer", "magic"], "optimizer is 'magic'; it takes one of adam"),
    (["--hybridize", "perhaps"], "hybridize is 'perhaps'; it takes true or false"),
    (["--model", "nvidea"], "did you mean 'nvidia'"),
    (["--device", "tpu"], "device is 'tpu'"),
    (["--training", "nowhere"], "there is no nowhere"),
    (["--training", ""], "there is nothing to learn from"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_a_mistake_ends_with_one_line_and_without_a_model(job, capsys, flags, message):
    write_arrays(job / "training", count=4)
    assert main([*QUICK, *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (job / "model" / "robostig.json").exists()


def test_without_a_channel_the_message_says_which(job, capsys, monkeypatch):
    monkeypatch.delenv("SM_CHANNEL_TRAINING")
    assert main(QUICK) == 1
    assert "give the estimator a channel `training`, or --training DIR" in capsys.readouterr().err


def test_arrays_that_fit_no_network_are_an_error_in_one_line(job, capsys):
    folder = write_arrays(job / "training", count=4)
    for prefix in ("train", "valid"):
        np.save(folder / f"{prefix}_X.npy", np.full((4, 20, 30, 3), 100, np.float32))
    assert main(QUICK) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "20x30" in error and error.count("\n") == 1


def test_an_interrupted_job_is_resumed_from_the_checkpoint_folder(job, monkeypatch):
    write_arrays(job / "training")
    flags = ["--epochs", "2", "--batch-size", "8", "--device", "cpu", "--checkpoint-dir", str(job / "checkpoints")]
    with monkeypatch.context() as patch:
        patch.setattr("robostig.training._write_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            main(flags)
    assert [path.name for path in (job / "checkpoints").iterdir()] == ["checkpoint.npz"]
    assert main(flags) == 0
    assert (job / "output" / "history.csv").read_text().count("\n") == 3 and not list((job / "checkpoints").iterdir())


def test_the_module_hands_on_what_the_server_wants_and_nothing_that_it_forbids_beside():
    names = dict(inspect.getmembers(entry_point))
    assert callable(names["model_fn"]) and callable(names["transform_fn"])
    assert not {"input_fn", "predict_fn", "output_fn"} & set(names)


def run_script(script: Path, job: Path, *flags: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(script), *QUICK, *flags],
        cwd=str(job),
        env=environment,
        capture_output=True,
        text=True,
    )


def test_it_runs_as_a_file_from_anywhere(job):
    write_arrays(job / "data")
    done = run_script(
        ROOT / "robostig" / "entry_point.py", job, "--model", "nvidia", "--training", "data", "--model-dir", "out"
    )
    assert done.returncode == 0, done.stderr
    assert facts_of(job / "out")["model"] == "nvidia"
    assert "validation_rmse=" in done.stdout and "Traceback" not in done.stderr


def test_it_runs_beside_the_package_as_sagemaker_lays_it_out(job):
    write_arrays(job / "training")
    code = job / "code"
    shutil.copytree(ROOT / "robostig", code / "robostig", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "robostig" / "entry_point.py", code / "entry_point.py")
    with open(code / "robostig" / "__init__.py", "a") as file:
        file.write('__version__ = "0.copy"\n')
    done = run_script(code / "entry_point.py", job, "--_tuning_objective_metric", "validation:rmse")
    assert done.returncode == 0, done.stderr
    assert facts_of(job / "model")["versions"]["robostig"] == "0.copy"  # not another one that is installed
    assert 'hyperparameter "_tuning_objective_metric" is not' in done.stdout
