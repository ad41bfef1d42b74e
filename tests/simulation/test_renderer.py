from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from robostig import camera
from robostig.simulation import DIRECTIONS, load_track
from robostig.simulation.renderer import BONNET, Renderer
from robostig.simulation.scenery import ACROSS_M, SURFACE_REACH_M

NAMES = ("lake", "mountain:17", "dirt:3")
MOUNTS = tuple(camera.ASIDE_M)
EVERY_MOUNT = pytest.mark.parametrize("mount", MOUNTS)
ACROSS = np.arange(-SURFACE_REACH_M, SURFACE_REACH_M + ACROSS_M / 2, ACROSS_M)  # where texels are
HORIZON_ROW = round(camera.HORIZON * camera.HEIGHT)

# Of pictures from three places of each road by all three cameras. If the world is meant to look different, take what
# the test prints.
GOLDEN = {
    "lake": "44821cfba64b241c",
    "mountain:17": "5f6a56dc38f6d5d1",
    "dirt:3": "e68f2df4debed707",
}


@pytest.fixture(scope="module")
def renderers():
    return {name: Renderer(load_track(name).road) for name in NAMES}


@pytest.fixture(scope="module", params=NAMES)
def renderer(request, renderers):
    return renderers[request.param]


@pytest.fixture(scope="module")
def bare(renderers):
    """A world in which nothing stands beside the road."""
    return {name: without_things(each) for name, each in renderers.items()}


def without_things(renderer: Renderer) -> Renderer:
    bare = copy.copy(renderer)
    bare.scenery = replace(renderer.scenery, things=np.empty((0, 3)))
    return bare


def list_poses(name: str, number: int = 3):
    lane = load_track(name).lane
    for place in range(number):
        x, y, heading = lane.point_at(place * 97.3, 0.8 * (place - 1))
        yield round(x, 3), round(y, 3), round(heading + 0.1 * (place - 1), 4)


def draw_all(renderer: Renderer, name: str):
    return [renderer.draw(*pose, mount) for pose in list_poses(name) for mount in MOUNTS]


def look_ahead(x: float, y: float, heading: float, point, mount: str = "center"):
    """Return where a point of the ground is from a camera: metres ahead and to the right."""
    dx, dy = point[0] - x, point[1] - y
    ahead = dx * math.cos(heading) + dy * math.sin(heading) - camera.AHEAD_M
    return ahead, dx * math.sin(heading) - dy * math.cos(heading) - camera.ASIDE_M[mount]


def test_pictures_are_the_same_on_every_machine(renderers):
    pictures = {name: b"".join(frame.tobytes() for frame in draw_all(renderers[name], name)) for name in NAMES}
    assert {name: hashlib.sha256(data).hexdigest()[:16] for name, data in pictures.items()} == GOLDEN


@EVERY_MOUNT
def test_a_picture_is_what_the_simulators_camera_gives(renderer, mount):
    x, y, heading = renderer.road.center.point_at(100.0)
    frame = renderer.draw(x, y, heading, mount)
    assert frame.shape == (160, 320, 3) and frame.dtype == np.uint8 and frame.flags["C_CONTIGUOUS"]
    assert frame.std() > 10.0
    frame[:] = 0  # it belongs to who asked for it
    assert renderer.draw(x, y, heading, mount).any()


def test_what_was_drawn_before_does_not_matter(renderer):
    name = renderer.road.name
    poses = [(*pose, mount) for pose in list_poses(name) for mount in MOUNTS]
    there = [renderer.draw(*pose) for pose in poses]
    back = [renderer.draw(*pose) for pose in reversed(poses)]
    np.testing.assert_array_equal(there, back[::-1])


def test_a_world_painted_again_without_fast_paths_is_the_same(renderers):
    name = "mountain:17"
    threads = cv2.getNumThreads()
    try:
        cv2.setUseOptimized(False)
        cv2.setNumThreads(1)
        slow = Renderer(load_track(name).road)
        plain = draw_all(slow, name)
        cv2.setUseOptimized(True)
        cv2.setNumThreads(3)
        parallel = draw_all(slow, name)
    finally:
        cv2.setUseOptimized(True)
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(plain, draw_all(renderers[name], name))
    np.testing.assert_array_equal(parallel, plain)


def test_another_seed_and_another_look_are_another_world(renderers):
    frames = [renderers[name].draw(*renderers[name].road.center.point_at(0.0)) for name in NAMES]
    frames.append(Renderer(load_track("dirt:4").road).draw(*load_track("dirt:4").road.center.point_at(0.0)))
    for first in range(len(frames)):
        for second in range(first):
            assert np.abs(frames[first].astype(int) - frames[second]).mean() > 8.0


