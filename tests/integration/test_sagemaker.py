"""The customer's call, from ``MXNet(...)`` to an answer from the endpoint, by the code that Amazon's images run.

SageMaker's own SDK packs and uploads, its training toolkit trains from what was uploaded, its SDK deploys, and its
model server answers. Only S3 and the control plane are moto's (:mod:`robostig.local`). With ``-s``, it tells what it
ran.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
from conftest import ROOT, log_in_to_aws

sagemaker = pytest.importorskip("sagemaker", reason="SageMaker's SDK is in the default environment")
pytest.importorskip("moto", reason="moto is in the default environment")

from sagemaker.deserializers import JSONDeserializer, NumpyDeserializer  # noqa: E402
from sagemaker.exceptions import UnexpectedStatusException  # noqa: E402
from sagemaker.mxnet import MXNet, MXNetModel  # noqa: E402
from sagemaker.predictor import Predictor  # noqa: E402
from sagemaker.serializers import IdentitySerializer, JSONSerializer, NumpySerializer  # noqa: E402

from robostig.artifact import read_facts, save_artifact  # noqa: E402
from robostig.backend import mx  # noqa: E402
from robostig.deployment import compare_endpoints, delete, deploy_variants, fetch, upload  # noqa: E402
from robostig.driving_log import DrivingLogWriter, read_driving_log, read_picture  # noqa: E402
from robostig.local import LocalSession  # noqa: E402
from robostig.models import get_model, get_spec  # noqa: E402
from robostig.pilot import Pilot  # noqa: E402
from robostig.preprocessing import preprocess  # noqa: E402

ROWS = 120
HYPERPARAMETERS = {"epochs": 1, "batch-size": 32, "learning_rate": 1e-3, "device": "cpu"}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSession]:
    with pytest.MonkeyPatch.context() as patch:
        log_in_to_aws(patch)
        # The call's paths are those of a checkout. It is a copy, because the SDK packs nothing from under /root.
        checkout = tmp_path_factory.mktemp("checkout")
        shutil.copytree(ROOT / "robostig", checkout / "robostig", ignore=shutil.ignore_patterns("__pycache__"))
        patch.chdir(checkout)
        session = LocalSession(tmp_path_factory.mktemp("account"))
        yield session
        session.close()


@pytest.fixture(scope="module")
def recording(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the beginning of the real recording."""
    log = read_driving_log(lake)
    folder = tmp_path_factory.mktemp("recording")
    with DrivingLogWriter(folder) as writer:
        for row in range(ROWS):
            writer.write(
                {camera: Path(pictures[row]).read_bytes() for camera, pictures in log.pictures.items()},
                steering=log.steering[row],
                throttle=log.throttle[row],
                brake=log.brake[row],
                speed_mph=log.speed_mph[row],
                time_s=log.time_s[row],
            )
    return folder


@pytest.fixture(scope="module")
def channel(session: LocalSession, recording: Path) -> str:
    """Return the recording's place on S3, packed: there it is quicker than its many small files."""
    return upload(recording, sagemaker_session=session)


def call_as_the_customer(model: str, **more: Any) -> MXNet:
    return MXNet(
        entry_point="robostig/entry_point.py",
        dependencies=["robostig"],
        framework_version="1.9.0",
        py_version="py38",
        hyperparameters={"model": model, **HYPERPARAMETERS},
        instance_type="ml.c5.xlarge",
        instance_count=1,
        **more,
    )


def call_with_a_source_folder(model: str, **more: Any) -> MXNet:
    return MXNet(
        entry_point="entry_point.py",
        source_dir="robostig",
        framework_version="1.9.0",
        py_version="py38",
        hyperparameters={"model": model, **HYPERPARAMETERS},
        instance_type="ml.c5.xlarge",
        instance_count=1,
        **more,
    )


def deploy_estimator(estimator: MXNet, **more: Any) -> Predictor:
    return estimator.deploy(1, "ml.c5.large", **more)


def deploy_model(estimator: MXNet, **more: Any) -> Predictor:
    """Deploy from the archive alone, as somebody else would, weeks later."""
    model = MXNetModel(
        model_data=estimator.model_data,
        entry_point="robostig/entry_point.py",
        dependencies=["robostig"],
        framework_version="1.9.0",
        py_version="py38",
        role=estimator.role,
        sagemaker_session=estimator.sagemaker_session,
    )
    return model.deploy(1, "ml.c5.large", **more)


WAYS = {
    "nvidia": (call_as_the_customer, deploy_estimator),
    "comma": (call_as_the_customer, deploy_model),
    "nvidia, source_dir": (call_with_a_source_folder, deploy_estimator),
}


