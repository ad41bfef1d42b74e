"""Whether SageMaker can be used: the SDK, credentials, the region and the role; and what to say if not."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Union

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

_NOT_THERE = ("404", "NoSuchBucket", "NoSuchKey")  # of S3
FRAMEWORK_VERSION, PY_VERSION = "1.9.0", "py38"  # of Amazon's last MXNet images
SCRIPT = "entry_point.py"


class DeploymentError(OSError):
    """SageMaker, or the way there, did not do what was asked; the message says what exists and what to do."""


def import_sagemaker() -> Any:
    """Return SageMaker's SDK; ImportError without version 2."""
    # Version 3 has no MXNet: nobody need be told at every call that there is one, nor where no settings were found.
    os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
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


def open_session(*, local: bool = False, folder: Union[str, Path] = "account") -> Any:
    """Return the session of SageMaker's SDK that all functions here take: this machine's, or the account's.

    Parameters
    ----------
    local
        Whether jobs and endpoints run on this machine, with SageMaker's own toolkits and without an account
        (:class:`robostig.local.LocalSession`); else the account that the environment or AWS's files name.
    folder
        Where this machine's jobs are kept.

    Returns
    -------
    sagemaker.Session

    Raises
    ------
    ImportError
        If SageMaker's SDK 2 is not installed, or moto, which this machine's account needs.
    ValueError
        If no region is set.
    """
    sagemaker = import_sagemaker()
    if local:
        from robostig.local import LocalSession

        return LocalSession(folder)
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
        Name or ARN; the one that this program runs with if None.
    scope
        What the image is for: ``"training"`` or ``"inference"``.
    instance_type
        What it will run on.
    image_uri
        An image of one's own, in which case the region needs none.
    """
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
        role = role or _find_role(session)
    with in_one_line(f"nothing was created: the role {role} cannot be used"):
        return str(session.expand_role(role))


def _find_role(session: Any) -> str:
    """Return the role that this program runs with, as in SageMaker's notebooks; ValueError if it is a user's."""
    try:
        return str(import_sagemaker().get_execution_role(session))
    except ValueError as error:
        raise ValueError(
            "SageMaker's jobs and models run with a role, and this program has none, as notebooks in SageMaker do: "
            "role='name or ARN of an IAM role'"
        ) from error


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
        if "could not find" in str(error).lower() or error.response["Error"]["Code"] in _NOT_THERE:
            return None
        raise
