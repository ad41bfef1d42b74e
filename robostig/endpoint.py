"""A SageMaker endpoint behind the wheel: a camera frame in, steering out."""

from __future__ import annotations

import json
import math
from typing import Any, Optional

import numpy as np

from robostig.picture import encode_jpeg
from robostig.preprocessing import check_frame

__all__ = ["Endpoint", "explain"]

# A car waits for the answer, and a late one is of no use: no second try, and no long wait for the first.
CONNECT_S, READ_S = 1.0, 1.0
JPEG_QUALITY = 95

_LOGGED_OUT = (
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)


class Endpoint:
    """Steers by asking a SageMaker endpoint that serves a RoboStig model.

    Parameters
    ----------
    name
        The endpoint's.
    variant
        Which of the endpoint's production variants to ask; SageMaker chooses by their weights if None.
    client
        What boto3 calls a client, for ``"sagemaker-runtime"``; if None, one is made.
    session
        What boto3 calls a session, for its credentials and region; if None, boto3's usual ones.

    Raises
    ------
    ImportError
        If boto3 is not installed.
    ValueError
        If boto3 knows no region.
    """

    def __init__(
        self, name: str, *, variant: Optional[str] = None, client: Optional[Any] = None, session: Optional[Any] = None
    ) -> None:
        self.name, self.variant = name, variant
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ImportError(
                f'boto3 is needed to ask the endpoint {name}, and not installed: pip install "robostig[sagemaker]"'
            ) from error
        self._client_error, self._any_error = ClientError, BotoCoreError
        limits = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 1})
        try:
            self._client = client or (session or boto3).client("sagemaker-runtime", config=limits)
        except BotoCoreError as error:
            raise ValueError(f"the endpoint {name} cannot be asked: {explain(error)}") from error

    def steer(self, frame: np.ndarray) -> float:
        """Return the steering for one camera frame.

        Parameters
        ----------
        frame
            (H, W, 3) uint8 RGB as the camera gives it, of any size.

        Returns
        -------
        float
            -1..1, 1.0 = full lock to the right.

        Raises
        ------
        ValueError
            If ``frame`` is no such picture, there is no such endpoint, or its answer is no steering.
        OSError
            If it cannot be reached, or not in time; without credentials; if it fails.
        """
        check_frame(frame)
        return self.ask(encode_jpeg(frame, JPEG_QUALITY))

    def ask(self, picture: bytes) -> float:
        """Return the steering for the bytes of a JPEG or PNG file; otherwise as :meth:`steer`."""
        target = {} if self.variant is None else {"TargetVariant": self.variant}
        kind = "image/png" if picture[:4] == b"\x89PNG" else "image/jpeg"
        try:
            answer = self._client.invoke_endpoint(
                EndpointName=self.name, ContentType=kind, Accept="application/json", Body=picture, **target
            )
            body = answer["Body"].read()
        except self._client_error as error:
            code, words = error.response.get("Error", {}).get("Code", ""), explain(error)
            if code == "ValidationError":
                raise ValueError(
                    f"there is no endpoint {self.name} to ask: {words} Deployed ones and their names are in "
                    "SageMaker's console, under Inference, of the region that AWS_DEFAULT_REGION names"
                ) from error
            raise OSError(f"the endpoint {self.name} failed ({code}): {words}") from error
        except self._any_error as error:  # no credentials, no connection, no answer in time
            raise OSError(f"the endpoint {self.name} cannot be asked: {explain(error)}") from error
        return self._read(body)

    def _read(self, body: bytes) -> float:
        """Return the first number of a JSON list, however deep: older models answer with a list of lists."""
        try:
            steering = json.loads(body)
            while isinstance(steering, list):
                steering = steering[0]
            if isinstance(steering, (bool, str)):
                raise ValueError("it is no number")
            steering = float(steering)
            if not math.isfinite(steering):
                raise ValueError("it is not finite")
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"the endpoint {self.name} answered {body[:80]!r}, which is no steering ({error}); it takes one that "
                "serves a RoboStig model"
            ) from error
        return min(1.0, max(-1.0, steering))


def explain(error: Exception) -> str:
    """Return AWS's or boto3's words for what went wrong, in one line, and what to do."""
    kind, response = type(error).__name__, getattr(error, "response", None)
    fault = response.get("Error", {}) if isinstance(response, dict) else {}
    code, words = fault.get("Code", ""), " ".join((fault.get("Message") or str(error)).split())
    if "Credential" in kind or "Token" in kind or code in _LOGGED_OUT:
        advice = "log in with aws configure (or aws sso login), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif code.startswith(("AccessDenied", "Unauthorized")):
        advice = "ask your administrator for that permission, or log in as somebody who has it (AWS_PROFILE)"
    elif code == "ResourceLimitExceeded":
        advice = "take another instance type, or ask for more under Service Quotas in the AWS console"
    elif kind == "NoRegionError":
        advice = "set AWS_DEFAULT_REGION to the endpoint's region"
    elif response is None and kind != "ParamValidationError":
        advice = "look at the network, and at the endpoint's state"
    else:
        return words
    return f"{words.rstrip('.')}; {advice}"
