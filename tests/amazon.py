"""Amazon's side of SageMaker, as far as it is missing here: S3, the control plane, and what carries work to containers.

S3 and the control plane are moto's. What a container sees is real: :class:`Amazon` reads a job or an endpoint from the
control plane, lays out ``/opt/ml`` as SageMaker does, and runs the toolkits of the images on it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import boto3
from moto import mock_aws
from moto.server import ThreadedMotoServer

from robostig.container import Environment, Server, run_training

REGION = "us-east-1"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
# Any name that resolves to this machine: the training toolkit looks its hosts up, for a quarter of an hour.
HOST = "localhost"


class Amazon:
    """An account with a role, whose jobs and endpoints run here.

    It wants :data:`ACCOUNT` among the environment variables, and is a context manager.

    Parameters
    ----------
    folder
        For what SageMaker's machines would have on their disks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: Dict[str, Server] = {}

    def __enter__(self) -> Amazon:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock_aws())
            # The same S3 by HTTP, for the container, which downloads its code by itself.
            logging.getLogger("werkzeug").setLevel(logging.WARNING)
            s3 = ThreadedMotoServer(port=0, verbose=False)
            s3.start()
            stack.callback(s3.stop)
            self.s3_url = "http://{}:{}".format(*s3.get_host_and_port())
            runtime = ThreadingHTTPServer(("127.0.0.1", 0), _make_runtime(self.servers))
            threading.Thread(target=runtime.serve_forever, daemon=True).start()
            stack.callback(runtime.server_close)
            stack.callback(runtime.shutdown)
            self.runtime_url = f"http://127.0.0.1:{runtime.server_port}"
            self.role = boto3.client("iam").create_role(RoleName="SageMaker", AssumeRolePolicyDocument="{}")["Role"][
                "Arn"
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def runtime(self) -> Any:
        """Return a client of the endpoints."""
        return boto3.client("sagemaker-runtime", endpoint_url=self.runtime_url)

    def run_job(self, name: str, environment: Environment) -> Tuple[subprocess.CompletedProcess[str], Path]:
        """Run a training job's container, and keep what it leaves, as SageMaker does.

        Returns
        -------
        tuple
            The container's process, and its /opt/ml.
        """
        job = boto3.client("sagemaker").describe_training_job(TrainingJobName=name)
        base = self.folder / name
        for folder in ("input/config", "input/data", "model", "output/data"):
            (base / folder).mkdir(parents=True)
        channels = {channel["ChannelName"]: channel for channel in job["InputDataConfig"]}
        for channel, description in channels.items():
            self.download(description["DataSource"]["S3DataSource"]["S3Uri"], base / "input/data" / channel)
        config = {
            "hyperparameters": job["HyperParameters"],
            "resourceconfig": {
                "current_host": HOST,
                "hosts": [HOST],
                "network_interface_name": "lo",
                "current_instance_type": job["ResourceConfig"]["InstanceType"],
            },
            "inputdataconfig": {
                channel: {
                    "TrainingInputMode": description.get(
                        "InputMode", job["AlgorithmSpecification"]["TrainingInputMode"]
                    ),
                    "S3DistributionType": description["DataSource"]["S3DataSource"]["S3DataDistributionType"],
                    "RecordWrapperType": "None",
                }
                for channel, description in channels.items()
            },
        }
        for name_of, content in config.items():
            (base / "input/config" / f"{name_of}.json").write_text(json.dumps(content))
        done = run_training(base, environment=environment, env={**ACCOUNT, "AWS_ENDPOINT_URL_S3": self.s3_url})
        if done.returncode == 0:
            self.upload_archive(base / "model", job["ModelArtifacts"]["S3ModelArtifacts"])
        return done, base

    @contextlib.contextmanager
    def run_endpoint(self, name: str, environment: Environment) -> Iterator[Server]:
        """Run an endpoint's container, and let the runtime send it what is for this endpoint."""
        client = boto3.client("sagemaker")
        config = client.describe_endpoint(EndpointName=name)["EndpointConfigName"]
        variant = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
        model = client.describe_model(ModelName=variant["ModelName"])
        container = model.get("PrimaryContainer") or model["Containers"][0]
        folder = self.folder / "endpoints" / name
        folder.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(self.read(container["ModelDataUrl"]))) as archive:
            archive.extractall(folder)
        with Server(folder, environment=environment, env=container["Environment"]) as server:
            self.servers[name] = server
            try:
                yield server
            finally:
                del self.servers[name]

    def read(self, uri: str) -> bytes:
        """Return an object of S3."""
        bucket, _, key = uri[len("s3://") :].partition("/")
        return bytes(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())

    def list_archive(self, uri: str) -> List[str]:
        """Return the names in a tar.gz on S3."""
        with tarfile.open(fileobj=io.BytesIO(self.read(uri))) as archive:
            return sorted(archive.getnames())

    def download(self, uri: str, folder: Path) -> None:
        """Bring all objects of a prefix into a folder."""
        bucket, _, prefix = uri[len("s3://") :].partition("/")
        for listed in boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=prefix):
            path = folder / listed.key[len(prefix) :].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(listed.get()["Body"].read())

    def upload_archive(self, folder: Path, uri: str) -> None:
        """Put a folder on S3 as tar.gz."""
        bucket, _, key = uri[len("s3://") :].partition("/")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=buffer.getvalue())


def _make_runtime(servers: Dict[str, Server]) -> type:
    class Runtime(BaseHTTPRequestHandler):
        """Hands on what comes to /endpoints/NAME/invocations."""

        def do_POST(self) -> None:
            name = self.path.split("/")[2]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {key: self.headers[key] for key in ("Content-Type", "Accept") if self.headers[key]}
            request = urllib.request.Request(servers[name].url, body, headers)
            try:
                answer = urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"] or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Runtime
