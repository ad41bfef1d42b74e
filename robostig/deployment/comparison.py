"""Several endpoints, the same frames: how each answers, and which one should drive."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from tqdm import tqdm

from robostig.artifact import read_facts
from robostig.closed_loop import ClosedLoop, evaluate_closed_loop
from robostig.comparison import BLOCK_S, choose, choose_by_closeness, find_quickest
from robostig.driving_log import DrivingLog, read_driving_log
from robostig.endpoint import JPEG_QUALITY, Endpoint
from robostig.evaluation import OpenLoop
from robostig.metrics import DEGREES, score_steering, summarize_latency
from robostig.picture import encode_jpeg, read_picture_bytes
from robostig.pipeline import choose_rows
from robostig.preprocessing import check_frame
from robostig.serving import model_fn, transform_fn
from robostig.simulation import Track

if TYPE_CHECKING:
    from sagemaker.base_predictor import Predictor

__all__ = ["EndpointComparison", "EndpointScore", "compare_endpoints"]

AGREEMENT = 1e-4  # of full lock: what arithmetic on another processor may change
FAILURES = 0.01  # share of frames that an endpoint may leave unanswered, and still drive
GIVE_UP = 20  # failures in a row after which an endpoint is not asked any more

Target = Union[str, Tuple[str, str], "Predictor"]
Frames = Union[str, Path, Sequence[Union[str, Path, np.ndarray]]]


@dataclass(frozen=True)
class EndpointScore:
    """How one endpoint, or one of its variants, answered.

    Parameters
    ----------
    endpoint, variant
        Who was asked.
    frames, answered
        How many frames there were, and how many it answered.
    first_error
        Why it did not answer the first that it did not; empty if it answered all.
    latency_ms
        ``p50`` and ``p99`` from sending a picture to having the steering, network included; None without an answer.
    difference
        The largest between its steering and that of its artifact here, for the same bytes; None if none was named.
    open_loop
        Against the driver, on the frames that all endpoints in the running answered; None without labels.
    closed_loop
        How it drives roads of the built-in track; None if it was not let to.
    """

    endpoint: str
    variant: Optional[str]
    frames: int
    answered: int
    first_error: str
    latency_ms: Optional[Dict[str, float]]
    difference: Optional[float]
    open_loop: Optional[OpenLoop] = None
    closed_loop: Optional[ClosedLoop] = None


@dataclass(frozen=True)
class EndpointComparison:
    """The outcome of :func:`compare_endpoints`.

    Parameters
    ----------
    endpoints
        Name to how it answered, in the order asked for.
    choice
        The name of the one that should drive; None if none should.
    reason
        Why, in a sentence or two for people.
    rows
        Which frames were sent, in words.
    """

    endpoints: Mapping[str, EndpointScore]
    choice: Optional[str]
    reason: str
    rows: str

    def summarize(self) -> Dict[str, Any]:
        """Return everything as plain values, for JSON."""
        scores = {}
        for name, score in self.endpoints.items():
            scores[name] = {
                **{key: value for key, value in vars(score).items() if key not in ("open_loop", "closed_loop")},
                "scores": None if score.open_loop is None else score.open_loop.scores,
                "driving": None if score.closed_loop is None else score.closed_loop.summarize(),
            }
        return {"choice": self.choice, "reason": self.reason, "rows": self.rows, "endpoints": scores}

    def describe(self) -> str:
        """Return a line for each endpoint, and the choice, for people."""
        lines = [f"asked with {self.rows}:"]
        for name, score in self.endpoints.items():
            where = score.endpoint if score.variant is None else f"{score.endpoint}, variant {score.variant}"
            parts = [f"{name} ({where})", f"{score.answered:,} of {score.frames:,} answered"]
            if score.latency_ms is not None:
                parts.append("p50 {p50:.1f} ms, p99 {p99:.1f} ms".format(**score.latency_ms))
            if score.difference is not None:
                parts.append(f"at most {score.difference:.1e} off its artifact")
            if score.open_loop is not None:
                rmse = score.open_loop.scores["rmse"]
                parts.append(f"RMSE {rmse:.4f} ({rmse * DEGREES:.2f} degrees) from the driver")
            if score.closed_loop is not None:
                driving = score.closed_loop.scores
                parts.append("autonomy {autonomy:.1f} %, {lateral_rmse_m:.2f} m from the middle".format(**driving))
            if score.first_error:
                parts.append(f"first error: {score.first_error}")
            lines.append("; ".join(parts))
        return "\n".join([*lines, self.reason])


def compare_endpoints(
    endpoints: Mapping[str, Target],
    frames: Frames,
    *,
    artifacts: Optional[Mapping[str, Union[str, Path]]] = None,
    tracks: Sequence[Track] = (),
    laps: float = 1.0,
    client: Optional[Any] = None,
) -> EndpointComparison:
    """Send the same frames to several endpoints, one by one in turn, and say which one should drive.

    An endpoint that leaves more than 1 % of the frames unanswered, or does not answer as its artifact does here to
    1e-4, should not. Of the others it is the one that drives best, if they are let to drive, and else the one that is
    closest to the driver, and of several that are equally close the quickest (:func:`robostig.comparison.choose`);
    without labels, the quickest. As behind the wheel, an answer that takes longer than a second is none.

    Parameters
    ----------
    endpoints
        A name for each, and whom to ask: an endpoint's name, (endpoint's name, variant), or a predictor, which is asked
        with the credentials and in the region of its own session.
    frames
        A driving log (its folder or CSV file), or pictures: paths of JPEGs and PNGs, or (H, W, 3) uint8 RGB arrays.
        Files are sent byte for byte. Of a log that the artifacts were trained on, only the rows that were held out.
    artifacts
        Name to the folder of the artifact that the endpoint serves, for any of the endpoints.
    tracks
        Roads of the built-in track, from :func:`robostig.simulation.parse_tracks`, which every endpoint that answers
        drives, a request a frame. They count only with a driving log.
    laps
        Of each track, default 1.
    client
        As for :class:`~robostig.endpoint.Endpoint`.

    Raises
    ------
    ImportError
        If boto3 is not installed.
    FileNotFoundError, ValueError
        If endpoints, frames or artifacts are no such things or cannot be used, a name among the artifacts is none of
        the endpoints', there is no such endpoint, or the region is not set.
    OSError
        If no endpoint answers: without credentials, say.
    """
    for what, given in (("endpoints", endpoints), ("artifacts", artifacts or {})):
        if not isinstance(given, Mapping):
            raise ValueError(f"{what} is {given!r}; give a name for each: {{'comma': ...}}")
    if not endpoints:
        raise ValueError("name the endpoints to compare: {'comma': 'robostig-comma', ...}")
    unknown = sorted(set(artifacts or {}) - set(endpoints))
    if unknown:
        raise ValueError(f"there is an artifact for {unknown[0]!r}, but no endpoint; there are: {', '.join(endpoints)}")
    facts = {name: read_facts(folder) for name, folder in (artifacts or {}).items()}
    pictures, log, rows, which = _read_frames(frames, list(facts.values()))
    asked = {name: _make_endpoint(target, client) for name, target in endpoints.items()}
    _wake_up(asked, pictures[0])
    answers = _ask_in_turn(asked, pictures)

    fit = [name for name, (steering, _, _) in answers.items() if np.isnan(steering).mean() <= FAILURES]
    common = np.all([np.isfinite(answers[name][0]) for name in fit], axis=0) if fit else np.ones(len(pictures), bool)
    scores: Dict[str, EndpointScore] = {}
    for name, (steering, seconds, first_error) in answers.items():
        answered = np.isfinite(steering)
        difference = None
        if artifacts and name in artifacts and answered.any():
            local = _steer_locally(artifacts[name], pictures)
            difference = float(np.abs(steering - local)[answered].max())
        latency_ms = summarize_latency(seconds) if seconds else None
        open_loop = None
        if log is not None and latency_ms is not None and (answered & common).any():
            shown = rows[answered & common]
            open_loop = OpenLoop(
                steering[answered & common].astype(np.float32),
                log.steering[shown],
                score_steering(
                    steering[answered & common],
                    log.steering[shown],
                    training_mean=facts.get(name, {}).get("data", {}).get("training_mean", 0.0),
                    time_s=log.driving_clock()[shown],
                    breaks=log.find_breaks(shown),
                ),
                latency_ms,
            )
        scores[name] = EndpointScore(
            asked[name].name,
            asked[name].variant,
            len(pictures),
            int(answered.sum()),
            first_error,
            latency_ms,
            difference,
            open_loop,
        )
    blocks = None if log is None else (log.driving_clock()[rows[common]] / BLOCK_S).astype(int)
    refused = _refuse(scores)
    for name in [name for name in scores if tracks and name not in refused]:
        try:
            scores[name] = replace(
                scores[name], closed_loop=evaluate_closed_loop(asked[name].steer, tracks, laps=laps, label=name)
            )
        except (OSError, ValueError) as error:
            refused[name] = f"{name} failed on the road ({error})"
    choice, reason = _choose(scores, refused, blocks, which)
    return EndpointComparison(scores, choice, reason, which)


class _Scored(NamedTuple):
    """An endpoint that is fit to drive, as :func:`robostig.comparison.choose` looks at it."""

    open_loop: OpenLoop
    closed_loop: Optional[ClosedLoop]


def _read_frames(
    frames: Frames, facts: Sequence[Mapping[str, Any]]
) -> Tuple[List[bytes], Optional[DrivingLog], np.ndarray, str]:
    """Return pictures as they will be sent, the log that they are of, if any, its rows, and in words what they are."""
    if not isinstance(frames, (str, Path, Iterable)) or (isinstance(frames, str) and not frames):
        raise ValueError(f"frames is {frames!r}; give a driving log (its folder or CSV file), or pictures")
    if isinstance(frames, (str, Path)) and not _is_picture(frames):
        log = read_driving_log(frames)
        rows, which = np.arange(len(log)), f"all {len(log):,} rows of {log.where}"
        for each in facts:
            own, _ = choose_rows(log, each.get("data", {}), each.get("config", {}))
            rows = np.intersect1d(rows, own)
        if not len(rows):
            raise ValueError(f"{log.where} has no row that was held out from all of the artifacts; name another log")
        if len(rows) < len(log):
            which = f"the {len(rows):,} rows of {log.where} that were held out"
        return [read_picture_bytes(log.pictures["center"][row]) for row in rows], log, rows, which
    listed: Iterable[Any] = [frames] if isinstance(frames, (str, Path)) else frames
    pictures = [_read_bytes(frame) for frame in listed]
    if not pictures:
        raise ValueError("there are no frames to send: give a driving log, or pictures")
    return pictures, None, np.arange(len(pictures)), f"{len(pictures):,} pictures"


def _is_picture(path: Union[str, Path]) -> bool:
    return Path(path).suffix.lower() in (".jpg", ".jpeg", ".png")


def _read_bytes(frame: Union[str, Path, np.ndarray]) -> bytes:
    if isinstance(frame, (str, Path)):
        return read_picture_bytes(frame)
    check_frame(frame)
    return encode_jpeg(frame, JPEG_QUALITY)


def _make_endpoint(target: Target, client: Optional[Any]) -> Endpoint:
    if isinstance(target, str):
        return Endpoint(target, client=client)
    if isinstance(target, tuple):
        if len(target) == 2 and all(isinstance(each, str) for each in target):
            return Endpoint(target[0], variant=target[1], client=client)
    elif hasattr(target, "endpoint_name"):
        return Endpoint(target.endpoint_name, client=client, session=target.sagemaker_session.boto_session)
    raise ValueError(f"{target!r} is no endpoint; give its name, (its name, variant), or a predictor")


def _wake_up(endpoints: Mapping[str, Endpoint], picture: bytes) -> None:
    """Ask everybody once, unmeasured: connections are made, and what was misspelt shows before a thousand failures."""
    errors = []
    for endpoint in endpoints.values():
        try:
            endpoint.ask(picture)
        except OSError as error:
            errors.append(error)
    if len(errors) == len(endpoints):
        raise errors[0]


def _ask_in_turn(
    endpoints: Mapping[str, Endpoint], pictures: Sequence[bytes]
) -> Dict[str, Tuple[np.ndarray, List[float], str]]:
    """Return for each endpoint (n,) steering, NaN where there is none, the answers' seconds, and the first error."""
    steering = {name: np.full(len(pictures), np.nan) for name in endpoints}
    seconds: Dict[str, List[float]] = {name: [] for name in endpoints}
    first_error = dict.fromkeys(endpoints, "")
    in_a_row = dict.fromkeys(endpoints, 0)
    for number, picture in enumerate(tqdm(pictures, desc="asking endpoints", unit="frame", disable=None)):
        for name, endpoint in endpoints.items():
            if in_a_row[name] >= GIVE_UP:
                continue
            started = time.perf_counter()
            try:
                steering[name][number] = endpoint.ask(picture)
            except (OSError, ValueError) as error:
                first_error[name] = first_error[name] or str(error)
                in_a_row[name] += 1
                continue
            seconds[name].append(time.perf_counter() - started)
            in_a_row[name] = 0
    return {name: (steering[name], seconds[name], first_error[name]) for name in endpoints}


