"""The benchmarks' arithmetic, their page, and that each of them runs or says why it cannot."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import ROOT

FOLDER = ROOT / "benchmarks"
pytestmark = pytest.mark.default_python("make bench runs in its environment alone")


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))  # as for python benchmarks/NAME.py
    monkeypatch.syspath_prepend(str(ROOT))  # as for python -m benchmarks


@pytest.fixture
def harness() -> Any:
    return importlib.import_module("benchmarks.harness")


@pytest.fixture
def runner() -> Any:
    return importlib.import_module("benchmarks.__main__")


@pytest.fixture
def drive(make_recording, monkeypatch) -> Path:
    """Return a small recording, which the benchmarks measure with."""
    recording = make_recording(60)
    monkeypatch.setenv("ROBOSTIG_DATA", str(recording))
    return recording


BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if "report.finish()" in path.read_text("utf-8"))
NEED_TORCH = ["epoch", "inference", "training_step"]


def test_a_ratio_is_the_median_of_the_rounds_ratios(harness):
    ours, peer = (
        harness.Figure("ours", [10.0, 40.0, 60.0], "images/s"),
        harness.Figure("peer", [5.0, 10.0, 60.0], "images/s"),
    )
    comparison = harness.Comparison("speed", ours, peer, goal=2.0)
    assert list(comparison.ratios) == [2.0, 4.0, 1.0]
    assert comparison.ratio == 2.0  # the ratio of the medians would be 4
    assert comparison.is_met
    assert comparison.describe_ratio() == "2.00 (1.50 to 3.00)"
    assert not harness.Comparison("speed", ours, peer, goal=2.1).is_met
    assert harness.Comparison("speed", ours, peer).is_met is None


def test_less_time_is_better(harness):
    ours, peer = harness.Figure("ours", [2.0, 4.0], "ms"), harness.Figure("peer", [8.0, 8.0], "ms")
    comparison = harness.Comparison("time", ours, peer, goal=3.5, more_is_better=False)
    assert list(comparison.ratios) == [4.0, 2.0]
    assert comparison.ratio == 3.0 and comparison.is_met is False


@pytest.mark.parametrize(
    "values, text",
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], "3.00 ms (2.00 to 4.00)"),
        ([1234.5], "1,234 ms"),
        ([0.0123, 0.0123], "0.0123 ms"),
        ([0.0], "0 ms"),
    ],
)
def test_a_figure_is_its_median_and_quartiles_with_three_digits(harness, values, text):
    assert str(harness.Figure("latency", values, "ms")) == text


def test_sides_take_turns_and_warm_up_once(harness):
    order: List[str] = []
    count = {"a": 0, "b": 0}

    def measure(name: str) -> float:
        order.append(name)
        count[name] += 1
        return float(count[name])

    values = harness.measure_in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert values == {"a": [2.0, 3.0, 4.0], "b": [2.0, 3.0, 4.0]}


def make_record(harness, name: str, **changes: Any) -> Dict[str, Any]:
    report = harness.Report(name, "this against that", argparse.Namespace(quick=True, json=None))
    sides = (harness.Figure(side, [value, value + 2.0], "rows/s") for side, value in (("ours", 30.0), ("peer|2", 10.0)))
    report.add(harness.Comparison("a | b", *sides, goal=5.0))
    report.add(harness.Figure("elsewhere", [7.0], "MB"))
    report.note("both were\nequal")
    return {**report.to_dict(), "machine": "a machine", "versions": {"python": "3.x"}, **changes}


def test_the_page_shows_what_was_found_and_what_was_not(harness):
    page = importlib.import_module("benchmarks.page")
    records = [
        make_record(harness, "simulation"),
        {"name": "endpoint", "date": "2022-04-28", "problem": "there is no Java"},
    ]
    text = page.render(json.loads(json.dumps(records)))
    assert "Measured on a machine, with python 3.x." in text
    assert "| [simulation](#simulation) | 0 of 1 | this against that |" in text
    assert (
        r"| a \| b | ours: 31.0 rows/s (30.5 to 31.5) | peer\|2: 11.0 rows/s (10.5 to 11.5) | 2.83 (2.75 to 2.92) |"
        in text
    )
    assert "| 5 | **no** |" in text
    assert "| elsewhere | 7.00 MB |" in text and "- both were equal\n" in text
    assert "`python benchmarks/simulation.py --quick`" in text
    assert text.count("not measured on 2022-04-28: there is no Java") == 1
    assert "**Not measured on 2022-04-28: there is no Java**" in text
    assert "A camera takes 15." not in text and "a camera takes 15" in text  # of the benchmark's own docstring


def test_machines_are_told_apart_where_they_differ(harness):
    page = importlib.import_module("benchmarks.page")
    text = page.render([make_record(harness, "simulation"), make_record(harness, "driving", machine="another")])
    assert "Measured on" not in text
    assert "on a machine, with python 3.x" in text and "on another, with python 3.x" in text


def test_all_benchmarks_are_run(runner):
    assert sorted(runner.BENCHMARKS) == BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_says_what_it_takes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--quick" in shown and "--json" in shown and f"python benchmarks/{name}.py" in shown


@pytest.mark.parametrize("name", NEED_TORCH)
def test_without_pytorch_a_benchmark_says_what_to_install(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert stop.value.code == 2
    assert 'pip install "robostig[bench]"' in capsys.readouterr().err


def test_only_what_is_named_is_measured_anew(harness, runner, drive, tmp_path, capsys):
    folder = tmp_path / "page"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "simulation.json").write_text(json.dumps(make_record(harness, "simulation")))
    assert runner.main(["--quick", "--only", "packed_log"], folder) == 0
    assert "read the bytes of all pictures" in capsys.readouterr().out
    found = json.loads((folder / "results" / "packed_log.json").read_text("utf-8"))
    assert [len(each["ours"]["values"]) for each in found["comparisons"]] == [3, 3, 3]
    assert "60 rows, the same bytes in both forms" in found["notes"][0]
    page = (folder / "RESULTS.md").read_text("utf-8")
    assert "| elsewhere | 7.00 MB |" in page and "| read the log | packed: " in page
    assert page.index("## simulation") < page.index("## packed_log")


def test_what_cannot_be_measured_is_named_and_a_failure_is_no_success(runner, tmp_path, monkeypatch, capsys):
    names = {"refuses": "harness.refuse('no such thing')", "breaks": "1 / 0"}
    for name, words in names.items():
        (tmp_path / f"{name}.py").write_text(
            f'"""About."""\nimport sys\nsys.path.append({str(FOLDER)!r})\nimport harness\n{words}\n'
        )
    monkeypatch.setattr(runner, "HERE", tmp_path)
    monkeypatch.setattr("benchmarks.page.FOLDER", tmp_path)
    monkeypatch.setattr(runner, "BENCHMARKS", tuple(names))
    assert runner.main(["--only", "refuses"], tmp_path) == 0
    assert runner.main(["--only", "refuses,breaks"], tmp_path) == 1
    page = (tmp_path / "RESULTS.md").read_text("utf-8")
    assert ": no such thing**" in page and ": ZeroDivisionError: division by zero**" in page
    shown = capsys.readouterr().out
    assert "not measured: no such thing" in shown and "failed: breaks" in shown
    with pytest.raises(SystemExit):
        runner.main(["--only", "nothing"], tmp_path)
    assert "there is no nothing; there are refuses, breaks" in capsys.readouterr().err
