from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest

import robostig
from robostig.artifact import WEIGHTS, _tell_packaged, save_artifact
from robostig.backend import mx
from robostig.cli import _build_parser, main
from robostig.config import TrainingConfig
from robostig.models import list_models
from robostig.picture import encode_jpeg
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn

DRIVE = ["--track", "lake:9", "--laps", "0.02"]
QUICK = ["--epochs", "1", "--batch-size", "16", "--gap-s", "0.2", "--device", "cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in an empty folder and returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*words: Any) -> Tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse's way out
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run_command


def parse(text: str) -> Any:
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def assert_one_line(outcome: Tuple[int, str, str], status: int, message: str) -> None:
    got, out, err = outcome
    assert (got, out) == (status, "") and message in err
    assert err.startswith("robostig ") and err.count("\n") == 1


def test_models_are_listed_for_people_and_for_programs(run):
    status, out, _ = run("models")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == ["model", *list_models()]
    assert "252,219" in out and "66x200 YUV" in out
    status, out, _ = run("models", "n*", "--json")
    (model,) = parse(out)
    assert status == 0 and (model["name"], model["parameters"]) == ("nvidia", 252_219)
    assert model["input"]["height"] == 66 and "1604.07316" in model["reference"] and model["summary"]


def test_a_pattern_that_matches_nothing_says_what_there_is(run):
    assert_one_line(run("models", "x*"), 1, "there are: comma, mobilenet_v2, mobilenet_v3_small, nvidia, resnet18")
    assert run("models", "x*", "--json")[:2] == (0, "[]\n")


def test_a_model_is_trained_and_evaluated_on_what_was_held_out(zoo, run, make_recording):
    data, other = make_recording(60, size=(32, 64)), make_recording(20, name="other", size=(32, 64), seed=1)
    status, out, _ = run("train", "--model", "tiny1", "--data", data, "--out", "artifact", *QUICK, "--json")
    trained = parse(out)
    assert status == 0 and trained["artifact"] == "artifact" and trained["training"]["epochs"] == 1
    assert {path.name for path in Path("artifact/training").iterdir()} == {"history.csv", "loss_curve.png"}

    status, out, _ = run("evaluate", "artifact", "--data", data, "--json")
    held_out = parse(out)
    assert status == 0 and "held-out rows" in held_out["rows"]
    assert set(held_out["open_loop"]) == set(trained["open_loop"])
    assert held_out["open_loop"]["rmse"] == pytest.approx(trained["open_loop"]["rmse"], abs=1e-6)
    assert held_out["open_loop"]["rmse_mean_baseline"] == pytest.approx(trained["open_loop"]["rmse_mean_baseline"])

    everything = parse(run("evaluate", "artifact", "--data", data, "--rows", "all", "--json")[1])
    assert everything["open_loop"]["frames"] == 60 > held_out["open_loop"]["frames"]
    elsewhere = parse(run("evaluate", "artifact", "--data", other, "--json")[1])
    assert elsewhere["open_loop"]["frames"] == 20 and "other than the one it was trained on" in elsewhere["rows"]
    assert_one_line(run("evaluate", "artifact", "--data", other, "--rows", "held-out"), 1, "use --rows all")


def test_scores_are_printed_for_people_too(zoo, run, make_recording):
    data = make_recording(60, size=(32, 64))
    status, out, _ = run("train", "--model", "tiny2", "--data", data, *QUICK)
    assert status == 0 and out.splitlines()[-1].split() == ["artifact", str(Path("out/tiny2"))]
    status, out, _ = run("evaluate", "out/tiny2", "--data", data)
    assert status == 0 and out.startswith("scored on the ")
    printed = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert printed["rmse"][2] == "degrees" and float(printed["rmse"][1]) == pytest.approx(
        25 * float(printed["rmse"][0]), abs=0.01
    )
    assert {"mae", "correlation", "whiteness", "rmse_zero_baseline", "rmse_mean_baseline", "latency"} <= set(printed)


@pytest.mark.parametrize(
    "facts",
    [
        {"data": "a drive", "config": "the usual"},
        {"data": {"drives": 3, "training_mean": "small", "fingerprint": None}, "elsewhere": "nowhere"},
    ],
)
def test_a_model_saved_from_a_notebook_is_evaluated_as_well(run, make_recording, facts):
    net = nn.HybridSequential(prefix="mine_")
    with net.name_scope():
        net.add(nn.Dense(1))
    net.initialize(mx.init.Zero())
    save_artifact("mine", net, InputSpec(4, 8), {"model": "mine", **facts})
    status, out, _ = run("evaluate", "mine", "--data", make_recording(10, size=(16, 32)), "--json", "--keep")
    scores = parse(out)["open_loop"]
    assert status == 0 and scores["rmse"] == pytest.approx(scores["rmse_zero_baseline"])


def test_scores_are_noted_in_the_artifact_and_its_card_if_asked_to(zoo, run, make_recording, caplog):
    caplog.set_level("INFO")
    data, other = (
        make_recording(40, name=name, size=(16, 32), seed=seed) for seed, name in enumerate(("mine", "other"))
    )
    run("train", "--model", "tiny1", "--data", data, "--out", "tiny1", *QUICK)
    before = parse(Path("tiny1/robostig.json").read_text())
    run("evaluate", "tiny1", "--data", other)
    assert parse(Path("tiny1/robostig.json").read_text()) == before  # not asked to
    words = ["evaluate", "tiny1", "--data", other, "--track", "lake:9", "--laps", "0.02", "--delay", "0.1", "--keep"]
    status, out, _ = run(*words, "--json")
    assert status == 0 and "noted in tiny1" in caplog.text
    told, facts = parse(out), parse(Path("tiny1/robostig.json").read_text())
    assert {name: value for name, value in facts.items() if name != "elsewhere"} == before
    road = "the built-in track, lake:9 forward, 0.02 laps at 30 mph, 0.1 s late"
    driven = {"closed_loop": told.pop("closed_loop")}
    assert facts["elsewhere"] == {"the recording other": told, road: driven}
    card = Path("tiny1/README.md").read_text()
    assert (
        f"| {road} | {driven['closed_loop']['autonomy']:.1f} % autonomy, " in card
        and "| the recording other | RMSE" in card
    )
    run("evaluate", "tiny1", "--data", data, "--keep")
    assert list(parse(Path("tiny1/robostig.json").read_text())["elsewhere"]) == [
        *facts["elsewhere"],
        "the recording mine",
    ]


def test_weights_that_come_with_the_package_are_an_artifact_and_the_command_says_which(run, caplog):
    caplog.set_level("INFO")
    _tell_packaged.cache_clear()  # other tests may have been told
    status, out, _ = run("evaluate", "nvidia", "--track", "lake:7", "--laps", "0.01")
    assert status == 0 and "lake:7 forward" in out
    assert "nvidia: the weights that come with RoboStig, since there is no folder of that name here" in caplog.text
    words = "evaluate", "nvidia", "--track", "lake:7", "--laps", "0.01", "--keep"
    status, out, err = run(*words)
    assert (status, out) == (2, "") and "--keep would change what came with RoboStig; score a copy: cp -r " in err
    Path("nvidia").mkdir()
    assert_one_line(run("evaluate", "nvidia", "--track", "lake:7"), 1, "no trained model in nvidia: no robostig.json")


def test_recordings_of_several_kinds_are_trained_on_packed_and_scored(zoo, run, make_recording, make_tub):
    data = "--data", make_recording(60, size=(32, 64)), "--data", make_tub(60)
    status, out, err = run("train", "--model", "tiny1", *data, "--out", "artifact", *QUICK, "--json")
    assert status == 0 and "60 of 120 rows have no side cameras" in err
    scores = parse(out)["open_loop"]
    assert run("pack", data[1], data[3], "--out", "packed")[1].startswith("120 rows and 240 pictures are in ")
    for words in (data, ("--data", "packed")):
        again = parse(run("evaluate", "artifact", *words, "--json")[1])
        assert "held-out rows" in again["rows"] and again["open_loop"]["rmse"] == pytest.approx(scores["rmse"])


def test_models_are_compared_and_the_choice_is_reported(zoo, run, make_recording):
    data = make_recording(60, size=(32, 64))
    words = ["--data", data, "--models", "tiny1,tiny2", "--out", "both", *QUICK, *DRIVE]
    status, out, err = run("compare", *words, "--json")
    printed = parse(out)
    assert status == 0, err
    written = parse(Path("both/comparison.json").read_text())
    for name, model in written["models"].items():
        assert Path("both", model["artifact"]) == Path(printed["models"][name]["artifact"])  # as seen from each place
        model["artifact"] = printed["models"][name]["artifact"]
    assert printed == written
    assert list(printed["models"]) == ["tiny1", "tiny2"] and printed["choice"] in printed["models"]
    assert {path.name for path in Path("both").iterdir()} == {"comparison.json", "report.html", "tiny1", "tiny2"}
    assert [each["track"] for each in printed["models"]["tiny1"]["closed_loop"]["tracks"]] == ["lake:9", "lake:9"]
    page = Path("both/report.html").read_text(encoding="utf-8")
    assert printed["choice"] in page and page.rstrip().endswith("</html>")
    status, out, _ = run("compare", "--data", data, "--models", "tiny2, tiny1", "--out", "both", *QUICK, *DRIVE)
    assert status == 0 and out.splitlines()[0].startswith("model  ") and "always zero" in out
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["tiny2", "tiny1"]
    assert "should drive" in out and str(Path("both/report.html")) in out


def test_unless_told_otherwise_the_two_models_that_are_quickly_trained_are_compared():
    names = _build_parser().parse_args(["compare"]).models.split(",")
    assert names == ["nvidia", "comma"] and set(names) < set(list_models())


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


WRONG: List[Tuple[List[str], int, str]] = [
    (["train", "--data", "data", "--model", "nvidea"], 2, "did you mean 'nvidia'"),
    (["train", "--data", "data", "--epochs", "0"], 2, "epochs is 0; it takes 1 to"),
    (["train", "--data", "data", "--epochs", "x"], 2, "epochs is 'x'; it takes a whole number"),
    (["compare", "--data", "data", "--models", "nvidia,com"], 2, "did you mean 'comma'"),
    (["compare", "--data", "data", "--models", "nvidia,nvidia"], 2, "name each model once"),
    (
        ["compare", "--data", "data", "--pretrained", "true"],
        2,
        "no trained weights of 'comma'; models that have some: mobi",
    ),
    (["tune", "--data", "data", "--model", "comma", "--pretrained", "yes"], 2, "no trained weights of 'comma'"),
    (["train", "--data", "data", "--model", "comma", "--pretrained", "true"], 2, "no trained weights of 'comma'"),
    (["train", "--data", "data", "--freeze-epochs", "-1"], 2, "freeze_epochs is -1; it takes at least 0"),
    (["tune", "--data", "data", "--trials", "0"], 2, "--trials is 0; it is how many there should be in all"),
    (["tune", "--data", "data", "--minutes", "nan"], 2, "--minutes is nan; it is more than 0"),
    (["tune", "--data", "data", "--model", "nvidea"], 2, "did you mean 'nvidia'"),
    (["tune", "--data", "data", "--learning-rate", "5"], 2, "learning_rate is 5.0; it takes 1e-07 to 1"),
    (["train", "--data", "nowhere"], 1, "there is no nowhere"),
    (["compare", "--data", "data"], 1, "driving_log.csv"),
    (["train", "--data", "data", "--device", "gpu:99"], 1, "driving_log.csv"),
    (["evaluate", "data", "--data", "data"], 1, "no trained model in data"),
    (
        ["evaluate", "nvidla", "--track", "lake"],
        1,
        "nor do weights of that name come with RoboStig (there are: nvidia)",
    ),
    (["evaluate", "--constant", "0", "--track", "lake", "--keep"], 2, "--keep notes the scores in an ARTIFACT"),
    (["serve", "nvidla"], 1, "nor do weights of that name come with RoboStig (there are: nvidia)"),
    (["evaluate", "data", "--track", "lake"], 1, "no trained model in data"),
    (["evaluate"], 2, "name one driver: an ARTIFACT, or --endpoint NAME"),
    (["evaluate", "data", "--constant", "0", "--track", "lake"], 2, "name one driver"),
    (["evaluate", "data"], 2, "say what to score it on: --data DIR, --track NAMES, or both"),
    (["evaluate", "--constant", "2", "--track", "lake"], 2, "a steering is between -1 and 1"),
    (["evaluate", "--constant", "0", "--track", "laek"], 2, "there is no track 'laek'. Did you mean lake?"),
    (["evaluate", "--constant", "0", "--track", "mountain:x"], 2, "as in mountain:17"),
    (["evaluate", "--constant", "0", "--track", "lake", "--laps", "0"], 1, "laps is 0; it is more than 0"),
    (["evaluate", "--constant", "0", "--track", "lake", "--laps", "nan"], 1, "laps is nan"),
    (["evaluate", "--constant", "0", "--track", "lake", "--speed", "90"], 1, "drives at 1 to 30"),
    (["evaluate", "--constant", "0", "--track", "lake", "--delay", "-1"], 1, "between 0 and 2 seconds"),
    (["evaluate", "--constant", "0", "--track", "lake", "--video", "x.gif"], 1, "name it with one of .mp4"),
    (["evaluate", "--constant", "0", "--track", "lake", "--video", "no/x.avi"], 1, "no folder no"),
    (["evaluate", "--constant", "0", "--data", "data", "--video", "x.avi"], 2, "with --track NAMES"),
    (["evaluate", "--constant", "0", "--data", "data", "--laps", "3"], 2, "--laps is about a drive"),
    (["evaluate", "--constant", "0", "--data", "data", "--rows", "all"], 2, "--rows is about what an ARTIFACT"),
    (["evaluate", "--constant", "0", "--data", "data", "--track", "lak"], 2, "there is no track 'lak'"),
    (["evaluate", "--constant", "0", "--track", "lake", "--video", "data"], 1, "is to be a video"),
    (["compare", "--laps", "nan"], 2, "laps is nan"),
    (["compare", "--device", "tpu"], 1, "device is 'tpu'"),
    (["compare", "--freeze-epochs", "1"], 1, "freeze_epochs=1 would hold"),
    (["record", "out", "--seed", "-1"], 1, "the seed is -1"),
    (["compare", "--track", "hills"], 2, "there is no track 'hills'"),
    (["record", "out", "--track", "lake:-1"], 2, "there is no track 'lake:-1'"),
    (["record", "out", "--laps", "0"], 1, "laps is 0"),
    (["record", "."], 1, "is there already"),
    (["inspect", "data"], 1, "driving_log.csv"),
    (["inspect", "nowhere", "--out", "inspect.png"], 1, "there is no nowhere"),
    (["inspect", "data", "--out", "inspect.gif"], 2, "name a file that ends with .png, .pdf, .svg"),
    (["inspect", "data", "--out", "data"], 2, "--out is data; name a file"),
    (["inspect", "data", "--stretch-s", "0"], 2, "stretch_s is 0.0; it takes at least 0.1"),
    (["explain", "nvidia", "--out", "out"], 2, "--data DIR or --track NAMES, one of the two"),
    (["explain", "nvidia", "--out", "out", "--data", "data", "--track", "lake"], 2, "one of the two"),
    (["explain", "nvidia", "--out", "out", "--data", "data", "--laps", "2"], 2, "--laps is about a drive"),
    (["explain", "nvidia", "--out", "out", "--data", "data"], 1, "driving_log.csv"),
    (["explain", "data", "--out", "out", "--track", "lake"], 1, "no trained model in data"),
    (["explain", "nvidia", "nvidia", "--out", "out", "--track", "lake"], 2, "name each artifact once"),
    (["explain", "nvidia", "--out", "out", "--track", "laek"], 2, "Did you mean lake?"),
    (["explain", "nvidia", "--out", "out", "--track", "lake", "--laps", "0"], 2, "laps is 0"),
    (["explain", "nvidia", "--out", "out", "--track", "lake", "--frames", "0"], 2, "1 to 12"),
    (
        ["explain", "nvidia", "--out", "data", "--track", "lake", "--laps", "0.01", "--video", "x.gif"],
        1,
        "to be a video",
    ),
    (["drive"], 2, "ARTIFACT"),
    (["record", ""], 2, "out is empty: name what you mean, or leave it out"),
    (["train", "--data", "data", "--data", " "], 2, "data is empty"),
    (["compare", "--out", ""], 2, "out is empty"),
    (["explain", "nvidia", "", "--track", "lake", "--out", "out"], 2, "artifacts is empty"),
    (["evaluate", "nvidia", "--track", "lake", "--on-error", "skip", "--video", ""], 2, "video is empty"),
    (["simulate", "--connect", "ws://127.0.0.1:9"], 1, "nobody listens"),
]


@pytest.mark.parametrize(("words", "status", "message"), WRONG, ids=[" ".join(words) for words, _, _ in WRONG])
def test_a_mistake_is_answered_in_one_line(run, tmp_path, words, status, message):
    (tmp_path / "data").mkdir()
    assert_one_line(run(*words), status, message)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["train"], ["record"], ["compare", "--model", "nvidia", "--data", "x"], ["train", "--dat", "x"]],
)
def test_words_that_are_no_command_end_with_status_2(run, words):
    status, out, err = run(*words)
    assert status == 2 and out == "" and err.startswith("usage: robostig")


