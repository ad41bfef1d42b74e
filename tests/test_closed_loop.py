from __future__ import annotations

import json
import math
import re
from typing import Callable, Iterator, Sequence

import numpy as np
import pytest

from robostig.backend import mx
from robostig.camera import HEIGHT, WIDTH
from robostig.closed_loop import LIMIT_M, ClosedLoop, Constant, Drive, evaluate_closed_loop
from robostig.metrics import measure_whiteness
from robostig.picture import decode_picture
from robostig.pilot import Pilot
from robostig.preprocessing import InputSpec
from robostig.simulation import DIRECTIONS, FRAME_S, LOOKS, Simulation, Track, load_track, parse_tracks, steer_towards

LAKE, MOUNTAIN = load_track("lake"), load_track("mountain:17")
BOTH = parse_tracks("lake", "both")


def navigate(tracks: Sequence[Track], laps: float = 1.0, error: Callable[[int], float] = lambda step: 0.0, **settings):
    """Return a driver who does not look, but knows map and car so well that it always knows where it must be by now.

    It steers as the expert, but for an ``error`` at each step.
    """

    def reckon() -> Iterator[float]:
        step = 0
        for track in tracks:
            simulation = Simulation(track, **settings)
            while simulation.laps < laps:
                steering = steer_towards(simulation.car, track.lane, simulation.place) + error(step)
                yield steering
                simulation.step(steering)
                if abs(simulation.lateral_error_m) > 1.0:
                    simulation.put_back()
                step += 1

    answers = reckon()
    return lambda frame: next(answers)


def let_drive(tracks: Sequence[Track], laps: float = 1.0, error=lambda step: 0.0, watch=None, **settings) -> ClosedLoop:
    driver = navigate(tracks, laps, error, **settings)
    return evaluate_closed_loop(driver, tracks, laps=laps, watch=watch, **settings)


def doze(step: int) -> float:
    """Pull to the right for almost a second, every now and then."""
    return 0.5 if step % 180 >= 168 else 0.0


@pytest.fixture(scope="module")
def dozed() -> Drive:
    """A drive with interventions here and there."""
    return let_drive([MOUNTAIN], error=doze, laps=0.7).drives[0]


@pytest.fixture(scope="module")
def pilot() -> Pilot:
    nn = mx.gluon.nn
    net = nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0))
        net.add(nn.Conv2D(4, 3, 2), nn.ELU(), nn.Flatten(), nn.Dense(1))
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    return Pilot(net, InputSpec(12, 24, crop_top=0.4))


@pytest.mark.parametrize("steering", [0.0, -0.3, 1.0])
@pytest.mark.parametrize("name", LOOKS)
def test_who_never_looks_needs_help_all_the_time(name, steering):
    loop = evaluate_closed_loop(Constant(steering), parse_tracks(name, "both"), laps=0.5)
    for scores in (loop.scores, *(drive.summarize() for drive in loop.drives)):
        assert scores["autonomy"] == 0.0 and scores["distance_per_intervention_m"] < 20.0
        assert scores["lateral_rmse_m"] > 0.4 and scores["lateral_max_m"] > LIMIT_M
        assert scores["whiteness"] == 0.0 < scores["whiteness_expert"]


def test_the_expert_needs_no_help_on_any_look_in_any_direction():
    for name in LOOKS:
        loop = let_drive(parse_tracks(name, "both"), laps=0.1)
        assert loop.scores["autonomy"] == 100.0 and loop.scores["interventions"] == 0
        assert loop.scores["distance_per_intervention_m"] is None
        assert loop.scores["lateral_rmse_m"] < 0.25 and loop.scores["lateral_max_m"] < 0.6
        assert loop.scores["whiteness"] == pytest.approx(loop.scores["whiteness_expert"], rel=1e-3)


def test_the_expert_beside_a_driver_is_the_expert():
    (drive,) = let_drive([LAKE], laps=0.1).drives
    np.testing.assert_array_equal(drive.steering, drive.expert)
    (drive,) = let_drive([LAKE], laps=0.1, error=lambda step: 0.01).drives
    np.testing.assert_allclose(drive.steering - drive.expert, 0.01, atol=1e-6)


