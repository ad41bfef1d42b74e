"""From a recording to a trained and scored artifact: what command line, comparison and SageMaker's script share."""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from robostig._files import make_folder
from robostig.artifact import save_artifact
from robostig.backend import choose_contexts, count_parameters, mx
from robostig.closed_loop import ClosedLoop
from robostig.config import TrainingConfig
from robostig.data import SteeringDataset, has_arrays, open_frames, read_arrays
from robostig.driving_log import DrivingLog, Places, read_driving_log, read_picture
from robostig.evaluation import OpenLoop, Steer, evaluate_on_log, evaluate_open_loop
from robostig.models import get_model, get_spec
from robostig.pilot import Pilot
from robostig.precision import set_precision
from robostig.preprocessing import InputSpec, preprocess
from robostig.split import Split, split_by_time
from robostig.training import CHECKPOINT, EpochRecord, TrainingResult, find_backbone, fit
from robostig.workers import WorkerGroup

__all__ = [
    "WORKDIR",
    "Recording",
    "TrainedModel",
    "build_model",
    "choose_rows",
    "evaluate_artifact",
    "evaluate_driver",
    "read_recording",
    "train_model",
]

logger = logging.getLogger(__name__)

WORKDIR = "training"  # in an artifact's folder: history, loss curve, and the checkpoint of an unfinished run


@dataclass(frozen=True)
class Recording:
    """What there is to learn from: a driving log with its split, two logs, or the earlier modules' arrays.

    Parameters
    ----------
    log
        The log to train on, or None for arrays.
    split
        Its rows to train on, and the rows of ``validation_log`` that are held out.
    validation_log
        The log that the held-out rows belong to; the same ``log`` unless there is a channel for it.
    arrays
        Training set and validation set, if the recording is arrays.
    about
        What else an artifact should remember of it: plain values.
    """

    log: Optional[DrivingLog] = None
    split: Optional[Split] = None
    validation_log: Optional[DrivingLog] = None
    arrays: Optional[Tuple[SteeringDataset, SteeringDataset]] = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def open(self, spec: InputSpec, config: TrainingConfig) -> Tuple[SteeringDataset, SteeringDataset]:
        """Return the training set and the validation set, preprocessed for a model (arrays are what they are)."""
        if self.arrays is not None:
            return self.arrays
        assert self.log is not None and self.split is not None and self.validation_log is not None
        for log in {id(log): log for log in (self.log, self.validation_log)}.values():
            _check_pictures(log, spec)
        cameras = list(self.log.pictures) if config.side_cameras > 0 else ["center"]
        frames = open_frames(self.log, spec, cameras=cameras, budget_gb=config.cache_gb)
        held_out = frames
        if self.validation_log is not self.log:
            held_out = open_frames(self.validation_log, spec, cameras=["center"], budget_gb=config.cache_gb)
        return (
            SteeringDataset(frames, self.log.steering, self.split.train),
            SteeringDataset({"center": held_out["center"]}, self.validation_log.steering, self.split.validation),
        )

    def evaluate(self, pilot: Pilot, training_mean: float) -> OpenLoop:
        """Score a pilot on the held-out frames, one by one as a car would show them."""
        label = str(pilot.facts.get("model", "pilot"))
        if self.arrays is not None:
            held_out = self.arrays[1]
            return evaluate_open_loop(
                lambda frame: float(pilot.predict(frame[None])[0]),
                (held_out.read([number])[0] for number in range(len(held_out))),
                held_out.steering,
                training_mean=training_mean,
                label=label,
            )
        assert self.split is not None and self.validation_log is not None
        return evaluate_on_log(
            pilot.steer, self.validation_log, self.split.validation, training_mean=training_mean, label=label
        )

    def describe(self) -> str:
        """Return what is trained and validated on, in a few lines for people."""
        if self.arrays is not None:
            train, validation = self.arrays
            size = f"{train.spec.height}x{train.spec.width}"
            return f"arrays of {size} frames: {len(train):,} to train on, {len(validation):,} held out"
        assert self.log is not None and self.split is not None
        return f"{self.log.describe()}\n{self.split.description}"

    def facts(self) -> Dict[str, Any]:
        """Return what an artifact should remember of its data; no path of this machine is among it."""
        if self.arrays is not None:
            digest = hashlib.sha256(b"".join(each.steering.tobytes() for each in self.arrays)).hexdigest()
            return {"kind": "arrays", "fingerprint": digest, "split": self.describe()}
        assert self.log is not None and self.split is not None and self.validation_log is not None
        return {
            "kind": "driving log",
            "folder": self.log.name,
            **({"joined": [*self.log.names]} if len(self.log.names) > 1 else {}),
            "fingerprint": self.log.fingerprint(),
            "validation_fingerprint": self.validation_log.fingerprint(),  # the same if stretches were held out
            "drives": [*self.log.identify_drives()],
            "rows": len(self.log),
            "rows_left_out": len(self.log.skipped),
            "frame_size": list(read_picture(self.log.pictures["center"][0]).shape[:2]),
            "split": self.split.description,
            "licence": _describe_licences(self.log),
            **self.about,
        }


