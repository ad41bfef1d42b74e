"""The real boto3 asks an HTTP server that stands for SageMaker's runtime, and answers by our own serving code."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import cv2
import numpy as np
import pytest
from conftest import DUMMY_AWS, draw_road

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.config import TrainingConfig
from robostig.deployment import compare_endpoints, comparison
from robostig.driving_log import read_driving_log
from robostig.pipeline import read_recording
from robostig.preprocessing import InputSpec
from robostig.serving import RequestError, model_fn, transform_fn
from robostig.simulation import parse_tracks

boto3 = pytest.importorskip("boto3", reason='boto3 is not installed: pip install "robostig[sagemaker]"')


def make_artifact(folder: Path, *, seed: int, share: float, **facts: Any) -> Path:
    """Write an untrained network: a line through pixels, ``share`` as steep as Xavier's."""
    net = mx.gluon.nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(mx.gluon.nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0), mx.gluon.nn.Flatten())
        net.add(mx.gluon.nn.Dense(1))
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier(magnitude=share))
    return save_artifact(folder, net, InputSpec(6, 12), {"model": "tiny", **facts})


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("artifacts")
    # Small steering is near the human's, on average; large is not.
    return {
        "calm": make_artifact(folder / "calm", seed=1, share=0.01),
        "wild": make_artifact(folder / "wild", seed=2, share=3.0),
    }


