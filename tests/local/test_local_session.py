"""SageMaker on this machine, asked by SageMaker's own SDK: real jobs of the training toolkit, real model servers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from conftest import ROOT

sagemaker = pytest.importorskip("sagemaker", reason="SageMaker's SDK is in the default environment")
pytest.importorskip("moto", reason="moto is in the default environment")

from botocore.exceptions import ClientError  # noqa: E402
from sagemaker.exceptions import UnexpectedStatusException  # noqa: E402

from robostig.artifact import read_facts, save_artifact  # noqa: E402
from robostig.backend import mx  # noqa: E402
from robostig.deployment import (  # noqa: E402
    DeploymentError,
    attach,
    delete,
    deploy_variants,
    estimator,
    fetch,
    open_session,
    shift_traffic,
    tuner,
    upload,
)
from robostig.driving_log import read_driving_log  # noqa: E402
from robostig.endpoint import Endpoint  # noqa: E402
from robostig.models import get_model, get_spec  # noqa: E402
from robostig.simulation import parse_tracks, record  # noqa: E402
from robostig.training import read_history  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*SageMaker Python SDK v2"),
    pytest.mark.usefixtures("training_environment", "serving_environment"),
    pytest.mark.timeout(180),
]
QUICK = {"epochs": 1, "batch_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("account")


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[Any]:
    session = open_session(local=True, folder=folder)
    yield session
    session.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("drive") / "recording", parse_tracks("lake:1,mountain:1"), laps=0.1)


@pytest.fixture(scope="module")
def training(session: Any, recording: Path) -> str:
    return upload(recording, sagemaker_session=session)


@pytest.fixture(scope="module")
def job(session: Any, training: str) -> Any:
    made = estimator("nvidia", hyperparameters=QUICK, sagemaker_session=session)
    made.fit({"training": training}, logs=False)
    return made


def test_it_has_a_role_a_region_and_an_account_and_tells_nobody(session):
    assert sagemaker.get_execution_role(session).endswith(":role/SageMakerLocal")
    assert session.boto_region_name and session.account_id()
    assert session.sagemaker_config["SageMaker"]["PythonSDK"]["Modules"]["TelemetryOptOut"] is True


def test_a_recording_goes_up_packed_and_once(session, recording, training, monkeypatch):
    bucket, _, prefix = training[len("s3://") :].partition("/")
    there = {each["Key"]: each for each in session.s3_client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]}
    assert len(there) < 10 < len(read_driving_log(recording))
    monkeypatch.setattr(session, "upload_data", lambda *_, **__: pytest.fail("it is there already"))
    assert upload(recording, sagemaker_session=session) == training


def test_a_job_trains_and_says_what_sagemaker_says(session, job):
    described = session.describe_training_job(job.latest_training_job.name)
    metrics = {metric["MetricName"]: metric["Value"] for metric in described["FinalMetricDataList"]}
    assert described["TrainingJobStatus"] == "Completed" and described["BillableTimeInSeconds"] >= 1
    assert {"validation:rmse", "epoch:train_rmse", "baseline:rmse"} <= set(metrics)
    assert 0 < metrics["validation:rmse"] < 1


def test_its_log_is_the_toolkits_with_a_containers_paths(session, job, capsys, folder):
    session.logs_for_job(job.latest_training_job.name, wait=True)
    printed = capsys.readouterr().out
    assert "Invoking user script" in printed and "Reporting training SUCCESS" in printed
    assert "/opt/ml/model" in printed and str(folder) not in printed


def test_what_it_wrote_is_brought_here_with_its_history(job, tmp_path):
    artifact = fetch(job, tmp_path / "out" / "nvidia")
    assert read_facts(artifact)["model"] == "nvidia"
    assert [epoch.epoch for epoch in read_history(artifact / "training" / "history.csv")] == [1]
    (artifact / "leftover").write_text("of an earlier one")
    fetch(job, artifact)
    assert not (artifact / "leftover").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="no artifact"):
        fetch(job, other)
    with pytest.raises(FileExistsError, match="no artifact"):
        fetch(job, other / "notes.txt")
    assert (other / "notes.txt").read_text() == "keep me"


def test_a_place_without_a_model_is_an_error(session, training, tmp_path):
    with pytest.raises(ValueError, match=r"there is no s3://robostig-local/nothing/model\.tar\.gz"):
        fetch("s3://robostig-local/nothing/model.tar.gz", tmp_path / "out", sagemaker_session=session)
    with pytest.raises(ValueError, match=r"'nvidia' is no place on S3; give an estimator"):
        fetch("nvidia", tmp_path / "out", sagemaker_session=session)
    with pytest.raises(ValueError, match="the estimator of comma has trained nothing yet"):
        fetch(estimator("comma", sagemaker_session=session), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_next_program_finds_the_job_and_its_model(job, folder, tmp_path):
    program = (
        "from robostig.deployment import attach, fetch, open_session\n"
        f"session = open_session(local=True, folder={str(folder)!r})\n"
        "found = attach('nvidia', sagemaker_session=session)\n"
        f"print(found.latest_training_job.name, fetch(found, {str(tmp_path / 'fetched')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [job.latest_training_job.name, str(tmp_path / "fetched")], done.stderr
    assert read_facts(tmp_path / "fetched")["model"] == "nvidia"


def test_only_what_was_trained_can_be_attached_to(session, job):
    assert attach("nvidia", sagemaker_session=session).latest_training_job.name == job.latest_training_job.name
    with pytest.raises(ValueError, match=r"no completed job robostig-comma-\.\.\. has trained comma; train it first"):
        attach("comma", sagemaker_session=session)
    with pytest.raises(ValueError, match="no model is named 'tesla'"):
        attach("tesla", sagemaker_session=session)


def test_a_job_that_fails_says_why_as_on_sagemaker(session, tmp_path):
    (tmp_path / "readme.txt").write_text("no log here\n")
    empty = session.upload_data(str(tmp_path), key_prefix="notes")
    made = estimator("nvidia", hyperparameters=QUICK, sagemaker_session=session)
    with pytest.raises(UnexpectedStatusException, match=r"not completed, but Failed: .*driving_log\.csv"):
        made.fit({"training": empty}, logs=False)
    with pytest.raises(UnexpectedStatusException, match=r"there is nothing at s3://robostig-local/nowhere"):
        made.fit({"training": "s3://robostig-local/nowhere"}, logs=False)
    with pytest.raises(ValueError, match="of nvidia is not completed, but Failed: there is nothing at"):
        fetch(made, tmp_path / "out")


def test_a_job_can_be_stopped(session, training):
    made = estimator("comma", hyperparameters={"epochs": 500}, sagemaker_session=session)
    made.fit({"training": training}, wait=False)
    name = made.latest_training_job.name
    assert session.describe_training_job(name)["TrainingJobStatus"] == "InProgress"
    while not (session.jobs.folder / name / "log.txt").exists():
        time.sleep(0.1)
    session.stop_training_job(name)
    assert session.jobs.wait(name, 20.0)
    assert session.describe_training_job(name)["TrainingJobStatus"] == "Stopped"
    with pytest.raises(ClientError, match="no such job under way"):
        session.sagemaker_client.stop_training_job(TrainingJobName=name)


def test_a_job_that_is_stopped_before_it_begins_does_not_begin(session, training):
    made = estimator("nvidia", hyperparameters={"epochs": 500}, sagemaker_session=session)
    made.fit({"training": training}, wait=False)
    name = made.latest_training_job.name
    session.stop_training_job(name)
    assert session.jobs.wait(name, 60.0)
    assert session.describe_training_job(name)["TrainingJobStatus"] == "Stopped"
    assert not (session.jobs.folder / name / "ml/input/data").exists()


def test_metrics_that_cannot_be_read_make_a_failed_job(session):
    with pytest.raises(UnexpectedStatusException, match=r"Failed: .*unterminated"):
        estimator(
            "nvidia",
            hyperparameters=QUICK,
            sagemaker_session=session,
            metric_definitions=[{"Name": "odd", "Regex": "("}],
        ).fit({"training": session.upload_data(__file__, key_prefix="odd")}, logs=False)


@pytest.mark.parametrize("name", ["two words", "../outside", "a/b", "-a", "a" * 64])
def test_a_name_that_is_none_on_sagemaker_is_none_here(session, name, folder):
    before = sorted(folder.rglob("*"))
    made = estimator("nvidia", hyperparameters=QUICK, sagemaker_session=session)
    with pytest.raises(ClientError, match=r"TrainingJobName is .*letters, digits and hyphens, at most 63"):
        made.fit({"training": "s3://robostig-local/nowhere"}, job_name=name)
    assert sorted(folder.rglob("*")) == before


def test_jobs_of_others_are_no_hindrance(session, job, folder):
    """A name that is like ours, on an account that several teams share, may be another framework's job."""
    name = job.latest_training_job.name
    other = shutil.copytree(session.jobs.folder / name, session.jobs.folder / "their-robostig-nvidia-job")
    request = json.loads((other / "request.json").read_text())
    request["AlgorithmSpecification"]["TrainingImage"] = "1.dkr.ecr.us-west-2.amazonaws.com/sagemaker-xgboost:1"
    request["HyperParameters"] = {"model": "tree"}
    try:
        for other_name in (other.name, "robostig-nvidia-theirs"):
            request["TrainingJobName"] = other_name
            other = other.rename(other.with_name(other_name))
            (other / "request.json").write_text(json.dumps(request))
            assert attach("nvidia", sagemaker_session=session).latest_training_job.name == name
    finally:
        shutil.rmtree(other)


