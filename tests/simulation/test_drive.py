from __future__ import annotations

import math
import re

import numpy as np
import pytest

from robostig.simulation import DIRECTIONS, FRAME_S, TOP_MPH, Simulation, load_track, steer_towards

LAKE = load_track("lake")


def follow(simulation: Simulation, laps: float) -> Simulation:
    while simulation.laps < laps:
        simulation.step(steer_towards(simulation.car, simulation.track.lane, simulation.place))
    return simulation


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_drive_begins_in_the_middle_of_the_lane_where_a_lap_does(direction):
    track = load_track("mountain:17", direction)
    simulation = Simulation(track)
    assert simulation.lateral_error_m == pytest.approx(0.0, abs=1e-6) and simulation.laps == simulation.time_s == 0.0
    assert (simulation.car.x, simulation.car.y, simulation.car.heading) == track.lane.point_at(0.0)
    assert simulation.car.speed_mph == pytest.approx(TOP_MPH)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_laps_are_counted_across_their_start(direction):
    simulation = follow(Simulation(load_track("dirt:3", direction)), 2.1)
    length = simulation.track.lane.length_m
    assert 2.1 * length <= simulation.travelled_m < 2.1 * length + 1.5
    assert simulation.place.along_m == pytest.approx(simulation.travelled_m - 2 * length, abs=0.1)
    driven = simulation.time_s * simulation.car.speed_mps
    assert simulation.travelled_m == pytest.approx(driven, rel=0.02)  # the lane, but for what corners cut and wobble


def test_who_drives_the_wrong_way_comes_no_further():
    simulation = Simulation(LAKE)
    simulation.car.heading += math.pi
    for _ in range(30):
        simulation.step(0.0)
    assert simulation.travelled_m == pytest.approx(-30 * FRAME_S * simulation.car.speed_mps, rel=0.05)
    assert simulation.laps < 0.0


def test_the_error_is_positive_on_the_right():
    right, left = Simulation(LAKE), Simulation(LAKE)
    for _ in range(8):
        right.step(0.5)
        left.step(-0.5)
    assert right.lateral_error_m > 0.3 and left.lateral_error_m < -0.3


@pytest.mark.parametrize("aside_m", [-1.2, 0.0, 0.8])
def test_a_car_is_put_back_where_it_came_off(aside_m):
    simulation = follow(Simulation(LAKE), 0.1)
    for _ in range(20):
        simulation.step(1.0)
    before = simulation.travelled_m
    simulation.put_back(aside_m)
    assert simulation.lateral_error_m == pytest.approx(aside_m, abs=0.01) and simulation.car.steering == 0.0
    assert simulation.travelled_m == pytest.approx(before, abs=0.05)
    heading = LAKE.lane.point_at(simulation.place.along_m)[2]
    assert math.remainder(simulation.car.heading - heading, 2 * math.pi) == pytest.approx(0.0, abs=0.01)


def test_putting_back_many_times_gains_nothing():
    simulation = follow(Simulation(LAKE), 0.2)
    before = simulation.travelled_m
    for _ in range(500):
        simulation.put_back()
    assert simulation.travelled_m == pytest.approx(before, abs=0.1)


def test_the_same_commands_are_the_same_drive():
    drives = [Simulation(LAKE, delay_s=0.1) for _ in range(2)]
    for step in range(120):
        for simulation in drives:
            simulation.step(0.3 * math.sin(step / 7.0), throttle=0.8)
    assert drives[0].car == drives[1].car and drives[0].travelled_m == drives[1].travelled_m


def test_cameras_look_from_where_the_car_is():
    simulation = Simulation(LAKE)
    before = {mount: simulation.look(mount) for mount in ("center", "left", "right")}
    assert {frame.shape for frame in before.values()} == {(160, 320, 3)}
    np.testing.assert_array_equal(before["center"], simulation.look())
    simulation.step(0.0)
    for mount, frame in before.items():
        assert np.abs(simulation.look(mount).astype(int) - frame).mean() > 1.0


@pytest.mark.parametrize("speed_mph", [0.0, -1.0, 30.1, math.nan, math.inf])
def test_an_impossible_speed_is_refused(speed_mph):
    with pytest.raises(ValueError, match=re.escape(f"the speed is {speed_mph:g} mph")):
        Simulation(LAKE, speed_mph=speed_mph)


@pytest.mark.parametrize("delay_s", [-0.1, 2.1, math.nan, math.inf])
def test_an_impossible_delay_is_refused(delay_s):
    with pytest.raises(ValueError, match=re.escape(f"the delay is {delay_s:g} s")):
        Simulation(LAKE, delay_s=delay_s)


def test_an_unknown_camera_is_refused_naming_those_there_are():
    with pytest.raises(ValueError, match=r"front.*center"):
        Simulation(LAKE).look("front")