def test_a_drive_is_recorded_and_the_same_words_write_the_same_again(run):
    words = ["--track", "dirt:3,lake", "--laps", "0.02", "--direction", "both", "--seed", "7"]
    status, out, _ = run("record", "first", *words, "--json")
    told = parse(out)
    assert status == 0 and told["tracks"] == ["dirt:3 forward", "dirt:3 backward", "lake:0 forward", "lake:0 backward"]
    status, out, _ = run("record", "second", *words)
    assert status == 0 and f"{told['rows']} rows" in out and "robostig train --data second" in out
    first, second = (sorted(Path(name, "IMG").iterdir()) for name in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second] and len(first) == 3 * told["rows"]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second))
    lines = [Path(name, "driving_log.csv").read_text() for name in ("first", "second")]
    assert lines[0].replace(str(Path("first").resolve()), str(Path("second").resolve())) == lines[1]


def test_a_recording_that_is_terminated_leaves_nothing_behind(tmp_path):
    words = [sys.executable, "-m", "robostig.cli", "record", "out", "--laps", "20"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not any(tmp_path.glob("out.*.partial/IMG/*.jpg")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143 and not list(tmp_path.iterdir())


def test_a_driver_is_scored_on_a_road_for_people_and_for_programs(run):
    words = ["--constant", "0", "--track", "mountain:17", "--laps", "0.1", "--direction", "both"]
    status, out, _ = run("evaluate", *words, "--json", "--video", "drive.webm")
    told = parse(out)
    assert status == 0 and list(told) == ["closed_loop"] and Path("drive.webm").stat().st_size > 10_000
    scores = told["closed_loop"]
    assert scores["autonomy"] == 0.0 and scores["interventions"] > 5 and scores["lateral_max_m"] > 1.0
    assert [each["direction"] for each in scores["tracks"]] == ["forward", "backward"]
    status, out, _ = run("evaluate", *words)
    assert status == 0 and out.splitlines()[1].startswith("mountain:17 forward") and "0.0 %" in out
    assert out.splitlines()[3].startswith("all ") and f" {scores['interventions']} " in out.splitlines()[3]


def test_a_constant_is_scored_on_a_recording_and_on_a_road_at_once(run, make_recording):
    words = ["--constant", "0", "--data", make_recording(10, size=(16, 32)), "--track", "lake", "--laps", "0.02"]
    told = parse(run("evaluate", *words, "--json")[1])
    assert told["open_loop"]["rmse"] == told["open_loop"]["rmse_zero_baseline"] and "closed_loop" in told


def test_a_recording_is_packed_and_trained_on(zoo, run, make_recording):
    recording = make_recording(40, size=(16, 32))
    status, out, _ = run("pack", recording, "--out", "packed", "--shard-mb", "0.02")
    assert status == 0 and out.startswith("40 rows and 120 pictures are in ") and "0 rows left out" in out
    assert out.splitlines()[1] == "train on it: robostig train --data packed"
    words = ["--model", "tiny1", *QUICK, "--json"]
    scores = [parse(run("train", "--data", data, *words)[1])["open_loop"] for data in (recording, "packed")]
    assert scores[0] == scores[1]
    status, _, err = run("pack", recording, "--out", "packed")
    assert status == 1 and "packed is there already" in err
    status, _, err = run("pack", recording, "--out", "other", "--shard-mb", "0")
    assert status == 2 and "--shard-mb is 0" in err and not Path("other").exists()


def test_bad_rows_are_left_out_of_what_is_packed_and_counted(run, make_recording):
    recording = make_recording(10, size=(16, 32))
    with open(recording / "driving_log.csv", "a") as file:
        file.write("nowhere.jpg,,,0.1\n")
    status, _, err = run("pack", recording, "--out", "packed")
    assert status == 1 and "row 11" in err and not Path("packed").exists()
    told = parse(run("pack", recording, "--out", "packed", "--on-error", "skip", "--json")[1])
    assert told == {
        "folder": "packed", "rows": 10, "rows_left_out": 1, "pictures": 30, "drives": 1,
        "cameras": ["center", "left", "right"], "files": 4,
    }  # fmt: skip


def test_a_recording_is_looked_at_for_people_and_for_programs(run, make_recording):
    recording = make_recording(60, size=(16, 32))
    picture = sorted((recording / "IMG").glob("center_*"))[40]
    picture.write_bytes(encode_jpeg(np.zeros((16, 32, 3), np.uint8)))
    with open(recording / "driving_log.csv", "a") as file:
        file.write("nowhere.jpg,,,0.1\n")
    status, out, _ = run("inspect", recording, "--gap-s", "0.2", "--out", "sheets/inspect.png")
    lines = {name: " ".join(rest) for name, *rest in (re.split(" {2,}", line) for line in out.splitlines())}
    assert status == 0 and lines["rows"] == "60; 1 more are left out" and lines["center"] == "pictures: 60 of 16x32"
    assert lines["rows left out: picture not found"] == "1 line 61"
    assert lines["pictures: black"] == "1 center 40"
    assert "training would stop, unless --on-error skip leaves such rows out: " in out
    assert lines["picture"] == str(Path("sheets/inspect.png"))
    assert Path("sheets/inspect.png").read_bytes().startswith(b"\x89PNG")

    status, out, _ = run("inspect", recording, "--gap-s", "0.2", "--json")
    told = parse(out)
    assert status == 0 and told["rows"] == 60 and [bad["row"] for bad in told["bad_pictures"]] == [40]
    assert sum(told["training"][name] for name in ("rows", "held_out", "gaps")) == 60
    status, out, _ = run("inspect", recording)
    assert status == 0 and out.splitlines()[-1] == f"as a picture: robostig inspect {recording} --out inspect.png"


def test_an_interruption_says_how_to_go_on(run, monkeypatch):
    monkeypatch.setattr("robostig.models.list_models", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    status, _, err = run("models")
    assert status == 130 and "interrupted" in err


COMMANDS = (
    "models",
    "record",
    "pack",
    "inspect",
    "train",
    "tune",
    "evaluate",
    "compare",
    "explain",
    "export",
    "drive",
    "simulate",
)


@pytest.fixture
def exportable(tmp_path) -> Path:
    net = nn.HybridSequential(prefix="mine_")
    with net.name_scope():
        net.add(nn.Dense(1))
    net.initialize()
    net(mx.nd.zeros((1, 3, 4, 8)))
    return save_artifact(tmp_path / "mine", net, InputSpec(4, 8), {"model": "mine"})


def test_a_model_is_exported_and_told_how_to_be_used(run, exportable, make_recording):
    status, out, _ = run("export", exportable)
    assert status == 0 and Path("mine.onnx").is_file()
    assert "on 60 frames of the built-in track" in out and "InferenceSession('mine.onnx'" in out
    data = make_recording(5, size=(48, 64))
    words = ["--with-preprocessing", "--frame-size", "48x64", "--data", data, "--out", "to/x.onnx", "--json"]
    status, out, _ = run("export", exportable, *words)
    told = parse(out)
    assert status == 0 and (told["file"], told["format"], told["frames"]) == ("to/x.onnx", "onnx", 5)
    assert told["bytes"] == Path("to/x.onnx").stat().st_size and told["parameters"] == 3 * 4 * 8 + 1
    assert told["input"]["shape"] == ["N", 48, 64, 3] and 0 <= told["max_difference"] < 1e-5
    assert set(told["latency_ms"]) == {"onnxruntime", "pilot"} and Path(told["compared_on"]).parent == data


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--frame-size", "48x64"], 2, "add --with-preprocessing"),
        (["--with-preprocessing", "--frame-size", "48"], 2, "'48' is no size of a camera's frames"),
        (["--with-preprocessing", "--frame-size", "0x64"], 2, "'0x64' is no size"),
        (["--with-preprocessing", "--frame-size", "99999x99999"], 2, "of at most 16,777,216 pixels"),
        (["--data", "nowhere"], 1, "nowhere"),
        (["--out", "."], 1, "is a folder; name a file"),
    ],
)
def test_what_cannot_be_exported_so_is_explained(run, exportable, words, status, message):
    assert_one_line(run("export", exportable, *words), status, message)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_exporting_names_what_to_install(run, exportable, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[:2] == ["robostig", "export"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = f'{package} is needed to export, and not installed: pip install "robostig[onnx]"'
    assert_one_line(run("export", exportable), 1, message)


def test_models_are_explained_on_a_road_for_people_and_for_programs(run):
    words = ["explain", "nvidia", "--track", "lake:7,dirt:7", "--laps", "0.05", "--out", "explained"]
    status, out, _ = run(*words, "--video", "looks.avi")
    assert status == 0 and "at the edges  by chance" in out and "lake:7 forward, dirt:7 forward" in out
    files = ("explained/explanation.png", "explained/explanation.json", "looks.avi")
    assert all(Path(name).stat().st_size > 1000 for name in files) and {"picture", "video"} <= set(out.split())
    status, out, _ = run(*words, "--frames", "3", "--json")
    told = parse(out)
    assert status == 0 and told == parse(Path("explained/explanation.json").read_text())
    measured = told["models"]["nvidia"]
    assert measured["artifact"] == "nvidia" and 0 < measured["chance_at_edges"] < measured["salient_at_edges"] < 1
    steering = [scene["expert"] for scene in told["shown"]]
    assert len(steering) == 3 and steering == sorted(steering) and {"place", "nvidia"} < set(told["shown"][0])


def test_several_artifacts_of_one_model_are_explained_on_a_recording(run, make_recording):
    shutil.copytree(WEIGHTS / "nvidia", "mine")
    status, out, _ = run("explain", "nvidia", "mine", "--data", make_recording(8), "--out", "explained", "--json")
    told = parse(out)
    assert status == 0 and list(told["models"]) == ["nvidia", "mine"] and "all 8 rows" in told["looked_at"]
    one, other = told["models"].values()
    assert one["salient_at_edges"] is None and {**one, "artifact": ""} == {**other, "artifact": ""}


def test_a_model_without_convolutions_cannot_be_explained(run, exportable):
    outcome = run("explain", exportable, "--track", "lake", "--out", "out")
    assert_one_line(outcome, 1, "cannot be explained: it has no convolutions")
    assert not Path("out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0 and f"example: robostig {command} " in out and ("--json" in out or command == "drive")


def test_the_command_itself_says_what_there_is(run):
    status, out, _ = run("--help")
    assert status == 0 and all(command in out for command in COMMANDS)
    assert run("--version")[:2] == (0, f"robostig {robostig.__version__}\n")


def test_arrays_can_be_trained_on_but_not_compared_on(zoo, run, tmp_path):
    (tmp_path / "data").mkdir()
    for prefix, count in (("train", 16), ("valid", 4)):
        frames = np.random.default_rng(0).integers(0, 256, (count, 6, 12, 3)).astype(np.float32)
        np.save(tmp_path / "data" / f"{prefix}_X.npy", frames)
        np.save(tmp_path / "data" / f"{prefix}_Y.npy", np.linspace(-0.5, 0.5, count, dtype=np.float32))
    status, out, _ = run("train", "--model", "tiny1", "--data", "data", *QUICK, "--json")
    assert status == 0 and parse(out)["open_loop"]["whiteness"] is None
    status, _, err = run("compare", "--data", "data", "--models", "tiny1,tiny2", *QUICK, "--track", "none")
    assert status == 1 and "holds arrays" in err


@pytest.mark.parametrize(("before", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_command_ends_with_its_terminal_unless_nohup_keeps_it(run, before, ends):
    kept = signal.signal(signal.SIGHUP, before), signal.getsignal(signal.SIGTERM)
    try:
        assert run("models")[0] == 0
        handler = signal.getsignal(signal.SIGHUP)
        assert callable(handler) == ends
        if ends:
            with pytest.raises(SystemExit) as caught:
                handler(signal.SIGHUP, None)
            assert caught.value.code == 129
    finally:
        signal.signal(signal.SIGHUP, kept[0])
        signal.signal(signal.SIGTERM, kept[1])
