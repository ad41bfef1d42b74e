"""Pictures of training and of scores: for the report, for notebooks, and as files.

Every function returns a :class:`matplotlib.figure.Figure` of its own: there is no current figure, no display is needed,
and matplotlib's settings stay as they are. Steering goes in as shares of full lock and is shown in degrees. Drives
are those of :func:`robostig.closed_loop.evaluate_closed_loop`, every model's on the same roads in the same order.

References
----------
The colours are those of Okabe and Ito, "Color Universal Design", 2008, which the colour-blind can tell apart.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

from robostig._files import replace_file
from robostig.metrics import DEGREES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from robostig.closed_loop import Drive
    from robostig.simulation.track import Curve
    from robostig.training import EpochRecord
    from robostig.tuning import Trial

__all__ = [
    "add_legend",
    "choose_colors",
    "describe_steering",
    "draw_errors",
    "draw_explanations",
    "draw_frames",
    "draw_labels",
    "draw_lateral_errors",
    "draw_loss_curves",
    "draw_maps",
    "draw_steering",
    "draw_tuning",
    "encode_figure",
    "save_figure",
    "style_axes",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, QUIET = "#27313d", "#667281"
BAND: Dict[str, Any] = {"facecolor": "#8493a3", "alpha": 0.27, "lw": 0}  # see-through: for light and for dark pages
WIDTH = 9.6  # inches: with 9-point letters, as wide as a page of text

STRETCH_GAP_S = 1.0  # frames further apart than this belong to different stretches, and get panels of their own
FRAMES_IN_BIN = 5  # fewer say nothing about a median

MAGNIFICATION = 10.0  # of what is beside the lane's middle: nobody sees 0.3 m on a map of 200 m
MAP_MARGIN_M = 10.0
BAND_STEP_M = 2.5  # between the points of its outline: bends have 28 m at least

OFF_SCALE: Dict[str, Any] = {"marker": "^", "ms": 5, "color": "none", "mec": QUIET, "mew": 0.9}

Histories = Mapping[str, "Sequence[EpochRecord]"]
Drives = Mapping[str, "Sequence[Drive]"]


def choose_colors(names: Iterable[str]) -> Dict[str, str]:
    """Return one colour (``#rrggbb``) a name, in the order given; the same in every picture of the same models."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


def describe_steering(steering: float) -> str:
    """Return a steering, -1..1, in words: ``"3.2° left"``."""
    angle = round(abs(steering) * DEGREES, 1)
    return f"{angle:.1f}°" + ("" if not angle else " right" if steering > 0 else " left")


def draw_loss_curves(histories: Histories, *, baseline: Optional[float] = None) -> Figure:
    """Draw the RMSE of every epoch, in training and on the held-out rows, with the best epoch marked.

    Parameters
    ----------
    histories
        Model to its epochs; the name may be empty if there is but one.
    baseline
        RMSE of always answering the training mean, in shares of full lock; a line, if given.
    """
    figure, axes = _make_figure(3.9)
    colors = choose_colors(histories)
    for name, history in histories.items():
        if not history:
            continue
        color, dots = colors[name], "o" if len(history) == 1 else ""
        epochs = [record.epoch for record in history]
        best = min(history, key=lambda record: record.validation_rmse)
        axes.plot(epochs, [record.train_rmse for record in history], "--", color=color, alpha=0.55, lw=1.3, marker=dots)
        axes.plot(epochs, [record.validation_rmse for record in history], color=color, lw=1.9)
        axes.plot([best.epoch], [best.validation_rmse], "o", color=color, ms=6.5, mec="white", mew=1.2, zorder=5)
    handles: List[Artist] = [Line2D([], [], color=colors[name], lw=5, label=name) for name in histories if name]
    color = QUIET if handles else PALETTE[0]
    handles += [
        Line2D([], [], color=color, lw=1.9, label="held-out rows, as recorded"),
        Line2D([], [], color=color, lw=1.3, ls="--", alpha=0.7, label="training, on augmented and balanced batches"),
        Line2D([], [], color=color, ls="", marker="o", ms=6, label="best epoch"),
    ]
    if baseline is not None:
        axes.axhline(baseline, color=QUIET, lw=1.2, ls=":")
        handles.append(Line2D([], [], color=QUIET, lw=1.2, ls=":", label="always the mean, on held-out rows"))
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(left=0.5)  # epochs count from 1
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("RMSE (1 is full lock)")
    _add_degrees(axes)
    add_legend(axes, handles, columns=3)
    return figure


def draw_steering(
    predicted: Mapping[str, np.ndarray],
    human: np.ndarray,
    time_s: np.ndarray,
    breaks: Optional[np.ndarray] = None,
    *,
    panels: int = 12,
) -> Figure:
    """Draw what the models steer over what the driver steered, one panel a stretch of driving, all on the same scales.

    Parameters
    ----------
    predicted
        Model to (n,) steering, -1..1.
    human
        (n,) steering, -1..1.
    time_s
        (n,) ascending seconds of driving. A step of more than a second begins a new stretch.
    breaks
        (n,) bool, True where a row does not follow the one before: no line is drawn to it.
    panels
        At most so many stretches, spread evenly over the drive; the figure says if there are more.
    """
    time_s = np.asarray(time_s, np.float64)
    stretches = np.split(np.arange(len(time_s)), 1 + np.flatnonzero(np.diff(time_s) > STRETCH_GAP_S))
    shown = [stretches[number] for number in np.unique(np.linspace(0, len(stretches) - 1, panels).round().astype(int))]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.35 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False, gridspec_kw={"wspace": 0.05})

    lines = [("driver", human, INK, 3.0, 0.45)]
    lines += [(name, predicted[name], color, 1.3, 1.0) for name, color in choose_colors(predicted).items()]
    limit = 1.06 * max(0.2, *(float(np.abs(values).max()) for _, values, *_ in lines)) * DEGREES
    duration = max(float(time_s[stretch[-1]] - time_s[stretch[0]]) for stretch in shown) or 1.0
    gone = np.zeros(len(time_s), bool) if breaks is None else np.asarray(breaks, bool)
    for axes in grid.flat:
        style_axes(axes)
    for axes, stretch in zip(grid.flat, shown):
        pieces = np.split(stretch, 1 + np.flatnonzero(gone[stretch[1:]]))
        for name, values, color, width, alpha in lines:
            for number, piece in enumerate(pieces):
                label = name if not number else None
                marker = "." if len(piece) == 1 else ""
                angles = np.asarray(values, np.float64)[piece] * DEGREES
                axes.plot(time_s[piece], angles, color=color, lw=width, alpha=alpha, marker=marker, label=label)
        axes.axhline(0.0, color=QUIET, lw=0.6, zorder=0.5)
        axes.set_xlim(time_s[stretch[0]], time_s[stretch[0]] + duration)
        axes.set_ylim(-limit, limit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{int(second) // 60}:{int(second) % 60:02d}"))
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    left_out = f"; {len(shown)} of {len(stretches)} stretches" if len(shown) < len(stretches) else ""
    _set_outer_labels(figure, f"minutes of driving{left_out}", "steering in degrees, right is up")
    add_legend(grid[0, 0])
    return figure


def draw_labels(before: np.ndarray, after: np.ndarray) -> Figure:
    """Draw how often each steering occurs, as recorded and as learned from.

    Parameters
    ----------
    before
        (n,) steering of the training rows, -1..1.
    after
        (m,) steering in an epoch's batches, after balancing and augmentation.
    """
    figure, axes = _make_figure(3.3)
    furthest = 5.0 * np.ceil(max(np.abs(before).max(initial=0.0), np.abs(after).max(initial=0.0)) * DEGREES / 5.0)
    edges = np.arange(-furthest - 0.5, furthest + 1.0)  # bins of one degree, one of them around zero
    for labels, color, name in (
        (before, "#9aa5b1", "as recorded"),
        (after, PALETTE[0], "after balancing, augmentation"),
    ):
        counts, _ = np.histogram(np.asarray(labels) * DEGREES, edges)
        share = counts / max(1, counts.sum())
        filled = labels is before
        axes.stairs(share, edges, color=color, fill=filled, alpha=0.6 if filled else 1.0, lw=1.7, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("steering in degrees, right is positive")
    axes.set_ylabel("share of frames, per degree")
    add_legend(axes)
    return figure


def draw_errors(predicted: Mapping[str, np.ndarray], human: np.ndarray, *, mean: Optional[float] = None) -> Figure:
    """Draw how large errors are (left), and what the models answer where the driver steers how far (right).

    Parameters
    ----------
    predicted
        Model to (n,) steering, -1..1.
    human
        (n,) steering, -1..1.
    mean
        The training mean, to show beside the models what always answering it does, if given.
    """
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    sizes, answers = figure.subplots(1, 2)
    human = np.asarray(human, np.float64)
    lines = {name: (np.asarray(predicted[name], np.float64), color) for name, color in choose_colors(predicted).items()}
    if mean is not None:
        lines["always the mean"] = (np.full(len(human), mean), QUIET)
    share = np.linspace(0.0, 1.0, 401)
    for name, (values, color) in lines.items():
        dotted = ":" if name not in predicted else "-"
        errors = np.quantile(np.abs(values - human), share) * DEGREES
        sizes.plot(errors, share, color=color, ls=dotted, lw=1.7, label=name)
        if name in predicted:
            centers, low, middle, high = _summarize_answers(values * DEGREES, human * DEGREES)
            answers.fill_between(centers, low, high, color=color, alpha=0.15, lw=0)
            answers.plot(centers, middle, color=color, lw=1.7, marker="." if len(centers) == 1 else "")
    limit = max(5.0, float(np.abs(human).max()) * DEGREES)
    answers.plot([-limit, limit], [-limit, limit], color=INK, alpha=0.4, lw=2.2, zorder=1, label="as the driver")
    for axes in (sizes, answers):
        style_axes(axes)
        add_legend(axes)
    sizes.set_xlim(0.0, max(1.0, *(float(np.percentile(np.abs(v - human), 99)) * DEGREES for v, _ in lines.values())))
    sizes.set_ylim(0.0, 1.02)
    sizes.yaxis.set_major_formatter(PercentFormatter(1.0))
    sizes.set_xlabel("error in degrees")
    sizes.set_ylabel("share of frames with at most this error")
    answers.set_xlabel("the driver's steering in degrees")
    answers.set_ylabel("the model's steering in degrees")
    return figure


def draw_maps(drives: Drives, *, limit_m: float) -> Figure:
    """Draw maps of the roads with the path of every model, whose distance from the lane's middle is magnified tenfold.

    So is the band around the lane, in which nobody helps. Crosses are interventions; a new path begins behind each.

    Parameters
    ----------
    drives
        Model to its drives.
    limit_m
        Metres from the lane's middle at which a person takes the wheel.
    """
    first = next(iter(drives.values()))
    # One direction after the other: with up to three roads, both maps of a road are then above each other.
    order = sorted(range(len(first)), key=lambda number: first[number].track.direction != first[0].track.direction)
    columns = min(3, len(first))
    reach = limit_m * MAGNIFICATION
    bands = [_offset(each.track.lane, np.array([-reach, reach])) for each in first]
    low = np.array([np.min(band, axis=(0, 1)) for band in bands]) - MAP_MARGIN_M
    high = np.array([np.max(band, axis=(0, 1)) for band in bands]) + MAP_MARGIN_M
    middles, (width, height) = (low + high) / 2.0, (high - low).max(axis=0)
    panel = WIDTH / max(2, columns)
    figure, above, panels = _make_panels(len(first), columns, 0.25 + panel * height / width)
    colors = choose_colors(drives)
    for axes, number in zip(panels, order):
        track = first[number].track
        step = round(BAND_STEP_M / track.lane.spacing_m)
        axes.add_patch(PathPatch(_outline(*bands[number][:, ::step]), **BAND))
        _draw_start(axes, track.lane, reach)
        for name, color in colors.items():
            drive = drives[name][number]
            nearest = np.round(drive.along_m / track.lane.spacing_m).astype(int) % len(track.lane.points)
            aside = (MAGNIFICATION - 1.0) * drive.lateral_error_m[:, None] * _point_right(track.lane)[nearest]
            _draw_drive(axes, np.stack([drive.x, drive.y], axis=1) + aside, drive.intervened, color)
        x, y = middles[number]
        axes.set(aspect="equal", xlim=(x - width / 2.0, x + width / 2.0), ylim=(y - height / 2.0, y + height / 2.0))
        axes.set_axis_off()
        axes.set_title(str(track), size=9, color=INK)
    _draw_scale(panels[0])
    add_legend(above, _list_drivers(colors, f"within {limit_m:g} m of the lane's middle, drawn as {reach:g} m"))
    return figure


def draw_lateral_errors(drives: Drives, *, limit_m: float) -> Figure:
    """Draw how far from the lane's middle every model drove, along each road, all on the same scales.

    Parameters
    ----------
    drives
        Model to its drives.
    limit_m
        Metres from the lane's middle at which a person takes the wheel; the band. Crosses are interventions.
    """
    first = next(iter(drives.values()))
    figure, above, panels = _make_panels(len(first), min(2, len(first)), 1.4, sharey=True)
    colors = choose_colors(drives)
    everything = [drive for each in drives.values() for drive in each]
    farthest = max(float(np.abs(drive.lateral_error_m).max()) for drive in everything)
    longest = max(float(drive.along_m.max()) for drive in everything)
    for number, axes in enumerate(panels):
        style_axes(axes)
        axes.axhspan(-limit_m, limit_m, zorder=0.3, **BAND)
        axes.axhline(0.0, color=QUIET, lw=0.6, zorder=0.5)
        for name, color in colors.items():
            drive = drives[name][number]
            _draw_drive(axes, np.stack([drive.along_m, drive.lateral_error_m], axis=1), drive.intervened, color)
        axes.set_xlim(0.0, longest)
        axes.set_ylim(-max(1.25 * limit_m, 1.1 * farthest), max(1.25 * limit_m, 1.1 * farthest))
        axes.yaxis.set_major_locator(MultipleLocator(limit_m))
        axes.set_title(str(first[number].track), loc="left", size=9, color=INK, pad=3)
    _set_outer_labels(figure, "metres along the lane", "metres from the lane's middle, right is up")
    add_legend(above, _list_drivers(colors, f"within {limit_m:g} m of the lane's middle"))
    return figure


def draw_frames(frames: Sequence[np.ndarray], titles: Sequence[str] = (), *, columns: int = 3) -> Figure:
    """Draw camera frames side by side.

    Parameters
    ----------
    frames
        (H, W, 3) uint8 RGB each.
    titles
        What to say above each; nothing if there are none.
    columns
        Frames in a line.
    """
    height, width = frames[0].shape[:2]
    lines = -(-len(frames) // columns)
    line = WIDTH / columns * height / width + (0.28 if titles else 0.05)
    figure = Figure(figsize=(WIDTH, lines * line), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, frame in zip(grid, frames):
        axes.imshow(frame)
    for axes, title in zip(grid, titles):
        axes.set_title(title, size=10, color=INK, pad=4)
    return figure


def draw_explanations(
    looks: Mapping[str, Sequence[Tuple[np.ndarray, float]]],
    scenes: Sequence[Tuple[float, str]],
    *,
    driver: str = "driver",
) -> Figure:
    """Draw where models look: a row a model, a column a frame, with what the model steers there below it.

    Parameters
    ----------
    looks
        Model to one picture a frame, (H, W, 3) uint8 RGB, and its steering, -1..1, as
        :func:`robostig.evidence.highlight_scenes` returns them.
    scenes
        For each frame the driver's steering, -1..1, and where it is from.
    driver
        What to call who drove.
    """
    height, width = next(iter(looks.values()))[0][0].shape[:2]
    panel = 2.6  # inches; as wide as a picture is
    rows = (panel * height / width + 0.22) * len(looks)
    figure = Figure(figsize=(panel * max(3, len(scenes)), rows + 0.7), layout="constrained")
    grid = figure.subplots(len(looks), len(scenes), squeeze=False)
    for row, (name, pictures) in zip(grid, looks.items()):
        for axes, (picture, answer) in zip(row, pictures):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(describe_steering(answer), size=10, color=INK, labelpad=4)
        row[0].set_ylabel(name, size=12, color=INK, labelpad=8)
    for axes, (steering, place) in zip(grid[0], scenes):
        axes.set_title(f"{driver} {describe_steering(steering)}\n", size=11, color=INK, pad=-2)
        axes.annotate(place, (0.5, 1.0), (0, 5), "axes fraction", "offset points", size=8.5, color=QUIET, ha="center")
    figure.supxlabel("pink: the fifth of the pixels that count most; dark: cut away, never seen", size=9, color=QUIET)
    return figure


def draw_tuning(
    trials: Sequence[Trial], space: Mapping[str, Tuple[Any, ...]], importances: Optional[Mapping[str, float]] = None
) -> Figure:
    """Draw the RMSE of every trial (above), and over every setting that was searched (below), on the same scale.

    Parameters
    ----------
    trials
        By number, one or more of them finished.
    space
        Setting to what was searched: (low, high), (low, high, "log"), or the choices.
    importances
        Setting to the share of the differences that it explains, if known; the largest are drawn first, and say so.
    """
    importances = importances or {}
    names = sorted(space, key=lambda name: -importances.get(name, 0.0))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 3.3 + 1.9 * rows), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=[3.0, 1.9 * rows])
    history = figure.add_subplot(halves[0])
    grid = halves[1].subgridspec(rows, columns).subplots(sharey=True, squeeze=False)
    finished = [trial for trial in trials if trial.state == "finished"]
    rmse = [trial.rmse for trial in finished if trial.rmse is not None]
    limits = _limit_rmse(rmse, max(trial.rmse for trial in trials if trial.rmse is not None))
    kinds = _sort_trials(trials, finished, space.get("model", ()))

    style_axes(history)
    _draw_trials(history, kinds, {trial.number: float(trial.number) for trial in trials}, limits)
    lowest = np.minimum.accumulate(rmse)
    steps = [*(trial.number for trial in finished), trials[-1].number]
    history.step(steps, [*lowest, lowest[-1]], where="post", color=QUIET, lw=1.2, zorder=1.5)
    history.set_xlim(0.5, trials[-1].number + 0.5)
    history.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    history.set(xlabel="trial", ylabel="RMSE (1 is full lock)")
    _add_degrees(history)
    handles: List[Artist] = [Line2D([], [], label=name, **look) for name, (look, _) in kinds.items()]
    if any(trial.rmse is not None and trial.rmse > limits[1] for trial in trials):
        handles.append(Line2D([], [], label="off the scale", ls="", **OFF_SCALE))
    add_legend(history, [*handles, Line2D([], [], color=QUIET, lw=1.2, label="best so far")], columns=8)

    for axes, name in zip(grid.flat, names):
        style_axes(axes)
        _draw_trials(axes, kinds, _place_trials(axes, trials, name, space[name]), limits)
        axes.set_title(name, loc="left", size=9, color=INK, pad=4)
        if name in importances:
            share = f"explains {100.0 * importances[name]:.0f} %"
            axes.set_title(share, loc="right", size=8.5, color=QUIET, pad=4)
    for axes in grid[:, 0]:
        axes.set_ylabel("RMSE")
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    return figure


def save_figure(figure: Figure, path: Union[str, Path]) -> None:
    """Write a figure to a file, in the format of the path's suffix; the file is there as a whole or not at all."""
    path = Path(path)
    with replace_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=150, facecolor="white")


def encode_figure(figure: Figure) -> str:
    """Return a figure as the address of an SVG picture (``data:image/svg+xml;base64,...``), without a background."""
    buffer = io.BytesIO()
    nothing: Dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    # Hundredths of a point are finer than any screen; matplotlib's millionths take a third of the file.
    svg = re.sub(rb'(?<= d=")[^"]+', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path.group()), buffer.getvalue())
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _add_degrees(axes: Axes) -> None:
    """Put a second scale to the right, in degrees, of axes whose own is in shares of full lock."""
    to_degrees, to_share = (lambda share: np.multiply(share, DEGREES)), (lambda angle: np.divide(angle, DEGREES))
    degrees = axes.secondary_yaxis("right", functions=(to_degrees, to_share))
    degrees.set_ylabel("RMSE in degrees", color=QUIET, size=9)
    degrees.tick_params(length=0, labelcolor=QUIET, labelsize=8.5)
    degrees.spines["right"].set_visible(False)


def _limit_rmse(finished: Sequence[float], highest: float) -> Tuple[float, float]:
    """Return the ends of a scale for trials: from the best one to nearly all that finished, and the rest above it."""
    lowest, most = float(min(finished)), float(np.quantile(finished, 0.9))
    height = max(min(1.6 * (most - lowest), highest - lowest), 0.1 * lowest)
    return lowest - 0.12 * height, lowest + height


def _sort_trials(
    trials: Sequence[Trial], finished: Sequence[Trial], models: Sequence[str]
) -> Dict[str, Tuple[Dict[str, Any], List[Trial]]]:
    """Return how each kind of trial looks, and the trials of it, for the kinds that there are."""
    dot: Dict[str, Any] = {"ls": "", "marker": "o", "ms": 5.5, "mec": "white", "mew": 0.6, "zorder": 3}
    colors = choose_colors(models) if len(models) > 1 else {"finished": PALETTE[0]}
    looks: Dict[str, Dict[str, Any]] = {name: {**dot, "color": color} for name, color in colors.items()}
    looks["defaults"] = {**dot, "marker": "D", "ms": 6.5, "color": PALETTE[4], "zorder": 4}
    best = min(finished, key=lambda trial: (trial.rmse, trial.number))
    winner = "best: the defaults" if best.is_default else "best"
    looks[winner] = {**dot, "marker": "*", "ms": 14, "color": PALETTE[2], "zorder": 5}
    looks["pruned"] = {**dot, "ms": 4.5, "color": "none", "mec": QUIET, "mew": 0.9, "zorder": 2}
    looks["failed"] = {**dot, "marker": "x", "ms": 5.5, "color": QUIET, "mec": QUIET, "mew": 1.2, "zorder": 2}
    kinds: Dict[str, Tuple[Dict[str, Any], List[Trial]]] = {name: (look, []) for name, look in looks.items()}
    for trial in trials:
        if trial.state != "finished":
            kinds[trial.state][1].append(trial)
            continue
        kind = trial.settings["model"] if len(models) > 1 else "finished"
        kinds[winner if trial is best else "defaults" if trial.is_default else kind][1].append(trial)
    return {name: kind for name, kind in kinds.items() if kind[1]}


def _draw_trials(
    axes: Axes,
    kinds: Mapping[str, Tuple[Dict[str, Any], List[Trial]]],
    places: Mapping[int, float],
    limits: Tuple[float, float],
) -> None:
    """Draw the RMSE of trials over their places; those off the scale, or without any, at its upper end."""
    low, top = limits
    axes.set_ylim(low, top + 0.05 * (top - low))
    for look, trials in kinds.values():
        rmse = np.array([top if trial.rmse is None else trial.rmse for trial in trials])
        where = np.array([places[trial.number] for trial in trials])
        for those, marker in ((rmse <= top, look["marker"]), (rmse > top, "^")):
            if those.any():
                axes.plot(where[those], np.minimum(rmse, top)[those], clip_on=False, **{**look, "marker": marker})


def _place_trials(axes: Axes, trials: Sequence[Trial], name: str, options: Sequence[Any]) -> Dict[int, float]:
    """Scale axes for a setting, and return where on them each trial is; what was not searched is at the left."""
    values = {trial.number: trial.settings[name] for trial in trials}
    axes.tick_params(which="minor", length=0)
    if isinstance(options[0], float):
        low, high = options[:2]
        if "log" in options:
            axes.set_xscale("log")
        outside = {number: value for number, value in values.items() if not low <= value <= high}
        scale = axes.xaxis.get_transform()
        ends = scale.transform(np.array([low, high]))
        margin = (ends[1] - ends[0]) * np.array([-0.22 if outside else -0.06, 0.06])
        axes.set_xlim(*scale.inverted().transform(ends + margin))
        aside = float(scale.inverted().transform(ends[0] + 0.7 * margin[0]))
        places = {**values, **dict.fromkeys(outside, aside)}
    else:
        axes.set_xlim(-0.5, len(options) - 0.5)
        axes.set_xticks(range(len(options)), list(map(str, options)))
        outside = {number: value for number, value in values.items() if value not in options}
        aside = -0.45
        # Side by side, so that they do not hide each other: multiples of the golden ratio spread evenly.
        places = {
            number: aside if number in outside else options.index(value) + 0.5 * (number * 0.618034 % 1.0 - 0.5)
            for number, value in values.items()
        }
    for value in sorted(set(outside.values())):
        below: Dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "ha": "center",
            "va": "top",
        }
        axes.annotate(
            value if isinstance(value, str) else f"{value:g}", (aside, 0.0), (0, -5), size=8.5, color=QUIET, **below
        )
    return places


