from __future__ import annotations

import math
import re

import numpy as np
import pytest

from robostig.simulation import DIRECTIONS, LOOKS, load_track, parse_tracks
from robostig.simulation.track import CLEARANCE_M, LAP_M, SPACING_M, WINDING, Curve

SEEDS = range(60)
EVERY_LOOK = pytest.mark.parametrize("look", LOOKS)
EVERY_WAY = pytest.mark.parametrize("direction", DIRECTIONS)


@pytest.fixture(scope="module")
def roads():
    return {look: [load_track(f"{look}:{seed}").road for seed in SEEDS] for look in LOOKS}


def wrap(angle):
    return (np.asarray(angle) + math.pi) % (2 * math.pi) - math.pi


def draw_places(curve: Curve, number: int, seed: int = 0):
    """Draw places up to 4 m beside a curve, the start of a lap among them."""
    generator = np.random.default_rng(seed)
    along = np.concatenate(
        [[0.0, 1e-9, 0.2, curve.length_m - 1e-9, -0.2], generator.uniform(0, curve.length_m, number)]
    )
    return zip(along % curve.length_m, generator.uniform(-4.0, 4.0, len(along)))


def circle(radius: float, count: int = 400) -> Curve:
    angle = np.arange(count) * 2 * math.pi / count
    return Curve(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))


@EVERY_LOOK
def test_roads_are_closed_and_their_points_equally_far_apart(roads, look):
    for road in roads[look]:
        steps = np.hypot(*(np.roll(road.center.points, -1, axis=0) - road.center.points).T)  # the last one closes it
        assert steps.sum() == pytest.approx(road.center.length_m, rel=1e-9), road.name
        assert np.ptp(steps) < 0.002 * SPACING_M and steps.mean() == pytest.approx(SPACING_M, rel=0.01), road.name


@EVERY_LOOK
def test_roads_keep_the_limits_of_their_look(roads, look):
    for road in roads[look]:
        center = road.center
        assert LAP_M[0] <= center.length_m <= 1.01 * LAP_M[1], road.name
        turned = wrap(np.diff(center.headings, append=center.headings[0]))
        over_a_metre = turned + np.roll(turned, 1)
        assert np.abs(over_a_metre).max() <= 1.01 * 2 * center.spacing_m / LOOKS[look].radius_m, road.name
        assert turned.sum() == pytest.approx(2 * math.pi, abs=1e-6), f"{road.name} is no simple lap against the clock"
        assert np.abs(turned).sum() >= 0.99 * WINDING * 2 * math.pi, road.name


@EVERY_LOOK
def test_no_stretch_of_a_road_comes_near_another(roads, look):
    for road in roads[look]:
        points, spacing = road.center.points[::4], 4 * road.center.spacing_m
        distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
        steps = np.abs(np.arange(len(points))[:, None] - np.arange(len(points)))
        others = np.minimum(steps, len(points) - steps) * spacing > 2 * CLEARANCE_M + 2
        assert distance[others].min() >= CLEARANCE_M - 0.5, road.name


@EVERY_LOOK
def test_bends_begin_and_end_smoothly(roads, look):
    """From one five metres to the next, no bend goes from nothing to the tightest, as where a line meets an arc."""
    for road in roads[look]:
        bends = np.convolve(np.tile(road.center.curvatures, 2), np.ones(10) / 10, "valid")
        assert np.abs(bends[10:] - bends[:-10]).max() < 0.85 / LOOKS[look].radius_m, road.name


@EVERY_LOOK
def test_roads_bend_to_both_sides_and_are_unlike_each_other(roads, look):
    lefts = [(road.center.curvatures > 0).mean() for road in roads[look]]
    assert min(lefts) > 0.5 and max(lefts) < 0.97
    assert len({round(road.center.length_m, 9) for road in roads[look]}) == len(SEEDS)


def test_the_same_seed_has_another_road_in_another_look():
    assert len({round(load_track(f"{look}:1").road.center.length_m, 3) for look in LOOKS}) == len(LOOKS)


@EVERY_LOOK
@EVERY_WAY
def test_a_place_is_found_again_where_it_was_put(look, direction):
    for seed in range(4):
        lane = load_track(f"{look}:{seed}", direction).lane
        for along, aside in draw_places(lane, 60, seed):
            x, y, heading = lane.point_at(along, aside)
            for near in (None, along, along + lane.length_m, along - 20.0, along + 20.0):
                place = lane.locate(x, y, near_m=near)
                assert 0.0 <= place.along_m <= lane.length_m
                apart = (place.along_m - along + lane.length_m / 2) % lane.length_m - lane.length_m / 2
                assert abs(apart) < 0.01 and abs(place.aside_m - aside) < 0.005, (seed, along, aside, near)
                assert abs(wrap(place.heading - heading)) < 0.005, (seed, along, aside, near)