@dataclass(frozen=True)
class TrainedModel:
    """One model after training.

    Parameters
    ----------
    name
        Its registered name.
    artifact
        The folder it was written to.
    parameters
        Number of trainable parameters.
    training
        How training went.
    open_loop
        How it does on the held-out frames.
    closed_loop
        How it drives roads of the built-in track that it has never seen; None if it was not let to.
    """

    name: str
    artifact: Path
    parameters: int
    training: TrainingResult
    open_loop: OpenLoop
    closed_loop: Optional[ClosedLoop] = None

    def summarize(self) -> Dict[str, Any]:
        """Return the scores as plain values, for JSON."""
        driven = {} if self.closed_loop is None else {"closed_loop": self.closed_loop.summarize()}
        return {
            **driven,
            "open_loop": self.open_loop.scores,
            "latency_ms": self.open_loop.latency_ms,
            "training": {
                "seconds": self.training.seconds,
                "epochs": len(self.training.history),
                "best_epoch": self.training.best_epoch,
                "images_per_second": self.training.images_per_second,
                "stopped_early": self.training.stopped_early,
                "devices": list(self.training.devices),
            },
            "parameters": self.parameters,
        }


def read_recording(
    folder: Places, config: TrainingConfig, *, validation_folder: Union[str, Path, None] = None
) -> Recording:
    """Read a recording and decide what is held out.

    Parameters
    ----------
    folder
        A recording of any format, packed or not, several in sub-folders, or several folders; or the earlier modules'
        ``train_X.npy`` and ``train_Y.npy``.
    config
        For the split, and what to do with bad rows.
    validation_folder
        A recording of its own to hold out; without it, stretches of the first one are.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`~robostig.driving_log.read_driving_log` and :func:`~robostig.data.read_arrays`.
    """
    places = [folder] if isinstance(folder, (str, Path)) else folder
    arrays = [place for place in places if has_arrays(place)]
    if arrays and len(places) > 1:
        raise ValueError(f"{arrays[0]} holds arrays, which cannot be joined with other recordings; train on them alone")
    if arrays:
        return Recording(arrays=read_arrays(arrays[0], validation_folder))
    log = read_driving_log(folder, on_error=config.on_error)
    _tell_of_missing_cameras(log, config)
    if validation_folder is None:
        return Recording(log, _split_log(log, config), log)
    other = read_driving_log(validation_folder, on_error=config.on_error)
    trained_on = set(log.identify_drives())
    if trained_on.issuperset(other.identify_drives()):
        raise ValueError(
            f"{other.where} is the very recording that is trained on ({log.where}); name another one to hold out, or "
            "none, and stretches of the first are"
        )
    if trained_on.intersection(other.identify_drives()):
        raise ValueError(
            f"{other.where} and {log.where} have drives in common, which would be trained on and held out, too; take "
            "them out of one of the two"
        )
    description = f"{len(log):,} rows to train on, {len(other):,} rows of a recording of their own held out"
    return Recording(log, Split(np.arange(len(log)), np.arange(len(other)), 0, description), other)


def _describe_licences(log: DrivingLog) -> Optional[str]:
    """Return the licence that lies beside a recording; of joined ones each, if they differ. None if there is none.

    A drive's own folder is looked into first, then those above it, up to the one that was asked for.
    """
    tops = {place.parent if place.is_file() else place for place in log.places or (log.folder,)}
    find = functools.lru_cache(maxsize=None)(_find_licence)  # drives may share a folder
    drives: Dict[Optional[str], List[str]] = {}
    for drive in log.drives:
        folder = log.folder / drive.name  # that of a packed drive is no more
        asked_for = (each for each in (folder, *folder.parents) if not tops.isdisjoint((each, *each.parents)))
        drives.setdefault(next(filter(None, map(find, asked_for)), None), []).append(drive.name)
    if len(drives) == 1:
        return next(iter(drives))
    return "; ".join(f"{licence or 'not known'} ({', '.join(names)})" for licence, names in drives.items())


