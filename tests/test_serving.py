from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict

import cv2
import numpy as np
import pytest
from conftest import ROOT, draw_road

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.pilot import Pilot
from robostig.preprocessing import InputSpec, preprocess
from robostig.serving import MOST_FRAMES, RequestError, model_fn, transform_fn

nn = mx.gluon.nn

SPEC = InputSpec(12, 24, crop_top=0.3, color_space="yuv")
FRAMES = np.stack([draw_road(angle, height=40, width=80) for angle in (-0.4, 0.1, 0.5)])
READY = np.stack([preprocess(frame, SPEC) for frame in FRAMES])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    net = nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0))
        net.add(nn.Conv2D(4, 3, 2), nn.ELU(), nn.Flatten(), nn.Dense(1))
    mx.random.seed(1)
    net.initialize(mx.init.Xavier())
    return save_artifact(tmp_path_factory.mktemp("model"), net, SPEC, {"model": "tiny"})


@pytest.fixture(scope="module")
def pilot(artifact) -> Pilot:
    return model_fn(str(artifact))


@pytest.fixture(scope="module")
def expected(pilot) -> np.ndarray:
    answers = pilot.steer_many(FRAMES)
    assert np.ptp(answers) > 1e-2 and np.abs(answers).max() < 1  # so that a mix-up shows
    return answers


def to_npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def to_npz(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


def to_json(array: np.ndarray) -> str:
    return json.dumps(array.tolist())


def encode(frame: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, frame[..., ::-1])[1].tobytes()


PNG, JPEG = encode(FRAMES[0]), encode(FRAMES[0], ".jpg")


def ask(pilot: Pilot, body: Any, content_type: str) -> Any:
    answer, kind = transform_fn(pilot, body, content_type, "application/json")
    assert kind == "application/json" and isinstance(answer, str)
    return json.loads(answer)


@pytest.mark.parametrize("frames", [FRAMES, READY], ids=["raw", "preprocessed"])
@pytest.mark.parametrize("channels", ["last", "first"])
@pytest.mark.parametrize("kind", ["application/json", "application/x-npy"])
def test_arrays_are_answered_one_number_a_frame(pilot, expected, frames, channels, kind):
    write = to_json if kind == "application/json" else to_npy
    if channels == "first":
        frames = frames.transpose(0, 3, 1, 2)
    assert ask(pilot, write(frames), kind) == pytest.approx(expected.tolist(), abs=1e-5)
    assert ask(pilot, write(frames[1]), kind) == pytest.approx([expected[1]], abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, ">f4"])
def test_numbers_of_any_type_mean_the_same(pilot, expected, dtype):
    assert ask(pilot, to_npy(FRAMES.astype(dtype)), "application/x-npy") == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_picture_is_answered(pilot, expected):
    assert ask(pilot, PNG, "image/png") == pytest.approx([expected[0]], abs=1e-5)
    assert ask(pilot, JPEG, "image/jpeg") == pytest.approx([expected[0]], abs=0.05)
    assert ask(pilot, bytearray(PNG), "image/jpeg") == pytest.approx([expected[0]], abs=1e-5)  # the bytes decide


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_of_gigabytes_is_refused_before_it_is_decoded(pilot, kind):
    if kind == "png":  # 60,000 x 60,000 pixels, as the header has it
        body = PNG[:16] + (60_000).to_bytes(4, "big") * 2 + PNG[24:]
    else:
        frame_header = JPEG.index(b"\xff\xc0")
        body = JPEG[: frame_header + 5] + (60_000).to_bytes(2, "big") * 2 + JPEG[frame_header + 9 :]
    with pytest.raises(RequestError, match="60,000 x 60,000 pixels") as caught:
        ask(pilot, body, f"image/{kind}")
    assert caught.value.status_code == 400


def test_a_picture_is_a_raw_frame_even_in_the_networks_size(pilot):
    small = draw_road(0.3, height=12, width=24)
    assert ask(pilot, encode(small), "image/png") == pytest.approx([pilot.steer(small)], abs=1e-5)
    assert abs(pilot.steer(small) - pilot.predict(small[None])[0]) > 1e-3


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", " application/json "])
def test_the_content_type_may_have_parameters_and_capitals(pilot, expected, kind):
    assert ask(pilot, to_json(READY), kind) == pytest.approx(expected.tolist(), abs=1e-5)
    assert ask(pilot, to_json(READY).encode(), kind) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "accept", ["*/*", "", None, "application/*", "text/html, */*;q=0.1", "application/json;charset=utf-8"]
)
def test_json_is_the_answer_to_whoever_takes_anything(pilot, accept):
    assert transform_fn(pilot, PNG, "image/png", accept)[1] == "application/json"


def test_an_array_is_the_answer_to_whoever_asks_for_one(pilot, expected):
    body, kind = transform_fn(pilot, to_json(FRAMES), "application/json", "application/x-npy")
    answers = np.load(io.BytesIO(body), allow_pickle=False)
    assert kind == "application/x-npy" and answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=1e-5)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a body was unpickled",)


