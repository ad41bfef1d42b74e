from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections import namedtuple
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from robostig.closed_loop import LIMIT_M, Constant, evaluate_closed_loop
from robostig.figures import (
    MAGNIFICATION,
    PALETTE,
    choose_colors,
    describe_steering,
    draw_errors,
    draw_explanations,
    draw_frames,
    draw_labels,
    draw_lateral_errors,
    draw_loss_curves,
    draw_maps,
    draw_steering,
    draw_tuning,
    encode_figure,
    save_figure,
)
from robostig.metrics import DEGREES
from robostig.simulation import parse_tracks

Trial = namedtuple("Trial", "number state settings is_default rmse")  # as much of a tuning.Trial as is drawn
Epoch = namedtuple("Epoch", "epoch train_rmse validation_rmse")  # as much of an EpochRecord as is drawn
HISTORY = [Epoch(1, 0.30, 0.20), Epoch(2, 0.20, 0.10), Epoch(3, 0.15, 0.12)]


def list_texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def list_lines(axes, color):
    return [line for line in axes.lines if line.get_color() == color and len(line.get_xdata()) > 1]


@pytest.fixture
def drive():
    rng = np.random.default_rng(0)
    human = np.sin(np.arange(300) / 9.0).astype(np.float32) * 0.5
    time_s = np.arange(300) / 15.0 + np.repeat([3.0, 50.0, 100.0], 100)
    return {"nvidia": human + 0.1, "comma": human + rng.normal(0, 0.05, 300).astype(np.float32)}, human, time_s


@pytest.fixture(scope="module")
def drives():
    """Two drivers who leave the lane, to the left and to the right, at the start of two roads in both directions."""
    tracks = parse_tracks("lake:101,mountain:101", "both")
    return {
        name: evaluate_closed_loop(Constant(steering), tracks, laps=0.05).drives
        for name, steering in (("nvidia", -0.3), ("comma", 0.3))
    }


def list_panels(figure):
    return {axes.get_title(loc): axes for axes in figure.axes for loc in ("left", "center") if axes.get_title(loc)}


def split_pieces(line):
    """Return the (n, 2) pieces of a line with gaps."""
    points = line.get_xydata()
    gone = np.flatnonzero(np.isnan(points[:, 0]))
    return [piece[~np.isnan(piece[:, 0])] for piece in np.split(points, gone) if len(piece) > 1]


