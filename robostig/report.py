"""The comparison as a page to look at: one HTML file with everything in it, which opens anywhere and can be sent on.

What the page says comes from :class:`~robostig.comparison.Comparison`; how it looks is in ``report.html.j2``, and the
figures are drawn by :mod:`robostig.figures`.
"""

from __future__ import annotations

import base64
import math
import operator
import os
import platform
import re
import shlex
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import cv2
import jinja2
import matplotlib
import numpy as np

import robostig
from robostig import figures
from robostig._files import make_folder, replace_file
from robostig.backend import mx
from robostig.comparison import CAVEAT, REPORT, Comparison
from robostig.config import TrainingConfig
from robostig.driving_log import read_picture
from robostig.metrics import DEGREES, STRAIGHT, score_steering

__all__ = ["write_report"]

TEMPLATE = "report.html.j2"
MISSING = "–"

FRAMES = 6  # with the largest errors, for each model
APART_S = 2.0  # seconds between two of them: by then the road looks different
FRAME_WIDTH = 480  # pixels at most
FRAME_QUALITY = 82  # of the JPEGs, in percent
SKIPPED_ROWS = 50  # listed at most

# The camera of Udacity's simulator, for drawing the path that a steering leads to.
CAMERA_HEIGHT_M = 0.97
CAMERA_PITCH = math.radians(4.0)  # nose-down
CAMERA_FIELD = math.radians(60.0)  # vertical field of view
TURN_LENGTH_M = 2.67  # turning radius x steering angle, measured in the simulator: Lf in Udacity's CarND-MPC-Project
PATH_M = 25.0  # as far as it is drawn

_Rank = Callable[[float], float]


@dataclass(frozen=True)
class _Row:
    """A model, or a baseline, in the tables and bars."""

    name: str
    values: Mapping[str, Any]
    color: str = ""
    is_choice: bool = False

    @property
    def is_model(self) -> bool:
        return bool(self.color)


@dataclass(frozen=True)
class _Column:
    """What a column of a table shows, how, and which value is the best: the one with the lowest ``rank``."""

    key: str
    title: str
    unit: str
    note: str
    show: Callable[[float], str]
    rank: Optional[_Rank] = None


