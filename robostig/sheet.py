"""One picture of what a recording holds: the steering over time, the labels, frames of each camera, and the worst ones.

It has the look of :mod:`robostig.figures`, and shows what :func:`robostig.inspection.inspect_recording` has found.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from robostig.driving_log import read_picture
from robostig.figures import BAND, INK, PALETTE, QUIET, WIDTH, add_legend, style_axes
from robostig.inspection import Inspection
from robostig.metrics import DEGREES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["draw_sheet"]

COLUMNS = 6  # frames in a line
TALLEST = 2.0  # of a frame's width; taller ones are shown narrower
REASONS = 2  # named, why rows cannot be used
CAPTION, GAP = 0.2, 0.1  # inches: a line above a frame, and what is between frames
RECORDED, HELD_OUT, FAULTY, PAUSE = "#9aa5b1", PALETTE[0], PALETTE[1], PALETTE[2]
HELD_OUT_BAND: Dict[str, Any] = {"facecolor": HELD_OUT, "alpha": 0.16, "lw": 0}


class _Cell(NamedTuple):
    """A frame to show: its camera, row, and what to write above it."""

    camera: str
    row: int
    caption: str


def draw_sheet(inspection: Inspection) -> Figure:
    """Draw what a recording holds, on one sheet.

    From top to bottom: steering over the time of driving, with what would be held out and where pictures are faulty;
    how often each steering occurs, beside what becomes of the rows; frames of every camera, evenly over the recording;
    the faulty pictures, one of each kind first, or else the furthest from the usual.

    Parameters
    ----------
    inspection
        Of any recording; its pictures are read once more, as many as are shown.
    """
    cameras = list(inspection.log.pictures)
    sizes = inspection.sizes["center"]
    height, width = next(iter(sizes), (1, 2))
    line = WIDTH / COLUMNS * min(height / width, TALLEST)
    heights = [2.3, 2.6, (line + GAP) * len(cameras) + CAPTION, line + 2.0 * CAPTION]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.9), layout="constrained")
    figure.suptitle(_describe(inspection), x=0.01, ha="left", size=10.5, color=INK)
    parts = figure.add_gridspec(4, 1, height_ratios=heights, hspace=0.06)
    _draw_time(figure.add_subplot(parts[0]), inspection)
    labels, rows = parts[1].subgridspec(1, 2, width_ratios=[1.0, 0.8]).subplots(squeeze=False)[0]
    _draw_labels(labels, inspection)
    _draw_rows(rows, inspection)
    lines = [_choose_evenly(inspection, camera, with_caption=not number) for number, camera in enumerate(cameras)]
    frames = parts[2].subgridspec(len(cameras), COLUMNS).subplots(squeeze=False)
    faulty = inspection.bad_pictures or inspection.frozen
    names = [*cameras, "faulty" if faulty else "extremes"]
    worst = _choose_faulty(inspection) if faulty else _choose_extremes(inspection)
    below = parts[3].subgridspec(1, COLUMNS).subplots(squeeze=False)
    for name, axes, cells in zip(names, [*frames, *below], [*lines, worst]):
        axes[0].set_ylabel(name, size=9, color=FAULTY if name == "faulty" else QUIET)
        for number, each in enumerate(axes):
            _draw_cell(each, inspection, cells[number : number + 1])
    return figure


def _describe(inspection: Inspection) -> str:
    log = inspection.log
    # Two dollars would be mathematics, and the name on disk may be bytes that are no text.
    name = log.name.replace("$", r"\$").encode("utf-8", "replace").decode()
    text = f"{name}: {len(log):,} rows, {inspection.seconds / 60.0:.1f} minutes of driving"
    laps = [leg for leg in inspection.legs if leg.laps is not None]
    around = {way: sum(leg.laps or 0.0 for leg in laps if leg.direction == way) for way in ("left", "right")}
    return ", ".join([text, *(f"{count:.1f} laps to the {way}" for way, count in around.items() if count)])


def _draw_time(axes: Axes, inspection: Inspection) -> None:
    """Draw steering over time, with a bar behind what is held out, and marks where something is wrong."""
    log, split = inspection.log, inspection.split
    style_axes(axes)
    seconds = log.driving_clock()
    angles = log.steering.astype(np.float64) * DEGREES
    limit = 1.1 * max(2.0, float(np.abs(angles).max()))
    breaks = np.flatnonzero(log.find_breaks())[1:]  # no line leads over them
    marker, width = "" if len(log) > 1 else ".", min(0.9, max(0.35, 2500.0 / len(log)))
    with_gaps = (np.insert(each, breaks, np.nan) for each in (seconds, angles))
    axes.plot(*with_gaps, color=INK, lw=width, marker=marker)
    axes.axhline(0.0, color=QUIET, lw=0.6, zorder=0.5)
    handles: List[Artist] = [Line2D([], [], color=INK, lw=1.2, label="driver")]
    if split is not None:
        kept, edges = np.zeros(len(log), np.int8), np.append(seconds, seconds[-1:])
        kept[split.train], kept[split.validation] = 1, 2
        for value, look, label in ((2, HELD_OUT_BAND, "held out"), (0, BAND, "not trained on, too near")):
            spans = [(edges[a], edges[b] - edges[a]) for a, b in _find_spans(kept == value)]
            axes.broken_barh(spans, (-limit, 2.0 * limit), zorder=0.3, **look)
            handles += [Patch(label=label, **look)] if spans else []
    borders = [leg.start for leg in inspection.legs[1:]]
    if borders:
        axes.vlines(seconds[borders], 0.84 * limit, limit, color=PAUSE, lw=1.3)
        label = "long pause, or another drive"
        handles.append(Line2D([], [], color=PAUSE, ls="", marker="|", ms=8, mew=1.3, label=label))
    faulty = [bad.row for bad in inspection.bad_pictures]
    faulty += [row for run in inspection.frozen for row in range(run.start, run.stop)]
    if faulty:
        mark: Dict[str, Any] = {"marker": "|", "ms": 8, "mew": 1.2, "ls": "", "color": FAULTY}
        axes.plot(seconds[faulty], np.full(len(faulty), -0.93 * limit), **mark)
        handles.append(Line2D([], [], label="faulty picture", **mark))
    axes.set_xlim(0.0, max(seconds[-1], 1.0))
    axes.set_ylim(-limit, limit)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 3, 6, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{int(second) // 60}:{int(second) % 60:02d}"))
    axes.set_xlabel("minutes of driving")
    axes.set_ylabel("steering in degrees,\nright is up")
    add_legend(axes, handles)


def _find_spans(where: np.ndarray) -> List[Tuple[int, int]]:
    """Return start and stop of the stretches where an array, (n,) bool, is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _draw_labels(axes: Axes, inspection: Inspection) -> None:
    """Draw how often each steering occurs, of all rows and of those held out."""
    style_axes(axes)
    log, split, labels = inspection.log, inspection.split, inspection.labels
    furthest = 5.0 * np.ceil(max(-labels.low, labels.high, 0.01) * DEGREES / 5.0)
    edges = np.arange(-furthest - 0.5, furthest + 1.0)  # bins of one degree, one of them around zero
    counts = np.histogram(log.steering * DEGREES, edges)[0]
    axes.stairs(counts / len(log), edges, color=RECORDED, fill=True, alpha=0.6, label="all rows")
    if split is not None:
        held_out = np.histogram(log.steering[split.validation] * DEGREES, edges)[0]
        axes.stairs(held_out / len(split.validation), edges, color=HELD_OUT, lw=1.5, label="held out")
    if labels.zero:
        axes.bar(0.0, labels.zero, 0.5, color=INK, alpha=0.55, label=f"exactly 0: {100.0 * labels.zero:.0f} %")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("steering in degrees, right is positive")
    axes.set_ylabel("share of rows, per degree")
    add_legend(axes)