def _steer_locally(folder: Union[str, Path], pictures: Sequence[bytes]) -> np.ndarray:
    """Return what an artifact answers here, by the code that the endpoint runs, decoding included."""
    pilot = model_fn(str(folder))
    kinds = ["image/png" if picture[:4] == b"\x89PNG" else "image/jpeg" for picture in pictures]
    return np.array([json.loads(transform_fn(pilot, *each)[0])[0] for each in zip(pictures, kinds)])


def _refuse(scores: Mapping[str, EndpointScore]) -> Dict[str, str]:
    """Return who should not drive, and why."""
    refused = {}
    for name, score in scores.items():
        unanswered = score.frames - score.answered
        if unanswered > FAILURES * score.frames:
            refused[name] = f"{name} left {unanswered:,} of {score.frames:,} frames unanswered ({score.first_error})"
        elif score.difference is not None and score.difference > AGREEMENT:
            refused[name] = f"{name} does not answer as its artifact does, but up to {score.difference:.4f} off"
    return refused


def _choose(
    scores: Mapping[str, EndpointScore], refused: Mapping[str, str], blocks: Optional[np.ndarray], rows: str
) -> Tuple[Optional[str], str]:
    """Return the choice, and the reason in words."""
    fit = {name: score for name, score in scores.items() if name not in refused}
    against = "".join(f" {why}." for why in refused.values())
    if not fit:
        return None, f"None should drive.{against}"
    scored = {
        name: _Scored(score.open_loop, score.closed_loop) for name, score in fit.items() if score.open_loop is not None
    }
    if blocks is None or len(scored) < len(fit):
        choice, times = find_quickest(list(fit), {name: score.latency_ms["p50"] for name, score in fit.items()})  # type: ignore[index]
        reason = (
            f"{choice} should drive: it answers quickest ({times} a frame). Pictures without labels do not tell how "
            "well it steers; give a driving log to know."
        )
    elif all(each.closed_loop is not None for each in scored.values()):
        choice, reason = choose(scored, blocks)
    else:
        choice, reason = choose_by_closeness(
            {name: each.open_loop for name, each in scored.items()}, blocks, where=rows
        )
    return choice, reason + against
