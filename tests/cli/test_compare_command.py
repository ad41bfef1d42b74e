from __future__ import annotations

from pathlib import Path

from outcomes import QUICK, parse

from robostig.cli import _build_parser
from robostig.models import list_models

DRIVE = ["--track", "lake:9", "--laps", "0.02"]


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