def test_a_picture_is_rgb(renderers, bare):
    """The lake's edge lines are yellow, much more red and green than blue; read as BGR they would be blue."""
    road = renderers["lake"].road
    tints = []
    for along in np.arange(0.0, road.center.length_m, 40.0):
        pose = road.center.point_at(along)
        frame = bare["lake"].draw(*pose).astype(int)
        for side in (-1, 1):
            line = road.center.point_at(along + 9.0, side * (road.shape.half_width_m - 0.35))
            columns, rows, _ = camera.project(*look_ahead(*pose, line))
            red, _, blue = frame[int(rows), int(columns)]
            tints.append(red - blue)
    assert np.median(tints) > 30


def paint(renderer: Renderer, white: np.ndarray) -> Renderer:
    """Return a world that is black and white: (columns,) bool across the road, everywhere along it."""
    painted, scenery = without_things(renderer), renderer.scenery
    surface = np.broadcast_to(np.where(white, 255, 0).astype(np.uint8)[None, :, None], scenery.surface.shape)
    relief = np.full_like(scenery.relief, 128)
    painted.scenery = replace(painted.scenery, surface=np.ascontiguousarray(surface), relief=relief)
    return painted


@EVERY_MOUNT
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_line_on_the_road_is_seen_where_the_camera_projects_it(renderers, mount, direction):
    """On straights and in bends, near and far, on the left and on the right, by every camera."""
    track, center = load_track("mountain:17", direction), renderers["mountain:17"].road.center
    for side in (-1, 1):
        renderer, away = paint(renderers["mountain:17"], np.abs(ACROSS - 3.0 * side) < 0.1), []
        for along in np.arange(0.0, track.lane.length_m, 41.0):
            pose = track.lane.point_at(along)
            light = renderer.draw(*pose, mount)[..., 0].astype(float)
            first = center.locate(*pose[:2]).along_m
            ahead = np.arange(4.0, 30.0, 0.2) * (1 if direction == "forward" else -1)
            line = np.array([center.point_at(first + each, 3.0 * side)[:2] for each in ahead])
            columns, rows, _ = camera.project(*look_ahead(*pose, line.T, mount))
            for row in range(HORIZON_ROW + 8, BONNET[0] - 8, 7):
                column = np.interp(row + 0.5, rows[::-1], columns[::-1])
                if 25 < column < camera.WIDTH - 25 and rows[-1] < row < rows[0]:
                    near = np.arange(int(column) - 20, int(column) + 21)
                    weights = light[row, near] - np.median(light[row, near])
                    away.append((weights * (near + 0.5)).sum() / weights.sum() - column)
        assert len(away) > 30 and np.abs(away).max() < 0.8  # pixels


@EVERY_MOUNT
def test_a_bend_is_seen_on_the_side_to_which_it_turns(renderers, mount):
    track, renderer = load_track("dirt:3"), paint(renderers["dirt:3"], np.abs(ACROSS) < 2.0)
    for side, place in ((1, int(track.lane.curvatures.argmin())), (-1, int(track.lane.curvatures.argmax()))):
        frame = renderer.draw(*track.lane.point_at(place * track.lane.spacing_m - 12.0), mount)
        row = frame[HORIZON_ROW + 8, :, 0]  # some 17 m ahead
        road = np.flatnonzero(row > row.min() + 40)
        assert (road.mean() - camera.WIDTH / 2) * side > 10.0


@pytest.mark.parametrize("mount", ["left", "right"])
def test_a_side_camera_sees_what_the_middle_one_would_from_there(renderer, mount):
    for x, y, heading in list_poses(renderer.road.name):
        shift = camera.ASIDE_M[mount]
        moved = renderer.draw(x + shift * math.sin(heading), y - shift * math.cos(heading), heading)
        side, middle = renderer.draw(x, y, heading, mount), renderer.draw(x, y, heading)
        above = slice(0, BONNET[0] - 2)  # the car itself is where it was
        difference = np.abs(side[above].astype(int) - moved[above])
        assert difference.mean() < 0.2 and (difference > 10).mean() < 0.002
        assert np.abs(side[above].astype(int) - middle[above]).mean() > 2.0


def test_side_cameras_see_the_bonnet_from_both_sides(renderer):
    poses = [renderer.road.center.point_at(along) for along in (0.0, 61.0, 122.0, 183.0)]
    still = {}
    for mount in MOUNTS:
        frames = np.stack([renderer.draw(*pose, mount)[-3:] for pose in poses])
        still[mount] = (frames == frames[:1]).all(axis=(0, 3))
        assert still[mount].mean() > 0.5
    assert (still["left"][:, 1:] == still["right"][:, :0:-1]).mean() > 0.98  # mirrored
    assert (still["center"][:, 1:] == still["center"][:, :0:-1]).mean() > 0.98
    middles = [np.flatnonzero(still[mount][-1]).mean() for mount in ("right", "center", "left")]
    assert middles == sorted(middles)