NAN = FRAMES.astype(np.float32)
NAN[0, 0, 0, 0] = np.nan
BAD: Dict[str, Any] = {
    "empty JSON": ("", "application/json"),
    "empty list": ("[]", "application/json"),
    "a JSON text": ('"frame"', "application/json"),
    "a JSON object": ('{"instances": [[1]]}', "application/json"),
    "null": ("null", "application/json"),
    "cut JSON": (to_json(FRAMES)[:-10], "application/json"),
    "no UTF-8": (b"\xff\xfe[1]", "application/json"),
    "ragged lists": ("[[[1, 2, 3], [1, 2]]]", "application/json"),
    "texts": ('[[["1", "2", "3"]]]', "application/json"),
    "nulls": ("[[[null, null, null]]]", "application/json"),
    "truths": ("[[[true, true, true]]]", "application/json"),
    "NaN": ("[[[NaN, 1, 2]]]", "application/json"),
    "infinite": ("[[[1e999, 1, 2]]]", "application/json"),
    "huge number": (f"[[[1{'0' * 400}, 1, 2]]]", "application/json"),
    "above 255": ("[[[256, 1, 2]]]", "application/json"),
    "below 0": ("[[[-1, 1, 2]]]", "application/json"),
    "deep JSON": ("[" * 100_000, "application/json"),
    "forty dimensions": ("[" * 40 + "1" + "]" * 40, "application/json"),
    "wrong shape": (to_json(FRAMES[0, ..., 0]), "application/json"),
    "empty npy": (b"", "application/x-npy"),
    "cut npy": (to_npy(FRAMES)[:-10], "application/x-npy"),
    "cut npy header": (to_npy(FRAMES)[:40], "application/x-npy"),
    "npy header that is no dictionary": (to_npy(FRAMES).replace(b"'descr'", b"[[[[[[["), "application/x-npy"),
    "npy shape that is no number": (to_npy(FRAMES).replace(b"(3, 40", b"('', 4"), "application/x-npy"),
    "npy type that is nothing": (to_npy(FRAMES).replace(b"'|u1'", b"()   "), "application/x-npy"),
    "npz": (to_npz(FRAMES), "application/x-npy"),
    "pickled npy": (to_npy(np.array([Bomb()], object), allow_pickle=True), "application/x-npy"),
    "npy of texts": (to_npy(np.full((2, 2, 3), "1")), "application/x-npy"),
    "npy of complex numbers": (to_npy(FRAMES.astype(complex)), "application/x-npy"),
    "npy with NaN": (to_npy(NAN), "application/x-npy"),
    "npy with integers above 255": (to_npy(FRAMES.astype(np.int32) + 300), "application/x-npy"),
    "npy without frames": (to_npy(FRAMES[:0]), "application/x-npy"),
    "four channels": (to_npy(np.zeros((2, 8, 8, 4), np.uint8)), "application/x-npy"),
    "five dimensions": (to_npy(FRAMES[None]), "application/x-npy"),
    "text as npy": ("hello", "application/x-npy"),
    "empty picture": (b"", "image/jpeg"),
    "cut JPEG": (JPEG[:-200], "image/jpeg"),
    "cut PNG": (PNG[:-20], "image/png"),
    "damaged PNG": (PNG[:60] + bytes(len(PNG) - 80) + PNG[-20:], "image/png"),
    "JPEG without a picture": (b"\xff\xd8\xff\xd9", "image/jpeg"),
    "text as a picture": ("hello", "image/png"),
}


@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")  # numpy 1.19 warns, then we refuse
@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_the_clients_error_in_one_line(pilot, name):
    body, kind = BAD[name]
    with pytest.raises(RequestError) as caught:
        transform_fn(pilot, body, kind, "application/json")
    message = str(caught.value)
    assert caught.value.status_code == 400 and len(message) > 20 and "\n" not in message


@pytest.mark.parametrize("kind", ["text/csv", "application/x-image", "", None, "image", "application/jsonlines"])
def test_other_content_types_are_refused_with_a_list_of_those_that_are_not(pilot, kind):
    with pytest.raises(RequestError, match="send application/json, application/x-npy, image/jpeg, image/png") as caught:
        transform_fn(pilot, PNG, kind, "application/json")
    assert caught.value.status_code == 415


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "application/json; q=0, application/x-npy;q=0.0"])
def test_an_answer_that_is_not_accepted_is_refused(pilot, accept):
    with pytest.raises(RequestError, match="cannot answer as") as caught:
        transform_fn(pilot, PNG, "image/png", accept)
    assert caught.value.status_code == 406


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/x-npy;q=0.5, application/json", "application/json"),
        ("application/json;q=0, application/x-npy", "application/x-npy"),
        ("application/x-npy;q=much, application/json", "application/x-npy"),
        ("application/json, application/x-npy", "application/json"),
    ],
)
def test_the_answer_is_what_the_client_likes_best(pilot, accept, kind):
    assert transform_fn(pilot, PNG, "image/png", accept)[1] == kind