@pytest.fixture
def runtime(artifacts: Any, dummy_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return what the endpoints do: ``pilots`` and ``ways`` (of going wrong) by (endpoint, variant).

    And who was ``asked``, and by whom: ``credentials``, with the region in them.
    """
    pilots = {(name, None): model_fn(str(folder)) for name, folder in artifacts.items()}
    pilots.update({("ab", name): pilots[name, None] for name in artifacts})
    ways: Any = {}
    asked: Any = []
    credentials: Any = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key = self.path.split("/")[2], self.headers["X-Amzn-SageMaker-Target-Variant"]
            asked.append((*key, self.headers["Content-Type"], body))
            credentials.append(self.headers["Authorization"].partition("Credential=")[2].split("/")[:3:2])
            try:
                if key not in pilots:
                    raise LookupError(f"Endpoint {key[0]} of account 123456789012 not found.")
                fault = ways.get(key, lambda number: None)(sum(each[:2] == key for each in asked) - 1)
                if fault:
                    raise RequestError(fault)
                answer, kind = transform_fn(pilots[key], body, self.headers["Content-Type"], self.headers["Accept"])
                self.answer(200, answer, kind)
            except LookupError as error:
                self.answer(400, json.dumps({"Message": str(error)}), "application/json", "ValidationError")
            except RequestError as error:
                self.answer(424, json.dumps({"Message": str(error)}), "application/json", "ModelError")

        def answer(self, status: int, text: Any, kind: str, error: str = "") -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if error:
                self.send_header("x-amzn-ErrorType", error)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked may have gone
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it remembers credentials
    monkeypatch.setattr("robostig.endpoint.READ_S", 30.0)  # this machine may be busy
    yield SimpleNamespace(pilots=pilots, ways=ways, asked=asked, credentials=credentials)
    server.shutdown()
    server.server_close()


def make_predictor(name: str, **account: str) -> Any:
    """Return as much of the SDK's predictor as is asked for; the SDK is not everywhere."""
    return SimpleNamespace(endpoint_name=name, sagemaker_session=SimpleNamespace(boto_session=boto3.Session(**account)))


def test_the_nearer_to_the_driver_is_chosen_and_both_agree_with_their_artifacts(runtime, artifacts, make_recording):
    folder = make_recording(60, size=(80, 160))
    # Variants of one endpoint beside a predictor, such as deploy() returns.
    endpoints = {"wild": ("ab", "wild"), "calm": make_predictor("calm")}
    result = compare_endpoints(endpoints, folder, artifacts=artifacts)
    assert result.choice == "calm" and result.rows == f"all 60 rows of {folder / 'driving_log.csv'}"
    assert result.reason.startswith("calm should drive: it is the closest to the driver. On all 60 rows of")
    log = read_driving_log(folder)
    for name, score in result.endpoints.items():
        assert (score.answered, score.frames, score.first_error) == (60, 60, "")
        assert score.difference <= 1e-6
        assert 0 < score.latency_ms["p50"] <= score.latency_ms["p99"]
        local = [
            runtime.pilots[name, None].steer(cv2.imread(path)[..., ::-1].copy()) for path in log.pictures["center"]
        ]
        assert score.open_loop.scores["rmse"] == pytest.approx(np.sqrt(np.mean((local - log.steering) ** 2)), abs=1e-5)
    # The same bytes to both, in turn: nobody answers while the machine is quieter.
    sent = [(where, variant, body) for where, variant, _, body in runtime.asked[2:]]
    files = [Path(path).read_bytes() for path in log.pictures["center"]]
    assert sent == [(*whom, body) for body in files for whom in (("ab", "wild"), ("calm", None))]
    assert {kind for _, _, kind, _ in runtime.asked} == {"image/jpeg"}
    told = json.loads(json.dumps(result.summarize(), allow_nan=False))
    assert told["choice"] == "calm" and told["endpoints"]["wild"]["variant"] == "wild"
    assert told["endpoints"]["calm"]["scores"]["rmse"] == result.endpoints["calm"].open_loop.scores["rmse"]
    page = result.describe()
    assert "wild (ab, variant wild); 60 of 60 answered; p50" in page and page.endswith(result.reason)


def test_of_a_log_that_was_trained_on_only_held_out_rows_are_sent(runtime, tmp_path, make_recording):
    folder = make_recording(60, size=(80, 160))
    config = TrainingConfig(stretch_s=0.5, gap_s=0.1)
    recording = read_recording(folder, config)
    facts = {"config": config.to_dict(), "data": {**recording.facts(), "training_mean": 0.1}}
    trained = make_artifact(tmp_path / "trained", seed=1, share=0.01, **facts)
    runtime.pilots["trained", None] = model_fn(str(trained))
    result = compare_endpoints({"a": "trained", "b": "wild"}, folder, artifacts={"a": trained})
    held_out = recording.split.validation
    assert 0 < len(held_out) < 30 and result.endpoints["b"].frames == len(held_out)
    assert result.rows == f"the {len(held_out)} rows of {folder / 'driving_log.csv'} that were held out"
    baseline = float(np.sqrt(np.mean((recording.log.steering[held_out] - 0.1) ** 2)))
    assert result.endpoints["a"].open_loop.scores["rmse_mean_baseline"] == pytest.approx(baseline, abs=1e-5)
    assert result.endpoints["b"].difference is None


def test_the_quicker_is_chosen_where_the_steering_is_the_same(runtime, make_recording):
    runtime.pilots["slow", None] = runtime.pilots["calm", None]
    runtime.ways["slow", None] = lambda number: time.sleep(0.05)
    log = make_recording(30, size=(80, 160))
    result = compare_endpoints({"slow": "slow", "calm": "calm"}, log)
    assert result.choice == "calm" and "does not tell" in result.reason and "answers quickest" in result.reason
    # Frames without labels: the same, and it is said what that is worth.
    frames = [draw_road(0.1), draw_road(-0.1)]
    result = compare_endpoints({"slow": "slow", "calm": "calm"}, frames)
    assert result.choice == "calm" and "give a driving log to know" in result.reason
    assert result.endpoints["slow"].latency_ms["p50"] > 50 and result.endpoints["slow"].open_loop is None


def test_one_that_fails_too_often_does_not_drive_however_well_it_steers(runtime, artifacts, make_recording):
    runtime.ways["calm", None] = lambda number: "out of memory" if number % 10 == 5 else None
    result = compare_endpoints(
        {"wild": "wild", "calm": "calm"}, make_recording(60, size=(80, 160)), artifacts=artifacts
    )
    calm, wild = result.endpoints["calm"], result.endpoints["wild"]
    assert (calm.answered, calm.first_error) == (54, "the endpoint calm failed (ModelError): out of memory")
    assert result.choice == "wild" and result.reason.startswith("wild is the only model")
    assert "calm left 6 of 60 frames unanswered (the endpoint calm failed (ModelError): out of memory)" in result.reason
    assert wild.open_loop.scores["frames"] == 60 and calm.open_loop.scores["frames"] == 54
    assert "first error: the endpoint calm failed" in result.describe()


def test_a_single_failure_is_counted_and_both_are_scored_on_what_both_answered(runtime, monkeypatch, make_recording):
    monkeypatch.setattr(comparison, "FAILURES", 0.1)
    runtime.ways["calm", None] = lambda number: "once" if number == 5 else None
    result = compare_endpoints({"wild": "wild", "calm": "calm"}, make_recording(20, size=(80, 160)))
    assert result.choice == "calm" and result.endpoints["calm"].answered == 19
    assert {score.open_loop.scores["frames"] for score in result.endpoints.values()} == {19}


def test_one_that_fails_always_is_given_up(runtime, make_recording):
    runtime.ways["wild", None] = lambda number: "broken"
    result = compare_endpoints({"wild": "wild", "calm": "calm"}, make_recording(60, size=(80, 160)))
    assert sum(each[0] == "wild" for each in runtime.asked) == 1 + comparison.GIVE_UP
    assert result.endpoints["wild"].answered == 0 and result.endpoints["wild"].latency_ms is None
    assert result.choice == "calm" and json.dumps(result.summarize(), allow_nan=False)


def test_one_that_serves_another_model_than_said_does_not_drive(runtime, artifacts):
    frames = [draw_road(angle) for angle in (-0.5, 0.0, 0.5)]
    swapped = {"calm": artifacts["wild"], "wild": artifacts["calm"]}
    result = compare_endpoints({"calm": "calm", "wild": "wild"}, frames, artifacts=swapped)
    assert result.choice is None and result.reason.startswith("None should drive. calm does not answer as its artifact")
    result = compare_endpoints({"calm": "calm", "wild": "wild"}, frames, artifacts={"wild": artifacts["calm"]})
    assert result.choice == "calm"


def test_pictures_are_sent_as_they_are(runtime, artifacts, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), draw_road(0.2))
    cv2.imwrite(str(tmp_path / "b.jpg"), draw_road(0.3))
    result = compare_endpoints(
        {"calm": "calm"}, [tmp_path / "a.png", str(tmp_path / "b.jpg")], artifacts={"calm": artifacts["calm"]}
    )
    assert [each[2:] for each in runtime.asked[1:]] == [
        ("image/png", (tmp_path / "a.png").read_bytes()),
        ("image/jpeg", (tmp_path / "b.jpg").read_bytes()),
    ]
    assert result.choice == "calm" and result.endpoints["calm"].difference <= 1e-6