def test_scores_by_hand(dozed):
    scores, steps = dozed.summarize(), len(dozed.steering)
    helped = np.abs(dozed.lateral_error_m) > 1.0
    assert 2 <= helped.sum() <= 6 and 0.0 < scores["autonomy"] < 80.0
    assert scores["track"] == "mountain:17" and scores["direction"] == "forward"
    assert scores["interventions"] == helped.sum()
    assert scores["autonomy"] == pytest.approx((1 - 6.0 * helped.sum() / (steps / 15)) * 100)
    assert scores["simulated_s"] == pytest.approx(steps / 15)
    assert scores["distance_m"] == pytest.approx(dozed.along_m[-1])
    assert scores["laps"] == pytest.approx(dozed.along_m[-1] / dozed.track.lane.length_m)
    assert scores["distance_per_intervention_m"] == pytest.approx(dozed.along_m[-1] / helped.sum())
    assert scores["lateral_rmse_m"] == pytest.approx(np.sqrt(np.mean(dozed.lateral_error_m.astype(float) ** 2)))
    assert scores["lateral_max_m"] == pytest.approx(np.abs(dozed.lateral_error_m).max())
    rates = np.diff(dozed.steering.astype(float)) * 25.0 * 15
    rates = rates[~helped[:-1]]  # not from before the car was put back to after
    assert scores["whiteness"] == pytest.approx(np.sqrt(np.mean(rates**2)), rel=1e-5)


def make_drive(errors, whiteness_expert: float = 1.0, steps: int = 9000) -> Drive:
    """Make a drive of ten minutes with these errors at its beginning."""
    lateral = np.zeros(steps, np.float32)
    lateral[: len(errors)] = errors
    zeros = np.zeros(steps, np.float32)
    along = np.linspace(0.0, 8000.0, steps, dtype=np.float32)
    return Drive(LAKE, zeros, zeros, along, lateral, zeros, zeros, np.abs(lateral) > 1.0, whiteness_expert)


def test_ten_interventions_in_ten_minutes_are_ninety_percent():
    scores = make_drive([1.1, -1.2] * 5).summarize()
    assert scores["interventions"] == 10 and scores["autonomy"] == pytest.approx(90.0)
    assert scores["distance_per_intervention_m"] == pytest.approx(800.0)
    assert ClosedLoop((make_drive([2.0] * 200),), 1.0).scores["autonomy"] == 0.0


def test_scores_of_several_drives_are_those_of_all_their_steps():
    short, long = make_drive([1.5] * 4, 3.0, steps=3000), make_drive([1.5], 1.0, steps=9000)
    scores = ClosedLoop((short, long), 7.5).summarize()
    assert scores["autonomy"] == pytest.approx((1 - 5 * 6 / 800) * 100) and scores["interventions"] == 5
    assert scores["lateral_rmse_m"] == pytest.approx(math.sqrt(5 * 1.5**2 / 12000))
    assert scores["whiteness_expert"] == pytest.approx(math.sqrt((3000 * 3.0**2 + 9000 * 1.0**2) / 12000))
    assert scores["distance_m"] == pytest.approx(16000.0) and scores["elapsed_s"] == 7.5
    assert scores["laps"] == pytest.approx(16000 / LAKE.lane.length_m)
    assert scores["tracks"] == [short.summarize(), long.summarize()]


def test_there_is_no_steering_rate_from_one_drive_to_the_next():
    left, right = (make_drive([], steps=10) for _ in range(2))
    left.steering[:], right.steering[:] = -1.0, 1.0
    assert ClosedLoop((left, right), 1.0).scores["whiteness"] == 0.0


def test_the_summary_is_plain_json(dozed):
    summary = ClosedLoop((dozed,), 1.0).summarize()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    names = {"autonomy", "interventions", "lateral_rmse_m", "lateral_max_m", "whiteness", "distance_per_intervention_m"}
    assert names <= set(summary) and names | {"track", "direction"} <= set(summary["tracks"][0])


def test_a_car_that_comes_off_is_put_back_into_the_middle(dozed):
    off = np.flatnonzero(dozed.intervened)
    np.testing.assert_array_equal(dozed.intervened, np.abs(dozed.lateral_error_m) > LIMIT_M)
    assert len(off) and np.abs(dozed.lateral_error_m[off]).max() < 1.5  # noticed at once
    after = off[off + 1 < len(dozed.intervened)] + 1
    assert np.abs(dozed.lateral_error_m[after]).max() < 0.1
    moved = np.hypot(np.diff(dozed.x), np.diff(dozed.y))
    np.testing.assert_allclose(np.delete(moved, off), 13.4112 * FRAME_S, rtol=0.02)
    assert (np.diff(dozed.along_m)[off[off < len(dozed.along_m) - 1]] < 1.2).all()  # and no further on


def test_positions_and_errors_belong_together(dozed):
    for step in range(0, len(dozed.x), 17):
        place = dozed.track.lane.locate(float(dozed.x[step]), float(dozed.y[step]))
        assert place.aside_m == pytest.approx(dozed.lateral_error_m[step], abs=0.01)
        assert place.along_m == pytest.approx(dozed.along_m[step] % dozed.track.lane.length_m, abs=0.3)


