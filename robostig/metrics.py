"""How far a steering is from the human's, and how calm it is. NumPy only.

References
----------
Whiteness, the root mean square of the steering's rate of change, is the smoothness measure of Codevilla et al. and of
Tampuu et al., "A Survey of End-to-End Driving", 2020, arXiv:2003.06404. Autonomy is that of Bojarski et al. 2016,
arXiv:1604.07316, section 7. Errors on a log say little about driving
(Codevilla et al. 2018, arXiv:1809.04843): they rank models only roughly.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Union

import numpy as np

__all__ = [
    "DEGREES",
    "INTERVENTION_S",
    "LIMIT_M",
    "STRAIGHT",
    "measure_autonomy",
    "measure_whiteness",
    "resample_ratio",
    "resample_rmse",
    "score_steering",
    "summarize_latency",
]

DEGREES = 25.0  # full lock of the simulator's car: steering 1.0
LIMIT_M = 1.0  # from the middle of the lane: further off, and a person takes the wheel
INTERVENTION_S = 6.0  # what a person needs to take the wheel, put the car back and hand it over again
STRAIGHT = 0.04  # 1 degree: below this, the human drives straight


def score_steering(
    predicted: Union[Sequence[float], np.ndarray],
    human: Union[Sequence[float], np.ndarray],
    *,
    training_mean: float,
    time_s: Optional[np.ndarray] = None,
    breaks: Optional[np.ndarray] = None,
) -> Dict[str, Any]:
    """Score a steering against a human's, beside what two networks that see nothing would score.

    Parameters
    ----------
    predicted, human
        (n,) steering, -1..1, in the order of time.
    training_mean
        Mean label of the training rows: what the better of the two blind networks always answers.
    time_s
        (n,) seconds, for whiteness; without it whiteness is None.
    breaks
        (n,) bool, True where a row does not follow the one before.

    Returns
    -------
    dict
        ``frames``; ``rmse``, ``mae`` and ``mae_left``, ``mae_straight``, ``mae_right`` (by the human's steering: beyond
        1 degree, or not; None where there are no such frames); ``rmse_zero_baseline``, ``rmse_mean_baseline``,
        ``mae_zero_baseline``, ``mae_mean_baseline``; ``rmse_to_mean_baseline``, their ratio; ``correlation`` (Pearson,
        None where either is constant); ``whiteness`` and ``whiteness_human`` in degrees a second. Steering is in
        shares of full lock.

    Raises
    ------
    ValueError
        If the lengths differ, there is nothing to score, or a prediction is not finite.
    """
    predicted = np.asarray(predicted, np.float64).reshape(-1)
    human = np.asarray(human, np.float64).reshape(-1)
    if len(predicted) != len(human) or not len(human):
        raise ValueError(
            f"{len(predicted)} predictions for {len(human)} labels; there must be as many, and at least one"
        )
    broken = np.flatnonzero(~np.isfinite(predicted))
    if len(broken):
        raise ValueError(f"prediction {broken[0]} is {predicted[broken[0]]}, and {len(broken)} in all are not finite")
    error = predicted - human
    mean_baseline = _rms(human - training_mean)
    constant = predicted.std() < 1e-9 or human.std() < 1e-9
    scores: Dict[str, Any] = {
        "frames": len(human),
        "rmse": _rms(error),
        "mae": float(np.abs(error).mean()),
        "mae_left": _mean_where(np.abs(error), human < -STRAIGHT),
        "mae_straight": _mean_where(np.abs(error), np.abs(human) <= STRAIGHT),
        "mae_right": _mean_where(np.abs(error), human > STRAIGHT),
        "rmse_zero_baseline": _rms(human),
        "rmse_mean_baseline": mean_baseline,
        "mae_zero_baseline": float(np.abs(human).mean()),
        "mae_mean_baseline": float(np.abs(human - training_mean).mean()),
        # None where every label is the mean, to within the noise of float32.
        "rmse_to_mean_baseline": _rms(error) / mean_baseline if mean_baseline > 1e-6 else None,
        "correlation": None if constant else float(np.corrcoef(predicted, human)[0, 1]),
        "whiteness": None,
        "whiteness_human": None,
    }
    if time_s is not None:
        scores["whiteness"] = measure_whiteness(predicted, time_s, breaks)
        scores["whiteness_human"] = measure_whiteness(human, time_s, breaks)
    return scores


def measure_whiteness(steering: np.ndarray, time_s: np.ndarray, breaks: Optional[np.ndarray] = None) -> Optional[float]:
    """Return the root mean square of the steering's rate of change, in degrees a second; None for a single frame.

    Parameters
    ----------
    steering
        (n,) -1..1.
    time_s
        (n,) seconds.
    breaks
        (n,) bool, True where a row does not follow the one before, so that there is no rate between the two.
    """
    steps = np.diff(np.asarray(time_s, np.float64))
    turned = np.diff(np.asarray(steering, np.float64)) * DEGREES
    usable = steps > 0
    if breaks is not None:
        usable &= ~np.asarray(breaks, bool)[1:]
    return _rms(turned[usable] / steps[usable]) if usable.any() else None


def measure_autonomy(interventions: int, elapsed_s: float) -> float:
    """Return the share of the time in which nobody had to help, in percent: 10 interventions in 600 s are 90 %.

    Each intervention counts as 6 seconds; if they add up to more than all the time, autonomy is 0.
    """
    if not elapsed_s > 0.0:
        raise ValueError(f"autonomy over {elapsed_s:g} seconds means nothing; drive first")
    return max(0.0, 1.0 - interventions * INTERVENTION_S / elapsed_s) * 100.0


def resample_rmse(
    errors: Sequence[np.ndarray], stretch_ids: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """Bootstrap several models' RMSE on the same frames, by whole stretches because neighbouring frames are alike.

    Parameters
    ----------
    errors
        One (n,) array of errors a model, all on the same frames.
    stretch_ids
        (n,) integers; frames with the same number are drawn together.
    draws
        Number of resamples.
    seed
        Of the resampling.

    Returns
    -------
    numpy.ndarray
        (draws, models) RMSE; a row compares all models on the same resample.

    References
    ----------
    Block bootstrap: Kuensch, "The jackknife and the bootstrap for general stationary observations", 1989.
    """
    _, inverse = np.unique(np.asarray(stretch_ids), return_inverse=True)
    sizes = np.bincount(inverse)
    squares = np.stack([np.bincount(inverse, weights=np.asarray(error, np.float64) ** 2) for error in errors])
    return np.sqrt(resample_ratio(squares, np.broadcast_to(sizes, squares.shape), draws=draws, seed=seed))


def resample_ratio(totals: np.ndarray, sizes: np.ndarray, *, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap several models' ratio of two sums over the same groups: what it is on other groups of the same kind.

    Parameters
    ----------
    totals, sizes
        (models, groups): what is divided (interventions, say, or squares), and by what (seconds, or frames).
    draws
        Number of resamples.
    seed
        Of the resampling.

    Returns
    -------
    numpy.ndarray
        (draws, models); a row compares all models on the same resample.
    """
    groups = totals.shape[1]
    chosen = np.random.default_rng(seed).integers(0, groups, (draws, groups))
    return (totals[:, chosen].sum(-1) / sizes[:, chosen].sum(-1)).T


def summarize_latency(seconds: Sequence[float]) -> Dict[str, float]:
    """Return the median and the 99th percentile of durations, in milliseconds: ``p50`` and ``p99``."""
    p50, p99 = np.percentile(np.asarray(seconds, np.float64) * 1000.0, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _mean_where(values: np.ndarray, where: np.ndarray) -> Optional[float]:
    return float(values[where].mean()) if where.any() else None
