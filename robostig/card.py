"""The card of a trained model, for people: what it is, how to use it, what it learned from, how it does, its limits.

It says in GitHub's Markdown what the artifact's facts say, and where they are silent, that nobody noted it. Plain
functions, no template: a training container writes cards too, and has no template engine.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from typing import Any, List, Mapping, Optional

from robostig.config import TrainingConfig
from robostig.metrics import DEGREES, INTERVENTION_S, LIMIT_M

__all__ = ["MARK", "make_card"]

# Tells a card from what somebody else wrote under its name, whose place no card may take.
MARK = "<!-- RoboStig makes this card of robostig.json, and anew when that changes; without this line it is yours. -->"

_PLACED = ("format", "model", "summary", "reference", "parameters", "created")  # facts with a place of their own

Facts = Mapping[str, Any]


def make_card(facts: Facts) -> str:
    """Return the card of a trained model.

    Parameters
    ----------
    facts
        What ``robostig.json`` says: plain values. All but ``"model"`` may be missing, or be in another form than
        training writes.

    Returns
    -------
    str
        Markdown.
    """
    sections = {
        "Use": _show_use(facts),
        "Input and answer": _describe_input(facts),
        "Data": _describe_data(facts),
        "Training": _describe_training(facts),
        "Scores": [*_describe_open_loop(facts), *_describe_closed_loop(facts), *_describe_elsewhere(facts)],
        "Limits": _list_limits(facts),
        "Versions and digests": _list_versions(facts),
    }
    parts = [MARK, f"# {_escape(facts['model'])}", *_introduce(facts)]
    for title, blocks in sections.items():
        parts += [f"## {title}", *blocks]
    return "\n\n".join(filter(None, parts)) + "\n"


def _introduce(facts: Facts) -> List[str]:
    size = _number(_pick(facts, "parameters"), ",")
    rows = {
        "parameters": size,
        "published in": _text(_pick(facts, "reference")),
        "made on": _text(str(_pick(facts, "created") or "")[:10]),
        **{_escape(name): _text(value) for name, value in facts.items() if name not in _PLACED},
    }
    summary = _escape(_pick(facts, "summary") or "")
    return [f"{summary} A trained steering network: one camera frame in, one steering out.".strip(), _tabulate(rows)]


def _show_use(facts: Facts) -> List[str]:
    height, width = (_number(_pick(facts, "input", side), "d") or side for side in ("height", "width"))
    endpoint = re.sub(r"[^A-Za-z0-9]+", "-", str(facts["model"])).strip("-") or "model"
    return [
        "`DIR` is the folder of this file.",
        "```sh\n"
        "robostig drive DIR                     # Udacity's simulator connects to it\n"
        "robostig evaluate DIR --track lake:7   # it drives a road of the built-in track\n"
        "robostig serve DIR                     # it answers as a SageMaker endpoint does\n"
        "```",
        "```python\n"
        "from robostig.artifact import load_artifact\n"
        "from robostig.deployment import deploy\n"
        "from robostig.pilot import Pilot\n\n"
        'Pilot.load("DIR").steer(frame)  # (H, W, 3) uint8 RGB, of any size -> -1..1\n'
        f'load_artifact("DIR").net  # a Gluon block: (N, 3, {height}, {width}) float32 -> (N, 1)\n'
        f'deploy({{"{endpoint}": "DIR"}}, role=role)  # a SageMaker endpoint, billed until it is deleted\n'
        "```",
    ]


def _describe_input(facts: Facts) -> List[str]:
    colors = str(_pick(facts, "input", "color_space") or "").upper()
    size = [_number(_pick(facts, "input", side), "d") for side in ("height", "width")]
    cut = [
        f"{_number(_pick(facts, 'input', f'crop_{edge}'), '.1%')} of its height {where}"
        for edge, where in (("top", "above"), ("bottom", "below"))
        if _pick(facts, "input", f"crop_{edge}")
    ]
    rows = {
        "frame": "(H, W, 3) uint8, **RGB**, 0..255, of any size, from a camera that looks straight ahead",
        "cut away": " and ".join(cut),
        "resized to": f"{size[0]} x {size[1]} pixels (height x width)" if all(size) else None,
        "colours": f"{colors}, BT.601, U and V centred on 128" if colors == "YUV" else _text(colors),
        "into the network": "(N, 3, height, width) float32, 0..255, which it normalises itself",
        "answer": f"(N, 1) steering; 1.0 is full lock to the right, {DEGREES:g} degrees",
    }
    return [
        _tabulate(rows),
        "`Pilot` does all of this, with the function that training did it with: `robostig.preprocessing.preprocess`.",
    ]


def _describe_data(facts: Facts) -> List[str]:
    data = _pick(facts, "data")
    if not isinstance(data, Mapping):
        return ["What it learned from was not noted."]
    rows = {
        "recording": _text(data.get("folder")),
        "kind": _text(data.get("kind")),
        "origin": _text(data.get("origin")),
        "licence": _text(data.get("licence")) or "not known",
        "weights to begin with": _text(data.get("pretrained_on")),
        "rows": _number(data.get("rows"), ","),
        "bad rows, left out": _number(data.get("rows_left_out"), ","),
        "held out": _text(data.get("split")),
        "mean steering": _number(data.get("training_mean"), ".5f"),
        "fingerprint": _text(data.get("fingerprint")),
    }
    return [_tabulate(rows)]


def _describe_training(facts: Facts) -> List[str]:
    config, took = _pick(facts, "config"), _pick(facts, "scores", "training")
    if not isinstance(config, Mapping):
        return ["Its settings were not noted."]
    defaults = {each.name: each.default for each in fields(TrainingConfig)}
    changed = {name: value for name, value in config.items() if name != "model" and value != defaults.get(name)}
    learned, held_out = (_pick(facts, "data", name) for name in ("fingerprint", "validation_fingerprint"))
    joined = _pick(facts, "data", "joined")
    settings = {
        **({"validation": "DIR"} if held_out not in (None, learned) else {}),
        "model": facts["model"],
        **changed,
    }
    places = joined if isinstance(joined, list) else [_pick(facts, "data", "folder") or "DIR"]
    words = [f"--data {shlex.quote(_one_line(each))}" for each in places]
    words += [f"--{name.replace('_', '-')} {shlex.quote(_one_line(value))}" for name, value in settings.items()]
    command = " \\\n    ".join(["robostig train", *words])
    epochs, best, seconds = (_number(_pick(took, name), ",.0f") for name in ("epochs", "best_epoch", "seconds"))
    ran = (
        f"It ran for {epochs} epochs and {seconds} s, and epoch {best} was kept." if epochs and best and seconds else ""
    )
    return [f"The same command trains it again:\n\n```sh\n{command}\n```", ran]


def _describe_open_loop(facts: Facts) -> List[str]:
    scores = _pick(facts, "scores", "open_loop")
    if not isinstance(scores, Mapping):
        return [_tabulate(_list_plain(facts)) or "How close it comes to the driver was not measured."]
    rows = {
        "frames": _number(scores.get("frames"), ","),
        "RMSE": _show_steering(scores.get("rmse")),
        "mean absolute error": _show_steering(scores.get("mae")),
        "RMSE of always the mean": _show_steering(scores.get("rmse_mean_baseline")),
        "ratio to always the mean": _number(scores.get("rmse_to_mean_baseline"), ".3f"),
        "correlation": _number(scores.get("correlation"), ".3f"),
        "time for a frame (median)": _number(_pick(facts, "scores", "latency_ms", "p50"), ".2f", " ms"),
    }
    return ["**Open loop**: how far it is from the driver on frames that were held out.", _tabulate(rows)]


def _describe_closed_loop(facts: Facts) -> List[str]:
    driven = _pick(facts, "scores", "closed_loop")
    if not isinstance(driven, Mapping):
        return ["**Closed loop**: it has not driven yet; `robostig evaluate DIR --track lake:7 --keep` adds it here."]
    listed = driven.get("tracks")
    drives = [each for each in (listed if isinstance(listed, list) else []) if isinstance(each, Mapping)]
    rows = {
        f"{_text(each.get('track')) or 'all'} {_text(each.get('direction')) or ''}".strip(): " | ".join(
            [
                _number(each.get("autonomy"), ".1f", " %") or "-",
                _number(each.get("interventions"), ",") or "-",
                _number(each.get("lateral_rmse_m"), ".2f", " m") or "-",
                _number(each.get("lateral_max_m"), ".2f", " m") or "-",
            ]
        )
        for each in [*drives, driven]
    }
    meters = _number(driven.get("distance_m"), ",.0f", " m of ")
    roads = f"{meters or ''}{_text(driven.get('roads')) or 'roads of the built-in track'}"
    return [
        f"**Closed loop**: how it drives {roads}. Autonomy is 100 % without interventions, each of which counts as "
        f"{INTERVENTION_S:g} seconds lost; one is needed more than {LIMIT_M:g} m off the middle of the lane.",
        _tabulate(rows, "road | autonomy | interventions | off the middle (RMSE) | at most"),
    ]


def _describe_elsewhere(facts: Facts) -> List[str]:
    rows = {}
    for name, scores in _list_elsewhere(facts).items():
        loop, open_loop = _pick(scores, "closed_loop"), _pick(scores, "open_loop")
        found = [
            _number(_pick(loop, "autonomy"), ".1f", " % autonomy"),
            _number(_pick(loop, "interventions"), ",", " interventions"),
            _show_steering(_pick(open_loop, "rmse"), "RMSE "),
            _number(_pick(open_loop, "rmse_to_mean_baseline"), ".2f", " times that of always the mean"),
            _number(_pick(open_loop, "correlation"), ".2f", " correlation"),
            _text(_pick(scores, "rows")),
        ]
        rows[_escape(name)] = ", ".join(filter(None, found))
    return ["**Elsewhere**, scored later:", _tabulate(rows)] if rows else []


def _list_limits(facts: Facts) -> List[str]:
    seen = _text(_pick(facts, "data", "origin")) or _text(_pick(facts, "data", "folder"))
    before = _text(_pick(facts, "data", "pretrained_on"))
    before = f"; the weights that it began with were trained on {before}" if before else ""
    limits = [
        f"It has seen nothing but this: {seen}{before}." if seen else f"What it has seen was not noted{before}.",
        "Another camera or lens, the same one mounted elsewhere, another kind of road, car, weather or light: not "
        "known until it is scored there, with `robostig evaluate DIR --data RECORDING --keep`.",
    ]
    for name, scores in _list_elsewhere(facts).items():
        ratio = _pick(scores, "open_loop", "rmse_to_mean_baseline")
        if _number(ratio, "f") and ratio >= 1.0:
            limits.append(
                f"On {_escape(name)} it is no closer to the driver than one who never looks and steers by the mean is "
                f"({ratio:.2f} times as far): do not let it drive there."
            )
    if isinstance(_pick(facts, "scores", "training"), Mapping):
        limits.append("The held-out frames also chose the epoch that was kept, and another seed gives other scores.")
    if isinstance(_pick(facts, "scores", "closed_loop"), Mapping):
        limits.append("The built-in track is flat, has no other traffic, and its car never slips.")
    limits += [
        "It steers and does nothing else: it does not brake, knows no obstacle, has no memory from one frame to the "
        "next, and never says that it is unsure.",
        "It is for simulators and model cars. Nothing about it makes a car safe: keep a hand on the switch, and people "
        "out of its way.",
    ]
    return ["\n".join(f"- {each}" for each in limits)]


def _list_versions(facts: Facts) -> List[str]:
    tables = []
    for name, title in (("versions", "made with | version"), ("files", "file | SHA-256")):
        values = _pick(facts, name)
        if isinstance(values, Mapping):
            tables.append(_tabulate({_escape(each): _text(value) for each, value in values.items()}, title))
    return [*tables, "All of it, for programs, is in `robostig.json`."]


def _list_elsewhere(facts: Facts) -> Facts:
    found = _pick(facts, "elsewhere")
    return found if isinstance(found, Mapping) else {}


def _list_plain(facts: Facts) -> Mapping[str, Optional[str]]:
    """Return the scores that somebody noted in a form of their own, as far as they are numbers."""
    scores = _pick(facts, "scores")
    plain = scores.items() if isinstance(scores, Mapping) else ()
    return {_escape(name): _number(value, "g") for name, value in plain if name != "parameters"}


def _pick(values: Any, *names: str) -> Any:
    """Return what is under a path of names; None if there is no such thing."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _number(value: Any, pattern: str, unit: str = "") -> Optional[str]:
    """Return a number as text; None if it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{int(value) if pattern == 'd' else value:{pattern}}{unit}" if is_number else None


def _text(value: Any) -> Optional[str]:
    """Return a plain value as text; None if it is none, or empty."""
    is_plain = isinstance(value, (str, int, float, bool)) and value != ""
    return _escape(value) if is_plain else None


def _show_steering(value: Any, name: str = "") -> Optional[str]:
    return f"{name}{value:.5f} ({value * DEGREES:.2f} degrees)" if _number(value, "f") else None


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())


def _escape(value: Any) -> str:
    """Return a text in which Markdown finds no marks of its own."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", _one_line(value))


def _tabulate(rows: Mapping[str, Optional[str]], title: str = "|") -> str:
    """Return a table of those rows that say something; empty if none does."""
    lines = [f"| {name} | {text} |" for name, text in rows.items() if text]
    columns = title.count("|") + 1
    header = f"| {title} |" if title != "|" else "| | |"
    return "\n".join([header, "|" + "---|" * columns, *lines]) if lines else ""