def list_archive(session: LocalSession, uri: str) -> List[str]:
    """Return the names in a tar.gz on S3."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    content = session.s3_client.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return sorted(archive.getnames())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_the_customers_call(way, session, channel, recording, training_environment, serving_environment, tmp_path):
    call, deploy = WAYS[way]
    name = way.split(",")[0]
    print(f"\n== {way}\ntraining: {training_environment.description}\nserving: {serving_environment.description}")
    estimator = call(name, role=session.role, sagemaker_session=session)
    if way == "nvidia":  # as it was recorded
        channel = session.upload_data(str(recording), key_prefix="recording")
    estimator.fit({"training": channel})
    job = estimator.latest_training_job.name
    described = session.describe_training_job(job)
    code = json.loads(described["HyperParameters"]["sagemaker_submit_directory"])
    print(code, *list_archive(session, code), sep="\n  ")
    assert "Reporting training SUCCESS" in "\n".join(session.jobs.read_log(job))
    listing = list_archive(session, estimator.model_data)
    print(estimator.model_data, *listing, sep="\n  ")
    assert {"model-symbol.json", "model-0000.params", "robostig.json", "code/entry_point.py"} <= set(listing)
    artifact = fetch(estimator, tmp_path / "artifact")
    assert read_facts(artifact)["model"] == name

    predictor = deploy(estimator, endpoint_name=job)
    variants = session.sagemaker_client.describe_endpoint_config(EndpointConfigName=job)["ProductionVariants"]
    described = session.sagemaker_client.describe_model(ModelName=variants[0]["ModelName"])
    container = described.get("PrimaryContainer") or described["Containers"][0]
    served = list_archive(session, container["ModelDataUrl"])  # which the SDK made of the one that training wrote
    assert container["ModelDataUrl"] != estimator.model_data and "model-0000.params" in served
    assert ("code/lib/robostig/serving.py" if call is call_as_the_customer else "code/serving.py") in served
    log = read_driving_log(recording)
    frames = [read_picture(path) for path in log.pictures["center"][:3]]
    jpegs = [Path(path).read_bytes() for path in log.pictures["center"][:3]]
    pilot = Pilot.load(artifact)
    pixels = np.stack([preprocess(frame, pilot.spec) for frame in frames])
    expected = [pilot.steer(frame) for frame in frames]

    def ask(body: Any, serializer: Any) -> List[float]:
        answer = Predictor(job, session, serializer, JSONDeserializer()).predict(body)
        print(f"{getattr(serializer, 'content_type', '')}: {answer}")
        return answer

    # As the earlier pipeline's client asks: JSON of preprocessed pixels, by the SDK's own predictor.
    assert predictor.predict(pixels[:1].tolist()) == pytest.approx(expected[:1], abs=1e-4)
    assert ask(np.stack(frames).tolist(), JSONSerializer()) == pytest.approx(expected, abs=1e-4)
    assert ask(np.stack(frames), NumpySerializer()) == pytest.approx(expected, abs=1e-4)
    assert ask(pixels.transpose(0, 3, 1, 2), NumpySerializer()) == pytest.approx(expected, abs=1e-4)
    for jpeg, steering in zip(jpegs, expected):
        assert ask(jpeg, IdentitySerializer("image/jpeg")) == pytest.approx([steering], abs=1e-3)
    array = Predictor(job, session, NumpySerializer(), NumpyDeserializer()).predict(np.stack(frames))
    assert array.dtype == np.float32 and array.tolist() == pytest.approx(expected, abs=1e-4)
    session.delete_endpoint(job)


def count_what_there_is(session: LocalSession) -> Dict[str, int]:
    client, buckets = session.sagemaker_client, session.s3_resource.buckets
    return {
        "models": len(client.list_models()["Models"]),
        "endpoints": len(client.list_endpoints()["Endpoints"]),
        "configurations": len(client.list_endpoint_configs()["EndpointConfigs"]),
        "objects": sum(1 for bucket in buckets.all() for _ in bucket.objects.all()),
    }


@pytest.mark.timeout(120)
def test_two_variants_are_deployed_compared_and_removed(session, recording, serving_environment, tmp_path):
    artifacts = {}
    for name in ("comma", "nvidia"):
        mx.random.seed(1)
        net = get_model(name)
        net.initialize(mx.init.Xavier())
        artifacts[name] = save_artifact(tmp_path / name, net, get_spec(name).input, {"model": name})
    before = count_what_there_is(session)
    client = session.boto_session.client("sagemaker-runtime")
    deploy_variants(artifacts, endpoint_name="both", role=session.role, sagemaker_session=session)
    targets = {name: ("both", name) for name in artifacts}
    frames = read_driving_log(recording).pictures["center"][:20]
    result = compare_endpoints(targets, frames, artifacts=artifacts, client=client)
    print(result.describe())
    for unknown, message in ((("both", "tesla"), "Variant tesla not found"), ("nobody", "Endpoint nobody not found")):
        with pytest.raises(ValueError, match=message):
            compare_endpoints({"unknown": unknown}, frames, client=client)
    for score in result.endpoints.values():
        assert (score.answered, score.first_error) == (20, "") and score.difference <= 1e-4
        assert score.latency_ms["p50"] <= score.latency_ms["p99"]
    assert result.choice in artifacts and result.reason.startswith(f"{result.choice} should drive")
    assert result.describe().count(" p99 ") == 2
    assert len(delete("both", sagemaker_session=session)) == 6
    assert count_what_there_is(session) == before


BAD_JOBS = {
    "an unknown model": ({"model": "alexnet"}, "no model is named 'alexnet'"),
    "a hyperparameter out of range": ({"learning_rate": 30}, "learning_rate is 30.0; it takes"),
    "a flag without a value": ({"learning_rate": "-1e-3"}, "learning_rate"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [*BAD_JOBS, "a channel without a log"])
def test_a_mistake_is_the_jobs_failure_reason_in_one_line(fault, session, channel, training_environment, tmp_path):
    changes, message = BAD_JOBS.get(fault, ({}, "driving_log.csv"))
    if fault not in BAD_JOBS:
        note = tmp_path / "readme.txt"
        note.write_text("no log here\n")
        channel = session.upload_data(str(note), key_prefix=f"{tmp_path.name}/notes").rpartition("/")[0]
    estimator = call_as_the_customer("nvidia", role=session.role, sagemaker_session=session)
    estimator.set_hyperparameters(**changes)
    with pytest.raises(UnexpectedStatusException):
        estimator.fit({"training": channel})
    described = session.describe_training_job(estimator.latest_training_job.name)
    print(described["FailureReason"])
    assert message in described["FailureReason"] and "\n" not in described["FailureReason"]
    assert described["TrainingJobStatus"] == "Failed"
    with pytest.raises(ValueError, match="is not completed, but Failed"):
        fetch(estimator, tmp_path / "artifact")
