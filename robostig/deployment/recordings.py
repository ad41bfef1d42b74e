"""Recordings on S3, where training jobs read them."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, Optional

from robostig.deployment.account import in_one_line, look_up, open_session
from robostig.driving_log import Places, pack_driving_log, read_driving_log

__all__ = ["upload"]

logger = logging.getLogger(__name__)


def upload(
    recording: Places, *, key_prefix: str = "robostig/recordings", sagemaker_session: Optional[Any] = None
) -> str:
    """Put a recording on S3, packed: a few large objects instead of one for each picture.

    Its place is named by what it holds, so that one that is there already is not sent again.

    Parameters
    ----------
    recording
        Of any format, or several, which become one.
    key_prefix
        Where in the session's default bucket.
    sagemaker_session
        The SDK's; a new one if None.

    Returns
    -------
    str
        ``s3://...``, for ``fit({"training": ...})``.

    Raises
    ------
    ImportError
        If SageMaker's SDK 2 is not installed.
    FileNotFoundError, ValueError
        If there is no such recording, rows of it cannot be used, or the region is not set.
    DeploymentError
        If it cannot be uploaded.
    """
    log = read_driving_log(recording)
    session = sagemaker_session or open_session()
    prefix = f"{key_prefix}/{log.fingerprint()[:16]}"
    with tempfile.TemporaryDirectory() as beside, in_one_line(f"{log.source} could not be uploaded"):
        packed = Path(beside) / "packed"
        pack_driving_log(log, packed)
        bucket = session.default_bucket()
        client = session.boto_session.client("s3", region_name=session.boto_region_name)
        for path in sorted(packed.iterdir()):
            there = look_up(client.head_object, Bucket=bucket, Key=f"{prefix}/{path.name}")
            if there is None or there["ContentLength"] != path.stat().st_size:
                session.upload_data(str(path), bucket=bucket, key_prefix=prefix)
                logger.info("uploaded %s", path.name)
    return f"s3://{bucket}/{prefix}"
