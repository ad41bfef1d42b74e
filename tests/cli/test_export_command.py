from __future__ import annotations

import sys
from pathlib import Path

import pytest
from outcomes import assert_one_line, parse


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