def test_a_job_whose_program_is_gone_has_failed(session, job):
    name = job.latest_training_job.name
    gone = session.jobs.folder / "robostig-nvidia-gone"
    shutil.copytree(session.jobs.folder / name, gone)
    (gone / "status.json").unlink()
    try:
        described = session.describe_training_job(gone.name)
        assert described["TrainingJobStatus"] == "Failed" and "has ended before it" in described["FailureReason"]
    finally:
        shutil.rmtree(gone)


def test_what_one_machine_cannot_do_is_refused(session, training):
    with pytest.raises(ClientError, match=r"this is one machine, and 2 were asked for: instance_count=1"):
        estimator("nvidia", instance_count=2, sagemaker_session=session).fit({"training": training})
    with pytest.raises(ClientError, match=r'read files: input_mode="File"'):
        estimator("nvidia", input_mode="Pipe", sagemaker_session=session).fit({"training": training})
    with pytest.raises(ClientError, match="not example/mine:1: no image_uri"):
        estimator("nvidia", image_uri="example/mine:1", sagemaker_session=session).fit({"training": training})
    search = tuner("nvidia", max_jobs=1, settings={"strategy": "Hyperband"}, sagemaker_session=session)
    with pytest.raises(ClientError, match="the strategy Hyperband is SageMaker's alone; here there are Bayesian, Rand"):
        search.fit({"training": training})


