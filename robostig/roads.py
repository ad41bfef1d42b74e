"""Which roads of the built-in track are learned from, and which are kept for the test: no road is in both."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import robostig
from robostig._files import make_folder, replace_file
from robostig.driving_log import LOG_NAME
from robostig.simulation import DIRECTIONS, LOOKS, Track, load_track, record

__all__ = ["RECIPE", "TEST_ROADS", "describe_training_roads", "record_training_roads", "training_tracks"]

logger = logging.getLogger(__name__)

# Many roads, and only a piece of each: what a network must not do is learn the colours of a few by heart.
TRAINING_ROADS = {"lake": 45, "mountain": 90, "dirt": 45}  # a lane beside another one is the hardest to keep to
TRAINING_LAPS = 0.075  # 53 m of 700
# How to train on them, where it differs from TrainingConfig's defaults, which were found on a human's recording.
RECIPE: Dict[str, Any] = {
    "epochs": 5,
    "flip": 0.0,  # mirrored, a road for driving on the right is one for driving on the left
    "camera_correction": 0.15,  # the expert's own answer to a side camera's offset
    "brightness": 0.9,  # colours differ from road to road more than on any one recording
    "tint": 0.9,
    "shadow": 0.5,
    "bonnet": 1.0,  # the car comes off the middle, and must see that it is off
}
TEST_ROADS = tuple(f"{look}:{number}" for number in (101, 102) for look in LOOKS)


def training_tracks() -> List[Track]:
    """Return the tracks to learn from: every look in turn, in both directions."""
    return [
        load_track(f"{look}:{number}", DIRECTIONS[(number + column) % 2])
        for number in range(1, max(TRAINING_ROADS.values()) + 1)
        for column, look in enumerate(LOOKS)
        if number <= TRAINING_ROADS[look]
    ]


def describe_training_roads(seed: int) -> Dict[str, str]:
    """Return what an artifact should remember of the recording of these roads, but for what the log itself says."""
    roads = ", ".join(f"{look}:1 to {look}:{count}" for look, count in TRAINING_ROADS.items())
    return {
        "origin": f"the built-in track, as robostig compare records its expert where no --data is given: "
        f"{TRAINING_LAPS:g} laps each of {roads}, seed {seed}",
        "licence": "Apache-2.0, as RoboStig, which draws the track",
    }


def record_training_roads(folder: Union[str, Path], *, seed: int = 0, count: Optional[int] = None) -> Path:
    """Record the expert on the training roads, unless that very recording is there already.

    Beside the folder, a file of the same name with ``.json`` says what was recorded. If it says that the folder is an
    earlier recording of ours, with another seed or release, the new one takes its place.

    Parameters
    ----------
    folder
        Where the recording goes.
    seed
        Of the expert's hands, as in :func:`robostig.simulation.record`.
    count
        How many of the roads; all 180 if None.

    Returns
    -------
    pathlib.Path
        ``folder``.

    Raises
    ------
    FileExistsError
        If something else is there.
    ValueError
        If there are not so many roads.
    """
    folder = Path(folder)
    note = folder.with_name(folder.name + ".json")
    tracks = training_tracks()
    if count is not None and not 1 <= count <= len(tracks):
        raise ValueError(f"count is {count}; there are 1 to {len(tracks)} roads to record")
    tracks = tracks[:count]
    wanted: Dict[str, Any] = {
        "tracks": [str(track) for track in tracks],
        "laps": TRAINING_LAPS,
        "seed": seed,
        "robostig": robostig.__version__,
    }
    found = _read_note(note)
    if (folder / LOG_NAME).is_file() and found == wanted:
        logger.info("%s is recorded already", folder)
        return folder
    if found is not None and folder.is_dir():
        outdated = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
        os.replace(folder, outdated)  # first of all out of the way, for half a recording must not look like one
        shutil.rmtree(outdated, ignore_errors=True)  # who records there at this moment may clear it, too
    make_folder(folder.parent)
    if not folder.exists():
        with replace_file(note, "w") as file:  # before the folder, which appears at once and as a whole
            file.write(json.dumps(wanted, indent=2) + "\n")
    return record(folder, tracks, laps=TRAINING_LAPS, seed=seed)


def _read_note(path: Path) -> Optional[Dict[str, Any]]:
    """Return what the note says was recorded; None if there is none of ours."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and {"tracks", "laps", "seed", "robostig"} <= set(note) else None
