"""Amazon's side of SageMaker, as far as it is missing here: S3, the control plane, and what carries work to containers.

S3 and the control plane are moto's. What a container sees is real: :class:`Amazon` reads a job or an endpoint from the
control plane, lays out ``/opt/ml`` as SageMaker does, and runs the toolkits of the images on it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import boto3
from conftest import DUMMY_AWS
from moto import mock_aws
from moto.server import ThreadedMotoServer

from robostig.container import Environment, Server, run_training

# Any name that resolves to this machine: the training toolkit looks its hosts up, for a quarter of an hour.
HOST = "localhost"


class Amazon:
    """An account with a role, whose jobs and endpoints run here.

    It wants :data:`conftest.DUMMY_AWS` among the environment variables, and is a context manager.

    Parameters
    ----------
    folder
        For what SageMaker's machines would have on their disks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: Dict[str, Dict[str, Server]] = {}  # by endpoint and variant

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
        done = run_training(base, environment=environment, env={**DUMMY_AWS, "AWS_ENDPOINT_URL_S3": self.s3_url})
        if done.returncode == 0:
            self.upload_archive(base / "model", job["ModelArtifacts"]["S3ModelArtifacts"])
        return done, base

    @contextlib.contextmanager
    def run_endpoint(self, name: str, environment: Environment) -> Iterator[None]:
        """Run the container of each of an endpoint's variants, and let the runtime send it what is for it."""
        with contextlib.ExitStack() as stack:
            servers = {}
            for variant, container in self.find_containers(name).items():
                folder = self.folder / "endpoints" / name / variant
                folder.mkdir(parents=True)
                with tarfile.open(fileobj=io.BytesIO(self.read(container["ModelDataUrl"]))) as archive:
                    archive.extractall(folder)
                server = Server(folder, environment=environment, env=container["Environment"])
                servers[variant] = stack.enter_context(server)
            self.servers[name] = servers
            stack.callback(self.servers.pop, name)
            yield

    def find_containers(self, name: str) -> Dict[str, Dict[str, Any]]:
        """Return for each variant of an endpoint what its container is made of."""
        client = boto3.client("sagemaker")
        config = client.describe_endpoint(EndpointName=name)["EndpointConfigName"]
        variants = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
        models = {each["VariantName"]: client.describe_model(ModelName=each["ModelName"]) for each in variants}
        return {name: model.get("PrimaryContainer") or model["Containers"][0] for name, model in models.items()}

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


def _make_runtime(servers: Dict[str, Dict[str, Server]]) -> type:
    class Runtime(BaseHTTPRequestHandler):
        """Hands on what comes to /endpoints/NAME/invocations: to the variant that it names, or else to the first."""

        def do_POST(self) -> None:
            name = self.path.split("/")[2]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if name not in servers:
                return self.refuse(f"Endpoint {name} of account 123456789012 not found.")
            variant = self.headers["X-Amzn-SageMaker-Target-Variant"] or next(iter(servers[name]))
            if variant not in servers[name]:
                return self.refuse(f"Variant {variant} not found for Endpoint {name} of account 123456789012.")
            headers = {key: self.headers[key] for key in ("Content-Type", "Accept") if self.headers[key]}
            request = urllib.request.Request(servers[name][variant].url, body, headers)
            try:
                answer = urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            self.answer(answer.status, answer.read(), answer.headers["Content-Type"] or "text/plain")

        def refuse(self, message: str) -> None:
            content = json.dumps({"Code": "ValidationError", "message": message}).encode()
            self.answer(400, content, "application/json", {"x-amzn-ErrorType": "ValidationError"})

        def answer(
            self, status: int, content: bytes, kind: str, more: Mapping[str, str] = MappingProxyType({})
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Runtime
