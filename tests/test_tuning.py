from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from robostig.artifact import read_facts
from robostig.config import TrainingConfig
from robostig.pipeline import evaluate_artifact

optuna = pytest.importorskip("optuna")
pytest.importorskip("sklearn")
tuning = pytest.importorskip("robostig.tuning")
Trial, list_changes, tune = tuning.Trial, tuning.list_changes, tuning.tune

CONFIG = TrainingConfig(model="tiny1", epochs=2, batch_size=16, gap_s=0.2, device="cpu")
RATES = {"learning_rate": (1e-6, 1e-1, "log")}


@pytest.fixture
def data(zoo, make_recording):
    return make_recording(60, size=(32, 64))


def list_files(folder):
    return sorted(path.name for path in folder.iterdir())


def is_inside(value, options):
    return options[0] <= value <= options[1] if isinstance(options[0], float) else value in options


def test_a_study_that_is_continued_ends_as_one_that_was_not(data, tmp_path):
    space = {"balance": (0.0, 1.0), **RATES}
    tune(data, tmp_path / "parts", CONFIG, trials=1, space=space)
    parts = tune(data, tmp_path / "parts", CONFIG, trials=3, space=space)
    whole = tune(data, tmp_path / "whole", CONFIG, trials=3, space=space)
    assert len(whole.trials) == 3 and parts.trials == whole.trials
    assert len({trial.rmse for trial in whole.trials}) == 3
    assert (
        tune(data, tmp_path / "parts", CONFIG, trials=2, space=space).trials == parts.trials
    )  # they are there already


def test_the_best_artifact_is_the_best_trial_s(data, tmp_path):
    out = tmp_path / "out"
    found = tune(data, out, CONFIG, trials=4, space=RATES)
    assert found.best.rmse == min(trial.rmse for trial in found.trials) < found.default.rmse
    assert evaluate_artifact(out / "best", data)[0].scores["rmse"] == pytest.approx(found.best.rmse, abs=1e-6)
    assert TrainingConfig.from_dict(read_facts(out / "best")["config"]) == found.best_config
    assert found.best_config == replace(CONFIG, **found.best.settings)
    assert list_files(out) == [".lock", "best", "study.db", "tuning.json", "tuning.png"]
    assert list_files(out / "best" / "training") == ["history.csv", "loss_curve.png"]
    assert json.loads((out / "tuning.json").read_text()) == json.loads(json.dumps(found.to_dict()))


def test_the_space_is_the_one_of_the_configuration_and_begins_with_the_defaults(data, tmp_path):
    space = {"model": ("tiny1", "tiny2"), **TrainingConfig.tuning_ranges()}
    found = tune(data, tmp_path / "out", CONFIG, trials=4, space=space)
    assert found.space == space
    defaults = {name: getattr(CONFIG, name) for name in space}
    assert [trial.settings for trial in found.trials[:2]] == [defaults, {**defaults, "model": "tiny2"}]
    assert [trial.is_default for trial in found.trials] == [True, True, False, False]
    for trial in found.trials[2:]:
        assert list(trial.settings) == list(space)
        assert all(is_inside(trial.settings[name], options) for name, options in space.items()), trial
    assert found.default.rmse == min(trial.rmse for trial in found.trials[:2])