def test_a_search_runs_jobs_and_knows_the_best(session, training):
    search = tuner(["nvidia", "comma"], max_jobs=2, hyperparameters={"epochs": 1}, sagemaker_session=session)
    search.fit({"training": training})
    trials = search.analytics().dataframe()
    assert list(trials["TrainingJobStatus"]) == ["Completed"] * 2 and trials["TrainingElapsedTimeSeconds"].min() > 0
    assert {"model", "learning_rate", "optimizer", "batch_size"} <= set(trials)
    assert trials["learning_rate"].nunique() == 2 and trials["learning_rate"].between(1e-4, 1e-2).all()
    best = trials.loc[trials["FinalObjectiveValue"].idxmin()]
    kept = search.best_estimator()
    assert kept.latest_training_job.name == best["TrainingJobName"]
    assert json.loads(kept.hyperparameters()["model"]) == json.loads(best["model"])
    assert kept.model_data.endswith(f"{best['TrainingJobName']}/output/model.tar.gz")
    with pytest.raises(ValueError, match="no completed job robostig-comma"):
        attach("comma", sagemaker_session=session)  # a search's jobs are its own


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Path]:
    made = {}
    for name in ("comma", "nvidia"):
        net = get_model(name)
        net.initialize(mx.init.Xavier())
        made[name] = save_artifact(tmp_path_factory.mktemp(name), net, get_spec(name).input, {"model": name})
    return made