def _draw_rows(axes: Axes, inspection: Inspection) -> None:
    """Draw how many rows are trained on, held out, and left out for what reason."""
    style_axes(axes)
    skipped, split = list(inspection.count_skipped().items()), inspection.split
    bars = [(kind, count, FAULTY) for kind, count in skipped[:REASONS]]
    if skipped[REASONS:]:
        bars.append(("for other reasons", sum(count for _, count in skipped[REASONS:]), FAULTY))
    if split is None:
        bars.insert(0, ("too few to train on", len(inspection.log), RECORDED))
    else:
        near = ("too near to what is held out", split.left_out, BAND["facecolor"])
        bars = [("trained on", len(split.train), INK), ("held out", len(split.validation), HELD_OUT), near, *bars]
    places = np.arange(len(bars))[::-1]
    axes.barh(places, [count for _, count, _ in bars], 0.34, color=[color for *_, color in bars], alpha=0.75)
    total = len(inspection.log) + len(inspection.log.skipped)
    for place, (name, count, _) in zip(places, bars):
        text = f"{name}: {count:,}, {100.0 * count / total:.1f} %"
        axes.annotate(text, (0.0, place + 0.2), (0, 2), textcoords="offset points", size=8.5, color=INK)
    axes.set_ylim(min(-0.4, len(bars) - 3.4), len(bars) - 0.25)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("rows")


