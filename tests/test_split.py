from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robostig.driving_log import Drive, DrivingLog
from robostig.split import split_by_time


def make_log(time_s: np.ndarray) -> DrivingLog:
    """Make a log of these times, of which nothing but time is looked at."""
    zeros = np.zeros(len(time_s), np.float32)
    names = [f"{row}.jpg" for row in range(len(time_s))]
    return DrivingLog(
        Path("made-up.csv"), {"center": names}, zeros, zeros, zeros, zeros, np.asarray(time_s, np.float64)
    )


def drive(seconds: float, hz: float = 15.0, pause_at: float = 0.0) -> DrivingLog:
    time_s = np.arange(0, seconds, 1 / hz)
    return make_log(np.where(time_s < pause_at, time_s, time_s + 60.0))


@settings(deadline=None, max_examples=150)
@given(
    seconds=st.floats(2, 400),
    hz=st.sampled_from([5.0, 14.3, 15.0, 20.0]),
    pause_at=st.floats(0, 400),
    fraction=st.sampled_from([0.1, 0.2, 0.25, 0.5]),
    stretch_s=st.floats(0.2, 60),
    gap_s=st.floats(0, 15),
)
def test_a_split_keeps_its_promises_or_is_refused(seconds, hz, pause_at, fraction, stretch_s, gap_s):
    log = drive(seconds, hz, pause_at)
    try:
        split = split_by_time(log, fraction=fraction, stretch_s=stretch_s, gap_s=gap_s)
    except ValueError as error:
        assert "too short to split" in str(error)
        return
    clock = log.driving_clock()
    assert (np.diff(split.train) > 0).all() and (np.diff(split.validation) > 0).all()
    assert len(split.train) + len(split.validation) + split.left_out == len(log)
    after = np.searchsorted(clock[split.validation], clock[split.train])
    assert len(split.validation) > 0 and not np.isin(split.train, split.validation).any()
    for neighbour in (np.maximum(after - 1, 0), np.minimum(after, len(split.validation) - 1)):
        distance = np.abs(clock[split.validation[neighbour]] - clock[split.train])
        assert distance.min() >= gap_s - 1e-6
    # Each held-out run is a whole stretch: as long as the others, to within a frame at both ends.
    runs = np.split(split.validation, np.flatnonzero(np.diff(split.validation) > 1) + 1)
    duration, period = clock[-1] + 1 / 15, round(1 / fraction)
    stretches = max(period, round(duration / stretch_s / period) * period)
    if duration / stretches > 3 / hz:
        assert len(runs) == stretches // period
        lengths = [clock[run[-1]] - clock[run[0]] for run in runs]
        assert np.ptp(lengths) <= 2 / hz + 1e-6
        assert abs(len(split.validation) - fraction * len(log)) <= 2 * len(runs) + 2


def test_the_defaults_hold_out_a_fifth_in_stretches_of_ten_seconds():
    split = split_by_time(drive(200.0))
    runs = np.split(split.validation, np.flatnonzero(np.diff(split.validation) > 1) + 1)
    assert [len(run) for run in runs] == [150] * 4
    assert split.left_out == 4 * 2 * 15
    assert split.description.startswith("4 of 20 stretches of 10.0 s held out, every 5th")
    assert "2,280 rows to train on, 600 held out, 120 in gaps" in split.description


def test_a_gap_longer_than_a_stretch_reaches_across_it():
    split = split_by_time(drive(4.0), gap_s=1.0)  # stretches of 0.8 s
    clock = drive(4.0).driving_clock()
    distance = np.abs(clock[split.train][:, None] - clock[split.validation])
    assert distance.min() >= 1.0


def test_a_log_without_times_is_split_as_if_recorded_at_15_hz():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = split_by_time(make_log(np.full(3000, np.nan)))
    np.testing.assert_array_equal(split.validation, split_by_time(drive(200.0)).validation)


