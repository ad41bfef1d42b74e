from __future__ import annotations

import numpy as np
import pytest

from robostig.metrics import (
    DEGREES,
    STRAIGHT,
    measure_autonomy,
    measure_whiteness,
    resample_ratio,
    resample_rmse,
    score_steering,
    summarize_latency,
)

HUMAN = [-0.2, 0.0, 0.02, 0.4]
PREDICTED = [-0.1, 0.0, 0.12, 0.2]  # errors 0.1, 0, 0.1, -0.2


def test_errors_by_hand():
    scores = score_steering(PREDICTED, HUMAN, training_mean=0.1)
    expected = {
        "frames": 4,
        "rmse": (0.06 / 4) ** 0.5,
        "mae": 0.1,
        "mae_left": 0.1,
        "mae_straight": 0.05,
        "mae_right": 0.2,
        "rmse_zero_baseline": (0.2004 / 4) ** 0.5,
        "mae_zero_baseline": 0.155,
        "rmse_mean_baseline": (0.1964 / 4) ** 0.5,
        "mae_mean_baseline": 0.195,
        "rmse_to_mean_baseline": (0.06 / 0.1964) ** 0.5,
        "correlation": np.corrcoef(PREDICTED, HUMAN)[0, 1],
        "whiteness": None,
        "whiteness_human": None,
    }
    assert scores == {name: pytest.approx(value) for name, value in expected.items()}


def test_a_perfect_prediction_scores_zero_and_one():
    scores = score_steering(HUMAN, HUMAN, training_mean=0.0)
    assert scores["rmse"] == scores["mae"] == scores["rmse_to_mean_baseline"] == 0.0
    assert scores["correlation"] == pytest.approx(1.0)


def test_steering_of_exactly_one_degree_is_straight():
    scores = score_steering([0.0, 0.0], [STRAIGHT, -STRAIGHT], training_mean=0.0)
    assert scores["mae_left"] is None and scores["mae_right"] is None
    assert scores["mae_straight"] == pytest.approx(STRAIGHT)


@pytest.mark.parametrize(("predicted", "human"), [([0.1, 0.1], [0.0, 0.3]), ([0.0, 0.3], [0.1, 0.1]), ([0.2], [0.1])])
def test_correlation_with_a_constant_is_none(predicted, human):
    assert score_steering(predicted, human, training_mean=0.0)["correlation"] is None


def test_the_ratio_to_a_baseline_without_error_is_none():
    assert score_steering([0.2, 0.1], [0.1, 0.1], training_mean=0.1)["rmse_to_mean_baseline"] is None