def test_sagemaker_s_tuner_searches_the_same(data, tmp_path):
    pytest.importorskip("sagemaker")
    from robostig.deployment.jobs import _make_range  # what its tuner searches for one of the ranges

    found = tune(data, tmp_path / "out", CONFIG, trials=2)
    study = optuna.load_study(study_name="robostig", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    ours = study.trials[1].distributions
    assert list(ours) == list(found.space) == list(TrainingConfig.tuning_ranges())
    for name, options in TrainingConfig.tuning_ranges().items():
        theirs = _make_range(options)
        if hasattr(theirs, "values"):
            assert [str(choice) for choice in ours[name].choices] == theirs.values
        else:
            assert (ours[name].low, ours[name].high) == (theirs.min_value, theirs.max_value)
            assert ours[name].log == (theirs.scaling_type == "Logarithmic")


def test_a_trial_worse_than_most_is_pruned_and_leaves_nothing(data, tmp_path):
    config = replace(CONFIG, epochs=3, warmup_epochs=0.0)
    found = tune(data, tmp_path / "out", config, trials=8, space=RATES)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned and found.count_states() == {"finished": 8 - len(pruned), "pruned": len(pruned), "failed": 0}
    for trial in pruned:
        assert trial.number > tuning.BEFORE_PRUNING and 1 <= trial.epochs < 3 and trial.rmse > found.best.rmse
    assert not (tmp_path / "out" / "trial").exists()


def test_a_trial_that_diverges_has_failed_and_the_study_goes_on(data, tmp_path, caplog):
    config = replace(CONFIG, optimizer="sgd", batch_size=2, warmup_epochs=0.0, learning_rate=1e-4)
    found = tune(data, tmp_path / "out", config, trials=3, space={"learning_rate": (0.5, 1.0)})
    assert [trial.state for trial in found.trials] == ["finished", "failed", "failed"]
    assert "diverged" in found.trials[1].reason and found.best.is_default and found.trials[1].rmse is None
    with pytest.raises(ValueError, match=r"no trial has finished yet: all failed, .* training diverged"):
        tune(data, tmp_path / "all", replace(config, learning_rate=1.0), trials=2, space={"balance": (0.0, 1.0)})


def test_with_enough_trials_it_is_said_what_matters(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FOR_IMPORTANCES", 5)
    monkeypatch.setattr(tuning, "BEFORE_PRUNING", 99)
    space = {"shift": (0.0, 1.0), **RATES}
    config = replace(CONFIG, warmup_epochs=0.0)
    assert not tune(data, tmp_path / "out", config, trials=4, space=space).importances
    importances = tune(data, tmp_path / "out", config, trials=6, space=space).importances
    assert list(importances) == ["learning_rate", "shift"] and sum(importances.values()) == pytest.approx(1.0)


def test_time_that_is_up_ends_a_trial_after_its_epoch_which_then_goes_on(data, tmp_path, caplog):
    out, space = tmp_path / "out? {100} %41 #1", RATES
    with pytest.raises(ValueError, match="no trial has finished yet: the same command goes on"):
        tune(data, out, CONFIG, trials=2, space=space, minutes=1e-9)
    assert (out / "trial" / "training" / "checkpoint.npz").exists()
    caplog.set_level("INFO")
    found = tune(data, out, CONFIG, trials=2, space=space)
    assert "trial 1 goes on after epoch 1" in caplog.text and "resumed after epoch 1" in caplog.text
    assert found.trials == tune(data, tmp_path / "whole", CONFIG, trials=2, space=space).trials
    assert tune(data, out, CONFIG, trials=3, space=space, minutes=1e-9).trials == found.trials


def test_a_death_between_a_trial_and_its_artifact_s_place_loses_neither(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning._Search, "_log", lambda *_: pytest.fail("it was not interrupted"))
        keep, calls = tuning._Search._keep_best, []

        def die(search):
            calls.append(search)
            if len(calls) == 2:  # the first one tidies up
                raise KeyboardInterrupt
            keep(search)

        patch.setattr(tuning._Search, "_keep_best", die)
        tune(data, out, CONFIG, trials=1, space=RATES)
    assert not (out / "best").exists()
    found = tune(data, out, replace(CONFIG, cache_gb=0.0), trials=1, space=RATES)
    assert len(found.trials) == 1 and TrainingConfig.from_dict(read_facts(out / "best")["config"]) == CONFIG


def test_a_trial_that_kills_its_process_again_and_again_is_given_up(data, tmp_path):
    out = tmp_path / "out"
    tune(data, out, CONFIG, trials=1, space=RATES)
    study = optuna.load_study(study_name="robostig", storage=f"sqlite:///{out / 'study.db'}")
    study.ask().set_user_attr("starts", tuning.MOST_STARTS)
    found = tune(data, out, CONFIG, trials=3, space=RATES)
    assert [trial.state for trial in found.trials] == ["finished", "failed", "finished"]
    assert "the process died 3 times in it" in found.trials[1].reason


def test_another_study_is_not_continued(data, make_recording, tmp_path):
    out = tmp_path / "out"
    tune(data, out, CONFIG, trials=1, space=RATES)
    other = make_recording(60, name="other", size=(32, 64), seed=1)
    for folder, config, space, message in (
        (data, replace(CONFIG, epochs=3), RATES, "epochs was 2, is 3"),
        (data, CONFIG, {"learning_rate": (1e-4, 1e-1, "log")}, r"learning_rate was 1e-06 to 0.1 \(log\), is 0.0001 to"),
        (data, CONFIG, {"balance": (0.0, 1.0)}, r"learning_rate was 1e-06 to 0.1 \(log\), is 0.001; balance was 0.25"),
        (other, CONFIG, RATES, "recording was "),
    ):
        with pytest.raises(ValueError, match=message):
            tune(folder, out, config, trials=2, space=space)
    assert len(tune(data, out, replace(CONFIG, cache_gb=0.0), trials=1, space=RATES).trials) == 1


def test_a_broken_picture_ends_a_study_before_its_first_trial_which_begins_when_it_is_mended(data, tmp_path):
    picture = sorted((data / "IMG").iterdir())[0]
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    with pytest.raises((ValueError, OSError), match=picture.name):
        tune(data, tmp_path / "out", CONFIG, trials=1, space=RATES)
    picture.write_bytes(content)
    assert len(tune(data, tmp_path / "out", CONFIG, trials=1, space=RATES).trials) == 1


def test_what_is_no_study_is_left_alone(data, tmp_path):
    with pytest.raises(FileExistsError, match=r"holds IMG, driving_log\.csv and no study"):
        tune(data, data, CONFIG, trials=1)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(OSError, match=r"damaged/study\.db cannot be read or written: "):
        tune(data, tmp_path / "damaged", CONFIG, trials=1)


def test_two_processes_do_not_share_a_study(data, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is tuning in"):
            tune(data, tmp_path / "out", CONFIG, trials=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"minutes": 0.0}, "minutes is 0"),
        ({"space": {}}, "nothing to search"),
        ({"space": {"model": ("tiny1", "tiny3")}}, "tiny3"),
    ],
)
def test_a_study_of_nothing_is_refused(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        tune(data, tmp_path / "out", CONFIG, **{"trials": 1, **change})
    assert not (tmp_path / "out").exists()


def test_side_cameras_are_not_searched_where_there_are_none(zoo, tmp_path, caplog):
    for prefix, count in (("train", 16), ("valid", 4)):
        frames = np.random.default_rng(0).integers(0, 256, (count, 6, 12, 3)).astype(np.float32)
        np.save(tmp_path / f"{prefix}_X.npy", frames)
        np.save(tmp_path / f"{prefix}_Y.npy", np.linspace(-0.5, 0.5, count, dtype=np.float32))
    caplog.set_level("INFO")
    found = tune(tmp_path, tmp_path / "out", CONFIG, trials=2)
    assert set(TrainingConfig.tuning_ranges()) - set(found.space) == {"side_cameras", "camera_correction"}
    assert "no side cameras to learn from: side_cameras, camera_correction" in caplog.text


def test_hyperparameters_are_the_model_and_what_differs_from_the_defaults():
    config = TrainingConfig(model="tiny1", device="cpu", learning_rate=0.002, epochs=3)
    assert list_changes(config) == {"model": "tiny1", "device": "cpu", "learning_rate": 0.002, "epochs": 3}
    trial = Trial(1, "finished", {"learning_rate": 0.004}, False, 0.1, 3)
    found = tuning.Tuning(config, RATES, (trial,), {}, Path("out"))
    assert found.hyperparameters == {"model": "tiny1", "learning_rate": 0.004, "epochs": 3}
    assert found.default is None


def test_a_study_killed_in_mid_trial_loses_nothing(make_recording, tmp_path):
    data = make_recording(60, size=(80, 160))
    config = TrainingConfig(epochs=3, batch_size=16, gap_s=0.2, side_cameras=0.0, patience=0, device="cpu")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in list_changes(config).items()]
    words = ["tune", "--data", str(data), "--trials", "2", "--out", str(tmp_path / "killed"), *flags]
    fixed = list_changes(config)
    space = {name: options for name, options in config.tuning_ranges().items() if name not in fixed}

    checkpoint = tmp_path / "killed" / "trial" / "training" / "checkpoint.npz"
    run = subprocess.Popen(
        [sys.executable, "-m", "robostig.cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    text, _ = run.communicate(timeout=30)
    assert run.returncode == -signal.SIGKILL and checkpoint.exists(), text
    assert not (tmp_path / "killed" / "best").exists()

    found = tune(data, tmp_path / "killed", config, trials=2, space=space)
    assert found.trials == tune(data, tmp_path / "whole", config, trials=2, space=space).trials
    assert [trial.epochs for trial in found.trials] == [3, 3]
    assert TrainingConfig.from_dict(read_facts(tmp_path / "killed" / "best")["config"]) == found.best_config