def _choose_evenly(inspection: Inspection, camera: str, *, with_caption: bool) -> List[_Cell]:
    """Choose frames of a camera, evenly over the rows whose centre picture can be read."""
    steering = inspection.log.steering
    rows = np.flatnonzero(np.isfinite(inspection.brightness["center"][:, 0]))
    places = np.unique(np.linspace(0, len(rows) - 1, COLUMNS).round().astype(int)) if len(rows) else []
    return [
        _Cell(camera, row, f"row {row:,}: {_show_angle(steering[row])}" if with_caption else "")
        for row in rows[places].tolist()
    ]


def _choose_faulty(inspection: Inspection) -> List[_Cell]:
    """Choose faulty pictures, the first of each kind before the second of any."""
    faults = [(bad.kind, bad.kind, bad.camera, bad.row) for bad in inspection.bad_pictures]
    faults += [
        ("frozen", f"same for {run.stop - run.start:,} rows", run.camera, run.start) for run in inspection.frozen
    ]
    before: Dict[str, int] = defaultdict(int)
    ranked: List[Tuple[int, int, _Cell]] = []
    for kind, text, camera, row in faults:
        ranked.append((before[kind], len(ranked), _Cell(camera, row, f"{text}:\n{camera}, row {row:,}")))
        before[kind] += 1
    return [cell for *_, cell in sorted(ranked)[:COLUMNS]]


def _choose_extremes(inspection: Inspection) -> List[_Cell]:
    """Choose the pictures and rows that are the furthest from the usual."""
    cameras, steering = list(inspection.brightness), inspection.log.steering
    mean, deviation = (np.concatenate([each[:, k] for each in inspection.brightness.values()]) for k in (0, 1))
    jumps = np.where(inspection.log.find_breaks(), 0.0, np.abs(np.diff(steering, prepend=steering[:1])))
    cells = []
    for name, place in (
        ("darkest", np.nanargmin(mean)),
        ("brightest", np.nanargmax(mean)),
        ("least contrast", np.nanargmin(deviation)),
    ):
        camera, row = cameras[int(place) // len(steering)], int(place) % len(steering)
        cells.append(_Cell(camera, row, f"{name}:\n{camera}, row {row:,}"))
    left, right, jump = (int(each) for each in (steering.argmin(), steering.argmax(), jumps.argmax()))
    cells.append(_Cell("center", left, f"furthest left:\nrow {left:,}, {_show_angle(steering.min())}"))
    cells.append(_Cell("center", right, f"furthest right:\nrow {right:,}, {_show_angle(steering.max())}"))
    cells.append(_Cell("center", jump, f"largest jump:\nrow {jump:,}, by {jumps.max() * DEGREES:.1f}°"))
    return cells


def _show_angle(steering: float) -> str:
    angle = round(float(steering) * DEGREES, 1)
    return "straight" if angle == 0.0 else f"{abs(angle):.1f}° {'left' if angle < 0.0 else 'right'}"


def _draw_cell(axes: Axes, inspection: Inspection, cells: List[_Cell]) -> None:
    """Draw one frame, or nothing."""
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(color=QUIET, alpha=0.35, lw=0.6, visible=bool(cells))
    for cell in cells:
        axes.set_title(cell.caption, size=8, color=INK, loc="left", pad=3)
        picture = inspection.log.pictures[cell.camera][cell.row]
        if np.isfinite(inspection.brightness[cell.camera][cell.row, 0]):
            axes.imshow(read_picture(picture))
        else:
            axes.text(
                0.5,
                0.5,
                "cannot be read" if picture else "no picture",
                size=8.5,
                color=FAULTY,
                ha="center",
                va="center",
            )
            height, width = next(iter(inspection.sizes[cell.camera]), (1, 2))
            axes.set(facecolor="#eef1f4", box_aspect=height / width)
