"""Whether SageMaker can be used: the SDK, credentials, the region and the role; and what to say if not."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, Optional

from robostig.endpoint import explain

__all__ = [
    "FRAMEWORK_VERSION",
    "PY_VERSION",
    "SCRIPT",
    "DeploymentError",
    "check_account",
    "check_count",
    "import_sagemaker",
    "in_one_line",
    "look_up",
    "open_session",
]

FRAMEWORK_VERSION, PY_VERSION = "1.9.0", "py38"  # of Amazon's last MXNet images
SCRIPT = "entry_point.py"


class DeploymentError(OSError):
    """SageMaker, or the way there, did not do what was asked; the message says what exists and what to do."""


def import_sagemaker() -> Any:
    """Return SageMaker's SDK; ImportError without version 2."""
    try:
        import sagemaker
        import sagemaker.mxnet
    except ImportError as error:
        raise ImportError(
            f'SageMaker\'s Python SDK 2 is needed ({error}); version 3 has no MXNet. pip install "robostig[sagemaker]"'
        ) from error
    return sagemaker


@contextlib.contextmanager
def in_one_line(trouble: str) -> Iterator[None]:
    """Turn what boto3 raises into one line."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, WaiterError

    try:
        yield
    except WaiterError as error:
        reason = error.last_response.get("FailureReason") or explain(error)
        raise DeploymentError(f"{trouble}: {reason}") from error
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise DeploymentError(f"{trouble}: {explain(error)}") from error


def open_session(session: Optional[Any]) -> Any:
    """Return the SDK's session, a new one if None; ValueError if there is no region."""
    if session is not None:
        return session
    sagemaker = import_sagemaker()
    from botocore.exceptions import BotoCoreError

    try:
        return sagemaker.Session()
    except (ValueError, BotoCoreError) as error:  # no region, or a profile that there is not
        raise ValueError(
            f"SageMaker cannot be used: {' '.join(str(error).split())} Set AWS_DEFAULT_REGION (and AWS_PROFILE, if you "
            "have several), or run aws configure"
        ) from error


def check_account(
    session: Any, role: Optional[str], scope: str, instance_type: str, image_uri: Optional[str] = None
) -> str:
    """Return the role's ARN, if the region has an image, the credentials are valid and there is such a role.

    Parameters
    ----------
    session
        The SDK's.
    role
        Name or ARN.
    scope
        What the image is for: ``"training"`` or ``"inference"``.
    instance_type
        What it will run on.
    image_uri
        An image of one's own, in which case the region needs none.
    """
    if not role:
        raise ValueError("SageMaker's jobs and models run with a role: role='name or ARN of an IAM role'")
    sagemaker = import_sagemaker()
    region = session.boto_region_name
    if image_uri is None:
        try:
            sagemaker.image_uris.retrieve(
                "mxnet",
                region,
                version=FRAMEWORK_VERSION,
                py_version=PY_VERSION,
                instance_type=instance_type,
                image_scope=scope,
            )
        except ValueError as error:
            raise ValueError(
                f"the region {region} has no MXNet {FRAMEWORK_VERSION} image for {scope} on {instance_type}: "
                f"{' '.join(str(error).split())} Or name a container of your own: image_uri"
            ) from error
    with in_one_line(f"nothing was created: the account cannot be used in {region}"):
        session.account_id()
    with in_one_line(f"nothing was created: the role {role} cannot be used"):
        return str(session.expand_role(role))


def check_count(what: str, count: Any) -> None:
    """Raise ValueError unless ``count`` is a whole number, 1 or more."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{what} is {count!r}; it takes a whole number, 1 or more")


def look_up(call: Any, **arguments: Any) -> Optional[Dict[str, Any]]:
    """Return what a call of a boto3 client answers; None if what it is about is not there."""
    from botocore.exceptions import ClientError

    try:
        return dict(call(**arguments))
    except ClientError as error:
        if "could not find" in str(error).lower() or error.response["Error"]["Code"] in ("NoSuchBucket", "NoSuchKey"):
            return None
        raise
