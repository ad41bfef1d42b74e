"""Endpoints: a model server of SageMaker's images for each variant, and traffic that is shared by their weights."""

from __future__ import annotations

import io
import random
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

from robostig.container import Server
from robostig.local.answers import RefusedError

__all__ = ["Endpoints"]

INVOKE_S = 60.0  # SageMaker's limit for an answer


class Endpoints:
    """What happens behind CreateEndpoint and its like, and InvokeEndpoint; the books are kept elsewhere.

    Parameters
    ----------
    open_client
        Makes boto3's client of a service that keeps the books: ``"sagemaker"`` or ``"s3"``.
    """

    def __init__(self, open_client: Callable[[str], Any]) -> None:
        import urllib3  # boto3's own

        self._open_client = open_client
        self._servers: Dict[str, Dict[str, Server]] = {}
        self._weights: Dict[str, Dict[str, float]] = {}
        self._failures: Dict[str, str] = {}
        self._pool = urllib3.PoolManager(maxsize=8, retries=False)
        self._chance, self._lock = random.Random(0), threading.Lock()

    def create(self, request: Dict[str, Any], _: Dict[str, Any]) -> None:
        """Start a server for each variant of a new endpoint; if one cannot serve, the endpoint is a failed one."""
        name, client = request["EndpointName"], self._open_client("sagemaker")
        config = client.describe_endpoint_config(EndpointConfigName=request["EndpointConfigName"])
        servers: Dict[str, Server] = {}
        self._failures.pop(name, None)
        try:
            for variant in config["ProductionVariants"]:
                model = client.describe_model(ModelName=variant["ModelName"])
                container = model.get("PrimaryContainer") or model["Containers"][0]
                servers[variant["VariantName"]] = self._start(container)
        except BaseException as error:  # whatever it is, the books know of the endpoint already
            for server in servers.values():
                server.stop()
            self._failures[name] = str(error) or type(error).__name__
            if not isinstance(error, Exception):  # the user's Ctrl-C
                raise
            return
        self._servers[name] = servers
        self._weights[name] = {
            variant["VariantName"]: float(variant.get("InitialVariantWeight", 1.0))
            for variant in config["ProductionVariants"]
        }

    def describe(self, request: Dict[str, Any], described: Dict[str, Any]) -> None:
        """Say of an endpoint whether it is in service, or has failed."""
        name = request["EndpointName"]
        failure = self._failures.get(name)
        if name not in self._servers and not failure:
            failure = "the session that created it has ended"
        if failure:
            described.update(EndpointStatus="Failed", FailureReason=failure)
        else:
            described["EndpointStatus"] = "InService"  # it was from the moment that it was created

    def shift(self, request: Dict[str, Any], _: Dict[str, Any]) -> None:
        """Share the traffic anew."""
        weights = {each["VariantName"]: each for each in request["DesiredWeightsAndCapacities"]}
        now = self._weights.get(request["EndpointName"], {})
        now.update({name: float(each["DesiredWeight"]) for name, each in weights.items() if "DesiredWeight" in each})

    def delete(self, request: Dict[str, Any], _: Dict[str, Any]) -> None:
        """End an endpoint's servers."""
        self._failures.pop(request["EndpointName"], None)
        for server in self._servers.pop(request["EndpointName"], {}).values():
            server.stop()

    def close(self) -> None:
        """End all servers."""
        for name in list(self._servers):
            self.delete({"EndpointName": name}, {})

    def invoke(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Ask the variant that is named, or else one by chance and weight; as InvokeEndpoint."""
        import urllib3
        from botocore.response import StreamingBody

        name = request["EndpointName"]
        servers = self._servers.get(name)
        if servers is None:
            raise RefusedError(f"Endpoint {name} not found on this machine.", "ValidationError")
        variant = request.get("TargetVariant") or self._draw(self._weights[name])
        if variant not in servers:
            raise RefusedError(f"Variant {variant} not found for Endpoint {name}.", "ValidationError")
        headers = {"Content-Type": request.get("ContentType"), "Accept": request.get("Accept")}
        body = request["Body"]
        try:
            answer = self._pool.request(
                "POST",
                servers[variant].url,
                body=body if isinstance(body, (bytes, str)) else body.read(),
                headers={key: value for key, value in headers.items() if value},
                timeout=INVOKE_S,
            )
        except urllib3.exceptions.HTTPError as error:  # it has ended, or takes too long
            raise RefusedError(f"{variant} does not answer: {error}", "ModelError", 424) from error
        if answer.status >= 300:
            said = answer.data.decode(errors="replace")
            raise RefusedError(
                f'Received client error ({answer.status}) from {variant} with message "{said}"', "ModelError", 424
            )
        return {
            "Body": StreamingBody(io.BytesIO(answer.data), len(answer.data)),
            "ContentType": answer.headers.get("Content-Type", ""),
            "InvokedProductionVariant": variant,
        }

    def _start(self, container: Mapping[str, Any]) -> Server:
        bucket, _, key = container["ModelDataUrl"][len("s3://") :].partition("/")
        with tempfile.TemporaryDirectory(prefix="robostig-endpoint-") as folder:
            archive = Path(folder) / "model.tar.gz"
            self._open_client("s3").download_file(bucket, key, str(archive))
            return Server(archive, env=container.get("Environment", {}))

    def _draw(self, weights: Mapping[str, float]) -> str:
        with self._lock:
            return self._chance.choices(list(weights), list(weights.values()))[0]
