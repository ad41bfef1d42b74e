from __future__ import annotations

import numpy as np
import pytest
from outcomes import QUICK, parse


def test_recordings_of_several_kinds_are_trained_on_packed_and_scored(zoo, run, make_recording, make_tub):
    data = "--data", make_recording(60, size=(32, 64)), "--data", make_tub(60)
    status, out, err = run("train", "--model", "tiny1", *data, "--out", "artifact", *QUICK, "--json")
    assert status == 0 and "60 of 120 rows have no side cameras" in err
    scores = parse(out)["open_loop"]
    assert run("pack", data[1], data[3], "--out", "packed")[1].startswith("120 rows and 240 pictures are in ")
    for words in (data, ("--data", "packed")):
        again = parse(run("evaluate", "artifact", *words, "--json")[1])
        assert "held-out rows" in again["rows"] and again["open_loop"]["rmse"] == pytest.approx(scores["rmse"])


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
