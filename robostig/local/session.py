"""The session for SageMaker's SDK: its calls are answered on this machine."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

from robostig._files import make_folder
from robostig.local.answers import answer_calls
from robostig.local.endpoints import Endpoints
from robostig.local.jobs import TrainingJobs
from robostig.local.search import TuningJobs

os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")  # version 3 has no MXNet
try:
    import boto3
    from moto.server import ThreadedMotoServer
    from sagemaker.exceptions import UnexpectedStatusException
    from sagemaker.session import Session
except ImportError as error:
    raise ImportError(
        f'SageMaker on this machine needs the SDK and moto ({error}): pip install "robostig[local]"'
    ) from error

__all__ = ["LocalSession"]

REGION, BUCKET, ROLE = "us-west-2", "robostig-local", "SageMakerLocal"
# Nobody's: no request leaves this machine.
CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "aws_session_token": "local"}
POLL_S, LOOK_S = 5.0, 0.1  # between two dots; between two looks at an endpoint, before each of which the SDK waits


class LocalSession(Session):
    """What ``sagemaker.Session()`` is, for whom there is no account: jobs and endpoints run on this machine.

    ``sagemaker.get_execution_role(session)`` has a role, ``session.upload_data`` a bucket. A training job runs the
    training toolkit of SageMaker's images, an endpoint their model server, a tuning job one training job after the
    other; instances are this machine, whatever type is asked for. Jobs stay in the folder. Endpoints and the bucket
    last as long as the session.

    Parameters
    ----------
    folder
        Where jobs are kept, ``account`` by default: their requests, logs and models.

    Raises
    ------
    ImportError
        If SageMaker's SDK 2 or moto are not installed.
    OSError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Union[str, Path] = "account") -> None:
        folder = make_folder(Path(folder).resolve())
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it would tell of every request
        books = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        books.start()
        url = "http://{}:{}".format(*books.get_host_and_port())
        calls = _Calls(url)
        variables = {
            "AWS_ENDPOINT_URL_S3": url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            **{name.upper(): value for name, value in CREDENTIALS.items()},
        }
        self.jobs = TrainingJobs(folder / "jobs", calls.client("s3"), variables)
        self.searches = TuningJobs(folder / "searches", self.jobs)
        self.endpoints = Endpoints(_Calls(url).client)
        calls.serve(self.jobs, self.searches, self.endpoints)
        self._close = weakref.finalize(self, _end, self.endpoints, books)
        super().__init__(boto_session=calls, default_bucket=BUCKET)
        # The SDK would tell Amazon of each call; and what is set for an account has no meaning here.
        quiet = {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}
        self.sagemaker_config = {"SchemaVersion": "1.0", "SageMaker": quiet}
        iam = calls.client("iam")
        try:
            self.role = str(iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")["Role"]["Arn"])
        except iam.exceptions.EntityAlreadyExistsException:  # of another session of this program
            self.role = str(iam.get_role(RoleName=ROLE)["Role"]["Arn"])

    def close(self) -> None:
        """End the endpoints; doing so twice is fine, and the end of the program does it, too."""
        self._close()

    def get_caller_identity_arn(self) -> str:
        """Return the role's ARN, as in SageMaker's own notebooks."""
        return self.role

    def logs_for_job(
        self, job_name: str, wait: bool = False, poll: int = 10, log_type: str = "All", timeout: Optional[int] = None
    ) -> None:
        """Print what a job prints, until it is over."""
        for line in self.jobs.read_log(job_name):
            sys.stdout.write(f"{line}\n")
        if wait:
            self.wait_for_job(job_name)

    def wait_for_job(self, job: str, poll: float = POLL_S) -> Dict[str, Any]:
        """Wait until a training job is over, and return its description."""
        _show_waiting(lambda: self.jobs.wait(job, poll))
        described: Dict[str, Any] = self.describe_training_job(job)
        return _check_status("training job", job, described["TrainingJobStatus"], described)

    def wait_for_tuning_job(self, job: str, poll: float = POLL_S) -> Dict[str, Any]:
        """Wait until a tuning job is over, and return its description."""
        _show_waiting(lambda: self.searches.wait(job, poll))
        described: Dict[str, Any] = self.describe_tuning_job(job)
        return _check_status("tuning job", job, described["HyperParameterTuningJobStatus"], described)

    def wait_for_endpoint(self, endpoint: str, poll: float = LOOK_S, live_logging: bool = False) -> Dict[str, Any]:
        """Wait until an endpoint is in service, which here it is from the start, and return its description."""
        return dict(super().wait_for_endpoint(endpoint, LOOK_S, live_logging))


class _Calls(boto3.Session):
    """A boto3 session whose clients talk to moto; once told so, some of their calls are answered by others."""

    def __init__(self, url: str) -> None:
        super().__init__(region_name=REGION, **CREDENTIALS)
        self._url = url
        self._answers: Dict[str, Any] = {}

    def serve(self, jobs: TrainingJobs, searches: TuningJobs, endpoints: Endpoints) -> None:
        """Have jobs and endpoints answer for SageMaker."""
        self._answers = {
            "sagemaker": (
                {
                    "CreateTrainingJob": jobs.create,
                    "DescribeTrainingJob": jobs.describe,
                    "ListTrainingJobs": jobs.list,
                    "StopTrainingJob": jobs.stop,
                    "ListTags": jobs.list_tags,
                    "CreateHyperParameterTuningJob": searches.create,
                    "DescribeHyperParameterTuningJob": searches.describe,
                    "ListTrainingJobsForHyperParameterTuningJob": searches.list_trials,
                    "StopHyperParameterTuningJob": searches.stop,
                },
                {
                    "CreateEndpoint": endpoints.create,
                    "DescribeEndpoint": endpoints.describe,
                    "UpdateEndpointWeightsAndCapacities": endpoints.shift,
                    "DeleteEndpoint": endpoints.delete,
                },
            ),
            "sagemaker-runtime": ({"InvokeEndpoint": endpoints.invoke}, {}),
        }

    def client(self, service_name: str, *arguments: Any, **options: Any) -> Any:
        """Return a client, as boto3 does."""
        options["endpoint_url"] = self._url
        client = super().client(service_name, *arguments, **options)
        answer_calls(client, *self._answers.get(client.meta.service_model.service_name, ({}, {})))
        return client


def _show_waiting(is_over: Callable[[], bool]) -> None:
    """Print a dot whenever a job is not over yet, as the SDK does."""
    dots = 0
    while not is_over():
        dots += 1
        sys.stdout.write(".")
        sys.stdout.flush()
    sys.stdout.write("\n" * bool(dots))


def _check_status(what: str, name: str, status: str, described: Dict[str, Any]) -> Dict[str, Any]:
    """Return the description of a job that has completed; the SDK's own error if it has not."""
    if status != "Completed":
        reason = described.get("FailureReason", "it was stopped")
        raise UnexpectedStatusException(
            message=f"The {what} {name} is not completed, but {status}: {reason}",
            allowed_statuses=["Completed"],
            actual_status=status,
        )
    return described


def _end(endpoints: Endpoints, books: ThreadedMotoServer) -> None:
    endpoints.close()
    books.stop()