def _find_licence(folder: Path) -> Optional[str]:
    """Return the name and the first line of the licence that lies in a folder; None if there is none."""
    if not folder.is_dir():
        return None
    try:
        for path in sorted(folder.iterdir()):
            if path.stem.upper() in ("LICENSE", "LICENCE", "COPYING") and path.is_file():
                lines = map(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines())
                return f"{path.name}: {next(filter(None, lines), 'empty')[:80]}"
    except OSError as error:  # no reason to throw a trained model away
        logger.warning("no licence is looked for beside the recording: %s", error)
    return None


def _tell_of_missing_cameras(log: DrivingLog, config: TrainingConfig) -> None:
    """Warn of rows that have no side cameras, where these are to be learned from."""
    sides = ("left", "right")
    missing = int((~np.any([log.locate_pictures(camera) for camera in sides], axis=0)).sum())
    if missing and config.side_cameras > 0:
        logger.warning(
            "%s of %s rows have no side cameras: they are learned from as the centre camera saw them, which shows no "
            "way back to the middle of the lane",
            f"{missing:,}",
            f"{len(log):,}",
        )


def _check_pictures(log: DrivingLog, spec: InputSpec) -> None:
    """Raise ValueError if a drive's first picture cannot be made a network's input, and say if sizes differ."""
    sizes: Dict[Tuple[int, ...], str] = {}
    for drive in log.drives:
        picture = log.pictures["center"][drive.start]
        frame = read_picture(picture)
        try:
            preprocess(frame, spec)
        except ValueError as error:
            raise ValueError(f"{picture}: {error}") from error
        sizes.setdefault(frame.shape[:2], drive.name)
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width} ({name})" for (height, width), name in sizes.items())
        logger.info(
            "pictures are of %d sizes: %s; the same shares of each are cut away, and the rest is resized to %dx%d",
            len(sizes),
            listed,
            spec.height,
            spec.width,
        )


def _split_log(log: DrivingLog, config: TrainingConfig) -> Split:
    """Return the split of a log that a configuration asks for."""
    return split_by_time(log, fraction=config.validation_fraction, stretch_s=config.stretch_s, gap_s=config.gap_s)


def build_model(config: TrainingConfig) -> mx.gluon.HybridBlock:
    """Build the model that a configuration names, and make sure that it can be trained as that says, here.

    Raises
    ------
    ValueError
        For an unknown model, weights that there are none of, and what :func:`robostig.training.fit` refuses of
        ``freeze_epochs``, ``device`` and ``dtype``.
    OSError
        If trained weights cannot be fetched.
    """
    net = get_model(config.model, pretrained=config.pretrained)
    find_backbone(net, config)
    set_precision(config.dtype, choose_contexts(config.device))
    return net


def train_model(
    config: TrainingConfig,
    recording: Recording,
    out: Union[str, Path],
    *,
    workdir: Union[str, Path, None] = None,
    checkpoint_dir: Union[str, Path, None] = None,
    keep_checkpoint: bool = False,
    on_epoch: Optional[Callable[[EpochRecord], None]] = None,
    with_code: bool = False,
    workers: Optional[WorkerGroup] = None,
) -> TrainedModel:
    """Train a registered model, score it on what was held out, and write its artifact.

    Parameters
    ----------
    config
        ``config.model`` names the model.
    recording
        From :func:`read_recording`.
    out
        The artifact's folder.
    workdir
        Where history and loss curve go; ``training`` inside ``out`` if None.
    checkpoint_dir
        Where the checkpoint goes, from which an interrupted run is resumed; ``workdir`` if None.
    keep_checkpoint
        Whether to leave it there when all is done, as in :func:`robostig.training.fit`.
    on_epoch
        Called after each epoch, as by :func:`robostig.training.fit`: what it raises ends the run.
    with_code
        Whether SageMaker is to serve the artifact, as in :func:`robostig.artifact.save_artifact`.
    workers
        Those who train it together, as in :func:`robostig.training.fit`; the first writes the artifact.

    Raises
    ------
    ValueError
        For an unknown model, and as :func:`robostig.training.fit`.
    OSError
        If ``out`` cannot be written to; that shows before the first frame is decoded.
    """
    workers = workers or WorkerGroup()
    spec = get_spec(config.model)
    net = build_model(config)  # what it refuses is told before a frame is decoded
    out = make_folder(out) if workers.is_first else Path(out)
    train, validation = recording.open(spec.input, config)
    workdir = out / WORKDIR if workdir is None else Path(workdir)
    checkpoint_dir = workdir if checkpoint_dir is None else Path(checkpoint_dir)
    # The checkpoint stays until the artifact is there: what comes after training can fail, or be interrupted, too.
    result = fit(
        net,
        train,
        validation,
        config,
        workdir=workdir,
        checkpoint_dir=checkpoint_dir,
        keep_checkpoint=True,
        on_epoch=on_epoch,
        workers=workers,
    )
    training_mean = float(train.steering.mean(dtype=np.float64))
    pilot = Pilot(net, train.spec, facts={"model": config.model})
    open_loop = recording.evaluate(pilot, training_mean)
    trained = TrainedModel(config.model, out, count_parameters(net), result, open_loop)
    facts = {
        "model": config.model,
        "summary": spec.summary,
        "reference": spec.reference,
        "config": config.to_dict(),
        "data": {
            **recording.facts(),
            "training_mean": training_mean,
            "pretrained_on": spec.pretrained if config.pretrained else None,
        },
        "scores": trained.summarize(),
    }
    if workers.is_first:
        save_artifact(out, net, train.spec, facts, with_code=with_code)
    workers.gather()  # until it is there
    if not keep_checkpoint:
        (checkpoint_dir / CHECKPOINT).unlink(missing_ok=True)
    place = f"in {out}" if workers.is_first else f"on {workers.hosts[0]}"
    logger.info("%s is trained: rmse=%.5f on the held-out frames, %s", config.model, open_loop.scores["rmse"], place)
    return trained