def test_no_drawing_needs_a_display_or_changes_settings():
    code = (
        "import sys, robostig.figures as figures, matplotlib\n"
        "read = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "before = read()\n"
        "figures.encode_figure(figures.draw_labels([0.0, 0.5], [0.1]))\n"
        "assert read() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_keeps_its_colour_and_every_model_has_one():
    names = [f"model {number}" for number in range(8)]
    assert list(choose_colors(names)) == names
    assert choose_colors(names)["model 1"] == choose_colors(names[:2])["model 1"] == PALETTE[1]


def test_loss_curves_show_every_epoch_and_mark_the_best():
    (axes,) = draw_loss_curves({"nvidia": HISTORY, "comma": HISTORY[:2]}, baseline=0.11).axes
    held_out, training = list_lines(axes, PALETTE[0])[::-1]
    np.testing.assert_allclose(held_out.get_xydata(), [(1, 0.20), (2, 0.10), (3, 0.12)])
    np.testing.assert_allclose(training.get_ydata(), [0.30, 0.20, 0.15])
    assert [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"] == [(2, 0.10), (2, 0.10)]
    texts = list_texts(axes)
    assert texts[:2] == ["nvidia", "comma"]
    assert any("augmented and balanced" in text for text in texts)
    assert any("always the mean" in text for text in texts)


def test_loss_curves_have_a_second_scale_in_degrees():
    figure = draw_loss_curves({"": HISTORY})
    encode_figure(figure)  # the scale follows when it is drawn
    (degrees,) = figure.axes[0].child_axes
    assert "degrees" in degrees.get_ylabel()
    assert degrees.get_ylim()[1] == pytest.approx(figure.axes[0].get_ylim()[1] * DEGREES)


@pytest.mark.parametrize("histories", [{"": HISTORY}, {"": HISTORY[:1]}, {"nvidia": []}, {}])
def test_loss_curves_of_little(histories, tmp_path):
    save_figure(draw_loss_curves(histories), tmp_path / "loss_curve.png")
    assert cv2.imread(str(tmp_path / "loss_curve.png")).std() > 0


def test_steering_has_a_panel_for_each_stretch_and_no_line_across_a_gap(drive):
    predicted, human, time_s = drive
    breaks = np.zeros(300, bool)
    breaks[[0, 100, 150, 200]] = True
    panels = [axes for axes in draw_steering(predicted, human, time_s, breaks).axes if axes.get_visible()]
    assert len(panels) == 3
    assert list_texts(panels[0]) == ["driver", "nvidia", "comma"]
    pieces = [line.get_xydata() for axes in panels for line in list_lines(axes, PALETTE[0])]
    assert [len(piece) for piece in pieces] == [100, 50, 50, 100]
    assert max(np.diff(piece[:, 0]).max() for piece in pieces) < 0.1
    np.testing.assert_allclose(np.concatenate(pieces)[:, 1], predicted["nvidia"] * DEGREES, rtol=1e-6)
    assert len({np.ptp(axes.get_xlim()).round(6) for axes in panels}) == 1, "all panels have the same scale"


def test_steering_of_a_long_drive_says_that_not_all_is_shown(drive):
    predicted, human, time_s = drive
    figure = draw_steering(predicted, human, time_s * 50)  # every frame a stretch of its own
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 12
    assert "12 of 300 stretches" in figure._supxlabel.get_text()
    assert "stretches" not in draw_steering(predicted, human, time_s)._supxlabel.get_text()


def test_one_frame_can_be_drawn():
    one = np.array([0.1], np.float32)
    encode_figure(draw_steering({"nvidia": one}, one, np.array([2.0])))
    encode_figure(draw_errors({"nvidia": one}, one, mean=0.0))


def test_labels_are_shares_of_frames_in_degrees():
    (axes,) = draw_labels(np.array([0.0, 0.0, 0.0, 0.2]), np.array([-1.0, 1.0])).axes
    before, after = (patch.get_data() for patch in axes.patches)
    inside = dict(zip((before.edges[:-1] + before.edges[1:]) / 2, before.values))
    assert (inside[0.0], inside[5.0], inside[-5.0]) == (0.75, 0.25, 0.0)
    assert (after.values[0], after.values[-1]) == (0.5, 0.5)


def test_errors_show_how_many_frames_are_how_far_off(drive):
    predicted, human, _ = drive
    sizes, answers = draw_errors(predicted, human, mean=0.0).axes
    assert list_texts(sizes) == ["nvidia", "comma", "always the mean"]
    np.testing.assert_allclose(list_lines(sizes, PALETTE[0])[0].get_xdata(), 0.1 * DEGREES, rtol=1e-5)
    turned, answered = list_lines(answers, PALETTE[0])[0].get_xydata().T
    np.testing.assert_allclose(answered - turned, 0.1 * DEGREES, atol=0.5)


def test_maps_show_how_far_from_the_lane_every_model_drove_magnified(drives):
    figure = draw_maps(drives, limit_m=LIMIT_M)
    panels = list_panels(figure)
    assert list(panels) == [f"{road}:101 {way}" for way in ("forward", "backward") for road in ("lake", "mountain")]
    for number, drive in enumerate(drives["nvidia"]):
        axes = panels[str(drive.track)]
        (path,) = list_lines(axes, PALETTE[0])[:1]
        pieces = split_pieces(path)
        assert sum(map(len, pieces)) == len(drive.x)
        assert len(pieces) == drive.intervened[:-1].sum() + 1 > 1, "a new piece begins behind each intervention"
        lane = drive.track.lane
        aside = np.array(
            [lane.locate(x, y, near_m=along).aside_m for (x, y), along in zip(np.concatenate(pieces), drive.along_m)]
        )
        np.testing.assert_allclose(aside, MAGNIFICATION * drive.lateral_error_m, atol=0.15)
        other = list_lines(axes, PALETTE[1])[0].get_xydata()
        assert len(other) == len(drives["comma"][number].x) + drives["comma"][number].intervened.sum()
        (band,) = axes.patches
        reach = [abs(lane.locate(x, y).aside_m) for x, y in band.get_path().vertices]
        np.testing.assert_allclose(reach, MAGNIFICATION * LIMIT_M, atol=0.15)
        areas = [
            np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
            for x, y in (each.T for each in np.split(band.get_path().vertices, 2))
        ]
        assert areas[0] * areas[1] < 0.0, "they turn in opposite directions, which leaves the middle of the map free"
        assert axes.get_aspect() == 1.0


def list_crosses(axes, color):
    (marks,) = [line for line in axes.lines if line.get_marker() == "X" and line.get_color() == color]
    return marks.get_xydata()


def test_interventions_are_marked_where_they_were(drives):
    maps = list_panels(draw_maps(drives, limit_m=LIMIT_M))
    traces = list_panels(draw_lateral_errors(drives, limit_m=LIMIT_M))
    for name, color in choose_colors(drives).items():
        for drive in drives[name]:
            assert len(list_crosses(maps[str(drive.track)], color)) == drive.intervened.sum() > 0
            along, aside = list_crosses(traces[str(drive.track)], color).T
            np.testing.assert_array_equal(along, drive.along_m[drive.intervened])
            assert (np.sign(aside) == (-1 if name == "nvidia" else 1)).all() and (np.abs(aside) > LIMIT_M).all()


def test_lateral_errors_are_metres_over_metres_with_the_limit(drives):
    figure = draw_lateral_errors(drives, limit_m=LIMIT_M)
    panels = list_panels(figure)
    assert list(panels) == [str(drive.track) for drive in drives["nvidia"]]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels.values()}) == 1, "all panels have the same scales"
    assert "metres" in figure._supxlabel.get_text() and "metres" in figure._supylabel.get_text()
    for name, color in choose_colors(drives).items():
        for drive in drives[name]:
            axes = panels[str(drive.track)]
            (line,) = list_lines(axes, color)[:1]
            np.testing.assert_array_equal(
                np.concatenate(split_pieces(line)), np.stack([drive.along_m, drive.lateral_error_m], axis=1)
            )
            band = axes.transData.inverted().transform_bbox(axes.patches[0].get_window_extent())
            assert (band.y0, band.y1) == (pytest.approx(-LIMIT_M), pytest.approx(LIMIT_M))
    texts = list_texts(figure.axes[0])
    assert texts[:3] == ["nvidia", "comma", "intervention"] and "within 1 m" in texts[3]


