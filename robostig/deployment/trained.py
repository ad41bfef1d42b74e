"""What SageMaker's jobs have trained: found again, and brought here."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

from robostig._files import fill_folder
from robostig.artifact import FACTS, find_artifact
from robostig.container import unpack
from robostig.deployment.account import import_sagemaker, in_one_line, look_up, open_session
from robostig.models import get_spec
from robostig.pipeline import WORKDIR

if TYPE_CHECKING:
    from sagemaker.mxnet.estimator import MXNet

__all__ = ["Model", "attach", "fetch", "find_model_data", "split_place"]

Model = Union[str, Path, "MXNet"]


def attach(model: str, *, sagemaker_session: Optional[Any] = None) -> MXNet:
    """Return the estimator of the last completed job that trained a model, as if it had just been fitted.

    Parameters
    ----------
    model
        Its registered name; the job is one that :func:`robostig.deployment.estimator` started.
    sagemaker_session
        The SDK's; a new one if None.

    Raises
    ------
    ImportError
        If SageMaker's SDK 2 is not installed.
    ValueError
        If there is no such model or no such job, or the region is not set.
    DeploymentError
        If SageMaker fails.
    """
    get_spec(model)
    sagemaker = import_sagemaker()
    session = sagemaker_session or open_session()
    prefix = f"robostig-{model.replace('_', '-')}"
    with in_one_line(f"the jobs that trained {model} could not be looked up"):
        client = session.sagemaker_client
        pages = client.get_paginator("list_training_jobs").paginate(
            NameContains=prefix, StatusEquals="Completed", SortBy="CreationTime", SortOrder="Descending"
        )
        for page in pages:
            for job in page["TrainingJobSummaries"]:
                name = job["TrainingJobName"]
                given = client.describe_training_job(TrainingJobName=name).get("HyperParameters", {})
                if name.startswith(f"{prefix}-") and given.get("model") == json.dumps(model):
                    return sagemaker.mxnet.MXNet.attach(name, sagemaker_session=session)
    raise ValueError(
        f"no completed job {prefix}-... has trained {model}; train it first: robostig.deployment.estimator({model!r}, "
        "...).fit(...)"
    )


def fetch(model: Union[str, MXNet], folder: Union[str, Path], *, sagemaker_session: Optional[Any] = None) -> Path:
    """Bring what a training job has written here: the artifact, and in ``training`` its history and loss curve.

    Parameters
    ----------
    model
        An estimator that has trained, or a ``model.tar.gz`` on S3 that training wrote.
    folder
        Gets the artifact, as ``robostig train`` would have written it; replaced if it is one already.
    sagemaker_session
        The SDK's; the estimator's, or else a new one, if None.

    Returns
    -------
    pathlib.Path
        ``folder``.

    Raises
    ------
    FileExistsError
        If ``folder`` holds something else.
    ValueError
        If the estimator has not trained, or there is no such archive.
    DeploymentError
        If SageMaker fails.
    """
    session = sagemaker_session or getattr(model, "sagemaker_session", None) or open_session()
    with in_one_line(f"what was trained could not be looked up for {folder}"):
        uri = find_model_data(model, session)
    if not uri.startswith("s3://"):
        raise ValueError(f"{uri!r} is no place on S3; give an estimator that has trained, or s3://.../model.tar.gz")
    client = session.boto_session.client("s3", region_name=session.boto_region_name)
    asked, folder = Path(folder), Path(folder).resolve()
    if folder.exists() and not (folder / FACTS).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(f"{asked} is there already, and no artifact; name another folder")
    if folder.exists() and folder.samefile(os.curdir):
        raise FileExistsError(f"{asked} is the folder that this program works in; name another one")
    with tempfile.TemporaryDirectory() as beside, in_one_line(f"{uri} could not be fetched"):
        unpacked = Path(beside) / "model"
        for name, place in (("model.tar.gz", unpacked), ("output.tar.gz", unpacked / WORKDIR)):
            source = split_place(f"{uri.rpartition('/')[0]}/{name}" if place != unpacked else uri)
            if look_up(client.head_object, **source) is None:
                if place == unpacked:
                    raise ValueError(f"there is no {uri}; give the model.tar.gz that a training job wrote")
                continue
            client.download_file(*source.values(), str(Path(beside) / name))
            unpack(Path(beside) / name, place)
        find_artifact(unpacked)
        if folder.exists():
            shutil.rmtree(folder)
        with fill_folder(folder) as partial:
            shutil.copytree(unpacked, partial, dirs_exist_ok=True)
    return asked


def find_model_data(model: Model, session: Any) -> str:
    """Return where a trained model is on S3; ValueError if there is none yet."""
    if isinstance(model, (str, Path)):
        return str(model)
    name, job = read_model(model), model.latest_training_job
    if job is None:
        raise ValueError(f"the estimator of {name} has trained nothing yet: call its fit() first")
    described = session.sagemaker_client.describe_training_job(TrainingJobName=job.name)
    if described["TrainingJobStatus"] != "Completed":
        raise ValueError(
            f"the training job {job.name} of {name} is not completed, but {described['TrainingJobStatus']}"
            f"{': ' + described['FailureReason'] if described.get('FailureReason') else ''}"
        )
    return str(described["ModelArtifacts"]["S3ModelArtifacts"])


def read_model(estimator: MXNet) -> str:
    """Return the name of the model that an estimator trains."""
    return str(json.loads(estimator.hyperparameters().get("model", '""')))


def split_place(uri: str) -> Dict[str, str]:
    """Return bucket and key of a place on S3, by boto3's names for them."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    return {"Bucket": bucket, "Key": key}