def write_report(comparison: Comparison, out: Union[str, Path]) -> Path:
    """Write ``report.html``: one file without links to anything outside of it. A report that is there is replaced.

    Parameters
    ----------
    comparison
        What :func:`robostig.comparison.compare` returned. The pictures of its log must still be there.
    out
        The folder, made if it is not there.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileNotFoundError, ValueError
        If a picture of the log is gone or damaged; an earlier report is then left as it is.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robostig", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(_collect(comparison))
    path = make_folder(out) / REPORT
    with replace_file(path) as file:
        file.write(page.encode("utf-8", "replace"))
    return path


def _collect(comparison: Comparison) -> Dict[str, Any]:
    """Return everything that the template shows."""
    log, split = comparison.log, comparison.split
    clock, breaks = log.driving_clock()[split.validation], log.find_breaks(split.validation)
    human = log.steering[split.validation]
    predicted = {name: model.open_loop.predicted for name, model in comparison.models.items()}
    mean = float(log.steering[split.train].mean())
    rows = _make_rows(comparison, human, mean)
    headline, reason = _split_reason(comparison)
    scores = comparison.models[comparison.choice].open_loop.scores
    labels = comparison.models[comparison.choice].training.labels
    histories = {name: model.training.history for name, model in comparison.models.items()}
    return {
        "headline": headline,
        "caveat": CAVEAT,
        "reason": reason,
        "choice": comparison.choice,
        "rows": rows,
        "models": [row for row in rows if row.is_model],
        "longest": max(row.values["rmse"] for row in rows),
        "tables": [
            _tabulate("Closeness to the human", _score_columns(scores.get("whiteness_human")), rows),
            _tabulate("Cost", _cost_columns(), [row for row in rows if row.is_model]),
        ],
        "straight": STRAIGHT * DEGREES,
        "apart": APART_S,
        "loss_curves": figures.encode_figure(
            figures.draw_loss_curves(histories, baseline=scores["rmse_mean_baseline"])
        ),
        "steering": figures.encode_figure(figures.draw_steering(predicted, human, clock, breaks)),
        "errors": figures.encode_figure(figures.draw_errors(predicted, human, mean=mean)),
        "labels": figures.encode_figure(figures.draw_labels(log.steering[split.train], labels)),
        "straight_before": float(np.mean(np.abs(log.steering[split.train]) <= STRAIGHT)),
        "straight_after": float(np.mean(np.abs(labels) <= STRAIGHT)),
        "worst": {row.name: _find_worst_frames(comparison, row.name, clock, rows) for row in rows if row.is_model},
        **_describe_data(comparison),
        "config": _describe_config(comparison.config),
        "command": _rebuild_command(comparison),
        "versions": {
            "RoboStig": robostig.__version__,
            "MXNet": mx.__version__,
            "NumPy": np.__version__,
            "OpenCV": cv2.__version__,
            "matplotlib": matplotlib.__version__,
            "Python": platform.python_version(),
            "system": f"{platform.system()}, {platform.machine()}",
            "computed on": ", ".join(comparison.models[comparison.choice].training.devices),
        },
        "created": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "degrees": _in_degrees,
        "percent": lambda share: f"{share:.0%}",
    }


def _split_reason(comparison: Comparison) -> Tuple[str, str]:
    """Return the choice as a headline, and the rest of the reason."""
    headline, colon, reason = comparison.reason.partition(": ")
    if not colon or comparison.choice not in headline or len(headline) > 120:
        return f"{comparison.choice} should drive", comparison.reason
    is_name = any(reason.startswith(name) for name in comparison.models)
    return headline, reason if is_name else reason[:1].upper() + reason[1:]


def _make_rows(comparison: Comparison, human: np.ndarray, mean: float) -> List[_Row]:
    """Return the models and the two baselines, each with its values by name."""
    colors = figures.choose_colors(comparison.models)
    rows = []
    for name, model in comparison.models.items():
        summary = model.summarize()
        values = {
            **summary["open_loop"],
            **summary["latency_ms"],
            **summary["training"],
            "parameters": summary["parameters"],
        }
        rows.append(_Row(name, values, colors[name], name == comparison.choice))
    for name, answer in (("always the mean", mean), ("always zero", 0.0)):
        rows.append(_Row(name, score_steering(np.full(len(human), answer), human, training_mean=mean)))
    return [replace(row, values={**row.values, "rmse_share": row.values["rmse"]}) for row in rows]


def _score_columns(whiteness_human: Optional[float]) -> List[_Column]:
    """Return the columns of what :func:`robostig.metrics.score_steering` finds."""
    straight = f"{STRAIGHT * DEGREES:g} degree"

    def show_share(steering: float) -> str:
        return f"{steering:.1%}"

    def show_ratio(value: float) -> str:
        return f"{value:.2f}"

    def show_rate(whiteness: float) -> str:
        return f"{whiteness:.1f}"

    def measure_difference(whiteness: float) -> float:
        return abs(whiteness - whiteness_human) if whiteness_human is not None else 0.0

    def column(
        key: str, title: str, unit: str, note: str, show: Callable[[float], str] = _in_degrees, rank: _Rank = float
    ) -> _Column:
        return _Column(key, title, unit, note, show, rank)

    return [
        column(
            "rmse",
            "RMSE",
            "degrees",
            "Root mean square error, the usual distance from the human, in which large errors weigh most. Models are "
            "ranked by it; less is better.",
        ),
        column("rmse_share", "RMSE", "of full lock", "The same as a share of 25 degrees, full lock.", show_share),
        column(
            "rmse_to_mean_baseline",
            "Ratio",
            "to the mean",
            "The error beside that of always answering the training mean; 1 is as good as not looking at the road.",
            show_ratio,
        ),
        column("mae", "MAE", "all", "Mean absolute error on all held-out frames, in degrees."),
        column("mae_left", "MAE", "left", f"The same where the human steers left by more than {straight}."),
        column("mae_straight", "MAE", "straight", f"The same where the human is within {straight} of straight ahead."),
        column("mae_right", "MAE", "right", f"The same where the human steers right by more than {straight}."),
        column(
            "correlation",
            "Correlation",
            "with the human",
            "Whether it turns when the human turns: 1 always, 0 by chance. A constant has none.",
            show_ratio,
            operator.neg,
        ),
        column(
            "whiteness",
            "Whiteness",
            f"human {_show(whiteness_human, show_rate)}",
            "How restless the steering is: the root mean square of its rate of change, in degrees a second. The closer "
            "to the human's own, the better.",
            show_rate,
            measure_difference,
        ),
    ]


def _cost_columns() -> List[_Column]:
    """Return the columns of what a model takes."""

    def show_count(value: float) -> str:
        return f"{value:,.0f}"

    def show_milliseconds(value: float) -> str:
        return f"{value:.1f} ms"

    return [
        _Column(
            "p50",
            "Answer",
            "p50",
            "From a camera frame to a steering, one frame at a time, on the machine that made this report: half of the "
            "answers are quicker.",
            show_milliseconds,
            float,
        ),
        _Column("p99", "Answer", "p99", "99 of 100 answers are quicker.", show_milliseconds, float),
        _Column(
            "parameters",
            "Parameters",
            "",
            "Numbers that training adjusts; more take more memory and time.",
            show_count,
            float,
        ),
        _Column(
            "seconds",
            "Training",
            "time",
            "Wall-clock time of all epochs, validation included.",
            _show_duration,
            float,
        ),
        _Column(
            "epochs",
            "Epochs",
            "trained",
            "Passes over the training rows, to the end or until nothing got better.",
            show_count,
        ),
        _Column(
            "best_epoch",
            "Epochs",
            "best",
            "The epoch whose parameters were kept, by the error on the held-out frames.",
            show_count,
        ),
        _Column(
            "images_per_second",
            "Speed",
            "images/s",
            "Frames trained on in a second, in the median epoch.",
            show_count,
            operator.neg,
        ),
    ]


def _tabulate(title: str, columns: Sequence[_Column], rows: Sequence[_Row]) -> Dict[str, Any]:
    """Return a table's rows as texts, with the best model's value of each column marked."""
    best = {column.key: _find_best(column, rows) for column in columns}
    body = [
        {
            "row": row,
            "cells": [
                {"text": _show(row.values.get(column.key), column.show), "best": best[column.key] == row.name}
                for column in columns
            ],
        }
        for row in rows
    ]
    return {"title": title, "columns": columns, "body": body}


def _find_best(column: _Column, rows: Sequence[_Row]) -> Optional[str]:
    """Return the name of the one model with the best value; None if they look equal, or there is nothing to compare."""
    found = {row.name: row.values.get(column.key) for row in rows if row.is_model}
    known = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
    rank = column.rank
    if rank is None or len({column.show(value) for value in known.values()}) < 2:
        return None
    return min(known, key=lambda name: rank(known[name]))


def _find_worst_frames(
    comparison: Comparison, name: str, clock: np.ndarray, rows: Sequence[_Row]
) -> List[Dict[str, Any]]:
    """Return the frames where a model is furthest from the human, the worst first, as the template draws them."""
    loop = comparison.models[name].open_loop
    chosen: List[int] = []
    for number in np.argsort(-np.abs(loop.predicted - loop.human), kind="stable"):
        if all(abs(clock[number] - clock[other]) >= APART_S for other in chosen):
            chosen.append(int(number))
        if len(chosen) == FRAMES:
            break
    frames = []
    for number in chosen:
        row = int(comparison.split.validation[number])
        path = comparison.log.pictures["center"][row]
        picture, width, height = _encode_picture(read_picture(path))
        steering = {"human": float(loop.human[number])}
        steering.update({each: float(model.open_loop.predicted[number]) for each, model in comparison.models.items()})
        colors = {"human": "#ffffff", **{each.name: each.color for each in rows if each.is_model}}
        frames.append(
            {
                "picture": picture,
                "width": width,
                "height": height,
                "drivers": [
                    {
                        "name": each,
                        "color": colors[each],
                        "angle": _show_side(value),
                        "path": _trace_path(value, width, height),
                        "width": max(2.0, 7.0 - 2.0 * order),  # the later ones lie on the earlier ones, and hide none
                    }
                    for order, (each, value) in enumerate(steering.items())
                ],
                "error": _in_degrees(abs(steering[name] - steering["human"])),
                "row": row,
                "file": os.path.basename(path),
                "time": f"{int(clock[number]) // 60}:{int(clock[number]) % 60:02d}",
            }
        )
    return frames


def _encode_picture(frame: np.ndarray) -> Tuple[str, int, int]:
    """Return a frame as the address of a JPEG, not wider than ``FRAME_WIDTH``, and its width and height."""
    height, width = frame.shape[:2]
    if width > FRAME_WIDTH:
        height, width = max(1, round(height * FRAME_WIDTH / width)), FRAME_WIDTH
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, FRAME_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), quality)
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}", width, height


def _trace_path(steering: float, width: int, height: int) -> str:
    """Return the points of the path that a car takes with its wheels held so, on a flat road, in pixels of the picture.

    All paths begin at the middle of the lower edge. The road is seen as by the camera of Udacity's simulator.
    """
    focal = height / 2.0 / math.tan(CAMERA_FIELD / 2.0)
    nearest = CAMERA_HEIGHT_M / math.tan(CAMERA_FIELD / 2.0 + CAMERA_PITCH)
    along = np.linspace(0.0, 1.0, 28) ** 2 * PATH_M
    heading = along * math.radians(steering * DEGREES) / TURN_LENGTH_M
    along, heading = along[np.abs(heading) < math.pi / 2], heading[np.abs(heading) < math.pi / 2]
    chord = along * np.sinc(heading / 2.0 / math.pi)  # of the arc; sinc(x) is sin(pi x) / (pi x)
    aside, ahead = chord * np.sin(heading / 2.0), nearest + chord * np.cos(heading / 2.0)
    depth = ahead * math.cos(CAMERA_PITCH) + CAMERA_HEIGHT_M * math.sin(CAMERA_PITCH)
    below = CAMERA_HEIGHT_M * math.cos(CAMERA_PITCH) - ahead * math.sin(CAMERA_PITCH)
    points = np.stack([width / 2.0 + focal * aside / depth, height / 2.0 + focal * below / depth], axis=1)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _describe_data(comparison: Comparison) -> Dict[str, Any]:
    """Return what the page says about the recording; folders of this machine are left out of it."""
    log, split = comparison.log, comparison.split
    folder = _name_folder(comparison)

    here = re.compile(rf"(?<![\w./-]){re.escape(str(log.source.parent))}(?![\w.-])")

    def shorten(text: str) -> str:
        return here.sub(lambda _: folder, text)

    return {
        "folder": folder,
        "recording": [shorten(line) for line in log.describe().splitlines()],
        "split": split.description,
        "rows_recorded": len(log),
        "rows_trained": len(split.train),
        "rows_held_out": len(split.validation),
        "rows_in_gaps": split.left_out,
        "skipped": [replace(each, detail=shorten(each.detail)) for each in log.skipped[:SKIPPED_ROWS]],
        "skipped_count": len(log.skipped),
        "fingerprint": log.fingerprint(),
    }


def _describe_config(config: TrainingConfig) -> List[Dict[str, Any]]:
    """Return the settings, and whether each is the default."""
    defaults = TrainingConfig().to_dict()
    return [
        {"name": name, "value": value, "changed": value != defaults[name]}
        for name, value in config.to_dict().items()
        if name != "model"
    ]


def _rebuild_command(comparison: Comparison) -> str:
    """Return the command that makes this comparison again."""
    words = ["robostig", "compare", "--data", _name_folder(comparison), "--models", ",".join(comparison.models)]
    words += ["--out", "comparison"]
    for setting in _describe_config(comparison.config):
        if setting["changed"]:
            words += [f"--{setting['name'].replace('_', '-')}", str(setting["value"])]
    return " ".join(map(shlex.quote, words))


def _name_folder(comparison: Comparison) -> str:
    return comparison.log.source.resolve().parent.name


def _show(value: Optional[float], show: Callable[[float], str]) -> str:
    return show(value) if value is not None and math.isfinite(value) else MISSING


def _in_degrees(steering: float) -> str:
    return f"{steering * DEGREES:.2f}°"


def _show_side(steering: float) -> str:
    angle = round(abs(steering) * DEGREES, 1)
    return f"{angle:.1f}°" + ("" if not angle else " right" if steering > 0 else " left")


def _show_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
