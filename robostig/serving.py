"""What SageMaker's MXNet model server calls: ``model_fn`` loads an artifact, ``transform_fn`` answers a request.

It runs in the inference image, which has neither OpenCV nor Pillow: pictures are decoded by MXNet itself.

====================  =================================================================================================
content type          body
====================  =================================================================================================
``image/jpeg``        one camera frame, as the camera gives it
``image/png``         the same
``application/json``  nested lists: one frame (H, W, 3) or several (N, H, W, 3), channels last or first, RGB, 0..255
``application/x-npy`` the same as an array that ``numpy.save`` wrote
====================  =================================================================================================

An array of exactly the network's input size counts as preprocessed already, as the pipeline's earlier client sends it;
any other size is a raw camera frame, and a picture always is. The answer is a flat JSON list with one steering value a
frame (or, with ``Accept: application/x-npy``, an array).
"""

from __future__ import annotations

import io
import json
import logging
import sys
import tokenize
from typing import Any, Callable, Dict, List, Tuple, Union

import numpy as np

from robostig.backend import choose_contexts, mx
from robostig.pilot import Pilot
from robostig.preprocessing import check_picture_size

try:
    from sagemaker_inference.errors import BaseInferenceToolkitError
    from sagemaker_inference.transformer import Transformer
except ImportError:  # outside the inference image
    Transformer = None

    class BaseInferenceToolkitError(Exception):  # type: ignore[no-redef]
        """Stands for the toolkit's base class: an error with the status that the client gets."""

        def __init__(self, status_code: int, message: str, phrase: str) -> None:
            super().__init__(message)
            self.status_code, self.message, self.phrase = status_code, message, phrase


__all__ = ["RequestError", "model_fn", "transform_fn"]

logger = logging.getLogger(__name__)

JSON, NPY = "application/json", "application/x-npy"
MOST_FRAMES = 4096  # in a request: some ten seconds of work, and the model server waits for 60
MESSAGE_LENGTH = 300


class RequestError(BaseInferenceToolkitError):
    """A request that cannot be answered, through the client's fault: the server answers 4xx with the message."""

    def __init__(self, message: str, status_code: int = 400) -> None:
        message = " ".join(message.split())[:MESSAGE_LENGTH]  # it is a line of the answer's header too
        super().__init__(status_code, message, message)

    def __str__(self) -> str:
        return str(self.message)


def _answer_error(context: Any, error: BaseInferenceToolkitError, trace: str) -> List[str]:
    """Answer a request that failed: if it is the client's fault, with the one line that says why.

    It takes the place of the toolkit's own method, which adds the stack trace to every answer, and counts text that is
    no UTF-8 as the server's fault. Both happen outside of all that ``transform_fn`` can reach.
    """
    if isinstance(sys.exc_info()[1], UnicodeDecodeError):
        error = RequestError("the body is no text in UTF-8; send a picture or an array with its own content type")
    answer: List[str] = _answer_as_toolkit(context, error, trace)
    return [error.message] if isinstance(error, RequestError) else answer


if hasattr(Transformer, "handle_error"):  # a toolkit that answers in another way keeps doing so
    _answer_as_toolkit = Transformer.handle_error
    Transformer.handle_error = staticmethod(_answer_error)


def model_fn(model_dir: str) -> Pilot:
    """Load the artifact in a folder, on a GPU if there is a usable one.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`robostig.artifact.load_artifact`.
    """
    try:
        pilot = Pilot.load(model_dir, context=choose_contexts("auto")[0])
    except (ValueError, OSError) as error:
        # multi-model-server says nothing, and answers 503 for good
        logger.error("the model cannot be loaded: %s", error)
        raise
    pilot.predict(np.zeros((1, *pilot.spec.shape), np.uint8))  # the first request should not wait for the graph
    return pilot


def transform_fn(
    model: Pilot, body: Union[str, bytes], content_type: str, accept: str = JSON
) -> Tuple[Union[str, bytes], str]:
    """Answer one request.

    Parameters
    ----------
    model
        From :func:`model_fn`.
    body
        The request: text for JSON, bytes otherwise.
    content_type, accept
        As the client named them.

    Returns
    -------
    tuple
        The answer and its content type.

    Raises
    ------
    RequestError
        If the body is not what the content type promises (400), holds too many frames (413), or a type is not among
        those above (406, 415).
    """
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind not in _READERS:
        raise RequestError(
            f"content type {content_type!r:.80} is not understood; send {', '.join(sorted(_READERS))}", 415
        )
    write = _choose_writer(accept)
    steering = _steer(model, _READERS[kind](body), is_picture=kind.startswith("image/"))
    if not np.isfinite(steering).all():
        # NaN is no JSON, and no steering: better an error than a wheel turned somewhere.
        raise BaseInferenceToolkitError(
            500, "the network's answer is not a number", "the network's answer is not a number"
        )
    return write(steering)


