from __future__ import annotations

import shutil
from pathlib import Path

from outcomes import assert_one_line, parse

from robostig.artifact import WEIGHTS


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
