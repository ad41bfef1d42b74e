from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest

from robostig import roads
from robostig.artifact import load_artifact, read_facts
from robostig.backend import mx
from robostig.closed_loop import ClosedLoop, Drive
from robostig.comparison import choose, compare
from robostig.config import TrainingConfig
from robostig.evaluation import OpenLoop
from robostig.metrics import score_steering
from robostig.pipeline import TrainedModel, evaluate_artifact
from robostig.simulation import LOOKS, parse_tracks
from robostig.training import EpochRecord, TrainingResult

nn = mx.gluon.nn

HUMAN = 0.5 * np.sin(np.arange(300) / 10.0)
BLOCKS = np.arange(300) // 10
TRACKS = parse_tracks("lake:1,lake:2,lake:3,mountain:1,mountain:2,mountain:3,dirt:1,dirt:2")
CONFIG = TrainingConfig(epochs=2, batch_size=16, gap_s=0.2, side_cameras=0.0, device="cpu")


def make_driver(name: str, error: np.ndarray, milliseconds: float) -> TrainedModel:
    """Make a model that steers as the human does, but for an error."""
    scores = score_steering(HUMAN + error, HUMAN, training_mean=0.0)
    history = (EpochRecord(1, 0.1, 0.1, 0.001, 1.0, 100.0),)
    result = TrainingResult(history, 1, False, 0, ("cpu(0)",), np.zeros(1, np.float32))
    latency = {"p50": milliseconds, "p99": milliseconds}
    return TrainedModel(name, Path(name), 1, result, OpenLoop(HUMAN + error, HUMAN, scores, latency))


def drive(model: TrainedModel, offsets: Sequence[float], *, helped: Sequence[int] = ()) -> TrainedModel:
    """Let a model drive: on road after road, so far from the middle, with so many interventions."""
    drives = []
    for number, offset in enumerate(offsets):
        steps = 200
        intervened = np.zeros(steps, bool)
        intervened[: helped[number] if helped else 0] = True
        zeros, along = np.zeros(steps, np.float32), np.linspace(0, 180, steps, dtype=np.float32)
        error = np.full(steps, offset, np.float32)
        drives.append(Drive(TRACKS[number], zeros, zeros, along, error, zeros, zeros, intervened, 1.0))
    return replace(model, closed_loop=ClosedLoop(tuple(drives), 1.0))


def make_noise(seed: int, size: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, 300)


def test_the_model_that_is_clearly_closer_to_the_human_is_chosen_however_slow():
    models = {"slow": make_driver("slow", make_noise(0), 50.0), "quick": make_driver("quick", make_noise(1, 0.2), 1.0)}
    choice, reason = choose(models, BLOCKS)
    assert choice == "slow"
    assert reason.startswith("slow should drive: it is the closest to the driver.")
    assert (
        f"{models['quick'].open_loop.scores['rmse'] * 25:.2f} degrees" in reason
        and "closer than quick in 100%" in reason
    )


def test_of_models_that_cannot_be_told_apart_the_quickest_is_chosen():
    models = {
        "slow": make_driver("slow", make_noise(0), 5.0),
        "quick": make_driver("quick", np.roll(make_noise(0), 150) * 1.001, 1.0),
        "bad": make_driver("bad", make_noise(2, 0.3), 0.1),
    }
    choice, reason = choose(models, BLOCKS)
    assert choice == "quick"
    assert "does not tell" in reason and "quick 1.0 ms and slow 5.0 ms" in reason
    assert choose(dict(reversed(list(models.items()))), BLOCKS)[0] == "quick"  # whatever the order


def test_a_single_model_is_chosen_and_says_so():
    choice, reason = choose({"only": make_driver("only", make_noise(0), 1.0)}, BLOCKS)
    assert choice == "only" and reason.startswith("only is the only model") and "But" not in reason


@pytest.mark.parametrize("count", [1, 2])
def test_models_worse_than_answering_the_mean_come_with_a_warning(count):
    models = {name: make_driver(name, make_noise(seed, 0.9), 1.0) for seed, name in enumerate("ab"[:count])}
    assert choose(models, BLOCKS)[1].endswith("record more driving before letting one drive.")


def test_who_needs_less_help_drives_though_further_from_the_human_and_slower():
    models = {
        "near": drive(make_driver("near", make_noise(0, 0.01), 1.0), [0.1] * 8, helped=[0, 1, 0, 0, 0, 0, 0, 0]),
        "safe": drive(make_driver("safe", make_noise(1, 0.2), 9.0), [0.3] * 8),
    }
    choice, reason = choose(models, BLOCKS)
    assert choice == "safe" and reason.startswith("safe should drive: it needs the least help.")
    assert "safe needed nobody (autonomy 100.0 %" in reason and "near 1 intervention (autonomy 94.4 %" in reason
    assert "where 95% would be sure" in reason  # one of eight roads is often not drawn


