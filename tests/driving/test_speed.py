from __future__ import annotations

import pytest

from robostig.driving.speed import SpeedController
from robostig.simulation import FRAME_S, Car


def drive(controller: SpeedController, car: Car, seconds: float, steering: float = 0.0) -> list:
    """Return the car's speed after each frame, in mph."""
    speeds = []
    for _ in range(round(seconds / FRAME_S)):
        car.step(steering, FRAME_S, controller.control(car.speed_mph, steering))
        speeds.append(car.speed_mph)
    return speeds


@pytest.mark.parametrize("set_speed_mph", [5.0, 15.0, 29.0])
@pytest.mark.parametrize("start_mps", [0.0, 13.4])
def test_the_speed_is_reached_and_held(set_speed_mph, start_mps):
    speeds = drive(SpeedController(set_speed_mph), Car(speed_mps=start_mps), 60)
    assert speeds[-150:] == pytest.approx([set_speed_mph] * 150, abs=0.2)
    if start_mps == 0.0:
        assert max(speeds) < set_speed_mph + 2.0


def test_nothing_is_wound_up_while_the_throttle_can_do_no_more():
    """A car held by its brake for a minute must not race once it is let go."""
    controller = SpeedController(15.0)
    for _ in range(900):
        assert controller.control(0.0, 0.0) == 1.0
    assert max(drive(controller, Car(speed_mps=0.0), 30)) < 17.0


def test_curves_are_taken_more_slowly_than_straights_and_left_again():
    controller, car = SpeedController(15.0), Car(speed_mps=0.0)
    straight = drive(controller, car, 30)[-1]
    gentle = drive(controller, car, 10, steering=0.1)[-1]
    left = drive(controller, car, 10, steering=-0.6)[-1]
    right = drive(controller, car, 10, steering=0.6)[-1]
    assert gentle == pytest.approx(straight, abs=0.3)
    assert left == pytest.approx(right, abs=0.3) and 5 < left < 12
    assert drive(controller, car, 20)[-1] == pytest.approx(straight, abs=0.3)


def test_one_twitch_of_the_wheel_is_no_curve():
    controller = SpeedController(15.0)
    for _ in range(300):
        controller.control(15.0, 0.0)
    controller.control(15.0, 0.5)
    assert controller.target_mph == 15.0


def test_the_throttle_brakes_but_never_puts_the_reverse_gear_in():
    controller = SpeedController(10.0)
    assert controller.control(28.0, 0.0) < -0.5
    assert all(controller.control(speed, 0.0, share=0.0) == 0.0 for speed in (0.0, 2.0, 5.0))


@pytest.mark.parametrize("speed", [0.0, -1.0, 30.1, float("nan"), float("inf")])
def test_a_speed_that_cannot_be_held_is_refused(speed):
    with pytest.raises(ValueError, match="up to 30"):
        SpeedController(speed)
