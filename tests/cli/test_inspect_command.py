from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from outcomes import parse

from robostig.picture import encode_jpeg


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
