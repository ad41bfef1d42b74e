"""The real boto3 asks an HTTP server that answers with the very functions that SageMaker's model server calls."""

from __future__ import annotations

import builtins
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import draw_road

from robostig import endpoint as endpoint_module
from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.cli import main
from robostig.endpoint import Endpoint
from robostig.preprocessing import InputSpec
from robostig.serving import RequestError, model_fn, transform_fn

nn = mx.gluon.nn

pytestmark = pytest.mark.usefixtures("dummy_aws")


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    net = nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0), nn.Flatten(), nn.Dense(1))
    mx.random.seed(1)
    net.initialize(mx.init.Xavier())
    return model_fn(str(save_artifact(tmp_path_factory.mktemp("model"), net, InputSpec(6, 12), {"model": "tiny"})))


@pytest.fixture
def service(pilot):
    """Stand for SageMaker's runtime: endpoints by name, errors in its words."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.split("/")[2]  # /endpoints/NAME/invocations
            if name == "stig":
                try:
                    answer, kind = transform_fn(pilot, body, self.headers["Content-Type"], self.headers["Accept"])
                    self.answer(200, answer, kind)
                except RequestError as error:
                    self.fail(424, "ModelError", str(error))
            elif name in answers:
                self.answer(200, answers[name])
            elif name == "slow":
                over.wait(10)
            elif name == "broken":
                self.fail(500, "InternalFailure", "out of memory")
            else:
                self.fail(400, "ValidationError", f"Endpoint {name} of account 123456789012 not found.")

        def answer(self, status, text, kind="application/json", **headers):
            requests.append(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            for header, value in headers.items():
                self.send_header(header.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(text.encode())

        def fail(self, status, code, message):
            self.answer(status, json.dumps({"Message": message}), x_amzn_ErrorType=code)

        def log_message(self, *_):
            pass

    answers, requests, over = {}, [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.answers, server.requests = answers, requests
    yield server
    over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(service, monkeypatch):
    """Return a function that makes an endpoint which is served here."""
    boto3 = pytest.importorskip("boto3", reason='boto3 is not installed: pip install "robostig[sagemaker]"')
    url = f"http://127.0.0.1:{service.server_port}"

    def make(*arguments, **options):
        return real(*arguments, endpoint_url=url, **options)

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    real = boto3.client
    monkeypatch.setattr(boto3, "client", make)
    return lambda name: Endpoint(name).steer(draw_road(0.3))


def test_an_endpoint_steers_as_the_pilot_behind_it(ask, pilot):
    steering = [pilot.steer(draw_road(angle)) for angle in (-0.5, 0.0, 0.5)]
    endpoint = Endpoint("stig")
    assert np.ptp(steering) > 1e-3
    assert [endpoint.steer(draw_road(angle)) for angle in (-0.5, 0.0, 0.5)] == pytest.approx(steering, abs=0.02)


@pytest.mark.parametrize(
    ("answer", "steering"), [("[0.25]", 0.25), ("[[0.25]]", 0.25), ("-3", -1.0), ("[1.5, 0]", 1.0)]
)
def test_answers_of_older_models_are_read(ask, service, answer, steering):
    service.answers["old"] = answer
    assert ask("old") == steering


@pytest.mark.parametrize("answer", ["", "<html>", "[]", "{}", "[NaN]", '["left"]', "null", "[true]", '{"0": 1}'])
def test_an_answer_that_is_no_steering_is_refused(ask, service, answer):
    service.answers["odd"] = answer
    with pytest.raises(ValueError, match=r"the endpoint odd answered .*which is no steering"):
        ask("odd")


def test_an_endpoint_that_is_not_there_is_named(ask):
    with pytest.raises(ValueError, match=r"no endpoint nobody to ask: Endpoint nobody of account .* not found"):
        ask("nobody")


def test_a_failing_endpoint_is_asked_once(ask, service):
    with pytest.raises(OSError, match=r"the endpoint broken failed \(InternalFailure\): out of memory"):
        ask("broken")
    assert len(service.requests) == 1


def test_a_slow_endpoint_is_not_waited_for(ask, monkeypatch):
    monkeypatch.setattr(endpoint_module, "READ_S", 0.2)
    endpoint = Endpoint("slow")
    started = time.monotonic()
    with pytest.raises(OSError, match=r"the endpoint slow cannot be asked: .*timed? ?out"):
        endpoint.steer(draw_road(0.3))
    assert time.monotonic() - started < 5


def test_without_a_network_the_error_says_so(ask, service):
    service.shutdown()
    service.server_close()
    with pytest.raises(OSError, match="the endpoint stig cannot be asked"):
        ask("stig")


def test_without_credentials_the_error_says_how_to_log_in(ask, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(OSError, match="aws configure"):
        ask("stig")


def test_without_a_region_the_error_says_how_to_set_one(ask, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ValueError, match="AWS_DEFAULT_REGION"):
        ask("stig")


def test_what_boto3_refuses_is_not_put_down_to_the_network(ask):
    with pytest.raises(OSError, match="Invalid type for parameter EndpointName") as raised:
        ask(5)
    assert "network" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_frame_that_is_none_is_refused_before_anybody_is_asked(ask, service):
    with pytest.raises(ValueError, match="a frame is"):
        Endpoint("stig").steer(np.zeros((3, 3), np.uint8))
    assert not service.requests


def test_without_boto3_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] in ("boto3", "botocore"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install .robostig\[sagemaker\]"):
        Endpoint("stig")


def test_the_server_drives_by_an_endpoint_and_goes_on_when_it_fails(ask, service, capsys):
    from robostig.cli import main

    assert main(["drive", "--endpoint", "nobody", "--port", "0"]) == 1
    assert "there is no endpoint nobody" in capsys.readouterr().err


def test_an_endpoint_is_scored_on_a_road_and_on_a_recording(service, ask, make_recording, capsys):
    words = ["evaluate", "--endpoint", "stig", "--track", "lake", "--laps", "0.01", "--json"]
    assert main([*words, "--data", str(make_recording(5, size=(32, 64)))]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["open_loop"]["frames"] == 5 and told["closed_loop"]["distance_m"] > 5
    steps = round(told["closed_loop"]["simulated_s"] * 15)
    assert len(service.requests) == 5 + steps  # each frame went there
    assert main(["evaluate", "--endpoint", "nobody", "--track", "lake", "--laps", "0.01"]) == 1
    assert "not found" in capsys.readouterr().err
