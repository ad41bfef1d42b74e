from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from outcomes import parse


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
