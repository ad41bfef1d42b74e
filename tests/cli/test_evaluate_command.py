from __future__ import annotations

from pathlib import Path

import pytest
from outcomes import QUICK, assert_one_line, parse

from robostig.artifact import _tell_packaged, save_artifact
from robostig.backend import mx
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn


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


def test_a_driver_is_scored_on_a_road_for_people_and_for_programs(run):
    words = ["--constant", "0", "--track", "mountain:17", "--laps", "0.05", "--direction", "both"]
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
