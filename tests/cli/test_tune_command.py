from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from outcomes import QUICK, assert_one_line, parse

from robostig.cli import _build_parser
from robostig.config import TrainingConfig


def test_settings_are_tuned_and_the_printed_command_trains_with_the_best(zoo, run, make_recording):
    pytest.importorskip("optuna")
    data = make_recording(60, size=(32, 64))
    words = ["--data", data, "--models", "tiny2, tiny1", *QUICK, "--weight-decay", "1e-5", "--optimizer", "adam"]
    status, out, err = run("tune", *words, "--trials", "3", "--json")
    told = parse(out)
    assert status == 0 and told["artifact"] == str(Path("tuned/best")), err
    assert len(told["trials"]) == 3 and "weight_decay" not in told["space"]
    written = parse(Path("tuned/tuning.json").read_text())
    assert written == {name: told[name] for name in written} and told["hyperparameters"]["weight_decay"] == 1e-5
    assert set(told) - set(written) == {"train", "artifact"} and "device" not in told["hyperparameters"]

    _, *command = shlex.split(told["train"])
    config = TrainingConfig.from_arguments(_build_parser().parse_args(command))
    assert config == TrainingConfig.from_dict({**told["config"], **told["best"]["settings"]})
    rmse = parse(run(*command, "--json")[1])["open_loop"]["rmse"]
    assert rmse == pytest.approx(told["best"]["rmse"], abs=1e-6)
    assert parse(run("evaluate", "tuned/best", "--data", data, "--json")[1])["open_loop"]["rmse"] == rmse

    status, out, _ = run("tune", *words, "--trials", "2")
    assert status == 0 and f"trial {told['best']['number']} is the best of 3 (3 finished, 0 pruned, 0 failed)" in out
    assert told["train"] in out and json.dumps(told["hyperparameters"]) in out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["setting", "model", "learning_rate"]
    assert_one_line(run("tune", *words, "--balance", "0"), 1, "study of something else (balance was 0 to 1, is 0.0)")
    shutil.rmtree("tuned/best")
    assert "artifact  gone; train it again as above" in run("tune", *words, "--trials", "2")[1]


def test_tuning_without_optuna_says_what_to_install(run, make_recording, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "robostig.tuning", raising=False)
    outcome = run("tune", "--data", make_recording(2, size=(16, 32)), "--trials", "1")
    assert_one_line(outcome, 1, 'optuna is needed for tuning, and not installed: pip install "robostig[tune]"')
