from __future__ import annotations

import os
import shutil

import cv2
import numpy as np
import pytest

from robostig.figures import save_figure
from robostig.inspection import inspect_recording
from robostig.sheet import COLUMNS, FAULTY, draw_sheet


def list_captions(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def list_labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.fixture
def recording(make_recording):
    return make_recording(120, size=(32, 64))


def test_a_good_recording_shows_frames_of_each_camera_and_the_extremes(recording, tmp_path):
    found = inspect_recording(recording)
    figure = draw_sheet(found)
    time, labels, rows, *cells = figure.axes
    assert len(cells) == 4 * COLUMNS and all(len(axes.images) == 1 for axes in cells)
    assert [axes.get_ylabel() for axes in cells[::COLUMNS]] == ["center", "left", "right", "extremes"]
    assert all(axes.images[0].get_array().shape == (32, 64, 3) for axes in cells)
    captions = list_captions(figure)
    assert captions[0].startswith("row 0: ") and captions[COLUMNS - 1].startswith("row 119: ")
    furthest = int(found.log.steering.argmax())
    assert f"furthest right:\nrow {furthest}, {found.labels.high * 25.0:.1f}° right" in captions

    assert list_labels(time) == ["driver", "held out", "not trained on, too near"]
    (line,) = [line for line in time.lines if len(line.get_xdata()) > 2]
    np.testing.assert_allclose(line.get_ydata(), found.log.steering * 25.0, rtol=1e-6)
    spans = time.collections[0].get_paths()
    (start, stop) = (found.split.validation[0], found.split.validation[-1] + 1)
    clock = found.log.driving_clock()
    assert len(spans) == 1 and spans[0].get_extents().intervalx == pytest.approx([clock[start], clock[stop]])
    assert list_labels(labels) == ["all rows", "held out"]
    assert [bar.get_width() for bar in rows.patches] == [
        len(found.split.train), len(found.split.validation), found.split.left_out,
    ]  # fmt: skip
    save_figure(figure, tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] == 1440


def test_faulty_pictures_are_shown_and_marked(recording):
    pictures = sorted((recording / "IMG").glob("center_*"))
    cv2.imwrite(str(pictures[10]), np.zeros((32, 64, 3), np.uint8))
    cv2.imwrite(str(pictures[11]), np.zeros((32, 64, 3), np.uint8))
    pictures[20].write_bytes(b"\xff\xd8" + bytes(100) + b"\xff\xd9")
    for number in (31, 32):
        shutil.copy(pictures[30], pictures[number])
    with open(recording / "driving_log.csv", "a") as file:
        file.write("nowhere.jpg,,,0.1\n")
    figure = draw_sheet(inspect_recording(recording))
    time, _, rows, *cells = figure.axes
    assert list_captions(figure)[COLUMNS:] == [
        "black:\ncenter, row 10",
        "unreadable:\ncenter, row 20",
        "same for 3 rows:\ncenter, row 30",
        "black:\ncenter, row 11",
    ]
    assert cells[-COLUMNS].get_ylabel() == "faulty" and not cells[-COLUMNS].images[0].get_array().any()
    assert [text.get_text() for text in cells[1 - COLUMNS].texts] == ["cannot be read"]
    (marks,) = [line for line in time.lines if line.get_color() == FAULTY]
    assert np.round(marks.get_xdata() * 15.0).tolist() == [10, 11, 20, 30, 31, 32]
    assert [text.get_text() for text in rows.texts][-1] == "picture not found: 1, 0.8 %"


def test_the_shortest_recording_is_drawn_too(make_recording, tmp_path):
    figure = draw_sheet(inspect_recording(make_recording(1, size=(16, 32))))
    assert [text.get_text() for text in figure.axes[2].texts] == ["too few to train on: 1, 100.0 %"]
    save_figure(figure, tmp_path / "sheet.svg")
    assert (tmp_path / "sheet.svg").read_text().rstrip().endswith("</svg>")


def test_however_tall_frames_are_the_sheet_is_one_of_paper(make_recording):
    figure = draw_sheet(inspect_recording(make_recording(3, size=(600, 2))))
    assert figure.get_size_inches()[1] < 20.0


@pytest.mark.parametrize(
    ("name", "title"), [(r"a$\frac$b", r"a\$\frac\$b: 3 rows"), (os.fsdecode(b"a\xff"), "a?: 3 rows")]
)
def test_whatever_a_folder_is_called_is_no_formula_and_can_be_drawn(make_recording, tmp_path, name, title):
    recording = make_recording(3, size=(16, 32)).rename(tmp_path / name)
    figure = draw_sheet(inspect_recording(recording))
    save_figure(figure, tmp_path / "sheet.png")
    assert figure.texts[0].get_text().startswith(title)


def test_drives_have_a_mark_between_them_and_no_line(make_recording, tmp_path):
    for number in range(2):
        make_recording(20, name=f"all/{number}", size=(16, 32), seed=number)
    found = inspect_recording(tmp_path / "all")
    time = draw_sheet(found).axes[0]
    assert "long pause, or another drive" in list_labels(time)
    assert len(time.lines[0].get_xdata()) == 41 and np.isnan(time.lines[0].get_ydata()[20])