def _summarize_answers(answers: np.ndarray, human: np.ndarray) -> Tuple[np.ndarray, ...]:
    """Return bins of the human's steering: their medians, and the answers' 10th, 50th and 90th percentile there."""
    bins = np.round(human / 2.0).astype(int)  # of two degrees
    summary: List[np.ndarray] = []
    for number in np.unique(bins):
        inside = bins == number
        if inside.sum() >= min(FRAMES_IN_BIN, len(human)):
            summary.append(np.append(np.median(human[inside]), np.percentile(answers[inside], [10, 50, 90])))
    return tuple(np.array(summary).reshape(-1, 4).T)


def _point_right(lane: Curve) -> np.ndarray:
    """Return (n, 2) arrows of one metre from a lane's points to their right."""
    return np.stack([np.sin(lane.headings), -np.cos(lane.headings)], axis=1)


def _offset(lane: Curve, aside_m: np.ndarray) -> np.ndarray:
    """Return (k, n, 2) curves which run so many metres to the right of a lane."""
    return lane.points + aside_m[:, None, None] * _point_right(lane)


def _outline(one: np.ndarray, other: np.ndarray) -> Outline:
    """Return what lies between two closed curves."""
    codes = [Outline.MOVETO, *[Outline.LINETO] * (len(one) - 1), Outline.CLOSEPOLY]
    # Opposite turns leave the inside of the inner one empty.
    return Outline(np.concatenate([one, one[:1], other[::-1], other[-1:]]), codes * 2)