def test_the_sky_stays_when_the_car_moves_and_turns_when_it_turns(bare):
    for name in NAMES:
        x, y, heading = load_track(name).lane.point_at(50.0)
        sky = slice(0, HORIZON_ROW)
        before = bare[name].draw(x, y, heading)[sky].astype(int)
        for dx, dy in ((1.0, 0.0), (0.0, -2.5), (40.0, 30.0)):
            for mount in MOUNTS:
                np.testing.assert_array_equal(bare[name].draw(x + dx, y + dy, heading, mount)[sky], before)
        np.testing.assert_array_equal(bare[name].draw(x, y, heading + 2 * math.pi)[sky], before)
        for turn in (0.1, -0.1):  # to the left, all that is seen moves to the right
            after = bare[name].draw(x, y, heading + turn)[sky].astype(int)
            shifts = range(-30, 31)
            errors = [np.abs(after[:, 140 + shift : 180 + shift] - before[:, 140:180]).mean() for shift in shifts]
            assert abs(shifts[int(np.argmin(errors))] - camera.FOCAL * math.tan(turn)) <= 1.5, name


def test_things_stand_where_they_are_and_grow_as_they_come_nearer(renderer):
    """What differs from a world without things is around their feet, and more the nearer they are."""
    empty = without_things(renderer)
    number, x, y = renderer.scenery.things[len(renderer.scenery.things) // 2]
    alone = copy.copy(renderer)
    alone.scenery = replace(renderer.scenery, things=np.array([[number, x, y]]))
    height_m, sizes = renderer.scenery.sprites[int(number)].height_m, []
    for ahead in (60.0, 30.0, 15.0):
        pose = (x - ahead - camera.AHEAD_M, y + 3.0, 0.0)  # it stands three metres to the right
        changed = (alone.draw(*pose) != empty.draw(*pose)).any(-1)
        columns, rows, depth = camera.project(ahead, 3.0)
        seen_rows, seen_columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert abs(seen_rows.max() + 1 - rows) <= 2
        assert seen_columns.min() - 1 <= columns <= seen_columns.max() + 1
        expected = min(rows, camera.FOCAL * height_m / depth)
        assert 0.6 * expected - 2 <= len(seen_rows) <= 1.15 * expected + 2
        sizes.append(changed.sum())
    assert sizes[0] < sizes[1] < sizes[2]
    behind = (x + 5.0, y, 0.0)
    np.testing.assert_array_equal(alone.draw(*behind), empty.draw(*behind))


def test_the_surface_goes_on_where_a_lap_begins(bare):
    """Painted with one soft wave along the road, no row of the picture stands out from those beside it."""
    renderer = copy.copy(bare["lake"])
    scenery = renderer.scenery
    bands = len(scenery.surface) // renderer._surface_rows
    wave = 128.0 + 100.0 * np.sin(2 * math.pi * np.linspace(0.0, 1.0, len(scenery.surface) // bands))
    surface = np.broadcast_to(np.tile(wave, bands)[:, None, None], scenery.surface.shape)
    renderer.scenery = replace(scenery, surface=surface.astype(np.uint8), relief=np.full_like(scenery.relief, 128))
    steps = []
    for along in (-7.0, 93.0, 193.0):
        frame = renderer.draw(*renderer.road.center.point_at(along))[80:135, 100:220].astype(int)
        steps.append(np.abs(np.diff(frame, axis=0)).max())
    assert max(steps) <= 2 * min(steps)


@pytest.mark.parametrize("pose", [(1e4, -1e4, 0.0), (-500.0, 0.0, 100.0), (0.0, 0.0, -1e3)])
def test_a_car_that_left_the_world_still_sees_something(renderer, pose):
    for mount in MOUNTS:
        assert renderer.draw(*pose, mount).shape == (160, 320, 3)


@EVERY_MOUNT
@pytest.mark.parametrize("name", NAMES)
def test_edges_are_where_the_camera_sees_the_roads_borders_and_lines(renderers, name, mount):
    renderer, center = renderers[name], renderers[name].road.center
    half, is_two_lane = renderer.road.shape.half_width_m, renderer.road.look == "mountain"
    lines = [half, -half] + ([0.0] if is_two_lane else []) + ([] if name.startswith("dirt") else [half - 0.35])
    for pose in list_poses(name):
        edges = renderer.find_edges(*pose, mount)
        assert edges.shape == (160, 320) and edges.dtype == bool
        assert 200 < edges.sum() < 3000 and not edges[:HORIZON_ROW].any()
        distance = cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        checked = 0
        along = center.locate(*pose[:2]).along_m
        for aside in lines:
            for meters in (7.0, 10.0, 14.0, 20.0):
                x, y, _ = center.point_at(along + meters, aside)
                column, row, _ = camera.project(*look_ahead(*pose, (x, y), mount))
                if 2 < column < 318 and row < BONNET[0]:
                    assert distance[int(row), int(column)] < 2.5, (pose, aside, meters)
                    checked += 1
        assert checked >= 4
    where, _ = renderer._bonnets[mount]
    assert not edges[-len(where) :][where[..., 0]].any(), "the car hides them"