def test_variants_share_the_traffic_by_their_weights(session, artifacts, recording):
    client = session.boto_session.client("sagemaker-runtime")
    jpeg = Path(read_driving_log(recording).pictures["center"][0]).read_bytes()

    def ask(count: int, **more: Any) -> Dict[str, int]:
        request = {"EndpointName": "both", "ContentType": "image/jpeg", "Body": jpeg, **more}
        answered: Dict[str, int] = {}
        for _ in range(count):
            answer = client.invoke_endpoint(**request)
            assert -1 <= json.loads(answer["Body"].read())[0] <= 1
            variant = answer["InvokedProductionVariant"]
            answered[variant] = answered.get(variant, 0) + 1
        return answered

    deploy_variants(artifacts, endpoint_name="both", weights={"comma": 3, "nvidia": 1}, sagemaker_session=session)
    try:
        shares = ask(80)
        assert 40 < shares["comma"] < 76 and shares["comma"] + shares["nvidia"] == 80
        assert ask(3, TargetVariant="nvidia") == {"nvidia": 3}
        shift_traffic("both", {"comma": 0}, sagemaker_session=session)
        assert ask(10) == {"nvidia": 10}
        with pytest.raises(ClientError, match="Variant tesla not found for Endpoint both"):
            ask(1, TargetVariant="tesla")
        with pytest.raises(ClientError, match=r"ModelError.*client error \(4\d\d\) from nvidia"):
            ask(1, Body=b"no picture")
    finally:
        delete("both", sagemaker_session=session)
    with pytest.raises(ClientError, match="Endpoint both not found"):
        ask(1)


def test_a_model_that_cannot_be_served_makes_a_failed_endpoint(session, artifacts, tmp_path):
    broken = shutil.copytree(artifacts["nvidia"], tmp_path / "broken")
    with pytest.raises(
        DeploymentError, match=r"endpoint broken is not in service: the server on port .*no MXNet today"
    ):
        deploy_variants(
            {"nvidia": broken},
            endpoint_name="broken",
            model_options={"env": {"PYTHONPATH": str(break_mxnet(tmp_path))}},
            sagemaker_session=session,
        )
    assert "the endpoint broken" in delete("broken", sagemaker_session=session)


def test_a_server_that_has_died_answers_with_an_error(session, artifacts, recording):
    deploy_variants({"nvidia": artifacts["nvidia"]}, endpoint_name="short-lived", sagemaker_session=session)
    try:
        session.endpoints._servers["short-lived"]["nvidia"].stop()
        endpoint = Endpoint("short-lived", session=session.boto_session)
        with pytest.raises(OSError, match=r"endpoint short-lived failed \(ModelError\): nvidia does not answer"):
            endpoint.ask(Path(read_driving_log(recording).pictures["center"][0]).read_bytes())
    finally:
        delete("short-lived", sagemaker_session=session)


def test_data_that_is_gone_makes_a_failed_endpoint(session):
    client, name = session.sagemaker_client, "without-data"
    container = {"Image": "any", "ModelDataUrl": "s3://robostig-local/nowhere/model.tar.gz"}
    client.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=session.role)
    variant = {"VariantName": "one", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.c5.large"}
    client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    client.create_endpoint(EndpointName=name, EndpointConfigName=name)
    described = client.describe_endpoint(EndpointName=name)
    assert described["EndpointStatus"] == "Failed" and "404" in described["FailureReason"]
    assert "the endpoint without-data" in delete(name, sagemaker_session=session)


def break_mxnet(folder: Path) -> Path:
    """Return a folder with an MXNet that cannot be imported."""
    (folder / "path").mkdir()
    (folder / "path" / "mxnet.py").write_text("raise ImportError('no MXNet today')\n")
    return folder / "path"


def test_without_moto_it_says_what_to_install(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("robostig.local")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(ImportError, match=r'pip install "robostig\[local\]"'):
        open_session(local=True, folder=tmp_path)
