from __future__ import annotations

from pathlib import Path

from outcomes import QUICK, parse


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
