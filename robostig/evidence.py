"""Whether an explanation is right: what a mask points at, beside what is known of the road, and beside chance.

Two questions, both of the paper on PilotNet's explanations:

- Does a network look at what a driver keeps to? On the built-in track it is known where the road's edges and lines are
  in a picture. Chance is the share of what the network sees that is as near to them.
- Do these pixels steer? They are painted out, and so are as many others: the same shape, moved sideways by random
  distances, at the same height in the picture and so as far ahead. If the mask is right, the first changes the steering
  more. The paper moves the salient pixels, and then all others, aside in the picture.

References
----------
Bojarski et al., "Explaining How a Deep Neural Network Trained with End-to-End Learning Steers a Car", 2017,
arXiv:1704.07911, section 4.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np
from tqdm import tqdm

from robostig.driving_log import DrivingLog, read_picture
from robostig.explanation import SaliencyMasker
from robostig.overlay import highlight, place_mask
from robostig.pilot import FRAMES_AT_ONCE
from robostig.preprocessing import preprocess
from robostig.simulation import FRAME_S, TOP_MPH, Simulation, Track, check_laps, steer_towards

if TYPE_CHECKING:
    from robostig.video import ExplanationVideo

__all__ = [
    "EDGE_PIXELS",
    "SALIENT",
    "Evidence",
    "Scene",
    "choose_moments",
    "drive_expert",
    "film_scenes",
    "highlight_scenes",
    "measure",
    "read_scenes",
]

logger = logging.getLogger(__name__)

FILMED = 900  # frames: a minute
SALIENT = 0.05  # share of a mask's pixels, its strongest, that counts as salient
EDGE_PIXELS = 4.0  # of the camera's frame; as near to an edge is at the edge
MOVES = 4  # times that the salient pixels' shape is moved to others
LEAST_MOVE = 1 / 8  # of the picture's width
SURROUNDINGS = 1 / 8  # of the picture's width: how far around a painted pixel its new colour is taken from
NEW_ROAD = 0.1  # of full lock: how far from the wished steering a moment may be to be of another road


@dataclass(frozen=True)
class Scene:
    """A moment of a drive.

    Parameters
    ----------
    frame
        (H, W, 3) uint8 RGB, as the camera gave it.
    steering
        The driver's, -1..1.
    place
        In words: where on the road, or in which row.
    edges
        (H, W) bool: where the road's edges and lines are; None if nobody knows.
    """

    frame: np.ndarray
    steering: float
    place: str
    edges: Optional[np.ndarray] = None


@dataclass(frozen=True)
class Evidence:
    """What speaks for a model's masks. Shares are of frames' means.

    Parameters
    ----------
    frames
        How many were looked at.
    salient_change
        By how much painting out the salient pixels changes the steering, the mean of its size; 1 is full lock.
    other_change
        The same for as many other pixels.
    salient_wins
        Share of the frames in which the former is more.
    salient_at_edges
        Share of the salient pixels that are at the road's edges; None if nobody knows where these are.
    mass_at_edges
        Share of the whole mask that is there.
    chance_at_edges
        Share of what the network sees that is there.
    """

    frames: int
    salient_change: float
    other_change: float
    salient_wins: float
    salient_at_edges: Optional[float] = None
    mass_at_edges: Optional[float] = None
    chance_at_edges: Optional[float] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)


def drive_expert(
    tracks: Sequence[Track], *, laps: float = 1.0, speed_mph: float = TOP_MPH, count: Optional[int] = None
) -> Iterator[Scene]:
    """Let the expert drive some tracks, and yield what it sees, and where the road's edges are in it.

    Parameters
    ----------
    tracks
        From :func:`robostig.simulation.parse_tracks`.
    laps
        Of each, default 1.
    speed_mph
        Default 30.
    count
        How many scenes there should be in all, evenly spaced; all, 15 a second, if None.
    """
    check_laps(laps)
    meters = sum(track.lane.length_m for track in tracks) * laps
    spacing_m = 0.0 if count is None else meters / count
    for track in tracks:
        simulation = Simulation(track, speed_mph=speed_mph)
        due_m = 0.0
        while simulation.travelled_m < laps * track.lane.length_m:
            steering = steer_towards(simulation.car, track.lane, simulation.place)
            if count is None or simulation.travelled_m >= due_m:
                due_m += spacing_m
                place = f"{track}, {simulation.travelled_m:.0f} m"
                yield Scene(simulation.look(), steering, place, simulation.find_edges())
            simulation.step(steering, dt=FRAME_S)


def read_scenes(log: DrivingLog, rows: np.ndarray, *, count: Optional[int] = None) -> Iterator[Scene]:
    """Yield the scenes of a recorded drive, as the camera in the middle saw them.

    Parameters
    ----------
    log
        The drive.
    rows
        The rows to look at, one or more.
    count
        How many of them, evenly spaced; all if None, or if there are no more.
    """
    if count is not None and count < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    for row in rows.tolist():
        yield Scene(read_picture(log.pictures["center"][row]), float(log.steering[row]), f"row {row:,}")


def choose_moments(steering: Sequence[float], count: int, roads: Optional[Sequence[str]] = None) -> List[int]:
    """Return moments of a drive that tell: from the sharpest left over straight ahead to the sharpest right.

    Parameters
    ----------
    steering
        (n,) one or more, -1..1.
    count
        How many to choose; all, if there are no more.
    roads
        Where each moment is, to choose from different roads.

    Returns
    -------
    list of int
        Their numbers, by their steering, the furthest left first.
    """
    # Between the ends, half to each side. The sharpest two of a hundred may be a slip of the hand.
    left, right = min(float(np.quantile(steering, 0.02)), 0.0), max(float(np.quantile(steering, 0.98)), 0.0)
    wished = np.interp(np.linspace(-1.0, 1.0, count) if count > 1 else [0.0], [-1.0, 0.0, 1.0], [left, 0.0, right])
    chosen: List[int] = []
    for target in wished[: len(steering)]:
        cost = np.abs(np.asarray(steering, np.float64) - target)
        if roads is not None:
            known = [roads[number] for number in chosen]
            cost = cost + NEW_ROAD * np.array([known.count(road) for road in roads])
        cost[chosen] = np.inf
        chosen.append(int(np.argmin(cost)))
    return sorted(chosen, key=lambda number: float(steering[number]))


def highlight_scenes(masker: SaliencyMasker, scenes: Sequence[Scene]) -> List[Tuple[np.ndarray, float]]:
    """Return the frames as :func:`robostig.overlay.highlight` draws them, each with what the network steers there."""
    masks, steering = masker.look(_prepare(masker, scenes))
    return [
        (highlight(scene.frame, mask, masker.spec), float(answer))
        for scene, mask, answer in zip(scenes, masks, steering)
    ]


def film_scenes(video: ExplanationVideo, maskers: Mapping[str, SaliencyMasker], scenes: Iterator[Scene]) -> None:
    """Film where models look; the first minute of it, if it is longer.

    Parameters
    ----------
    video
        Opened for models of these names.
    maskers
        Of the models.
    scenes
        One after the other, 15 a second.
    """
    first = itertools.islice(scenes, FILMED)
    with tqdm(desc="filming", unit="frame", disable=None) as bar:
        for some in iter(lambda: list(itertools.islice(first, FRAMES_AT_ONCE)), []):
            looks = [highlight_scenes(masker, some) for masker in maskers.values()]
            for scene, overlays in zip(some, zip(*looks)):
                video.write(dict(zip(maskers, overlays)), scene.steering)
                bar.update()
    if next(scenes, None) is not None:
        logger.info("the video shows the first minute")


def measure(masker: SaliencyMasker, scenes: Sequence[Scene], *, seed: int = 0, label: str = "pixels") -> Evidence:
    """Measure how right a network's masks are.

    Parameters
    ----------
    masker
        Of the network.
    scenes
        One or more. If all of them know the road's edges, the masks are held against these.
    seed
        Of how far shapes are moved.
    label
        What to call the network in the progress bar.
    """
    spec, generator = masker.spec, np.random.default_rng(seed)
    inputs = _prepare(masker, scenes)
    masks, steering = masker.look(inputs)
    salient = np.stack([_find_strongest(mask) for mask in masks])
    moves = generator.uniform(LEAST_MOVE, 1.0 - LEAST_MOVE, (MOVES, len(scenes))) * spec.width
    changes = []
    for distances in tqdm([np.zeros(len(scenes)), *moves], desc=f"painting out {label}", unit="pass", disable=None):
        painted = [
            paint_out(picture, np.roll(where, round(float(distance)), axis=1))
            for picture, where, distance in zip(inputs, salient, distances)
        ]
        changes.append(np.abs(masker.look(np.stack(painted)).steering - steering))
    change, other_change = changes[0], np.mean(changes[1:], axis=0)
    found = [_measure_at_edges(mask, scene, masker) for mask, scene in zip(masks, scenes)]
    at_edges = [float(np.mean(values)) for values in zip(*(each for each in found if each is not None))]
    return Evidence(
        len(scenes),
        float(change.mean()),
        float(other_change.mean()),
        float(np.mean(change > other_change)),
        *(at_edges if None not in found else ()),
    )


def _prepare(masker: SaliencyMasker, scenes: Sequence[Scene]) -> np.ndarray:
    """Return (n, height, width, 3) uint8: the frames as the network takes them."""
    return np.stack([preprocess(scene.frame, masker.spec) for scene in scenes])


def paint_out(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Give pixels the mean colour of those around them that are left as they are.

    Parameters
    ----------
    picture
        (h, w, 3) uint8.
    where
        (h, w) bool.
    """
    size = (2 * round(SURROUNDINGS * picture.shape[1]) + 1,) * 2
    left = (~where).astype(np.float32)
    kept = picture * left[..., None]
    colors, share = cv2.blur(kept, size)[where], cv2.blur(left, size)[where]
    is_alone = share < 0.5 / size[0] ** 2  # with nothing left around it
    colors[~is_alone] /= share[~is_alone, None]
    if is_alone.any():
        colors[is_alone] = kept.sum(axis=(0, 1)) / max(float(left.sum()), 1.0)
    painted = picture.copy()
    painted[where] = np.rint(colors)
    return painted


def _find_strongest(mask: np.ndarray) -> np.ndarray:
    """Return (h, w) bool: the mask's strongest pixels, always as many."""
    count = max(1, round(SALIENT * mask.size))
    strongest = np.zeros(mask.size, bool)
    strongest[np.argpartition(mask, -count, axis=None)[-count:]] = True
    return strongest.reshape(mask.shape)


def _measure_at_edges(mask: np.ndarray, scene: Scene, masker: SaliencyMasker) -> Optional[List[float]]:
    """Return shares at the road's edges: of the salient pixels, of the mask and of the area; None if not to be told."""
    if scene.edges is None:
        return None
    height, width = scene.edges.shape
    top, bottom = masker.spec.choose_rows(height)
    distance = cv2.distanceTransform((~scene.edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    is_near = distance[top:bottom] <= EDGE_PIXELS
    placed = place_mask(mask, masker.spec, (height, width))[top:bottom]
    salient = _find_strongest(placed)
    return [
        float(is_near[salient].mean()),
        float(placed[is_near].sum() / max(float(placed.sum()), 1e-9)),
        float(is_near.mean()),
    ]
