"""SageMaker's own SDK against moto's S3, IAM and control plane: what it really sends for each call of ours.

What moto cannot do is put in at the call of boto3 that it is about: endpoints and jobs that fail, permissions.
"""

from __future__ import annotations

import builtins
import json
import logging
import re
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import numpy as np
import pytest
from conftest import ROOT

sagemaker = pytest.importorskip("sagemaker", reason="SageMaker's SDK is in the default environment")
moto = pytest.importorskip("moto", reason="moto is in the default environment")

import boto3  # noqa: E402
from botocore.client import BaseClient  # noqa: E402
from botocore.exceptions import ClientError  # noqa: E402
from botocore.loaders import Loader  # noqa: E402
from sagemaker.mxnet import MXNet  # noqa: E402

from robostig import entry_point  # noqa: E402
from robostig.artifact import pack, save_artifact  # noqa: E402
from robostig.backend import mx  # noqa: E402
from robostig.config import TrainingConfig  # noqa: E402
from robostig.deployment import (  # noqa: E402
    METRICS,
    OBJECTIVE,
    DeploymentError,
    delete,
    deploy,
    deploy_variants,
    endpoints,
    estimator,
    shift_traffic,
    tuner,
)
from robostig.preprocessing import InputSpec  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*SageMaker Python SDK v2")

CHANNELS = {"training": "s3://recordings/lake"}
LOADER = Loader()  # for all: reading what boto3 knows of AWS takes half a second
CREATING = re.compile(r"(Create|Put|Update|Start|Upload|Delete)")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    net = mx.gluon.nn.Dense(1, prefix="tiny_")
    net.initialize(mx.init.Xavier())
    return save_artifact(tmp_path / "artifact", net, InputSpec(6, 12), {"model": "tiny"})


@pytest.fixture
def role(aws: Any) -> str:
    return str(boto3.client("iam").create_role(RoleName="SageMaker", AssumeRolePolicyDocument="{}")["Role"]["Arn"])


