from __future__ import annotations

import math

import numpy as np
import pytest

from robostig.simulation import DIRECTIONS, LOOKS, Car, Simulation, Track, load_track, steer_towards
from robostig.simulation.track import Curve

SEEDS = range(6)


def drive(track: Track, *, aside_m: float = 0.0, start_m: float = 0.0, laps: float = 1.0, **settings) -> np.ndarray:
    """Let the expert drive; returns the steps' (n, 2) lateral error and steering."""
    simulation = Simulation(track, **settings)
    simulation.put_back(start_m)
    steps = []
    while simulation.laps < laps:
        steering = steer_towards(simulation.car, track.lane, simulation.place, aside_m)
        simulation.step(steering)
        steps.append((simulation.lateral_error_m, steering))
    return np.array(steps)


def make_circle(radius: float, direction: int = 1) -> Curve:
    angle = direction * np.arange(700) * 2 * math.pi / 700
    return Curve(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("look", LOOKS)
def test_the_expert_stays_in_the_lane_at_full_speed(look, direction):
    for seed in SEEDS:
        errors, steering = drive(load_track(f"{look}:{seed}", direction)).T
        assert np.abs(errors).max() < 0.6, seed
        assert np.abs(errors).mean() < 0.2 and np.abs(steering).max() < 0.6, seed
        turned = steering.mean() * (-1 if direction == "forward" else 1)  # forward is against the clock: to the left
        assert turned > 0.03, seed


@pytest.mark.parametrize("speed_mph", [5.0, 15.0, 25.0])
def test_slower_is_more_exact(speed_mph):
    errors = np.abs(drive(load_track("mountain:3"), laps=0.3, speed_mph=speed_mph)[:, 0])
    assert errors.max() < 0.5 and errors.mean() < 0.15


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("name", LOOKS)
def test_the_expert_comes_back_from_a_metre_beside_the_lane(name, side):
    errors, steering = drive(load_track(name), start_m=side, laps=0.2).T
    assert np.sign(steering[0]) == -side and abs(errors[0]) > 0.9
    assert np.abs(errors[30:]).max() < 0.5  # after two seconds
    assert (errors * side).max() < 1.15 and (errors * side)[:30].min() > -0.4


@pytest.mark.parametrize("aside_m", [-1.0, 0.7])
def test_the_expert_drives_beside_the_lane_where_told(aside_m):
    errors = drive(load_track("lake:2"), aside_m=aside_m, laps=0.5)[60:, 0]
    assert errors.mean() == pytest.approx(aside_m, abs=0.15) and np.abs(errors - aside_m).max() < 0.6


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("radius", [30.0, 60.0, 120.0])
def test_on_a_circle_the_steering_is_that_of_its_radius(radius, direction):
    lane = make_circle(radius, direction)
    x, y, heading = lane.point_at(10.0)
    steering = steer_towards(Car(x, y, heading), lane, lane.locate(x, y))
    assert steering == pytest.approx(-direction * math.degrees(math.atan(2.67 / radius)) / 25.0, rel=0.01)


def test_steering_is_never_beyond_full_lock_and_always_a_number():
    lane = make_circle(40.0)
    place = lane.locate(40.0, 0.0)
    for heading in np.linspace(-math.pi, math.pi, 33):
        for x, y in ((40.0, 0.0), (20.0, 5.0), lane.point_at(place.along_m + 9.388)[:2]):
            steering = steer_towards(Car(x, y, heading), lane, place)
            assert -1.0 <= steering <= 1.0 and math.isfinite(steering)


def test_the_expert_copes_with_a_delay():
    errors = drive(load_track("dirt:1"), delay_s=0.15)[:, 0]
    assert np.abs(errors).max() < 0.8