def evaluate_artifact(
    artifact: Union[str, Path],
    folder: Places,
    *,
    rows: str = "auto",
    on_error: str = "raise",
    dtype: str = "float32",
) -> Tuple[OpenLoop, str]:
    """Score an artifact on a driving log.

    Parameters
    ----------
    artifact
        The folder of a trained model.
    folder
        A recording of any format, or several.
    rows
        ``"held-out"``: what of this log was held out when the artifact was trained; ``"all"``: every row; ``"auto"``:
        what was held out, or every row if nothing was.
    on_error
        What to do with bad rows, as in :func:`~robostig.driving_log.read_driving_log`.
    dtype
        What the artifact computes with, as in :func:`~robostig.artifact.load_artifact`.

    Returns
    -------
    tuple
        The scores, and in words on which rows.

    Raises
    ------
    FileNotFoundError, ValueError
        If artifact or log cannot be used, or held-out rows are asked for of another log.
    """
    if rows not in ("auto", "held-out", "all"):
        raise ValueError(f"rows is {rows!r}; it is auto, held-out or all")
    pilot = Pilot.load(artifact, context=choose_contexts("auto")[0], dtype=dtype)
    log = read_driving_log(folder, on_error=on_error)
    data = pilot.facts.get("data", {})
    numbers, which = choose_rows(log, data, pilot.facts.get("config", {}), rows)
    if which is None:
        raise ValueError(f"nothing of {log.where} was held out from {artifact}; use --rows all")
    mean = data.get("training_mean") if isinstance(data, Mapping) else None
    training_mean = mean if isinstance(mean, (int, float)) else 0.0  # whoever wrote the facts
    label = pilot.facts["model"]
    return evaluate_on_log(pilot.steer, log, numbers, training_mean=training_mean, label=label), which


def evaluate_driver(
    steer: Steer, folder: Places, *, on_error: str = "raise", label: str = "driver"
) -> Tuple[OpenLoop, str]:
    """Score anything that steers on every row of a driving log; returns and raises as :func:`evaluate_artifact`."""
    log = read_driving_log(folder, on_error=on_error)
    return evaluate_on_log(steer, log, np.arange(len(log)), label=label), f"all {len(log):,} rows"


def choose_rows(
    log: DrivingLog, data: Mapping[str, Any], config: Mapping[str, Any], rows: str = "auto"
) -> Tuple[np.ndarray, Optional[str]]:
    """Return the rows to score an artifact on, and what they are: None if there are no held-out ones to be had.

    Parameters
    ----------
    log
        Of any drive.
    data, config
        What the artifact's facts say of what it was trained on, and how.
    rows
        As in :func:`evaluate_artifact`.
    """
    data, config = (each if isinstance(each, Mapping) else {} for each in (data, config))  # a notebook's may be a text
    everything, fingerprint = np.arange(len(log)), log.fingerprint()
    trained_on = data.get("fingerprint") == fingerprint
    held_out = data.get("validation_fingerprint") == fingerprint
    if rows != "all" and trained_on and held_out:
        split = _split_log(log, TrainingConfig.from_dict(config))
        return split.validation, f"the {len(split.validation):,} held-out rows: {split.description}"
    if held_out and not trained_on:
        return everything, f"all {len(log):,} rows of the recording that was held out"
    if rows == "held-out":
        return everything, None
    if trained_on:
        return everything, f"all {len(log):,} rows of the recording that it was trained on"
    drives = data.get("drives")
    if isinstance(drives, list) and any(each in drives for each in log.identify_drives()):
        return everything, f"all {len(log):,} rows, with drives among them that it was trained on"
    return everything, f"all {len(log):,} rows of a recording other than the one it was trained on"