def _steer(model: Pilot, frames: np.ndarray, *, is_picture: bool) -> np.ndarray:
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim == 4 and frames.shape[3] != 3 and frames.shape[1] == 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise RequestError(
            f"frames have the shape {frames.shape}; send one frame as (height, width, 3) or several as "
            "(frames, height, width, 3), channels last or first"
        )
    if len(frames) > MOST_FRAMES:
        raise RequestError(f"{len(frames):,} frames in one request; send at most {MOST_FRAMES:,}", 413)
    if frames.dtype.kind not in "fiu":
        raise RequestError(f"frames are of type {frames.dtype}; send numbers from 0 to 255")
    if frames.dtype != np.uint8:
        low, high = frames.min(), frames.max()
        if not (low >= 0 and high <= 255):  # NaN fails here too
            raise RequestError(f"frames hold values from {low:g} to {high:g}; send 0 to 255")
        frames = np.rint(frames).astype(np.uint8)
    if frames.shape[1:] == model.spec.shape and not is_picture:
        return model.predict(frames)
    try:
        return model.steer_many(frames)
    except ValueError as error:
        raise RequestError(str(error)) from error


def _read_json(body: Union[str, bytes]) -> np.ndarray:
    try:
        frames = np.array(json.loads(body))
        if frames.dtype.kind not in "fiu":  # a list of texts would pass for one of numbers
            raise ValueError("not everything in it is a number, or its lists differ in length")
        return frames.astype(np.float32)
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"the body is no JSON list of frames ({error}); send nested lists of numbers") from error


# What NumPy raises for headers that it did not write.
_NPY_FAULTS = (
    *(ValueError, TypeError, LookupError, OverflowError, EOFError, MemoryError, RecursionError),
    *(SyntaxError, tokenize.TokenError),
)


def _read_npy(body: Union[str, bytes]) -> np.ndarray:
    try:
        # numpy.load would take archives of arrays too.
        return np.lib.format.read_array(io.BytesIO(_as_bytes(body)), allow_pickle=False)
    except _NPY_FAULTS as error:
        reason = str(error) or type(error).__name__
        raise RequestError(f"the body is no array that numpy.save wrote ({reason})") from error


def _read_picture(body: Union[str, bytes]) -> np.ndarray:
    data = _as_bytes(body)
    whole = (data[:2] == b"\xff\xd8" and b"\xff\xd9" in data[-4096:]) or (
        data[:4] == b"\x89PNG" and b"IEND" in data[-64:]
    )
    try:
        if not whole:
            raise ValueError(f"{len(data):,} bytes that do not begin and end as a whole JPEG or PNG does")
        check_picture_size(data)
        packed = mx.nd.from_numpy(np.frombuffer(data, np.uint8))  # as it is; imdecode itself would copy it slowly
        return mx.image.imdecode(packed, to_rgb=True).asnumpy()
    except (ValueError, mx.MXNetError) as error:
        raise RequestError(f"the body is no picture that can be decoded ({str(error).splitlines()[0]})") from error


def _as_bytes(body: Union[str, bytes]) -> bytes:
    return body.encode("latin-1", "replace") if isinstance(body, str) else bytes(body)


_READERS: Dict[str, Callable[[Union[str, bytes]], np.ndarray]] = {
    JSON: _read_json,
    NPY: _read_npy,
    "image/jpeg": _read_picture,
    "image/png": _read_picture,
}


def _write_json(steering: np.ndarray) -> Tuple[str, str]:
    return json.dumps([float(value) for value in steering]), JSON


def _write_npy(steering: np.ndarray) -> Tuple[bytes, str]:
    buffer = io.BytesIO()
    np.save(buffer, steering.astype(np.float32))
    return buffer.getvalue(), NPY


def _choose_writer(accept: str) -> Callable[[np.ndarray], Tuple[Any, str]]:
    """Return what writes the type that the client likes best; of equals, the one that it names first."""
    for quality, kind in sorted(map(_read_wish, (accept or JSON).split(",")), key=lambda wish: -wish[0]):
        if quality > 0 and kind in (JSON, "*/*", "application/*", ""):
            return _write_json
        if quality > 0 and kind == NPY:
            return _write_npy
    raise RequestError(f"cannot answer as {accept!r:.80}; accept {JSON} or {NPY}", 406)


def _read_wish(wish: str) -> Tuple[float, str]:
    """Return quality and type of one wish of an Accept header: ``application/json;q=0.5``."""
    kind, *parameters = wish.lower().replace(" ", "").split(";")
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:]), kind
            except ValueError:
                break  # no number: as if it were not there
    return 1.0, kind