@pytest.fixture
def aws(dummy_aws: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what was asked of AWS: ``calls``, and ``answers``, what to say in moto's place."""
    calls: List[Any] = []
    answers: Dict[str, Any] = {}
    real = BaseClient._make_api_call

    def call(self: BaseClient, operation: str, arguments: Dict[str, Any]) -> Any:
        calls.append((operation, arguments))
        if operation in answers:
            return answers[operation](arguments, lambda: real(self, operation, arguments))
        return real(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    monkeypatch.setattr(endpoints, "POLL_S", 0.01)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    for module in ("loaders", "session"):
        monkeypatch.setattr(f"botocore.{module}.create_loader", lambda *_: LOADER)
    with moto.mock_aws():
        yield SimpleNamespace(
            calls=calls,
            answers=answers,
            sent=lambda operation: [arguments for name, arguments in calls if name == operation],
            created=lambda: [name for name, _ in calls if CREATING.match(name) and name != "CreateRole"],
        )


def refuse(code: str, message: str) -> Any:
    """Return an answer of AWS that is an error."""

    def answer(arguments: Any, real: Any) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": message}}, "Operation")

    return answer


def list_archive(uri: str) -> List[str]:
    bucket, _, key = uri[len("s3://") :].partition("/")
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
    with tarfile.open(fileobj=body, mode="r|gz") as archive:
        return sorted(name for name in archive.getnames() if "__pycache__" not in name)


def put(artifact: Path, uri: str, tmp_path: Path) -> str:
    bucket, _, key = uri[len("s3://") :].partition("/")
    boto3.client("s3").upload_file(str(pack(artifact, tmp_path / "packed.tar.gz")), bucket, key)
    return uri


def read_hyperparameters(request: Dict[str, Any]) -> Dict[str, Any]:
    return {name: json.loads(value) for name, value in request["HyperParameters"].items()}


def fit(job: Any) -> None:
    job.fit(CHANNELS, wait=False)


# What is trained and tuned.


def test_a_job_is_the_one_that_the_customers_call_makes(aws, role, monkeypatch):
    monkeypatch.chdir(ROOT)
    fit(
        MXNet(
            entry_point="robostig/entry_point.py",
            dependencies=["robostig"],
            framework_version="1.9.0",
            py_version="py38",
            hyperparameters={"model": "comma", "epochs": 20},
            instance_type="ml.g4dn.xlarge",
            instance_count=1,
            role=role,
        )
    )
    fit(estimator("comma", role="SageMaker", hyperparameters={"epochs": 20}))
    theirs, ours = aws.sent("CreateTrainingJob")
    codes = []
    for request in (theirs, ours):
        hyperparameters = read_hyperparameters(request)
        codes.append(list_archive(hyperparameters["sagemaker_submit_directory"]))
        assert hyperparameters["sagemaker_program"] == "entry_point.py"
        assert (hyperparameters["model"], hyperparameters["epochs"]) == ("comma", 20)
        assert "sagemaker_parameter_server_enabled" not in hyperparameters
    assert codes[0] == codes[1] and {"entry_point.py", "robostig/serving.py", "robostig/models/comma.py"} <= set(
        codes[1]
    )
    assert ours["AlgorithmSpecification"]["MetricDefinitions"] == METRICS
    image = ours["AlgorithmSpecification"]["TrainingImage"]
    assert (
        image.endswith("mxnet-training:1.9.0-gpu-py38") and theirs["AlgorithmSpecification"]["TrainingImage"] == image
    )
    assert ours["TrainingJobName"].startswith("robostig-comma-")
    for name in ("RoleArn", "ResourceConfig", "InputDataConfig", "StoppingCondition"):
        assert ours[name] == theirs[name]


def test_several_instances_get_a_parameter_server_and_the_sdks_own_options_pass(aws, role):
    spot = {"use_spot_instances": True, "max_run": 3600, "max_wait": 7200, "checkpoint_s3_uri": "s3://checkpoints/a"}
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/robostig:1"
    options = {"instance_type": "ml.c5.xlarge", "instance_count": 2, "image_uri": image, **spot}
    fit(estimator("nvidia", role=role, **options))
    (request,) = aws.sent("CreateTrainingJob")
    assert read_hyperparameters(request)["sagemaker_parameter_server_enabled"] is True
    assert request["ResourceConfig"]["InstanceCount"] == 2
    assert request["EnableManagedSpotTraining"] and request["CheckpointConfig"] == {"S3Uri": "s3://checkpoints/a"}
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] == 7200
    assert request["AlgorithmSpecification"]["TrainingImage"] == image


def test_hyperparameters_arrive_as_the_entry_point_reads_them(aws, role):
    given = {"learning-rate": np.float64(1e-5), "optmizer": "SGD", "batch_size": np.int64(8), "hybridize": False}
    fit(estimator("nvidia", role=role, hyperparameters=given))
    sent = read_hyperparameters(aws.sent("CreateTrainingJob")[0])
    flags = [f"--{name}={value}" for name, value in sent.items() if not name.startswith("sagemaker")]
    arguments, unknown = entry_point.build_parser().parse_known_args(flags)
    expected = {"learning_rate": 1e-5, "optimizer": "sgd", "batch_size": 8, "hybridize": False, "model": "nvidia"}
    assert TrainingConfig.from_arguments(arguments) == TrainingConfig(**expected) and not unknown


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimator("comma", role="a", instance_count="2"), "instance_count is '2'; it takes a whole number"),
        (lambda: estimator("comma", role="a", instance_count=0), "instance_count is 0; it takes a whole number, 1 or"),
        (lambda: estimator("comma", role="a", hyperparameters=[1]), r"hyperparameters is \[1\]; give a value for each"),
        (lambda: tuner("comma", role="a", max_jobs=0), "max_jobs is 0; it takes a whole number, 1 or more"),
        (lambda: tuner("comma", role="a", max_jobs=1, max_parallel_jobs=True), "max_parallel_jobs is True; it takes"),
    ],
)
def test_what_cannot_be_trained_shows_before_anything_is_asked_of_aws(aws, call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert not aws.calls


BAD_HYPERPARAMETERS = [
    ("nvidea", {}, "did you mean 'nvidia'"),
    ("nvidia", {"epochs": 0}, "epochs is 0; it takes 1 to"),
    ("nvidia", {"epoch": 3}, "did you mean epochs"),
    ("comma", {"pretrained": True}, "no trained weights of 'comma'"),
    ("nvidia", {"model": "comma"}, "name it once"),
]


@pytest.mark.parametrize(("model", "hyperparameters", "message"), BAD_HYPERPARAMETERS)
def test_a_mistaken_hyperparameter_shows_before_anything_is_asked_of_aws(aws, model, hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        estimator(model, role="SageMaker", hyperparameters=hyperparameters)
    with pytest.raises(ValueError, match=message):
        tuner(model, role="SageMaker", hyperparameters=hyperparameters, max_jobs=2)
    assert not aws.calls


def test_the_metrics_read_what_training_prints(make_recording, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for name in ("SM_CHANNEL_TRAINING", "SM_CHANNEL_VALIDATION", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    folders = ["--training", str(make_recording(24, size=(80, 160))), "--model-dir", str(tmp_path / "model")]
    flags = ["--epochs", "2", "--batch-size", "8", "--device", "cpu", "--schedule", "constant", "--gap-s", "0.1"]
    rates = ["--learning-rate", "1e-5", "--warmup-epochs", "0", "--stretch-s", "0.4", "--side-cameras", "0"]
    assert entry_point.main([*folders, *flags, *rates]) == 0
    lines = "\n".join(caplog.messages).splitlines()
    found = {
        metric["Name"]: [
            float(match.group(1)) for match in (re.search(metric["Regex"], line) for line in lines) if match
        ]
        for metric in METRICS
    }
    facts = json.loads((tmp_path / "model" / "robostig.json").read_text())["scores"]
    assert found["epoch:learning_rate"] == [1e-5, 1e-5]
    assert found[OBJECTIVE] == [pytest.approx(facts["open_loop"]["rmse"], abs=1e-5)]
    assert found["validation:mae"] == [pytest.approx(facts["open_loop"]["mae"], abs=1e-5)]
    assert found["baseline:rmse"] == [pytest.approx(facts["open_loop"]["rmse_mean_baseline"], abs=1e-5)]
    history = [line.split(",") for line in (tmp_path / "model/training/history.csv").read_text().splitlines()]
    for name, column in (("epoch:train_rmse", "train_rmse"), ("epoch:validation_rmse", "validation_rmse")):
        values = [float(row[history[0].index(column)]) for row in history[1:]]
        assert found[name] == pytest.approx(values, abs=1e-5)
    assert len(found["epoch:images_per_second"]) == 2 and min(found["epoch:images_per_second"]) > 0
    # ([0-9.]+) reads 1e-05 as 1.
    assert not [line for line in lines if re.search(r"=[0-9.]+e[-+]?[0-9]", line)]


def test_the_tuner_tries_the_configurations_ranges_and_the_models(aws, role):
    search = tuner(
        ["nvidia", "comma"],
        role=role,
        max_jobs=6,
        max_parallel_jobs=2,
        hyperparameters={"epochs": 3, "weight-decay": 0.0},
        settings={"strategy": "Random"},
        instance_type="ml.c5.xlarge",
    )
    fit(search)
    (request,) = aws.sent("CreateHyperParameterTuningJob")
    config, job = request["HyperParameterTuningJobConfig"], request["TrainingJobDefinition"]
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Minimize", "MetricName": OBJECTIVE}
    assert config["Strategy"] == "Random"
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 2}
    assert job["AlgorithmSpecification"]["MetricDefinitions"] == METRICS
    ranges = {each["Name"]: each for kind in config["ParameterRanges"].values() for each in kind}
    expected = TrainingConfig.tuning_ranges()
    assert set(ranges) == {*expected, "model"} - {"weight_decay"}  # which is fixed
    rate = {"Name": "learning_rate", "MinValue": "0.0001", "MaxValue": "0.01", "ScalingType": "Logarithmic"}
    assert ranges["learning_rate"] == rate
    assert ranges["side_cameras"]["ScalingType"] == "Auto" and ranges["side_cameras"]["MaxValue"] == "0.8"
    fixed = {name: json.loads(value) for name, value in job["StaticHyperParameters"].items()}
    assert (fixed["epochs"], fixed["weight_decay"]) == (3, 0.0) and "model" not in fixed

    # The SDK writes choices as JSON texts. The toolkit reads the JSON, and should it not, we do.
    assert ranges["model"]["Values"] == ['"nvidia"', '"comma"'] and ranges["batch_size"]["Values"][0] == '"32"'
    for read in (json.loads, str):
        chosen = {name: read(ranges[name]["Values"][-1]) for name in ("model", "batch_size", "optimizer")}
        flags = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
        config = TrainingConfig.from_arguments(entry_point.build_parser().parse_args(flags))
        assert (config.model, config.batch_size, config.optimizer) == ("comma", 128, "sgd")


def test_one_model_alone_is_not_tuned(aws, role):
    search = tuner("comma", role=role, max_jobs=2)
    assert (
        "model" not in search.hyperparameter_ranges()
        and json.loads(search.estimator.hyperparameters()["model"]) == "comma"
    )
    with pytest.raises(ValueError, match="name each model once"):
        tuner(["comma", "comma"], role=role, max_jobs=2)


# What is served.


def test_two_artifacts_get_an_endpoint_each(aws, role, artifact, caplog):
    predictors = deploy({"nvidia": artifact, "comma": str(artifact)}, role="SageMaker", instance_count=2)
    assert {name: each.endpoint_name for name, each in predictors.items()} == {
        "nvidia": "robostig-nvidia",
        "comma": "robostig-comma",
    }
    models = {each["ModelName"]: each for each in aws.sent("CreateModel")}
    assert len(models) == 2
    for request, name in zip(aws.sent("CreateEndpointConfig"), predictors):
        (variant,) = request["ProductionVariants"]
        assert (variant["VariantName"], variant["InitialInstanceCount"], variant["InstanceType"]) == (
            name,
            2,
            "ml.c5.large",
        )
        container = models[variant["ModelName"]]["PrimaryContainer"]
        assert container["Environment"]["SAGEMAKER_PROGRAM"] == "entry_point.py"
        assert container["Environment"]["SAGEMAKER_SUBMIT_DIRECTORY"] == "/opt/ml/model/code"
        assert container["Image"].endswith("mxnet-inference:1.9.0-cpu-py38")
        assert models[variant["ModelName"]]["ExecutionRoleArn"] == role
        packed = list_archive(container["ModelDataUrl"])
        assert {"robostig.json", "model-0000.params", "code/entry_point.py", "code/robostig/serving.py"} <= set(packed)
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("robostig")]
    for name in ("robostig-nvidia", "robostig-comma"):
        message = next(message for message in warned if f"created the endpoint {name}:" in message)
        assert "2 x ml.c5.large, billed" in message and f"robostig.deployment.delete('{name}')" in message


def test_a_trained_estimator_is_served_as_it_was_trained(aws, role, artifact, tmp_path):
    job = estimator("comma", role=role, instance_type="ml.c5.xlarge")
    with pytest.raises(ValueError, match=r"estimator of comma has trained nothing yet: call its fit\(\)"):
        deploy({"comma": job})
    fit(job)
    with pytest.raises(ValueError, match=r"there is no s3://.*/output/model.tar.gz"):
        deploy({"comma": job})
    uri = put(artifact, job.model_data, tmp_path)
    aws.calls.clear()
    deploy({"comma": job})
    assert aws.created() == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]  # nothing is packed anew
    (model,) = aws.sent("CreateModel")
    assert model["PrimaryContainer"]["ModelDataUrl"] == uri and model["ExecutionRoleArn"] == role
    delete("robostig-comma")
    assert "code/entry_point.py" in list_archive(uri)  # what training wrote stays


def test_the_best_estimator_of_a_tuner_is_served(aws, role, artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the SDK's, before it looks at a job that is done
    fit(estimator("comma", role=role))
    # The tuner attaches itself to the best job; SageMaker names a key for its output, moto does not.
    aws.answers["DescribeTrainingJob"] = lambda arguments, real: {
        **real(),
        "OutputDataConfig": {"S3OutputPath": "s3://models", "KmsKeyId": ""},
    }
    best = MXNet.attach(aws.sent("CreateTrainingJob")[0]["TrainingJobName"])
    uri = put(artifact, best.model_data, tmp_path)
    assert deploy({"best": best})["best"].endpoint_name == "robostig-best"
    assert aws.sent("CreateModel")[0]["PrimaryContainer"]["ModelDataUrl"] == uri


def test_a_job_that_is_not_completed_is_not_served(aws, role):
    job = estimator("comma", role=role)
    fit(job)
    failed = {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: error: there is no driving_log.csv"}
    aws.answers["DescribeTrainingJob"] = lambda arguments, real: {**real(), **failed}
    with pytest.raises(
        ValueError, match="is not completed, but Failed: AlgorithmError: error: there is no driving_log"
    ):
        deploy({"comma": job})


def test_a_model_without_code_is_not_served(aws, role, artifact, tmp_path):
    boto3.client("s3").create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with tarfile.open(tmp_path / "bare.tar.gz", "w:gz") as archive:
        archive.add(artifact / "robostig.json", "robostig.json")
    boto3.client("s3").upload_file(str(tmp_path / "bare.tar.gz"), "models", "bare.tar.gz")
    boto3.client("s3").put_object(Bucket="models", Key="text", Body=b"no archive")
    aws.calls.clear()
    for key, message in (
        ("bare.tar.gz", "has no code/entry_point.py"),
        ("text", "is no tar.gz"),
        ("none", "there is no"),
    ):
        with pytest.raises(ValueError, match=message):
            deploy({"comma": f"s3://models/{key}"}, role=role)
    assert not aws.created()


def test_two_variants_share_the_traffic_of_one_endpoint(aws, role, artifact):
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/robostig:1"
    predictor = deploy_variants(
        {"nvidia": artifact, "comma": artifact},
        endpoint_name="ab",
        weights={"nvidia": 9, "comma": 1},
        role=role,
        image_uri=image,
        model_options={"env": {"OMP_NUM_THREADS": "2"}},
    )
    assert predictor.endpoint_name == "ab"
    (request,) = aws.sent("CreateEndpointConfig")
    variants = {each["VariantName"]: each for each in request["ProductionVariants"]}
    assert {name: each["InitialVariantWeight"] for name, each in variants.items()} == {"nvidia": 9, "comma": 1}
    assert len({each["ModelName"] for each in variants.values()}) == 2
    for model in aws.sent("CreateModel"):
        assert model["PrimaryContainer"]["Image"] == image
        assert model["PrimaryContainer"]["Environment"]["OMP_NUM_THREADS"] == "2"
        assert model["PrimaryContainer"]["Environment"]["SAGEMAKER_PROGRAM"] == "entry_point.py"

    assert shift_traffic("ab", {"comma": 3}) == {"nvidia": 9.0, "comma": 3.0}
    described = boto3.client("sagemaker").describe_endpoint(EndpointName="ab")["ProductionVariants"]
    assert {each["VariantName"]: each["CurrentWeight"] for each in described} == {"nvidia": 9.0, "comma": 3.0}
    for weights, message in (
        ({"coma": 1}, "ab has no variant 'coma'; it has nvidia, comma"),
        ({"nvidia": -1}, "each is 0 or more"),
        ({"nvidia": 0, "comma": 0}, "one at least is more"),
        ({"nvidia": float("nan")}, "each is 0 or more"),
        ({"nvidia": "9"}, "a number for each name"),
        (["nvidia"], "a number for each name"),
        ({}, "a number for each name"),
    ):
        with pytest.raises(ValueError, match=message):
            shift_traffic("ab", weights)
    with pytest.raises(DeploymentError, match=r"the traffic of nobody could not be shifted: Could not find endpoint"):
        shift_traffic("nobody", {"comma": 1})


def test_weights_belong_to_the_variants(aws, artifact):
    for weights in ({"comma": 1}, {"comma": 1, "nvidia": 1, "other": 1}):
        with pytest.raises(ValueError, match="give one for each of nvidia, comma"):
            deploy_variants({"nvidia": artifact, "comma": artifact}, weights=weights, role="SageMaker")
    for weights in ({"comma": "9"}, {"comma": None}, {"comma": 0}, [1], {}):
        with pytest.raises(ValueError, match="give a number for each name: each is 0 or more, and one at least is mor"):
            deploy_variants({"comma": artifact}, weights=weights, role="SageMaker")
    assert not aws.calls


# What goes wrong.


def log_out(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def expire(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.answers["GetCallerIdentity"] = refuse("ExpiredToken", "The security token included in the request is expired")


def forget_region(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")


def move_away(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "mx-central-1")


def forbid(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "User: arn:aws:iam::123456789012:user/a is not authorized to perform: sagemaker:DescribeEndpoint"
    aws.answers["DescribeEndpoint"] = refuse("AccessDeniedException", message)


def do_nothing(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


TROUBLE: List[Any] = [
    (
        log_out,
        "SageMaker",
        DeploymentError,
        r"nothing was created: .* Unable to locate credentials; log in with aws conf",
    ),
    (expire, "SageMaker", DeploymentError, r"nothing was created: .* token .* is expired; log in with aws configure"),
    (forget_region, "SageMaker", ValueError, "Set AWS_DEFAULT_REGION"),
    (move_away, "SageMaker", ValueError, r"the region mx-central-1 has no MXNet 1\.9\.0 image .* image_uri"),
    (
        do_nothing,
        "Nobody",
        DeploymentError,
        r"nothing was created: the role Nobody cannot be used: .*Nobody.* not found",
    ),
    (do_nothing, "", ValueError, "role='name or ARN of an IAM role'"),
]


@pytest.mark.parametrize(
    ("happen", "who", "error", "message"), TROUBLE, ids=lambda value: getattr(value, "__name__", "")
)
def test_trouble_with_the_account_is_one_line_and_nothing_is_created(
    aws, role, artifact, monkeypatch, happen, who, error, message
):
    happen(aws, monkeypatch)
    boto3.DEFAULT_SESSION = None
    calls = [
        lambda: estimator("comma", role=who),
        lambda: tuner("comma", role=who, max_jobs=2),
        lambda: deploy({"comma": artifact}, role=who),
        lambda: deploy_variants({"comma": artifact}, role=who),
    ]
    for call in calls:
        with pytest.raises(error, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not aws.created()


def test_without_permission_nothing_is_uploaded(aws, role, artifact, monkeypatch):
    forbid(aws, monkeypatch)
    with pytest.raises(DeploymentError, match=r"nothing was created: .* not authorized .*; ask your administrator"):
        deploy({"comma": artifact}, role=role)
    assert not aws.created()


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ({}, {}, ValueError, "name the models to deploy"),
        ({"comma": "nowhere"}, {}, FileNotFoundError, "no trained model in nowhere"),
        ({"my_model": None}, {}, ValueError, "'robostig-my_model' is no name: letters, digits and hyphens"),
        ({"comma": None}, {"prefix": "x" * 50}, ValueError, "is no name: .* at most 54"),
        ({1: None}, {}, ValueError, "1 is no name"),
        ({"comma": 5}, {}, ValueError, "the model comma is 5; give a trained estimator, "),
        ({"comma": "s3://bucket"}, {}, ValueError, "the model comma is 's3://bucket'; .* s3://bucket/key of a model"),
        ({"comma": None}, {"instance_count": 0}, ValueError, "instance_count is 0; it takes a whole number"),
    ],
)
def test_what_cannot_be_deployed_shows_before_anything_is_asked_of_aws(aws, artifact, models, options, error, message):
    models = {name: model or artifact for name, model in models.items()}
    with pytest.raises(error, match=message):
        deploy(models, role="SageMaker", **options)
    assert not aws.calls


def test_models_without_names_or_that_are_none_are_not_deployed(aws, artifact):
    for call in (deploy, deploy_variants):
        for models, message in (
            ([artifact], "name the models to deploy: .*, not "),
            (5, "name the models to deploy"),
            ({"comma": None}, "the model comma is None; give a trained estimator"),
        ):
            with pytest.raises(ValueError, match=message):
                call(models, role="SageMaker")
    with pytest.raises(TypeError, match=r"deploy\(\) got an unexpected keyword argument 'instance'"):
        deploy({"comma": artifact}, role="SageMaker", instance="ml.c5.large")
    for name in (None, 5, "", "a b/c*"):
        for call in (delete, lambda name: shift_traffic(name, {"comma": 1})):
            with pytest.raises(ValueError, match=" is no name: letters, digits and hyphens, at most 63"):
                call(name)
    assert not aws.calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "x"}, r"\(name cannot be set there\)"),
        ({"entry_point": "x.py"}, r"\(entry_point cannot be set there\)"),
        ({"env": {"SAGEMAKER_PROGRAM": "x.py", "A": "1"}}, r"\(SAGEMAKER_PROGRAM cannot be set there\)"),
        ({"nonsense": 1}, r"\(.* unexpected keyword argument 'nonsense'\)"),
        ({"env": 5}, "which cannot be used"),
        (5, "model_options is 5, which cannot be used"),
    ],
)
def test_options_that_a_model_does_not_take_are_refused_before_anything_is_created(
    aws, role, artifact, options, message
):
    with pytest.raises(ValueError, match=message) as raised:
        deploy({"comma": artifact}, role=role, model_options=options)
    assert not aws.created() and "\n" not in str(raised.value)


def test_a_damaged_artifact_is_not_deployed(aws, artifact):
    (artifact / "model-0000.params").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model-0000\.params is not the file it was saved with"):
        deploy({"comma": artifact}, role="SageMaker")
    assert not aws.calls


def test_a_name_that_is_taken_is_said_with_how_to_free_it(aws, role, artifact):
    deploy({"comma": artifact}, role=role)
    aws.calls.clear()
    message = r"there is an endpoint robostig-comma already, .* robostig\.deployment\.delete\('robostig-comma'\)"
    with pytest.raises(ValueError, match=message):
        deploy({"nvidia": artifact, "comma": artifact}, role=role)
    boto3.client("sagemaker").delete_endpoint(EndpointName="robostig-comma")
    with pytest.raises(ValueError, match=message):  # its configuration is still there
        deploy({"nvidia": artifact, "comma": artifact}, role=role)
    assert not [name for name in aws.created() if name != "DeleteEndpoint"]
    delete("robostig-comma")
    assert set(deploy({"nvidia": artifact, "comma": artifact}, role=role)) == {"nvidia", "comma"}


def test_if_the_second_endpoint_fails_it_is_said_what_there_is(aws, role, artifact, caplog):
    limit = "The account-level service limit 'ml.c5.large for endpoint usage' is 1 Instances."

    def create(arguments, real):
        return refuse("ResourceLimitExceeded", limit)(0, 0) if arguments["EndpointName"].endswith("comma") else real()

    aws.answers["CreateEndpoint"] = create
    with pytest.raises(DeploymentError) as raised:
        deploy({"nvidia": artifact, "comma": artifact}, role=role)
    message = str(raised.value)
    assert message.startswith(f"the endpoint robostig-comma could not be created: {limit[:-1]}; take another instance")
    assert "\n" not in message and "delete('robostig-nvidia'), robostig.deployment.delete('robostig-comma')" in message
    assert (
        "created the endpoint robostig-nvidia" in caplog.text
        and "created the endpoint robostig-comma" not in caplog.text
    )
    client = boto3.client("sagemaker")
    assert [each["EndpointName"] for each in client.list_endpoints()["Endpoints"]] == ["robostig-nvidia"]
    assert delete("robostig-nvidia")[0] == "the endpoint robostig-nvidia"
    assert delete("robostig-comma")[0] == "the endpoint configuration robostig-comma"
    assert not client.list_models()["Models"] and not client.list_endpoint_configs()["EndpointConfigs"]


def test_an_endpoint_that_does_not_come_up_says_why(aws, role, artifact):
    failed = {"EndpointStatus": "Failed", "FailureReason": "The primary container did not pass the ping health check."}
    aws.answers["DescribeEndpoint"] = lambda arguments, real: {**real(), **failed}
    with pytest.raises(DeploymentError, match=r"robostig-comma is not in service: The primary container did not pass"):
        deploy({"comma": artifact}, role=role)
    assert deploy({"nvidia": artifact}, role=role, wait=False)


def test_what_was_deployed_is_removed_and_nothing_else(aws, role, artifact, caplog):
    caplog.set_level(logging.INFO)
    deploy_variants({"nvidia": artifact, "comma": artifact}, role=role)
    deploy({"comma": artifact}, role=role)
    client = boto3.client("sagemaker")
    others = [
        name for each in client.list_models()["Models"] if (name := each["ModelName"]).startswith("robostig-comma")
    ]
    removed = delete("robostig")
    assert next(name for name, _ in aws.calls if name.startswith("Delete")) == "DeleteEndpoint"  # what is billed
    assert removed[:2] == ["the endpoint robostig", "the endpoint configuration robostig"]
    assert len([each for each in removed if each.startswith("the model robostig-")]) == 2
    assert len([each for each in removed if each.startswith("s3://")]) == 2 and len(removed) == 6
    assert f"removed {', '.join(removed)}" in caplog.text
    assert [each["ModelName"] for each in client.list_models()["Models"]] == others
    (bucket,) = boto3.resource("s3").buckets.all()
    assert [each.key for each in bucket.objects.all()] == [f"{others[0]}/model.tar.gz"]
    assert delete("robostig") == [] and "there is nothing named robostig in eu-west-1" in caplog.text


def test_what_is_gone_already_is_no_error(aws, role, artifact):
    deploy({"comma": artifact}, role=role)
    client = boto3.client("sagemaker")
    client.delete_endpoint(EndpointName="robostig-comma")
    client.delete_endpoint_config(EndpointConfigName="robostig-comma")
    removed = delete("robostig-comma")
    assert [each.rpartition("-")[0] for each in removed[1:]] == ["the model robostig-comma"] and len(removed) == 2


def test_a_model_that_something_else_made_is_kept(aws, role, artifact, caplog):
    caplog.set_level(logging.INFO)
    client = boto3.client("sagemaker")
    client.create_model(ModelName="theirs", PrimaryContainer={"Image": "a"}, ExecutionRoleArn=role)
    variant = {"VariantName": "a", "ModelName": "theirs", "InitialInstanceCount": 1, "InstanceType": "ml.c5.large"}
    client.create_endpoint_config(EndpointConfigName="config", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="old", EndpointConfigName="config")
    client.create_endpoint(EndpointName="other", EndpointConfigName="config")
    assert delete("old") == ["the endpoint old"]
    assert "kept the endpoint configuration config, the model theirs, not made here" in caplog.text
    assert len(client.list_models()["Models"]) == 1
    assert [each["EndpointConfigName"] for each in client.list_endpoint_configs()["EndpointConfigs"]] == ["config"]


def test_a_name_that_looks_like_ours_is_not_ours(aws, role, artifact):
    """A date is eight hexadecimal digits, too."""
    client, s3 = boto3.client("sagemaker"), boto3.resource("s3")
    s3.create_bucket(Bucket="mine", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    tags: Dict[str, List[Dict[str, str]]] = {
        "robostig-20251101": [],
        "robostig-20251102": [{"Key": "robostig:endpoint", "Value": "another"}],
        # Made here, from an archive that was not uploaded here.
        "robostig-20251103": [{"Key": "robostig:endpoint", "Value": "robostig"}],
        "robostig-20251104": [
            {"Key": "robostig:endpoint", "Value": "robostig"},
            {"Key": "robostig:upload", "Value": "s3://mine/another/model.tar.gz"},
        ],
    }
    for name, given in tags.items():
        key = f"models/{name}/model.tar.gz"
        s3.Object("mine", key).put(Body=b"the only copy")
        container = {"Image": "a", "ModelDataUrl": f"s3://mine/{key}"}
        client.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role, Tags=given)
    deploy_variants({"nvidia": artifact}, role=role)
    (model,) = [each for each in aws.sent("CreateModel") if each["ModelName"] not in tags]
    upload = model["PrimaryContainer"]["ModelDataUrl"]
    assert {each["Key"]: each["Value"] for each in model["Tags"]} == {
        "robostig:endpoint": "robostig",
        "robostig:upload": upload,
    }
    ours = [f"the model {name}" for name in ("robostig-20251103", "robostig-20251104", model["ModelName"])]
    assert sorted(delete("robostig")[2:]) == sorted([*ours, upload])
    assert sorted(each["ModelName"] for each in client.list_models()["Models"]) == list(tags)[:2]
    assert len(list(s3.Bucket("mine").objects.all())) == 4


def list_objects() -> List[str]:
    s3 = boto3.resource("s3")
    return [each.key for bucket in s3.buckets.all() for each in bucket.objects.all()]


def test_an_upload_in_vain_is_removed(aws, role, artifact, caplog):
    forbidden = refuse("AccessDeniedException", "not authorized to perform: sagemaker:CreateModel\n  because of that")
    aws.answers["CreateModel"] = forbidden
    with pytest.raises(DeploymentError, match=r"a model for .* could not be created: not authorized .*\(AWS_PROFILE\)"):
        deploy({"comma": artifact}, role=role)
    assert len(aws.sent("PutObject")) == 1 and not list_objects()
    # Whatever it is that fails, also the SDK itself, which likes several lines.
    for error in (ValueError("no\n  way"), KeyError("way")):

        def fail(arguments: Any, real: Any, error: Exception = error) -> Any:
            raise error

        aws.answers["CreateModel"] = fail
        with pytest.raises(DeploymentError if isinstance(error, ValueError) else KeyError) as raised:
            deploy({"comma": artifact}, role=role)
        assert "way" in str(raised.value) and "\n" not in str(raised.value) and not list_objects()
    # The first error counts, and the upload that is left is told of.
    aws.answers.update(CreateModel=forbidden, DeleteObject=refuse("AccessDenied", "Access Denied"))
    with pytest.raises(DeploymentError, match=r"a model for .* could not be created: not authorized"):
        deploy({"comma": artifact}, role=role)
    (key,) = list_objects()
    assert f"/{key} was uploaded in vain, and could not be removed: Access Denied" in caplog.text


def test_what_cannot_be_removed_is_said_with_what_was(aws, role, artifact):
    deploy({"comma": artifact}, role=role)
    aws.answers["DeleteModel"] = refuse("AccessDeniedException", "not authorized to perform: sagemaker:DeleteModel")
    with pytest.raises(
        DeploymentError, match=r"the model robostig-comma-.* could not be removed; .* the endpoint robos"
    ):
        delete("robostig-comma")
    del aws.answers["DeleteModel"]
    assert len(delete("robostig-comma")) == 2


@pytest.mark.parametrize("missing", ["sagemaker", "sagemaker.mxnet"])  # none, and version 3
def test_without_the_sdk_the_error_says_what_to_install(monkeypatch, artifact, missing):
    real = builtins.__import__

    def find(name, *arguments, **options):
        if name == missing:
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", find)
    for call in (
        lambda: estimator("comma", role="SageMaker"),
        lambda: deploy({"comma": artifact}, role="SageMaker"),
        lambda: delete("robostig-comma"),
    ):
        with pytest.raises(ImportError, match=r"pip install .robostig\[sagemaker\]"):
            call()