@pytest.mark.parametrize(
    ("predicted", "human", "message"),
    [
        ([0.1], [0.1, 0.2], "1 predictions for 2 labels"),
        ([], [], "0 predictions for 0 labels"),
        ([0.1, np.nan, np.inf], [0.1, 0.2, 0.3], "prediction 1 is nan, and 2 in all"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted, human, message):
    with pytest.raises(ValueError, match=message):
        score_steering(predicted, human, training_mean=0.0)


def test_whiteness_by_hand():
    # 0.1 of full lock in 0.1 s and -0.1 in 0.2 s: 25 and -12.5 degrees a second.
    assert measure_whiteness([0.0, 0.1, 0.0], [0.0, 0.1, 0.3]) == pytest.approx(((25**2 + 12.5**2) / 2) ** 0.5)


def test_whiteness_ignores_breaks_and_a_clock_that_stands_or_goes_back():
    steering, time_s = [0.0, 0.1, -1.0, -0.9, 1.0, 0.5], [0.0, 0.1, 9.0, 9.1, 9.1, 9.0]
    breaks = [True, False, True, False, False, False]
    assert measure_whiteness(steering, time_s, breaks) == pytest.approx(0.1 * DEGREES / 0.1)


@pytest.mark.parametrize("time_s", [[0.0], [0.0, 0.0], [np.nan, np.nan], [1.0, 0.0]])
def test_whiteness_is_none_where_there_is_no_step(time_s):
    assert measure_whiteness(np.zeros(len(time_s)), time_s) is None


def test_whiteness_stands_beside_the_humans():
    scores = score_steering([0.0, 0.1, 0.0], [0.0, 0.2, 0.0], training_mean=0.0, time_s=np.array([0.0, 0.1, 0.2]))
    assert scores["whiteness"] == pytest.approx(25.0)
    assert scores["whiteness_human"] == pytest.approx(50.0)


def make_errors(size: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, 400)


def test_identical_models_do_not_differ_in_any_resample():
    errors = make_errors(0.1, 0)
    rmse = resample_rmse([errors, errors], np.arange(400) // 20, draws=300)
    assert rmse.shape == (300, 2)
    np.testing.assert_array_equal(rmse[:, 0], rmse[:, 1])
    assert rmse[:, 0].std() > 0
    assert rmse[:, 0].mean() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.03)


def test_a_clearly_better_model_wins_nearly_every_resample():
    rmse = resample_rmse([make_errors(0.05, 0), make_errors(0.1, 1)], np.arange(400) // 20, draws=500)
    assert (rmse[:, 0] < rmse[:, 1]).mean() > 0.99


def test_two_alike_models_share_the_resamples():
    rmse = resample_rmse([make_errors(0.1, 0), make_errors(0.1, 1)], np.arange(400) // 20, draws=500)
    assert 0.02 < (rmse[:, 0] < rmse[:, 1]).mean() < 0.98


def test_frames_of_a_stretch_are_drawn_together():
    rmse = resample_rmse([np.array([1.0, 1.0, 1.0, 3.0])], np.array([7, 7, 7, 3]), draws=200)
    assert set(np.unique(rmse.round(6))) == {1.0, 3.0, round(3.0**0.5, 6)}


def test_resampling_follows_its_seed():
    first, again, other = (
        resample_rmse([make_errors(0.1, 0)], np.arange(400), draws=20, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_models_scored_on_different_frames_are_refused():
    with pytest.raises(ValueError):
        resample_rmse([np.zeros(4), np.zeros(3)], np.arange(4))


def test_latency_in_milliseconds():
    assert summarize_latency(np.arange(101) / 1000) == pytest.approx({"p50": 50.0, "p99": 99.0})


def test_a_constant_drive_has_no_ratio_to_its_mean():
    human = np.full(50, 0.3, np.float32)
    assert score_steering(human + 0.1, human, training_mean=0.3)["rmse_to_mean_baseline"] is None


@pytest.mark.parametrize(
    ("interventions", "elapsed_s", "percent"),
    [(10, 600.0, 90.0), (0, 1.0, 100.0), (1, 6.0, 0.0), (1, 12.0, 50.0), (7, 10.0, 0.0), (1, 600.0, 99.0)],
)
def test_autonomy_is_nvidias(interventions, elapsed_s, percent):
    assert measure_autonomy(interventions, elapsed_s) == pytest.approx(percent)


@pytest.mark.parametrize("elapsed_s", [0.0, -1.0, float("nan")])
def test_autonomy_over_no_time_is_refused(elapsed_s):
    with pytest.raises(ValueError, match="drive first"):
        measure_autonomy(0, elapsed_s)


def test_a_resampled_ratio_is_of_sums_over_the_same_groups_for_all_models():
    sizes = np.array([[1.0, 3.0, 6.0]] * 2)
    ratios = resample_ratio(np.array([[2.0, 6.0, 12.0], [1.0, 0.0, 0.0]]), sizes, draws=300)
    assert ratios.shape == (300, 2)
    np.testing.assert_allclose(ratios[:, 0], 2.0)  # as large in every group
    times, all_groups = np.unique(ratios[:, 1].round(9)), {0.0, round(1 / 10, 9), 1.0}
    assert all_groups <= set(times) and times.max() == 1.0
    np.testing.assert_array_equal(
        ratios, resample_ratio(np.array([[2.0, 6.0, 12.0], [1.0, 0.0, 0.0]]), sizes, draws=300)
    )