@pytest.mark.parametrize("laps", [0.1, 1.0, 1.3])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_as_many_laps_are_driven_as_asked_for(laps, direction):
    track = load_track("dirt:3", direction)
    (drive,) = evaluate_closed_loop(Constant(), [track], laps=laps).drives
    assert laps * track.lane.length_m <= drive.along_m[-1] < laps * track.lane.length_m + 1.1
    assert drive.along_m[-2] < laps * track.lane.length_m and drive.track is track
    arrays = (drive.x, drive.y, drive.along_m, drive.lateral_error_m, drive.steering, drive.expert)
    assert {array.shape for array in arrays} == {drive.intervened.shape}
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)} and drive.intervened.dtype == bool


@pytest.mark.parametrize(
    "answer", [math.nan, math.inf, -math.inf, np.float32("nan"), "left", None, [0.1, 0.2]], ids=repr
)
def test_an_answer_that_is_no_number_is_refused_naming_track_and_time(answer):
    answers = iter([0.0] * 15)
    with pytest.raises(ValueError, match=re.escape("after 1.0 s on lake:0 backward")) as caught:
        evaluate_closed_loop(lambda frame: next(answers, answer), [load_track("lake", "backward")])
    assert str(answer) in str(caught.value)


def test_a_network_that_answers_nan_is_refused_too(pilot):
    class Broken(Pilot):
        def steer_many(self, frames):
            answers = super().steer_many(frames)
            answers[-1] = np.nan
            return answers

    with pytest.raises(ValueError, match=r"nan after 0.0 s on lake:0 backward"):
        evaluate_closed_loop(Broken(pilot.net, pilot.spec), BOTH, laps=0.05)


def test_what_goes_wrong_in_a_driver_is_not_swallowed():
    def fall_asleep(frame):
        raise InterruptedError("asleep")

    with pytest.raises(InterruptedError, match="asleep"):
        evaluate_closed_loop(fall_asleep, [LAKE])


@pytest.mark.parametrize(
    ("answer", "used"), [(7.0, 1.0), (-7.0, -1.0), (np.float32(0.5), 0.5), (np.array(-0.25), -0.25)]
)
def test_answers_are_cut_off_at_full_lock(answer, used):
    seen = []
    loop = evaluate_closed_loop(
        lambda frame: answer, [LAKE], laps=0.02, watch=lambda moment: seen.append(moment.steering)
    )
    assert set(loop.drives[0].steering.tolist()) == set(seen) == {used}


def test_a_driver_is_given_pictures_as_the_camera_takes_them():
    frames = []

    def look(frame):
        frames.append(frame)
        return 0.0

    evaluate_closed_loop(look, [LAKE], laps=0.01)
    assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for frame in frames)
    assert len(frames) > 5 and (frames[0] != frames[-1]).mean() > 0.3


def test_not_looking_is_the_same_as_being_blind():
    blind, bored = (
        evaluate_closed_loop(driver, [LAKE], laps=0.1).drives[0] for driver in (Constant(0.1), lambda frame: 0.1)
    )
    assert_same(blind, bored)
    assert blind.snapshots == bored.snapshots


def assert_same(one: Drive, other: Drive, atol: float = 0.0) -> None:
    assert str(one.track) == str(other.track) and one.whiteness_expert == other.whiteness_expert
    for name in ("x", "y", "along_m", "lateral_error_m", "steering", "expert", "intervened"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0.0, atol=atol, err_msg=name)


def test_tracks_driven_together_are_driven_as_one_by_one(pilot):
    tracks = [*BOTH, MOUNTAIN]
    together = evaluate_closed_loop(pilot, tracks, laps=0.05)
    watched = evaluate_closed_loop(pilot, tracks, laps=0.05, watch=lambda moment: None)
    assert [drive.track for drive in together.drives] == tracks
    for number, track in enumerate(tracks):
        alone = evaluate_closed_loop(pilot, [track], laps=0.05).drives[0]
        steered = evaluate_closed_loop(pilot.steer, [track], laps=0.05).drives[0]
        for other in (alone, steered, watched.drives[number]):
            assert_same(together.drives[number], other, atol=1e-3)
        assert [step for step, _ in alone.snapshots] == [step for step, _ in together.drives[number].snapshots]
    assert np.ptp(together.drives[0].steering) > 1e-3  # it does look
    assert len({len(drive.steering) for drive in together.drives}) > 1  # and some are done before others


def test_an_untrained_network_drives_badly(pilot):
    scores = evaluate_closed_loop(pilot, parse_tracks("lake,mountain:17"), laps=0.1).scores
    assert scores["autonomy"] < 50.0 and scores["distance_per_intervention_m"] < 60.0


