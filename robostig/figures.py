"""Pictures of training and of scores: for the report, for notebooks, and as files.

Every function returns a :class:`matplotlib.figure.Figure` of its own: there is no current figure, no display is needed,
and matplotlib's settings stay as they are. Steering goes in as shares of full lock and is shown in degrees.

References
----------
The colours are those of Okabe and Ito, "Color Universal Design", 2008, which the colour-blind can tell apart.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from robostig._files import replace_file
from robostig.metrics import DEGREES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from robostig.training import EpochRecord

__all__ = [
    "choose_colors",
    "draw_errors",
    "draw_labels",
    "draw_loss_curves",
    "draw_steering",
    "encode_figure",
    "save_figure",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, QUIET = "#27313d", "#667281"
WIDTH = 9.6  # inches: with 9-point letters, as wide as a page of text

STRETCH_GAP_S = 1.0  # frames further apart than this belong to different stretches, and get panels of their own
FRAMES_IN_BIN = 5  # fewer say nothing about a median

Histories = Mapping[str, "Sequence[EpochRecord]"]


def choose_colors(names: Iterable[str]) -> Dict[str, str]:
    """Return one colour (``#rrggbb``) a name, in the order given; the same in every picture of the same models."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


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
    to_degrees, to_share = (lambda share: np.multiply(share, DEGREES)), (lambda angle: np.divide(angle, DEGREES))
    degrees = axes.secondary_yaxis("right", functions=(to_degrees, to_share))
    degrees.set_ylabel("RMSE in degrees", color=QUIET, size=9)
    degrees.tick_params(length=0, labelcolor=QUIET, labelsize=8.5)
    degrees.spines["right"].set_visible(False)
    _add_legend(axes, handles, columns=3)
    return figure


def draw_steering(
    predicted: Mapping[str, np.ndarray],
    human: np.ndarray,
    time_s: np.ndarray,
    breaks: Optional[np.ndarray] = None,
    *,
    panels: int = 12,
) -> Figure:
    """Draw what the models steer over what the human steered, one panel a stretch of driving, all on the same scales.

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

    lines = [("human", human, INK, 3.0, 0.45)]
    lines += [(name, predicted[name], color, 1.3, 1.0) for name, color in choose_colors(predicted).items()]
    limit = 1.06 * max(0.2, *(float(np.abs(values).max()) for _, values, *_ in lines)) * DEGREES
    duration = max(float(time_s[stretch[-1]] - time_s[stretch[0]]) for stretch in shown) or 1.0
    gone = np.zeros(len(time_s), bool) if breaks is None else np.asarray(breaks, bool)
    for axes in grid.flat:
        _style(axes)
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
    _add_legend(grid[0, 0])
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
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("steering in degrees, right is positive")
    axes.set_ylabel("share of frames, per degree")
    _add_legend(axes)
    return figure


def draw_errors(predicted: Mapping[str, np.ndarray], human: np.ndarray, *, mean: Optional[float] = None) -> Figure:
    """Draw how large errors are (left), and what the models answer where the human steers how far (right).

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
    answers.plot([-limit, limit], [-limit, limit], color=INK, alpha=0.4, lw=2.2, zorder=1, label="as the human")
    for axes in (sizes, answers):
        _style(axes)
        _add_legend(axes)
    sizes.set_xlim(0.0, max(1.0, *(float(np.percentile(np.abs(v - human), 99)) * DEGREES for v, _ in lines.values())))
    sizes.set_ylim(0.0, 1.02)
    sizes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    sizes.set_xlabel("error in degrees")
    sizes.set_ylabel("share of frames with at most this error")
    answers.set_xlabel("the human's steering in degrees")
    answers.set_ylabel("the model's steering in degrees")
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
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _summarize_answers(answers: np.ndarray, human: np.ndarray) -> Tuple[np.ndarray, ...]:
    """Return bins of the human's steering: their medians, and the answers' 10th, 50th and 90th percentile there."""
    bins = np.round(human / 2.0).astype(int)  # of two degrees
    summary: List[np.ndarray] = []
    for number in np.unique(bins):
        inside = bins == number
        if inside.sum() >= min(FRAMES_IN_BIN, len(human)):
            summary.append(np.append(np.median(human[inside]), np.percentile(answers[inside], [10, 50, 90])))
    return tuple(np.array(summary).reshape(-1, 4).T)


def _make_figure(height: float) -> Tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.grid(True, color=QUIET, alpha=0.22, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=QUIET, labelsize=8.5, pad=5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=QUIET, size=9)


def _add_legend(axes: Axes, handles: Optional[Sequence[Artist]] = None, columns: int = 5) -> None:
    """Put the legend above the axes, where it covers nothing."""
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