def test_points_of_a_circle_are_where_geometry_puts_them():
    """Against the clock: heading is a quarter turn ahead of the angle, right is outside, and it bends to the left."""
    curve = circle(50.0)
    assert curve.length_m == pytest.approx(2 * math.pi * 50.0, rel=1e-4)
    np.testing.assert_allclose(curve.curvatures, 1 / 50.0, rtol=1e-3)
    for along in (0.0, 10.0, 200.0, 314.0, -10.0, 1000.0):
        angle = along / 50.0
        for aside in (-3.0, 0.0, 3.0):
            x, y, heading = curve.point_at(along, aside)
            expected = (50.0 + aside) * math.cos(angle), (50.0 + aside) * math.sin(angle)
            assert (x, y) == pytest.approx(expected, abs=0.02)
            assert wrap(heading - angle - math.pi / 2) == pytest.approx(0.0, abs=1e-3)
            place = curve.locate(x, y)
            assert place.aside_m == pytest.approx(aside, abs=2e-3) and place.curvature == pytest.approx(0.02, rel=1e-3)


def test_an_offset_circle_is_a_circle_further_out_and_a_reversed_one_bends_the_other_way():
    np.testing.assert_allclose(np.hypot(*circle(50.0).offset(2.0).points.T), 52.0, atol=1e-3)
    back = circle(50.0).reverse()
    np.testing.assert_allclose(np.hypot(*back.offset(2.0).points.T), 48.0, atol=1e-3)
    np.testing.assert_allclose(back.curvatures, -1 / 50.0, rtol=1e-3)
    np.testing.assert_array_equal(back.reverse().points, circle(50.0).points)


@EVERY_LOOK
@EVERY_WAY
def test_the_lane_is_on_the_right_of_the_road_in_both_directions(look, direction):
    track = load_track(f"{look}:5", direction)
    center = track.road.center if direction == "forward" else track.road.center.reverse()
    places = [center.locate(x, y) for x, y in track.lane.points[::20]]
    np.testing.assert_allclose([place.aside_m for place in places], LOOKS[look].lane_m, atol=0.005)
    for place, heading in zip(places, track.lane.headings[::20]):
        assert abs(wrap(place.heading - heading)) < 0.02
    assert np.hypot(*(track.lane.points[0] - track.road.center.points[0])) == pytest.approx(
        LOOKS[look].lane_m, abs=0.01
    )


@EVERY_LOOK
def test_both_directions_share_one_road(look):
    there, back = (load_track(f"{look}:9", direction) for direction in DIRECTIONS)
    assert there.road is back.road and there.name == back.name and str(there) != str(back)
    assert there.lane.curvatures.mean() > 0.0 > back.lane.curvatures.mean()


def test_tracks_can_be_compared_and_looked_up():
    there, back, lake = load_track("mountain:2"), load_track("mountain:2", "backward"), load_track("lake")
    assert (
        there != back and there != lake and len({there: 1, back: 2, lake: 3}) == 3 and [lake, there].index(there) == 1
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lake", "lake:0"),
        ("lake:0", "lake:0"),
        ("dirt:007", "dirt:7"),
        ("  mountain:17\n", "mountain:17"),
        ("lake:999999999", "lake:999999999"),
    ],
)
def test_a_track_is_found_by_its_name(text, name):
    track = load_track(text)
    assert track.name == name and track.direction == "forward"
    np.testing.assert_array_equal(track.lane.points, load_track(name).lane.points)


NUMBERS = ["", "-1", "1.5", "1e3", "1000000000", " 7", "7:7", "\u0663"]


@pytest.mark.parametrize(
    "name",
    ["", ":", ":3", "lake 7", "lakes", "../lake", "lake\x00", "la\nke", *(f"lake:{each}" for each in NUMBERS)],
)
def test_an_unknown_track_is_refused_naming_those_there_are(name):
    with pytest.raises(ValueError, match=re.escape(f"there is no track {name!r}")) as caught:
        load_track(name)
    assert all(look in str(caught.value) for look in LOOKS) and "mountain:17" in str(caught.value)


@pytest.mark.parametrize(("name", "near"), [("lakes", "lake"), ("mountian:3", "mountain"), ("drit", "dirt")])
def test_a_track_that_is_nearly_one_is_guessed(name, near):
    with pytest.raises(ValueError, match=f"Did you mean {near}"):
        load_track(name)


@pytest.mark.parametrize("direction", ["", "both", "Forward", "left", "backwards"])
def test_an_unknown_direction_is_refused(direction):
    with pytest.raises(ValueError, match=f"the direction is {direction!r}; it is forward or backward"):
        load_track("lake", direction)


def test_names_with_commas_between_are_tracks_in_that_order():
    assert [str(track) for track in parse_tracks("dirt:2, lake")] == ["dirt:2 forward", "lake:0 forward"]
    both = ["lake:0 forward", "lake:0 backward", "dirt:2 forward", "dirt:2 backward"]
    assert [str(track) for track in parse_tracks("lake,dirt:2", "both")] == both


@pytest.mark.parametrize("names", ["", ",", "lake,", "lake,,dirt", "lake;dirt", "lake,river"])
def test_a_list_with_an_unknown_name_is_refused(names):
    with pytest.raises(ValueError, match="there is no track"):
        parse_tracks(names)


def test_a_list_in_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="the direction is 'sideways'"):
        parse_tracks("lake", "sideways")
