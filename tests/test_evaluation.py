from __future__ import annotations

import numpy as np
import pytest
from conftest import draw_road

from robostig.driving_log import read_driving_log
from robostig.evaluation import evaluate_on_log, evaluate_open_loop


@pytest.fixture
def log(make_recording):
    return read_driving_log(make_recording(40, size=(32, 64)))


def test_a_perfect_driver_has_no_error(log):
    answers = iter(log.steering)
    result = evaluate_on_log(lambda frame: float(next(answers)), log, np.arange(40), training_mean=0.25)
    scores = result.scores
    assert (scores["frames"], scores["rmse"], scores["mae"], scores["rmse_to_mean_baseline"]) == (40, 0.0, 0.0, 0.0)
    assert scores["correlation"] == pytest.approx(1.0)
    assert scores["whiteness"] == scores["whiteness_human"] > 0
    assert scores["rmse_mean_baseline"] == pytest.approx(np.sqrt(np.mean((log.steering - 0.25) ** 2)), rel=1e-5)
    np.testing.assert_array_equal(result.predicted, result.human)


def test_drivers_that_see_nothing_score_as_the_baselines(log):
    human = log.steering.astype(np.float64)
    for constant, baseline in ((0.0, "zero"), (0.25, "mean")):
        scores = evaluate_on_log(lambda frame: constant, log, np.arange(40), training_mean=0.25).scores  # noqa: B023
        assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((human - constant) ** 2)), abs=1e-12)
        assert scores["mae"] == pytest.approx(np.mean(np.abs(human - constant)), abs=1e-12)
        assert (
            scores["rmse"] == scores[f"rmse_{baseline}_baseline"]
            and scores["mae"] == scores[f"mae_{baseline}_baseline"]
        )
        assert scores["correlation"] is None and scores["whiteness"] == 0.0


def test_a_driver_sees_the_raw_frames_of_its_rows_in_rgb(log):
    seen = []
    rows = np.array([3, 4, 20])
    result = evaluate_on_log(lambda frame: seen.append(frame) or 0.0, log, rows)
    np.testing.assert_array_equal(result.human, log.steering[rows])
    for frame, row in zip(seen, rows):
        assert frame.shape == (32, 64, 3) and frame.dtype == np.uint8
        drawn = draw_road(float(log.steering[row]), height=32, width=64).astype(int)
        assert np.abs(frame - drawn).mean() < 12  # JPEG changes colours a little
        assert np.abs(frame[:8] - np.array((120, 170, 220))).max() < 40  # the sky is blue, not brown


def test_there_is_no_rate_of_turn_between_rows_that_do_not_follow_each_other(log):
    answers = iter([0.0, 0.0, 1.0, 1.0])
    scores = evaluate_on_log(lambda frame: next(answers), log, np.array([3, 4, 20, 21])).scores
    assert scores["whiteness"] == 0.0
    answers = iter([0.0, 0.0, 1.0, 1.0])
    whiteness = evaluate_on_log(lambda frame: next(answers), log, np.arange(4)).scores["whiteness"]
    assert whiteness == pytest.approx(
        np.sqrt((25 * 15) ** 2 / 3), rel=0.02
    )  # one step of full lock in 1/15 s, of three


def test_the_time_to_an_answer_is_measured_in_milliseconds():
    latency = evaluate_open_loop(
        lambda frame: 0.0, np.zeros((20, 2, 2, 3), np.uint8), np.zeros(20, np.float32)
    ).latency_ms
    assert 0 < latency["p50"] <= latency["p99"] < 50


def test_an_answer_that_is_not_a_number_is_refused(log):
    with pytest.raises(ValueError, match="prediction 0 is nan"):
        evaluate_on_log(lambda frame: float("nan"), log, np.arange(3))


def test_a_picture_that_cannot_be_decoded_is_named(log):
    with open(log.pictures["center"][5], "r+b") as file:
        file.truncate(300)
    with pytest.raises(ValueError, match=r"center_.*\.jpg"):
        evaluate_on_log(lambda frame: 0.0, log, np.arange(40))