def _draw_drive(axes: Axes, path: np.ndarray, intervened: np.ndarray, color: str) -> None:
    """Draw a path, without a line from where the car was taken to where it was put, and crosses where it was taken."""
    pieces = np.insert(path, np.flatnonzero(intervened) + 1, np.nan, axis=0)
    axes.plot(*pieces.T, color=color, lw=1.2)
    axes.plot(*path[intervened].T, "X", color=color, ms=6.5, mec="white", mew=0.8, zorder=4)


def _draw_start(axes: Axes, lane: Curve, reach_m: float) -> None:
    """Draw a line across the lane where a drive begins, and an arrow beside it in the direction of driving."""
    start, right = lane.points[0], _point_right(lane)[0]
    axes.plot(*np.array([start - reach_m * right, start + reach_m * right]).T, color=QUIET, lw=1.0)
    beside = start + (reach_m + 0.5 * MAP_MARGIN_M) * right
    ahead = np.array([-right[1], right[0]])
    axes.annotate(
        "",
        beside + 2.0 * MAP_MARGIN_M * ahead,
        beside,
        arrowprops={"arrowstyle": "->", "color": QUIET, "lw": 1.1, "shrinkA": 0, "shrinkB": 0},
    )


def _draw_scale(axes: Axes, length_m: float = 50.0) -> None:
    """Draw how long some metres along the road are, into the lower left corner."""
    x, y = axes.get_xlim()[0], axes.get_ylim()[0]
    axes.plot([x, x + length_m], [y, y], "|-", color=QUIET, lw=1.0, ms=5, clip_on=False)
    axes.annotate(f"{length_m:g} m", (x + length_m, y), (5, -3), textcoords="offset points", size=8.5, color=QUIET)