def test_a_difference_on_every_road_is_sure():
    models = {
        "poor": drive(make_driver("poor", make_noise(0), 1.0), [0.3] * 8, helped=[3] * 8),
        "good": drive(make_driver("good", make_noise(0), 1.0), [0.3] * 8, helped=[1] * 8),
    }
    choice, reason = choose(models, BLOCKS)
    assert choice == "good" and "in 100% of the draws." in reason and "would be sure" not in reason


def test_of_those_who_need_no_help_the_one_nearer_to_the_middle_drives():
    models = {
        "wide": drive(make_driver("wide", make_noise(0), 1.0), [0.3, 0.4, 0.3, 0.5, 0.3, 0.3, 0.4, 0.3]),
        "near": drive(make_driver("near", make_noise(0), 9.0), [0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2]),
    }
    choice, reason = choose(models, BLOCKS)
    assert choice == "near" and "keeps closest to the middle of its lane" in reason
    assert "0.15 m RMSE" not in reason and "0.16 m RMSE" in reason  # the root of the mean square


def test_of_those_that_roads_do_not_tell_apart_the_quickest_drives():
    models = {
        "slow": drive(make_driver("slow", make_noise(0), 5.0), [0.1, 0.5, 0.1, 0.5, 0.1, 0.5, 0.1, 0.4]),
        "quick": drive(make_driver("quick", make_noise(0), 2.0), [0.5, 0.1, 0.5, 0.1, 0.5, 0.1, 0.5, 0.1]),
    }
    choice, reason = choose(models, BLOCKS)
    assert choice == "quick" and "do not tell" in reason and "quick 2.0 ms and slow 5.0 ms" in reason


def test_of_three_the_share_is_of_draws_in_which_the_best_beats_both():
    models = {
        "best": drive(make_driver("best", make_noise(0), 1.0), [0.1] * 8),
        "left": drive(make_driver("left", make_noise(0), 1.0), [0.1] * 8, helped=[1, 0, 0, 0, 0, 0, 0, 0]),
        "right": drive(make_driver("right", make_noise(0), 1.0), [0.1] * 8, helped=[0, 0, 1, 0, 0, 0, 0, 0]),
    }
    choice, reason = choose(models, BLOCKS)
    assert choice == "best"
    share = int(reason.split("in ")[-1].split("%")[0])
    assert share == pytest.approx(100 * (1 - 2 * (7 / 8) ** 8 + (6 / 8) ** 8), abs=3)  # both roads are drawn


def test_one_road_is_no_sample_of_roads():
    models = {
        "slow": drive(make_driver("slow", make_noise(0), 5.0), [0.300]),
        "quick": drive(make_driver("quick", make_noise(0), 1.0), [0.301]),
    }
    rng = np.random.default_rng(0)
    for name, model in models.items():
        (driven,) = model.closed_loop.drives
        error = (driven.lateral_error_m + rng.normal(0, 0.1, len(driven.x))).astype(np.float32)
        models[name] = replace(model, closed_loop=ClosedLoop((replace(driven, lateral_error_m=error),), 1.0))
    choice, reason = choose(models, BLOCKS)
    assert choice == "quick" and "Drawing pieces of 50 m again" in reason and "of 1 road:" in reason