def test_many_frames_go_through_the_network_a_few_at_a_time_and_too_many_are_refused(pilot):
    largest = []

    def net(frames):
        largest.append(len(frames))
        return mx.nd.ones((len(frames), 1)) * 0.5

    counting = Pilot(net, SPEC, context=mx.cpu())
    frames = np.zeros((MOST_FRAMES, 2, 2, 3), np.uint8)
    for kind in (frames, np.zeros((200, *SPEC.shape), np.uint8)):
        answer = transform_fn(counting, to_npy(kind), "application/x-npy", "application/json")[0]
        assert json.loads(answer) == [0.5] * len(kind)
    assert max(largest) == 64
    with pytest.raises(RequestError, match=r"4,097 frames in one request; send at most 4,096") as caught:
        transform_fn(counting, to_npy(np.zeros((4097, 1, 1, 3), np.uint8)), "application/x-npy")
    assert caught.value.status_code == 413


def test_an_answer_that_is_not_a_number_is_the_servers_error_and_never_sent(pilot):
    broken = Pilot(lambda frames: mx.nd.full((len(frames), 1), np.nan), SPEC, context=mx.cpu())
    with pytest.raises(Exception, match="not a number") as caught:
        transform_fn(broken, PNG, "image/png")
    assert caught.value.status_code == 500 and not isinstance(caught.value, RequestError)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained model"):
        model_fn(str(tmp_path))


class Context:
    """What the model server tells of a request, and hears of the answer."""

    def __init__(self, model_dir: Path, **headers: str) -> None:
        self.system_properties = {"model_dir": str(model_dir)}
        self.request_processor = [SimpleNamespace(get_request_properties=lambda: headers)]
        self.status, self.content_type = 200, None

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status, self.phrase = code, phrase

    def set_response_content_type(self, number: int, content_type: str) -> None:
        self.content_type = content_type


@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")
def test_sagemakers_own_server_code_answers_and_refuses_as_it_should(artifact, expected, tmp_path, monkeypatch):
    transformer = pytest.importorskip(
        "sagemaker_inference.transformer", reason="sagemaker-inference is not installed: it is SageMaker's serving code"
    ).Transformer()
    shutil.copy(ROOT / "robostig" / "entry_point.py", tmp_path / "entry_point.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "entry_point.py")
    monkeypatch.delitem(sys.modules, "entry_point", raising=False)

    def post(body: bytes, **headers: str) -> Any:
        context = Context(artifact, **headers)
        return context, transformer.transform([{"body": body}], context)[0]

    try:
        context, answer = post(to_json(FRAMES).encode(), **{"Content-Type": "application/json", "Accept": "*/*"})
        assert (context.status, context.content_type) == (200, "application/json")
        assert json.loads(answer) == pytest.approx(expected.tolist(), abs=1e-5)
        context, answer = post(PNG, ContentType="image/png")
        assert (context.status, json.loads(answer)) == (200, pytest.approx([expected[0]], abs=1e-5))
        for body, kind, accept, status in (
            (b"[[1], 2]", "application/json", "*/*", 400),
            (JPEG[:-100], "image/jpeg", "*/*", 400),
            (to_npz(FRAMES), "application/x-npy", "*/*", 400),
            (PNG, "text/plain", "*/*", 415),
            (PNG, "image/png", "text/html", 406),
        ):
            context, answer = post(body, **{"Content-Type": kind, "Accept": accept})
            assert context.status == status, answer
            assert len(context.phrase) > 20 and answer.startswith(context.phrase)
        assert post(PNG)[0].status == 415  # no content type at all
    finally:
        sys.modules.pop("entry_point", None)


WITHOUT_OPENCV = """
import sys
sys.modules["cv2"] = sys.modules["PIL"] = None  # SageMaker's inference image has neither
import json
from robostig.entry_point import model_fn, transform_fn
pilot = model_fn(sys.argv[1])
answer, kind = transform_fn(pilot, open(sys.argv[2], "rb").read(), "image/jpeg", "application/json")
imported = [name for name in ("gluoncv", "matplotlib", "tqdm") if name in sys.modules]
print(json.dumps([json.loads(answer), imported]))
"""


def test_serving_needs_neither_opencv_nor_what_training_needs(artifact, pilot, tmp_path):
    (tmp_path / "frame.jpg").write_bytes(JPEG)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENCV, str(artifact), str(tmp_path / "frame.jpg")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer, imported = json.loads(done.stdout)
    decoded = cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert answer == pytest.approx([pilot.steer(np.ascontiguousarray(decoded))], abs=1e-5)
    assert imported == []
