"""Training jobs: each in a folder of its own, run by the training toolkit of SageMaker's images."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
import weakref
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from robostig._files import make_folder, replace_file
from robostig.container import ContainerError, find_environment, start_training, stop_training
from robostig.local.answers import RefusedError

__all__ = ["TrainingJobs", "check_name", "make_arn", "now"]

logger = logging.getLogger(__name__)

REQUEST, STATUS, LOG, LOCK = "request.json", "status.json", "log.txt", ".lock"
ARCHIVES = {"model.tar.gz": "model", "output.tar.gz": "output/data"}  # what SageMaker keeps of /opt/ml
HOST = "localhost"  # the toolkit looks its hosts up, for a quarter of an hour
LOOK_S = 0.2
ENDED = ("Completed", "Failed", "Stopped")
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_TIMES = ("CreationTime", "TrainingStartTime", "TrainingEndTime", "LastModifiedTime")


class TrainingJobs:
    """What CreateTrainingJob and its like do.

    Parameters
    ----------
    folder
        Where jobs are kept, each in a folder of its name: the request, its ``/opt/ml``, its log, its model.
    s3
        boto3's client of the S3 that jobs read from and write to.
    env
        Environment variables with which a container reaches that S3.
    """

    def __init__(self, folder: Path, s3: Any, env: Mapping[str, str]) -> None:
        self.folder, self._s3, self._env = make_folder(folder), s3, dict(env)
        self._running: Dict[str, _Run] = {}

    def create(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Start a job, and return at once; as CreateTrainingJob."""
        name = check_name("TrainingJobName", request["TrainingJobName"], 63)
        _check(request)
        try:
            (self.folder / name).mkdir()
        except FileExistsError:
            raise RefusedError(
                f"there is a training job {name} already; choose another name", "ResourceInUse"
            ) from None
        run = self._running[name] = _Run(self.folder / name, request, self._s3, self._env)
        run.start()
        return {"TrainingJobArn": make_arn("training-job", name)}

    def describe(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Return a job's request and how it stands; as DescribeTrainingJob."""
        described, output = self._look_at(request["TrainingJobName"])
        if described["TrainingJobStatus"] == "Completed":
            for archive in ARCHIVES:
                self._bring_back(self.folder / described["TrainingJobName"] / archive, f"{output}/{archive}")
        return described

    def _look_at(self, name: str) -> Tuple[Dict[str, Any], str]:
        """Return what DescribeTrainingJob says, and where on S3 the job writes to."""
        folder = self.folder / name
        if not (folder / REQUEST).is_file():
            raise RefusedError(f"there is no training job {name} in {self.folder}")
        described = json.loads((folder / REQUEST).read_text())
        described.update(self._read_status(folder))
        described["OutputDataConfig"].setdefault("KmsKeyId", "")  # as SageMaker says it
        output = _place_output(described)
        described["ModelArtifacts"] = {"S3ModelArtifacts": f"{output}/model.tar.gz"}
        described["TrainingJobArn"] = make_arn("training-job", name)
        return described, output

    def stop(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """End a job that this session has started; as StopTrainingJob."""
        run = self._running.get(request["TrainingJobName"])
        if run is None or not run.is_alive():
            raise RefusedError(f"there is no such job under way here: {request['TrainingJobName']}")
        run.stop()
        return {}

    def list(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Return summaries of the jobs whose name and status are asked for, newest first; as ListTrainingJobs."""
        words, status = request.get("NameContains", ""), request.get("StatusEquals")
        named = [path for path in self.folder.iterdir() if words in path.name and (path / REQUEST).is_file()]
        jobs = [self._look_at(path.name)[0] for path in named]
        jobs = [job for job in jobs if status in (None, job["TrainingJobStatus"])]
        jobs.sort(key=lambda job: job["CreationTime"], reverse=request.get("SortOrder") != "Ascending")
        keys = ("TrainingJobName", "TrainingJobArn", "TrainingJobStatus", *_TIMES)
        summaries = [{key: job[key] for key in keys if key in job} for job in jobs]
        return {"TrainingJobSummaries": summaries[: request.get("MaxResults", 100)]}

    def list_tags(self, request: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Return a training job's tags, None for what is no such job; as ListTags."""
        kind, _, name = request["ResourceArn"].rpartition(":")[2].partition("/")
        if kind != "training-job" or not (self.folder / name / REQUEST).is_file():
            return None
        return {"Tags": json.loads((self.folder / name / REQUEST).read_text()).get("Tags", [])}

    def wait(self, name: str, limit_s: Optional[float] = None) -> bool:
        """Wait for a job, no longer than so many seconds, and return whether it is over."""
        run = self._running.get(name)
        if run is not None:
            run.join(limit_s)
            return not run.is_alive()
        # Another session's.
        deadline = time.monotonic() + (limit_s or 0.0)
        while self.describe({"TrainingJobName": name})["TrainingJobStatus"] not in ENDED:
            if limit_s is not None and time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True

    def read_log(self, name: str) -> Iterator[str]:
        """Yield a job's lines as they come, until it is over; its folder's name is that in a container, ``/opt/ml``."""
        run, folder = self._running.get(name), self.folder / name
        while run and run.is_alive() and not (folder / LOG).exists():
            run.join(0.1)
        if not (folder / LOG).exists():
            return
        with open(folder / LOG, errors="replace") as file:
            line = ""
            while True:
                over = run is None or not run.is_alive()  # before reading: what it wrote last must not be missed
                for part in file:
                    line += part
                    if line.endswith("\n"):
                        yield line.rstrip("\n").replace(str(folder / "ml"), "/opt/ml")
                        line = ""
                if over:
                    return
                if run:
                    run.join(0.1)

    def _read_status(self, folder: Path) -> Dict[str, Any]:
        """Return how a job stands; failed, if what ran it has ended without saying so."""
        if not (folder / STATUS).is_file() and not _is_held(folder) and not (folder / STATUS).is_file():
            started = datetime.fromtimestamp((folder / REQUEST).stat().st_mtime, timezone.utc)
            return _make_status("Failed", started, failure="the program that ran this job has ended before it")
        if not (folder / STATUS).is_file():
            started = datetime.fromtimestamp((folder / REQUEST).stat().st_mtime, timezone.utc)
            return _make_status("InProgress", started)
        status = json.loads((folder / STATUS).read_text())
        for name in _TIMES:
            if name in status:
                status[name] = datetime.fromisoformat(status[name])
        return dict(status)

    def _bring_back(self, archive: Path, uri: str) -> None:
        """Put an archive where its job wrote it, unless it is there: S3 is forgotten when a session ends."""
        from botocore.exceptions import ClientError

        if not archive.is_file():  # somebody wanted the room
            return
        bucket, _, key = uri[len("s3://") :].partition("/")
        try:
            self._s3.head_object(Bucket=bucket, Key=key)
        except ClientError:
            _upload(self._s3, archive, uri)


class _Run(threading.Thread):
    """One job, from its start to its end."""

    def __init__(self, folder: Path, request: Mapping[str, Any], s3: Any, env: Mapping[str, str]) -> None:
        super().__init__(name=folder.name, daemon=True)
        self.folder, self.request, self._s3, self._env = folder, request, s3, env
        self._process: Optional[subprocess.Popen] = None
        self._is_stopped = False
        # Held for as long as this process runs the job: whoever gets it knows that nobody does.
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with replace_file(folder / REQUEST, "w") as file:
            file.write(json.dumps(request, indent=2, default=str) + "\n")
        self._since = now()

    def run(self) -> None:
        """Lay out ``/opt/ml``, run the toolkit, keep the model, and say how it ended."""
        metrics: List[Dict[str, Any]] = []
        try:
            failure = self._train()
            metrics = self._read_metrics()
            state = "Stopped" if self._is_stopped else "Failed" if failure else "Completed"
        except (OSError, ValueError) as error:
            state, failure = "Failed", str(error)
        except Exception as error:  # whatever it is, somebody waits to be told
            state, failure = "Failed", f"{type(error).__name__}: {error}"
        shutil.rmtree(self.folder / "ml/input/data", ignore_errors=True)  # a copy of the recording
        try:
            with replace_file(self.folder / STATUS, "w") as file:
                status = _make_status(state, self._since, now(), failure, metrics)
                file.write(json.dumps(status, indent=2, default=_write_time) + "\n")
        except OSError as error:  # a full disk, or somebody has removed the folder
            logger.error("the training job %s is over (%s), which could not be kept: %s", self.name, state, error)
        finally:
            os.close(self._lock)

    def stop(self) -> None:
        """Kill it, or see to it that it does not begin."""
        self._is_stopped = True
        if self._process:
            stop_training(self._process)

    def _train(self) -> str:
        """Return why it failed; empty if it did not."""
        base = self.folder / "ml"
        self._lay_out(base)
        env = {**self.request.get("Environment", {}), **self._env}
        limit = self.request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
        with open(self.folder / LOG, "w") as log:
            environment = find_environment("training")
            if self._is_stopped:
                return ""
            self._process = start_training(base, environment=environment, env=env, output=log)
            at_exit = weakref.finalize(self, stop_training, self._process)
            if self._is_stopped:  # meanwhile, by somebody who saw no process to kill
                at_exit()
            try:
                self._process.wait(limit)
            except subprocess.TimeoutExpired:
                return f"it took longer than MaxRuntimeInSeconds ({limit} s)"
            finally:
                at_exit()
        if self._is_stopped:
            return ""
        if self._process.returncode:
            failure = base / "output/failure"
            said = failure.read_text(errors="replace").strip() if failure.is_file() else ""
            return said or f"the training toolkit ended with status {self._process.returncode}; see the job's log"
        for archive, kept in ARCHIVES.items():
            self._keep(base / kept, archive)
        return ""

    def _lay_out(self, base: Path) -> None:
        """Write what SageMaker lays ready for a container."""
        channels = {channel["ChannelName"]: channel for channel in self.request.get("InputDataConfig", [])}
        for name, channel in channels.items():
            self._download(channel["DataSource"]["S3DataSource"]["S3Uri"], make_folder(base / "input/data" / name))
        config = {
            "hyperparameters": self.request.get("HyperParameters", {}),
            "resourceconfig": {
                "current_host": HOST,
                "hosts": [HOST],
                "network_interface_name": "lo",
                "current_instance_type": self.request["ResourceConfig"]["InstanceType"],
            },
            "inputdataconfig": {
                name: {
                    "TrainingInputMode": "File",
                    "S3DistributionType": "FullyReplicated",
                    "RecordWrapperType": "None",
                }
                for name in channels
            },
        }
        make_folder(base / "input/config")
        make_folder(base / "input/data")
        for name, content in config.items():
            (base / "input/config" / f"{name}.json").write_text(json.dumps(content))

    def _download(self, uri: str, folder: Path) -> None:
        """Bring all objects of a prefix into a folder."""
        bucket, _, prefix = uri[len("s3://") :].partition("/")
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        listed = [each["Key"] for page in pages for each in page.get("Contents", [])]
        if not listed:
            raise ContainerError(f"there is nothing at {uri}; upload the recording first: session.upload_data(...)")
        for key in listed:
            path = folder / (key[len(prefix) :].lstrip("/") or key.rpartition("/")[2])
            make_folder(path.parent)
            self._s3.download_file(bucket, key, str(path))

    def _keep(self, folder: Path, name: str) -> None:
        """Pack what a job has written, beside its request and on S3."""
        with replace_file(self.folder / name) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
        _upload(self._s3, self.folder / name, f"{_place_output(self.request)}/{name}")

    def _read_metrics(self) -> List[Dict[str, Any]]:
        """Return the last value of each metric in the log, as SageMaker finds it there."""
        if not (self.folder / LOG).is_file():
            return []
        log, found = (self.folder / LOG).read_text(errors="replace"), []
        for metric in self.request["AlgorithmSpecification"].get("MetricDefinitions", []):
            values = [match.group(1) for match in re.finditer(metric["Regex"], log)]
            if values:
                found.append({"MetricName": metric["Name"], "Value": float(values[-1]), "Timestamp": now()})
        return found


def make_arn(kind: str, name: str) -> str:
    """Return what SageMaker would call a job or an endpoint."""
    return f"arn:aws:sagemaker:us-west-2:123456789012:{kind}/{name}"


def check_name(what: str, name: str, longest: int) -> str:
    """Return a job's name; refuse what SageMaker does, and what would be no folder's name here."""
    if len(name) > longest or not _NAME.fullmatch(name):
        raise RefusedError(f"{what} is {name!r}; it takes letters, digits and hyphens, at most {longest}")
    return name


def now() -> datetime:
    """Return the time, with its zone, as boto3 does."""
    return datetime.now(timezone.utc)


def _check(request: Mapping[str, Any]) -> None:
    """Refuse what cannot be done on one machine."""
    count = request["ResourceConfig"].get("InstanceCount", 1)
    if count != 1:
        raise RefusedError(f"this is one machine, and {count} were asked for: instance_count=1")
    modes = {channel.get("InputMode") for channel in request.get("InputDataConfig", [])}
    modes.add(request["AlgorithmSpecification"].get("TrainingInputMode"))
    if "Pipe" in modes:
        raise RefusedError('jobs on this machine read files: input_mode="File"')
    image = request["AlgorithmSpecification"].get("TrainingImage", "")
    if "mxnet-training" not in image:
        raise RefusedError(f"jobs on this machine run what SageMaker's MXNet image holds, not {image}: no image_uri")
    if request.get("CheckpointConfig"):
        logger.warning("%s keeps no checkpoints: on this machine, jobs begin anew", request["TrainingJobName"])


def _make_status(
    state: str,
    started: datetime,
    ended: Optional[datetime] = None,
    failure: str = "",
    metrics: Any = (),
) -> Dict[str, Any]:
    """Return what DescribeTrainingJob says of a job's state."""
    status: Dict[str, Any] = {
        "TrainingJobStatus": state,
        "SecondaryStatus": "Training" if state == "InProgress" else state,
        "SecondaryStatusTransitions": [{"Status": state, "StartTime": started, "StatusMessage": failure}],
        "CreationTime": started,
        "TrainingStartTime": started,
        "LastModifiedTime": ended or started,
        "FinalMetricDataList": list(metrics),
    }
    if ended:
        seconds = round((ended - started).total_seconds())
        status.update(TrainingEndTime=ended, TrainingTimeInSeconds=seconds, BillableTimeInSeconds=seconds)
    if failure:
        status["FailureReason"] = failure
    return status


def _write_time(value: Any) -> str:
    return str(value.isoformat())


def _place_output(request: Mapping[str, Any]) -> str:
    """Return where SageMaker puts on S3 what a job has written."""
    return f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}/output"


def _upload(s3: Any, path: Path, uri: str) -> None:
    bucket, _, key = uri[len("s3://") :].partition("/")
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
    s3.upload_file(str(path), bucket, key)


def _is_held(folder: Path) -> bool:
    """Return whether some process runs the job."""
    descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may look at the same time
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