def test_mistakes_show_before_a_thousand_failures(runtime, artifacts, tmp_path):
    frames = [draw_road(0.1)]
    for endpoints, given, options, message in (
        ({"calm": "calm", "other": "nobody"}, frames, {}, "there is no endpoint nobody to ask"),
        ({"calm": "calm"}, [], {}, "there are no frames"),
        ({}, frames, {}, "name the endpoints"),
        (
            {"calm": "calm"},
            frames,
            {"artifacts": {"comma": artifacts["calm"]}},
            "an artifact for 'comma', but no endpoint",
        ),
        ({"calm": "calm"}, [np.zeros((3, 3))], {}, "a frame is"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_endpoints(endpoints, given, **options)
    with pytest.raises(FileNotFoundError, match="no trained model"):
        compare_endpoints({"calm": "calm"}, frames, artifacts={"calm": tmp_path / "none"})
    with pytest.raises(FileNotFoundError, match="driving_log"):
        compare_endpoints({"calm": "calm"}, tmp_path / "none")


def test_a_predictor_is_asked_in_its_own_account_and_region_and_not_waited_for(runtime, monkeypatch):
    account = {"region_name": "us-west-2", "aws_access_key_id": "other", "aws_secret_access_key": "other"}
    predictor = make_predictor("calm", **account)
    compare_endpoints({"calm": predictor, "wild": "wild"}, [draw_road(0.1)])
    here = [DUMMY_AWS["AWS_ACCESS_KEY_ID"], DUMMY_AWS["AWS_DEFAULT_REGION"]]
    assert runtime.credentials == 2 * [["other", "us-west-2"], here]
    runtime.ways["calm", None] = lambda number: time.sleep(0.5)
    monkeypatch.setattr("robostig.endpoint.READ_S", 0.1)
    with pytest.raises(OSError, match=r"the endpoint calm cannot be asked: .*timed? ?out"):
        compare_endpoints({"calm": predictor}, [draw_road(0.1)])
    assert len(runtime.asked) == 5  # once


@pytest.mark.parametrize(
    ("endpoints", "frames", "options", "message"),
    [
        ({"calm": 5}, "log", {}, "5 is no endpoint; give its name"),
        ({"calm": ("ab",)}, "log", {}, r"\('ab',\) is no endpoint"),
        ({"calm": ("ab", 1)}, "log", {}, r"\('ab', 1\) is no endpoint"),
        (["calm"], "log", {}, r"endpoints is \['calm'\]; give a name for each"),
        ({"calm": "calm"}, "log", {"artifacts": ["calm"]}, r"artifacts is \['calm'\]; give a name for each"),
        ({"calm": "calm"}, 5, {}, "frames is 5; give a driving log"),
        ({"calm": "calm"}, None, {}, "frames is None; give a driving log"),
        ({"calm": "calm"}, "", {}, "frames is ''; give a driving log"),
    ],
)
def test_what_cannot_be_asked_is_said_in_words(runtime, make_recording, endpoints, frames, options, message):
    frames = make_recording(3, size=(80, 160)) if frames == "log" else frames
    with pytest.raises(ValueError, match=message):
        compare_endpoints(endpoints, frames, **options)
    assert not runtime.asked


def test_without_credentials_it_is_one_line(runtime, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(OSError, match="Unable to locate credentials; log in with aws configure"):
        compare_endpoints({"calm": "calm", "wild": "wild"}, [draw_road(0.1)])
    assert not runtime.asked


def test_the_better_driver_is_chosen_if_they_are_let_to_drive(runtime, artifacts, make_recording):
    folder, tracks = make_recording(40, size=(80, 160)), parse_tracks("lake")
    result = compare_endpoints({"calm": "calm", "wild": "wild"}, folder, tracks=tracks, laps=0.01)
    driven = {name: score.closed_loop.scores for name, score in result.endpoints.items()}
    ranked = sorted(driven, key=lambda name: (driven[name]["interventions"], driven[name]["lateral_rmse_m"]))
    assert driven["calm"] != driven["wild"] and result.choice in ranked
    assert "km of 1 road" in result.reason and f"{ranked[0]} " in result.reason
    assert result.describe().count("from the middle") >= 2
    told = json.loads(json.dumps(result.summarize(), allow_nan=False))
    assert told["endpoints"]["calm"]["driving"]["interventions"] == driven["calm"]["interventions"]
    # The frames of the road were sent, one a step.
    steps = len(result.endpoints["calm"].closed_loop.drives[0].steering)
    assert sum(each[0] == "calm" for each in runtime.asked) == 1 + 40 + steps


def test_one_that_fails_on_the_road_does_not_drive(runtime, make_recording):
    folder = make_recording(40, size=(80, 160))
    runtime.ways["wild", None] = lambda number: "it is tired" if number > 45 else None
    result = compare_endpoints({"calm": "calm", "wild": "wild"}, folder, tracks=parse_tracks("lake"), laps=0.05)
    assert result.choice == "calm" and "wild failed on the road (" in result.reason and "it is tired" in result.reason
    assert result.endpoints["wild"].closed_loop is None