def test_rows_out_of_order_do_not_leak_into_training():
    log = drive(200.0)
    shuffled = make_log(np.random.default_rng(0).permutation(log.time_s))
    split = split_by_time(shuffled, fraction=0.02, gap_s=1.0)
    held_out = shuffled.time_s[split.validation]
    apart = np.abs(shuffled.time_s[split.train][:, None] - held_out).min()
    assert apart >= 1.0
    with pytest.raises(ValueError, match="not in the order of time, sort them"):
        split_by_time(shuffled)


def test_rows_that_stand_twice_are_not_both_trained_on_and_held_out():
    log = drive(100.0)
    twice = make_log(np.concatenate([log.time_s, log.time_s[300:600]]))
    split = split_by_time(twice)
    assert not set(twice.time_s[split.train]) & set(twice.time_s[split.validation])


def test_a_drive_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"made-up.csv is too short to split: 15 rows, 1.0 s of driving"):
        split_by_time(drive(1.0))


@pytest.mark.parametrize(
    "values", [{"fraction": 0.0}, {"fraction": 0.51}, {"fraction": float("nan")}, {"stretch_s": 0.0}, {"gap_s": -1.0}]
)
def test_an_impossible_split_is_refused(values):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"{name.replace('fraction', 'fraction is ')}=?{value}"):
        split_by_time(drive(100.0), **values)


def join_drives(folder: Path, *drives: DrivingLog) -> DrivingLog:
    """Join made-up drives, with pictures that are empty and named by time."""
    starts = np.cumsum([0, *map(len, drives)]).tolist()
    pictures = []
    for number, log in enumerate(drives):
        (folder / str(number)).mkdir()
        pictures += [folder / str(number) / f"{time_s:.3f}.jpg" for time_s in log.time_s]
    for path in pictures:
        path.touch()
    return replace(
        drives[0],
        pictures={"center": [str(path) for path in pictures]},
        steering=np.concatenate([log.steering for log in drives]),
        time_s=np.concatenate([log.time_s for log in drives]),
        drives=tuple(Drive(str(number), start) for number, start in enumerate(starts[:-1])),
    )


def test_drives_recorded_at_the_same_time_are_no_neighbours(tmp_path):
    first = drive(100.0)
    second = replace(first, steering=first.steering + np.float32(0.5))
    assert split_by_time(join_drives(tmp_path, first, second)).left_out == 4 * 2 * 15


@pytest.mark.parametrize("place", ["another drive", "the same drive"])
def test_copies_without_times_do_not_leak_into_training(tmp_path, place):
    whole = drive(100.0)
    whole = replace(whole, steering=np.sin(np.arange(len(whole))).astype(np.float32))
    part = slice(300, 600)
    log = join_drives(tmp_path, whole, replace(make_log(whole.time_s[part]), steering=whole.steering[part]))
    log = replace(log, time_s=np.full(len(log), np.nan))
    if place == "the same drive":
        log = replace(log, drives=log.drives[:1])
    split = split_by_time(log)
    row = np.concatenate([np.arange(len(whole)), np.arange(300, 600)])
    trained, held_out = row[split.train], row[split.validation]
    copies = trained[split.train >= len(whole)]
    assert np.abs(trained[:, None] - held_out).min() > 0
    assert len(copies) and np.abs(copies[:, None] - held_out[split.validation < len(whole)]).min() >= 15


def test_parts_of_one_drive_in_several_folders_do_not_leak_into_training(tmp_path):
    whole = drive(100.0)
    other = replace(whole, steering=whole.steering + np.float32(0.5))
    log = join_drives(tmp_path, other, whole, make_log(whole.time_s[300:600]))
    split = split_by_time(log)
    trained, held_out = (log.time_s[rows[rows >= len(other)]] for rows in (split.train, split.validation))
    assert np.abs(trained[:, None] - held_out).min() >= 1.0 - 1e-6
    assert set(log.time_s[split.train[split.train < len(other)]]) & set(held_out)
