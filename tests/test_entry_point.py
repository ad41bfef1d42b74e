from __future__ import annotations

import inspect
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
from conftest import ROOT, draw_road

from robostig import entry_point
from robostig.data import ARRAY_INPUT
from robostig.driving_log import pack_driving_log, read_driving_log
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


def test_a_packed_recording_comes_through_a_pipe(zoo, make_recording, job, monkeypatch):
    monkeypatch.setenv("SM_INPUT_DATA_CONFIG", json.dumps({"training": {"TrainingInputMode": "Pipe"}}))
    recording = make_recording(40, size=(16, 32))
    pack_driving_log(read_driving_log(recording), job / "packed", shard_mb=0.01)
    os.mkfifo(job / "training_0")

    def send() -> None:
        with open(job / "training_0", "wb") as pipe:
            for path in sorted((job / "packed").iterdir()):
                pipe.write(path.read_bytes())

    sender = threading.Thread(target=send)
    sender.start()
    assert main(["--model", "tiny1", "--gap-s", "0.2", *QUICK]) == 0
    sender.join(60)
    assert facts_of(job / "model")["data"]["fingerprint"] == read_driving_log(recording).fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no driving_log.csv in .*training or below it, which holds nothing; .*robostig pack"),
        (["a/notes.txt", "recording.zip"], "which holds a, recording.zip; .*train_X.npy and the like"),
        (["recording-center-00000.rec"], "which holds recording-center-00000.rec; .*index.rec and its shards"),
    ],
)
def test_a_channel_without_a_log_is_told_what_it_holds_and_what_is_allowed(job, capsys, content, message):
    (job / "training").mkdir()
    for name in content:
        (job / "training" / name).parent.mkdir(exist_ok=True)
        (job / "training" / name).write_text("")
    assert main(QUICK) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


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


def test_the_checkpoint_folder_is_found_where_sagemaker_has_one(job, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(job))
    assert entry_point.build_parser().parse_args([]).checkpoint_dir is None
    (job / "checkpoints").mkdir()
    assert entry_point.build_parser().parse_args([]).checkpoint_dir == str(job / "checkpoints")


def test_several_hosts_without_a_parameter_server_are_refused_in_one_line(job, monkeypatch, capsys):
    write_arrays(job / "training")
    monkeypatch.setenv("SM_HOSTS", '["algo-1", "algo-2"]')
    assert main(QUICK) == 1
    error = capsys.readouterr().err
    assert 'distribution={"parameter_server": {"enabled": True}}' in error and error.count("\n") == 1
    assert not (job / "model").exists()


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
    copy_package(code / "robostig")
    shutil.copy(ROOT / "robostig" / "entry_point.py", code / "entry_point.py")
    done = run_script(code / "entry_point.py", job, "--_tuning_objective_metric", "validation:rmse")
    assert done.returncode == 0, done.stderr
    assert facts_of(job / "model")["versions"]["robostig"] == "0.copy"  # not another one that is installed
    assert 'hyperparameter "_tuning_objective_metric" is not' in done.stdout


def copy_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "robostig", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "__init__.py", "a") as file:
        file.write('__version__ = "0.copy"\n')
    return folder


def test_it_runs_as_the_source_folder_itself_which_sagemaker_names_otherwise(job):
    write_arrays(job / "training")
    code = copy_package(job / "code")  # source_dir="robostig", entry_point="entry_point.py"
    done = run_script(code / "entry_point.py", job)
    assert done.returncode == 0, done.stderr
    assert facts_of(job / "model")["versions"]["robostig"] == "0.copy"
    assert (job / "model" / "code" / "robostig" / "serving.py").is_file()


def test_the_server_finds_the_package_where_the_sdk_packs_dependencies(job):
    (job / "code").mkdir()
    copy_package(job / "code" / "lib" / "robostig")
    shutil.copy(ROOT / "robostig" / "entry_point.py", job / "code" / "entry_point.py")
    lines = "import entry_point, robostig; print(robostig.__version__, entry_point.transform_fn.__module__)"
    done = subprocess.run([sys.executable, "-c", lines], cwd=str(job / "code"), capture_output=True, text=True)
    assert done.stdout.split() == ["0.copy", "robostig.serving"], done.stderr


def test_what_it_leaves_can_be_served_as_it_is(job):
    write_arrays(job / "training")
    assert main(QUICK) == 0
    assert (job / "model" / "code" / "inference.py").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "alexnet"], "no model is named 'alexnet'"),
        (["--learning-rate", "-1e-3"], "learning-rate: expected one argument"),
        (["-h", "66", "--epochs", "0"], "epochs is 0"),  # a hyperparameter `h` is no call for help
    ],
)
def test_a_jobs_failure_reason_is_one_line(job, monkeypatch, capsys, flags, message):
    write_arrays(job / "training")
    (job / "out").mkdir()
    monkeypatch.setenv("SM_OUTPUT_DIR", str(job / "out"))
    assert main(flags) == 1
    reason = (job / "out" / "failure").read_text()
    assert message in reason and reason.count("\n") == 1
    assert capsys.readouterr().err == f"error: {reason}"


def test_a_fault_that_nobody_thought_of_is_named_too_and_its_trace_is_in_the_log(job, monkeypatch, caplog):
    write_arrays(job / "training")
    monkeypatch.setenv("SM_OUTPUT_DIR", str(job / "nowhere"))  # cannot be written to: said, and no second fault

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("robostig.pipeline.train_model", fail)
    assert main(QUICK) == 1
    assert "Traceback" in caplog.text and "surprise" in caplog.text
    assert "the reason could not be written" in caplog.text
