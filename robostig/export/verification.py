"""Whether an exported network steers as the pilot does, on frames that a camera took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import numpy as np
import onnx
import onnxruntime
from tqdm import tqdm

from robostig.metrics import summarize_latency
from robostig.pilot import Pilot
from robostig.preprocessing import preprocess

__all__ = ["FRAMES", "TOLERANCE", "Agreement", "compare_with_pilot"]

TOLERANCE = 1e-4  # of steering: 0.0025 degrees
FRAMES = "frames"  # what the file calls its input
BATCH = 7  # frames at once, to see that there may be several


@dataclass(frozen=True)
class Agreement:
    """How near an exported network's steering is to the pilot's.

    Parameters
    ----------
    frames
        How many were compared.
    max_difference, mean_difference
        Of steering, whose range is -1..1.
    latency_ms
        Medians for one frame: ``onnxruntime``, on one thread, and ``pilot``, on as many as it takes. Preprocessing is
        in both or in neither, as it is in the file.
    """

    frames: int
    max_difference: float
    mean_difference: float
    latency_ms: Dict[str, float]


def compare_with_pilot(
    path: Path, pilot: Pilot, frames: Iterable[np.ndarray], *, frame_size: Optional[Tuple[int, int]], total: int
) -> Agreement:
    """Load an exported network as any program would, and show it and the pilot the same frames.

    Parameters
    ----------
    path
        The file.
    pilot
        What it was made of.
    frames
        (H, W, 3) uint8 RGB, at least one.
    frame_size
        Height and width of the frames that the file takes; None if it takes what the network takes.
    total
        How many frames there are, for the progress bar.

    Returns
    -------
    Agreement
        Both forms of a call are compared: one frame at a time, and several.

    Raises
    ------
    ValueError
        If ONNX Runtime cannot run the file, a frame is of another size, or the two do not agree within
        :data:`TOLERANCE`.
    """
    network = _Network(path)
    differences: List[float] = []
    seconds: Dict[str, List[float]] = {"onnxruntime": [], "pilot": []}
    batch: List[np.ndarray] = []
    expected: List[float] = []
    for frame in tqdm(frames, desc="comparing", total=total, unit="frame", disable=None, leave=None):
        if frame_size is None:
            picture = preprocess(frame, pilot.spec)[None]
            inputs = picture.transpose(0, 3, 1, 2).astype(np.float32)
            answers, took = _time(pilot.predict, picture)
            steering = answers[0]
        else:
            _check_size(frame, frame_size)
            inputs = frame[None]
            steering, took = _time(pilot.steer, frame)
        seconds["pilot"].append(took)
        answer, took = _time(network.steer, inputs)
        seconds["onnxruntime"].append(took)
        differences.append(float(np.abs(answer - steering).max()))
        if len(batch) < BATCH:
            batch.append(inputs)
            expected.append(float(steering))
    differences += [float(each) for each in np.abs(network.steer(np.concatenate(batch)) - expected)]
    agreement = Agreement(
        len(seconds["pilot"]),
        float(np.max(differences)),
        float(np.mean(differences)),
        {name: summarize_latency(each)["p50"] for name, each in seconds.items()},
    )
    if not np.isfinite(agreement.max_difference):
        raise ValueError(f"{pilot.facts.get('model')} steers by what is no number (NaN): train it again")
    if agreement.max_difference > TOLERANCE:
        raise ValueError(
            f"the exported network steers up to {agreement.max_difference:.2g} otherwise than the pilot, and at most "
            f"{TOLERANCE:g} is allowed: an operator of {pilot.facts.get('model')} does something else in ONNX. Nothing "
            "was written"
        )
    return agreement


class _Network:
    """A file as ONNX Runtime runs it; its exceptions, which have no base of their own, become ValueErrors."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, too
        try:
            onnx.checker.check_model(str(path))
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refuse(error) from error

    def steer(self, inputs: np.ndarray) -> np.ndarray:
        """Return (n,) float32 steering for n frames."""
        try:
            answers: np.ndarray = self._session.run(None, {FRAMES: inputs})[0]
        except Exception as error:
            raise _refuse(error) from error
        if answers.shape != (len(inputs), 1):
            came = "x".join(map(str, answers.shape))
            raise ValueError(f"the network answers {len(inputs)} frames with {came} numbers; one a frame is a steering")
        return answers[:, 0]


def _refuse(error: Exception) -> ValueError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ValueError(f"ONNX Runtime {onnxruntime.__version__} cannot run the exported network: {reason}")


def _check_size(frame: np.ndarray, frame_size: Tuple[int, int]) -> None:
    if frame.shape[:2] != frame_size:
        came, wanted = ("x".join(map(str, size)) for size in (frame.shape[:2], frame_size))
        raise ValueError(
            f"a frame of {came} among those to compare on, and the file takes {wanted}: --frame-size {came}"
        )


def _time(call: Callable[..., Any], *arguments: Any) -> Tuple[Any, float]:
    """Return what a call returns, and how many seconds it took."""
    started = time.perf_counter()
    answer = call(*arguments)
    return answer, time.perf_counter() - started