def test_snapshots_are_pictures_from_all_over_the_drive():
    (drive,) = evaluate_closed_loop(Constant(), [LAKE], laps=0.5).drives
    steps = [step for step, _ in drive.snapshots]
    assert steps[0] == 0 and steps == sorted(set(steps)) and len(steps) == 8
    np.testing.assert_allclose(np.diff(drive.along_m[steps]), 0.5 * LAKE.lane.length_m / 8, atol=2.0)
    pictures = [decode_picture(data, str(step)) for step, data in drive.snapshots]
    assert {picture.shape for picture in pictures} == {(HEIGHT, WIDTH, 3)}
    assert all((one != other).any() for one, other in zip(pictures, pictures[1:]))


def test_who_watches_sees_every_step_and_changes_nothing(dozed):
    moments = []
    (drive,) = let_drive([MOUNTAIN], error=doze, laps=0.4, watch=moments.append).drives
    steps = len(drive.steering)
    assert len(moments) == steps and {moment.frame.shape for moment in moments} == {(HEIGHT, WIDTH, 3)}
    np.testing.assert_allclose([moment.steering for moment in moments], drive.steering, atol=1e-6)
    np.testing.assert_allclose([moment.expert for moment in moments], drive.expert, atol=1e-6)
    before = np.concatenate([[0], np.cumsum(drive.intervened)[:-1]])
    assert [moment.interventions for moment in moments] == before.tolist() and before[-1] > 0
    for name in ("x", "y", "steering"):
        np.testing.assert_array_equal(getattr(drive, name), getattr(dozed, name)[:steps])


def test_who_watches_sees_the_car_before_it_moves():
    places = []
    watch = lambda moment: places.append((moment.simulation.car.x, moment.simulation.time_s))  # noqa: E731
    (drive,) = evaluate_closed_loop(Constant(), [LAKE], laps=0.02, watch=watch).drives
    assert places[0] == (LAKE.lane.point_at(0.0)[0], 0.0)
    np.testing.assert_allclose([x for x, _ in places[1:]], drive.x[:-1], atol=1e-3)


@pytest.mark.parametrize("driver", [Constant(0.05), Constant(-1.0)])
def test_the_same_driver_drives_the_same_again(driver):
    for first, again in zip(*(evaluate_closed_loop(driver, BOTH, laps=0.3).drives for _ in range(2))):
        assert_same(first, again)
        assert first.snapshots == again.snapshots


def test_a_delay_makes_driving_harder():
    tracks = [load_track("dirt:3")]
    prompt, late = (let_drive(tracks, laps=0.25, delay_s=delay_s).scores for delay_s in (0.0, 0.4))
    assert late["lateral_rmse_m"] > 1.5 * prompt["lateral_rmse_m"]
    assert late["whiteness_expert"] == prompt["whiteness_expert"]  # a measure of the road, which stays the same


def test_slower_takes_longer():
    fast, slow = (evaluate_closed_loop(Constant(), [LAKE], laps=0.2, speed_mph=speed).scores for speed in (30.0, 15.0))
    assert slow["simulated_s"] == pytest.approx(2 * fast["simulated_s"], rel=0.1)
    assert slow["distance_m"] == pytest.approx(fast["distance_m"], abs=1.5)


@pytest.mark.parametrize("laps", [0.0, -1.0, math.nan, math.inf, 1000.5])
def test_impossible_laps_are_refused(laps):
    with pytest.raises(ValueError, match=f"laps is {laps:g}; it is more than 0 and at most 1000"):
        evaluate_closed_loop(Constant(), [LAKE], laps=laps)


@pytest.mark.parametrize(
    ("tracks", "settings", "message"),
    [
        ([], {}, "name at least one track"),
        ([LAKE], {"speed_mph": 0.0}, "the speed is 0 mph"),
        ([LAKE], {"speed_mph": 31.0}, "the speed is 31 mph"),
        ([LAKE], {"delay_s": -0.1}, "the delay is -0.1 s"),
        ([LAKE], {"delay_s": 3.0}, "the delay is 3 s"),
    ],
)
def test_what_cannot_be_driven_is_refused(tracks, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_closed_loop(Constant(), tracks, **settings)


def test_the_shortest_drive_is_one_step():
    scores = evaluate_closed_loop(Constant(), [LAKE], laps=0.001).summarize()
    assert scores["simulated_s"] == pytest.approx(FRAME_S) and scores["whiteness"] is None
    assert scores["autonomy"] == 100.0 and json.dumps(scores, allow_nan=False)


def test_the_experts_whiteness_is_measured_on_the_same_drive():
    (drive,) = let_drive([MOUNTAIN], laps=0.2, speed_mph=20.0).drives
    own = measure_whiteness(drive.expert, np.arange(len(drive.expert)) * FRAME_S)
    assert drive.whiteness_expert == pytest.approx(own, rel=1e-3)