def _list_drivers(colors: Mapping[str, str], band: str) -> List[Artist]:
    """Return a legend's entries for drives."""
    return [
        *(Line2D([], [], color=color, lw=1.7, label=name) for name, color in colors.items()),
        Line2D([], [], color=QUIET, ls="", marker="X", ms=7, mec="white", mew=0.8, label="intervention"),
        Patch(label=band, **BAND),
    ]


def _make_panels(count: int, columns: int, height: float, *, sharey: bool = False) -> Tuple[Figure, Axes, List[Axes]]:
    """Return a figure, empty axes at its top for a legend, and panels of that height in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + rows * height), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=[0.001, 1.0], hspace=0.0)
    above = figure.add_subplot(halves[0])
    above.set_axis_off()
    grid = halves[1].subgridspec(rows, columns).subplots(sharey=sharey, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, above, list(grid.flat[:count])


def _make_figure(height: float) -> Tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Give axes the look that all figures share."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.grid(True, color=QUIET, alpha=0.22, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=QUIET, labelsize=8.5, pad=5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=QUIET, size=9)


def add_legend(axes: Axes, handles: Optional[Sequence[Artist]] = None, columns: int = 5) -> None:
    """Put the legend above the axes, where it covers nothing; of all that has a label if ``handles`` is None."""
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.01),
        ncol=max(1, min(columns, len(handles))),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.7,
        columnspacing=1.6,
        borderaxespad=0.0,
        borderpad=0.3,
    )


def _set_outer_labels(figure: Figure, below: str, beside: str) -> None:
    figure.supxlabel(below, size=9, color=QUIET)
    figure.supylabel(beside, size=9, color=QUIET)