def test_one_short_drive_without_interventions_can_be_drawn():
    drives = {"nvidia": evaluate_closed_loop(Constant(0.0), parse_tracks("lake:101"), laps=0.002).drives}
    assert not drives["nvidia"][0].intervened.any()
    for draw in (draw_maps, draw_lateral_errors):
        figure = draw(drives, limit_m=LIMIT_M)
        encode_figure(figure)
        (axes,) = list_panels(figure).values()
        assert len(list_crosses(axes, PALETTE[0])) == 0


def test_a_figure_becomes_an_svg_that_needs_nothing_else(drive):
    head, _, data = encode_figure(draw_errors(*drive[:2])).partition(",")
    assert head == "data:image/svg+xml;base64"
    svg = base64.b64decode(data)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    references = [value for each in ElementTree.fromstring(svg).iter() for key, value in each.items() if "href" in key]
    assert all(value.startswith("#") for value in references)
    paths = [each.get("d", "") for each in ElementTree.fromstring(svg).iter()]
    assert any(paths) and not any(re.search(r"\.\d{3}", path) for path in paths), "a hundredth of a point will do"


def test_saving_replaces_the_file_or_leaves_it(tmp_path):
    path = tmp_path / "labels.png"
    save_figure(draw_labels([0.0], [0.1]), path)
    before = path.read_bytes()
    figure = draw_labels([0.0], [0.1])
    figure.text(0.5, 0.5, "$\\no_such_command$")  # fails when it is drawn
    with pytest.raises(ValueError):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_suffix_decides_the_format(tmp_path):
    save_figure(draw_labels([0.0], [0.1]), tmp_path / "labels.svg")
    assert ElementTree.parse(tmp_path / "labels.svg").getroot().tag.endswith("svg")


SPACE = {"batch_size": (32, 64), "learning_rate": (1e-4, 1e-2, "log"), "weight_decay": (1e-6, 1e-2, "log")}


def make_trial(number, state="finished", rmse=None, **settings):
    settings = {"batch_size": 64, "learning_rate": 1e-3, "weight_decay": 1e-4, **settings}
    return Trial(number, state, settings, number == 1, rmse)


TRIALS = [
    make_trial(1, rmse=0.06, weight_decay=0.0),
    make_trial(2, rmse=0.08, learning_rate=1e-4),
    make_trial(3, "failed", learning_rate=1e-2),
    make_trial(4, rmse=0.05, batch_size=32),
    make_trial(5, "pruned", rmse=0.5),
]


def list_points(axes, marker):
    return [tuple(point) for line in axes.lines if line.get_marker() == marker for point in line.get_xydata()]


