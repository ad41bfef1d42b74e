from __future__ import annotations

from outcomes import assert_one_line, parse

from robostig.models import list_models


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
