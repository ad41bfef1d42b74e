from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from robostig.simulation import TOP_MPH, Car
from robostig.simulation.car import MPH, WHEELBASE_M

DT = 1 / 15


def drive(car: Car, steering: float, seconds: float, throttle=None, dt: float = DT) -> Car:
    for _ in range(round(seconds / dt)):
        car.step(steering, dt, throttle)
    return car


@pytest.mark.parametrize("steering", [0.1, 0.5, 1.0, -0.1, -0.5, -1.0])
def test_the_radius_of_a_turn_follows_from_wheelbase_and_angle(steering):
    car, radius = Car(steering=steering, speed_mps=5.0), WHEELBASE_M / math.tan(math.radians(25.0 * abs(steering)))
    middle = (0.0, -math.copysign(radius, steering))  # to the right of a car that looks along x
    for _ in range(200):
        car.step(steering, DT)
        assert math.hypot(car.x - middle[0], car.y - middle[1]) == pytest.approx(radius, rel=1e-3)
    assert car.heading == pytest.approx(-math.copysign(200 * DT * 5.0 / radius, steering), rel=1e-9)


def test_positive_steering_turns_right_and_straight_is_straight():
    right, left, straight = (drive(Car(heading=0.7), steering, 1.0) for steering in (0.3, -0.3, 0.0))
    assert right.heading < 0.7 < left.heading and straight.heading == 0.7
    assert (straight.x, straight.y) == pytest.approx((13.4112 * math.cos(0.7), 13.4112 * math.sin(0.7)))
    aside = [(car.x * math.sin(0.7) - car.y * math.cos(0.7)) for car in (right, left)]
    assert aside[0] > 1.0 and aside[1] == pytest.approx(-aside[0])


def test_wheels_turn_at_fifty_degrees_a_second():
    car, angles = Car(), []
    for _ in range(15):
        car.step(1.0, DT)
        angles.append(25.0 * car.steering)
    np.testing.assert_allclose(angles[:7], np.arange(1, 8) * 50.0 * DT)
    assert angles[-1] == 25.0
    car.step(-1.0, DT)
    assert 25.0 * car.steering == pytest.approx(25.0 - 50.0 * DT)


@pytest.mark.parametrize(("asked", "given"), [(7.0, 1.0), (-7.0, -1.0), (math.inf, 1.0), (-math.inf, -1.0)])
def test_no_wheel_turns_beyond_full_lock(asked, given):
    assert drive(Car(), asked, 2.0).steering == given


@pytest.mark.parametrize("delay_s", [0.0, 1 / 15, 0.1, 0.25, 1.0])
def test_wheels_begin_to_follow_after_the_delay(delay_s):
    car, fine = Car(delay_s=delay_s), DT / 4
    steps = 0
    while car.steering == 0.0:
        car.step(0.5, fine)
        steps += 1
    assert (steps - 1) * fine == pytest.approx(delay_s, abs=fine)
    assert drive(car, 0.5, 1.0).steering == 0.5


def test_a_delayed_car_does_the_same_later():
    commands = np.sin(np.arange(60) / 5.0)
    prompt, late = Car(), Car(delay_s=3 * DT)
    now, then = [], []
    for command in commands:
        prompt.step(command, DT)
        late.step(command, DT)
        now.append(prompt.steering)
        then.append(late.steering)
    np.testing.assert_allclose(then[3:], now[:-3], atol=1e-12)
    assert then[:3] == [0.0] * 3


def test_a_car_that_is_put_somewhere_forgets_what_it_was_told():
    car = drive(Car(delay_s=0.2, speed_mps=7.0), 1.0, 1.0)
    car.place(3.0, 4.0, 0.5)
    assert (car.x, car.y, car.heading, car.steering, car.speed_mps) == (3.0, 4.0, 0.5, 0.0, 7.0)
    car.step(0.0, DT)
    assert car.steering == 0.0 and car.heading == 0.5


@pytest.mark.parametrize("start", [0.0, 10.0, 30.0])
def test_full_throttle_ends_at_thirty_miles_an_hour(start):
    car = Car(speed_mps=start * MPH)
    speeds = []
    for _ in range(600):
        car.step(0.0, DT, throttle=1.0)
        speeds.append(car.speed_mph)
    assert max(speeds) <= TOP_MPH + 1e-9 and speeds[-1] == pytest.approx(TOP_MPH, abs=0.01)
    assert (np.diff(speeds) >= -1e-9).all()


def test_half_the_throttle_holds_half_the_speed():
    assert drive(Car(speed_mps=1.0), 0.0, 60.0, throttle=0.5).speed_mph == pytest.approx(TOP_MPH / 2, rel=1e-3)


def test_brakes_stop_the_car_where_it_stays():
    car = drive(Car(), 0.0, 4.0, throttle=-1.0)
    assert car.speed_mps == 0.0
    stood = (car.x, car.y, car.heading)
    drive(car, 1.0, 1.0, throttle=-1.0)
    assert (car.x, car.y, car.heading) == stood


def test_without_a_throttle_the_speed_is_held():
    car = drive(Car(speed_mps=10.0), 0.4, 5.0)
    assert car.speed_mps == 10.0 and car.speed_mph == pytest.approx(22.369, abs=1e-3)


def test_coasting_slows_the_car_and_never_backs_it_up():
    car = Car()
    for _ in range(1000):
        before = car.speed_mps
        car.step(0.0, DT, throttle=0.0)
        assert 0.0 <= car.speed_mps < before or before == 0.0


def test_finer_steps_lead_to_the_same_place():
    coarse, fine = (drive(Car(speed_mps=8.0), 0.3, 4.0, dt=dt) for dt in (DT, DT / 8))
    assert (coarse.x, coarse.y) == pytest.approx((fine.x, fine.y), abs=0.1)


def test_distance_driven_is_speed_times_time():
    car, length = Car(), 0.0
    for step in range(150):
        x, y = car.x, car.y
        car.step(math.sin(step / 9.0), DT)
        length += math.hypot(car.x - x, car.y - y)
    assert length == pytest.approx(150 * DT * TOP_MPH * MPH, rel=2e-3)


@pytest.mark.parametrize("steering", [math.nan, -math.nan])
def test_a_command_that_is_no_number_is_not_a_turn(steering):
    """Refused, or the wheels stay where they are; but no full lock."""
    car = Car()
    with contextlib.suppress(ValueError):
        car.step(steering, DT)
    assert car.steering == 0.0


@pytest.mark.parametrize("throttle", [3.0, -3.0])
def test_no_pedal_goes_further_than_to_the_floor(throttle):
    wild, full = (
        drive(Car(speed_mps=10.0), 0.0, 0.5, throttle=each) for each in (throttle, math.copysign(1.0, throttle))
    )
    assert wild.speed_mps == full.speed_mps