def test_trials_are_drawn_one_after_the_other_with_the_best_so_far():
    history = draw_tuning(TRIALS, SPACE).axes[0]
    kinds = ["finished", "defaults", "best", "pruned", "failed", "off the scale"]
    assert list_texts(history) == [*kinds, "best so far"]
    assert list_points(history, "*") == [(4, 0.05)] and list_points(history, "D") == [(1, 0.06)]
    (best_so_far,) = (line for line in history.lines if line.get_drawstyle() == "steps-post")
    assert best_so_far.get_xydata().tolist() == [[1, 0.06], [2, 0.06], [4, 0.05], [5, 0.05]]
    ((number, above),) = list_points(history, "^")  # the pruned one, whose RMSE would press the others together
    assert number == 5 and 0.08 < above < history.get_ylim()[1] < 0.2


def test_settings_are_drawn_on_the_scale_that_they_are_searched_on_the_most_important_first():
    panels = list_panels(draw_tuning(TRIALS, SPACE, {"learning_rate": 0.7, "batch_size": 0.2, "weight_decay": 0.1}))
    assert [name for name in panels if name in SPACE] == ["learning_rate", "batch_size", "weight_decay"]
    assert panels["learning_rate"].get_title("right") == "explains 70 %"
    assert panels["learning_rate"].get_xscale() == "log" and list_points(panels["learning_rate"], "*") == [(1e-3, 0.05)]
    assert [text.get_text() for text in panels["batch_size"].get_xticklabels()] == ["32", "64"]
    ((place, _),) = list_points(panels["batch_size"], "*")
    assert -0.5 < place < 0.5
    ((place, _),) = list_points(panels["weight_decay"], "D")  # no weight decay at all is on no logarithmic scale
    assert panels["weight_decay"].get_xlim()[0] < place < 1e-6
    assert [text.get_text() for text in panels["weight_decay"].texts] == ["0"]


@pytest.mark.parametrize("count", [1, 60])
def test_one_trial_or_many_make_a_picture(count, tmp_path):
    models = {"model": ("nvidia", "comma")}
    trials = [make_trial(1 + n, rmse=0.05 + 0.001 * n, model=("nvidia", "comma")[n % 2]) for n in range(count)]
    figure = draw_tuning(trials, {**models, **SPACE})
    assert "best: the defaults" in list_texts(figure.axes[0])
    assert ("comma" in list_texts(figure.axes[0])) == (count > 1)
    save_figure(figure, tmp_path / "tuning.png")
    assert cv2.imread(str(tmp_path / "tuning.png")).shape[1] == 1440


@pytest.mark.parametrize("count", [1, 5])
def test_what_models_look_at_is_a_row_a_model_and_a_column_a_frame(count, tmp_path):
    pictures = [np.full((160, 320, 3), 40 * number, np.uint8) for number in range(count)]
    looks = {
        "nvidia": [(picture, -0.1) for picture in pictures],
        "comma": [(255 - picture, 0.2) for picture in pictures],
    }
    figure = draw_explanations(looks, [(0.02 * number, f"row {number}") for number in range(count)], driver="expert")
    assert len(figure.axes) == 2 * count
    first, second = figure.axes[0], figure.axes[count]
    assert (first.get_ylabel(), second.get_ylabel()) == ("nvidia", "comma")
    assert (first.get_xlabel(), second.get_xlabel()) == ("2.5° left", "5.0° right")
    assert first.get_title() == "expert 0.0°\n" and [text.get_text() for text in first.texts] == ["row 0"]
    assert (second.images[0].get_array() == 255 - pictures[0]).all()
    save_figure(figure, tmp_path / "looks.png")
    assert cv2.imread(str(tmp_path / "looks.png")).shape[1] == round(2.6 * max(3, count) * 150)


@pytest.mark.parametrize(
    ("steering", "words"), [(0.0, "0.0°"), (-0.0019, "0.0°"), (-0.13, "3.2° left"), (1, "25.0° right")]
)
def test_a_steering_is_said_in_degrees_and_a_side(steering, words):
    assert describe_steering(steering) == words


@pytest.mark.parametrize("count", [1, 3, 5])
def test_frames_are_drawn_side_by_side_with_their_titles(count):
    frames = [np.full((16, 32, 3), 40 * number, np.uint8) for number in range(count)]
    figure = draw_frames(frames, [f"frame {number}" for number in range(count)])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"frame {number}" for number in range(count)]
    for axes, frame in zip(shown, frames):
        np.testing.assert_array_equal(axes.images[0].get_array(), frame)
    assert len(draw_frames(frames).axes) == len(figure.axes) == -(-count // 3) * 3