def test_what_is_known_of_the_roads_is_said(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(roads, "TRAINING_ROADS", dict.fromkeys(LOOKS, 2))
    monkeypatch.setattr(roads, "TRAINING_LAPS", 0.03)
    monkeypatch.setattr("robostig.comparison.DRIVES", 0.0)
    config = replace(CONFIG, stretch_s=1.0)
    for names, said in (("lake:103,dirt:103", "2 roads that none has seen"), ("lake:2,dirt:103", "lake:2 among those")):
        comparison = compare(None, ["tiny1"], tmp_path / "out", config, tracks=parse_tracks(names), laps=0.02)
        assert said in comparison.reason
        facts = read_facts(tmp_path / "out" / "tiny1")
        assert said in facts["scores"]["closed_loop"]["roads"]
        assert [each["track"] for each in facts["scores"]["closed_loop"]["tracks"]] == names.split(",")
        assert facts["data"]["origin"].endswith(
            "0.03 laps each of lake:1 to lake:2, mountain:1 to mountain:2, dirt:1 to dirt:2, seed 0"
        )
        card = (tmp_path / "out" / "tiny1" / "README.md").read_text()
        assert said in card and "| licence | Apache-2.0, as RoboStig" in card and str(tmp_path) not in card


def test_where_none_can_drive_closeness_to_the_human_decides_and_the_reason_says_so():
    models = {
        "near": drive(make_driver("near", make_noise(0, 0.01), 1.0), [0.9] * 8, helped=[20] * 8),
        "far": drive(make_driver("far", make_noise(0, 0.3), 1.0), [0.9] * 8, helped=[1] * 8),
    }
    models["far"] = drive(models["far"], [0.9] * 8, helped=[19] * 8)
    choice, reason = choose(models, BLOCKS)
    assert choice == "near" and "none drives well enough to be ranked by it: at best, autonomy is 0 %" in reason


def test_a_single_model_that_has_driven_is_chosen_with_how_it_did():
    choice, reason = choose({"only": drive(make_driver("only", make_noise(0), 1.0), [0.2] * 8)}, BLOCKS)
    assert choice == "only" and "needed nobody" in reason and "8 roads" in reason


def test_a_comparison_trains_scores_chooses_and_writes_it_down(zoo, make_recording, tmp_path):
    recording, out = make_recording(80, size=(32, 64)), tmp_path / "out"
    tracks = parse_tracks("dirt:5", "both")
    comparison = compare(recording, ["tiny2", "tiny1"], out, CONFIG, tracks=tracks, laps=0.03)
    text = (out / "comparison.json").read_text()
    written = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert written == json.loads(json.dumps(comparison.to_dict(out)))
    assert written["choice"] == comparison.choice in ("tiny1", "tiny2") and written["choice"] in written["reason"]
    assert list(written["models"]) == ["tiny2", "tiny1"]
    assert written["data"]["rows"] == 80 and "held out" in written["data"]["split"]
    assert str(tmp_path) not in text
    blind = written["blind"]["closed_loop"]
    assert blind["autonomy"] == 0.0 and len(blind["tracks"]) == 2
    for name, model in written["models"].items():
        numbers = [
            *(model["open_loop"][key] for key in ("rmse", "mae", "whiteness", "correlation", "rmse_mean_baseline")),
            *(model["latency_ms"][key] for key in ("p50", "p99")),
            *(model["training"][key] for key in ("seconds", "epochs", "images_per_second")),
        ]
        assert all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
        driven = model["closed_loop"]
        assert {"autonomy", "interventions", "lateral_rmse_m", "lateral_max_m", "whiteness"} <= set(driven)
        assert {"distance_per_intervention_m", "tracks", "elapsed_s", "laps", "simulated_s"} <= set(driven)
        assert [(each["track"], each["direction"]) for each in driven["tracks"]] == [
            ("dirt:5", "forward"),
            ("dirt:5", "backward"),
        ]
        assert model["open_loop"]["frames"] == len(comparison.split.validation)
        artifact = load_artifact(out / model["artifact"])
        assert artifact.model == name and artifact.facts["config"]["model"] == name
        again, rows = evaluate_artifact(artifact.folder, recording)
        assert again.scores["rmse"] == pytest.approx(model["open_loop"]["rmse"], abs=1e-6) and "held-out" in rows


def test_of_recordings_that_were_joined_every_one_is_named(zoo, make_recording, tmp_path):
    places = [make_recording(40, name=name, size=(16, 32), seed=seed) for seed, name in enumerate(("a/drive", "b"))]
    compare(places, ["tiny1"], tmp_path / "out", replace(CONFIG, epochs=1), tracks=[])
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())["data"]
    assert (data["folder"], data["joined"]) == ("drive, b", ["drive", "b"])


@pytest.mark.parametrize(
    ("models", "message"),
    [(["tiny1", "tinny2"], "did you mean 'tiny2'"), ([], "none"), (["tiny1", "tiny1"], "name each model once")],
)
def test_names_that_cannot_be_are_refused_before_anything_is_trained(zoo, make_recording, tmp_path, models, message):
    with pytest.raises(ValueError, match=message):
        compare(make_recording(10, size=(16, 32)), models, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_arrays_are_refused_for_their_frames_have_no_order(zoo, tmp_path):
    for prefix in ("train", "valid"):
        np.save(tmp_path / f"{prefix}_X.npy", np.full((4, 6, 12, 3), 100, np.float32))
        np.save(tmp_path / f"{prefix}_Y.npy", np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="holds arrays; a comparison needs a driving log"):
        compare(tmp_path, ["tiny1"], tmp_path / "out", CONFIG, tracks=[])


def test_a_drive_too_short_to_split_is_refused(zoo, make_recording, tmp_path):
    with pytest.raises(ValueError, match="too short to split"):
        compare(make_recording(4, size=(16, 32)), ["tiny1"], tmp_path / "out", replace(CONFIG, gap_s=10.0), tracks=[])


def test_without_data_the_expert_is_recorded_and_roads_that_it_did_not_drive_are_driven(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(roads, "TRAINING_ROADS", dict.fromkeys(LOOKS, 2))
    monkeypatch.setattr(roads, "TRAINING_LAPS", 0.03)
    config = replace(CONFIG, stretch_s=1.0)
    comparison = compare(None, ["tiny1"], tmp_path / "out", config, tracks=parse_tracks("lake:103"), laps=0.02)
    assert comparison.is_built_in and (tmp_path / "out" / "recording" / "driving_log.csv").is_file()
    again = compare(None, ["tiny1"], tmp_path / "out", config, tracks=[])
    assert again.log.fingerprint() == comparison.log.fingerprint() and again.blind is None
    assert "closed_loop" not in again.to_dict(tmp_path)["models"]["tiny1"]
