"""Requests to SageMaker's own serving stack: the answers are those of the artifact, and bad ones are answered too."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, draw_road, in_container
from served import ask, find_processes, make_archive, make_artifact, make_member

from robostig.artifact import pack
from robostig.container import ContainerError, Server, open_model, unpack
from robostig.models import get_spec
from robostig.preprocessing import preprocess
from robostig.serving import model_fn, transform_fn

JSON, NPY = "application/json", "application/x-npy"
FRAMES = np.stack([draw_road(angle) for angle in (-0.6, 0.1, 0.5)])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    return make_artifact("nvidia", tmp_path_factory.mktemp("artifacts") / "nvidia")


@pytest.fixture(scope="module")
def server(artifact, serving_environment):
    with Server(artifact, environment=serving_environment) as running:
        yield running


def to_npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def encode(frame: np.ndarray, kind: str) -> bytes:
    return cv2.imencode(kind, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()


def find_workers(server: Server) -> set:
    """Return the process numbers that workers of a server ever had."""
    return set(re.findall(r"\[PID\]\W*(\d+)", server.log.read_text()))


READY = preprocess(FRAMES[0], get_spec("nvidia").input)
GOOD = {
    "jpeg": (encode(FRAMES[0], ".jpg"), "image/jpeg"),
    "png": (encode(FRAMES[1], ".png"), "image/png"),
    "npy": (to_npy(FRAMES[2]), NPY),
    "npy, several": (to_npy(FRAMES), NPY),
    "json, preprocessed": (json.dumps(READY[None].tolist()).encode(), JSON),
    "json, channels first": (json.dumps(READY.transpose(2, 0, 1).tolist()).encode(), JSON),
    "json, raw": (json.dumps(FRAMES[1].tolist()).encode(), "application/json; charset=utf-8"),
}


@pytest.mark.parametrize("name", GOOD)
def test_answers_are_those_of_the_artifact(name, server, artifact):
    body, kind = GOOD[name]
    answer = ask(server, body, kind)
    assert (answer.status, answer.kind) == (200, JSON), answer.body
    text = body.decode() if kind.startswith(JSON) else body  # as the toolkit hands it on
    expected = json.loads(transform_fn(model_fn(str(artifact)), text, kind)[0])
    assert np.ptp([*expected, 0.0]) > 1e-3
    np.testing.assert_allclose(json.loads(answer.body), expected, atol=1e-4)


def test_an_answer_comes_as_it_is_accepted(server):
    body, kind = GOOD["npy, several"]
    answer = ask(server, body, kind, NPY)
    assert (answer.status, answer.kind) == (200, NPY)
    np.testing.assert_allclose(np.load(io.BytesIO(answer.body)), json.loads(ask(server, body, kind).body), atol=1e-6)


JPEG = GOOD["jpeg"][0]
BAD = {
    "no body": (b"", JSON, None, 400, "no JSON list"),
    "an object": (b"{}", JSON, None, 400, "no JSON list"),
    "lists of different lengths": (b"[[1, 2], [3]]", JSON, None, 400, "no JSON list"),
    "texts": (b'[["a"]]', JSON, None, 400, "no JSON list"),
    "nested for ever": (b"[" * 100_000, JSON, None, 400, "no JSON list"),
    "no UTF-8": (b"\xff\xfe[1]", JSON, None, 400, "UTF-8"),
    "a picture as JSON": (JPEG, JSON, None, 400, "UTF-8"),
    "another shape": (b"[[1, 2], [3, 4]]", JSON, None, 400, "(2, 2)"),
    "beyond 255": (to_npy(np.full((66, 200, 3), 300.0)), NPY, None, 400, "300"),
    "a pickle": (to_npy(np.array([{}], object), allow_pickle=True), NPY, None, 400, "numpy.save"),
    "half an array": (to_npy(READY)[:500], NPY, None, 400, "numpy.save"),
    "too many frames": (to_npy(np.zeros((5000, 2, 2, 3), np.uint8)), NPY, None, 413, "at most 4,096"),
    "half a picture": (JPEG[:300], "image/jpeg", None, 400, "no picture"),
    "no picture": (b"junk", "image/png", None, 400, "no picture"),
    "another type": (b"1,2", "text/csv", None, 415, "image/jpeg"),
    "a very long type": (b"1,2", "a" * 3000, None, 415, "not understood"),
    "no type": (JPEG, None, None, 415, "image/jpeg"),
    "another answer": (JPEG, "image/jpeg", "text/csv", 406, NPY),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_one_line_and_the_worker_survives(name, server):
    body, kind, accept, status, words = BAD[name]
    before = find_workers(server)
    answer = ask(server, body, kind, accept)
    line = answer.body.decode()
    assert answer.status == status and words in line, line
    assert len(line.splitlines()) == 1 and "Traceback" not in line and len(line) <= 300
    assert ask(server, JPEG, "image/jpeg").status == 200
    assert find_workers(server) == before and len(before) == 1


def test_more_than_the_server_takes_is_refused_and_it_lives_on(server):
    before = find_workers(server)
    assert ask(server, bytes(7_000_000), NPY).status == 413
    assert ask(server, JPEG, "image/jpeg").status == 200
    assert find_workers(server) == before


def test_who_reaches_the_port_cannot_manage_the_server(server):
    assert ask(server, b"", None, method="DELETE", path="/models/model").status == 404
    assert ask(server, b"", None, method="GET", path="/ping").status == 200
    assert ask(server, JPEG, "image/jpeg").status == 200


@in_container
def test_two_at_once_and_nothing_is_left_of_them(server, artifact, serving_environment, tmp_path):
    archive = pack(make_artifact("comma", tmp_path / "comma"), tmp_path / "model.tar.gz")
    with Server(archive, environment=serving_environment, workers=2) as comma:
        assert comma.port != server.port
        answers = [json.loads(ask(each, JPEG, "image/jpeg").body) for each in (server, comma)]
        assert answers[0] != answers[1]
        with open_model(archive) as model:
            expected = json.loads(transform_fn(model_fn(str(model.folder)), JPEG, "image/jpeg")[0])
        np.testing.assert_allclose(answers[1], expected, atol=1e-4)
        running = find_processes(comma.folder.name)
        assert {"java"} < {words.split("\0")[0].rsplit("/")[-1] for _, words in running} and len(running) >= 3
    comma.stop()  # once more does no harm
    assert not find_processes(comma.folder.name) and not comma.folder.exists()
    assert ask(server, JPEG, "image/jpeg").status == 200  # the other one goes on


@in_container
def test_a_server_that_is_forgotten_ends_with_the_process_that_started_it(artifact, serving_environment, tmp_path):
    program = "import sys; from robostig.container import Server; print(Server(sys.argv[1]).folder, flush=True); 1 / 0"
    done = subprocess.run(
        [sys.executable, "-c", program, str(artifact)], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    folder = Path(done.stdout.strip())
    assert "ZeroDivisionError" in done.stderr and folder.name.startswith("robostig-")
    assert not folder.exists() and not find_processes(folder.name)


@in_container
def test_a_model_that_cannot_be_loaded_is_an_error_with_its_cause(artifact, serving_environment, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    with open(damaged / "model-0000.params", "ab") as file:
        file.write(b"\0")
    packed = shutil.make_archive(str(tmp_path / "model"), "gztar", damaged)
    with pytest.raises(ContainerError, match=r"(?s)cannot be loaded.*model-0000\.params is not the file"):
        Server(packed, environment=serving_environment)
    with pytest.raises(ValueError, match=r"model-0000\.params is not the file"):  # before anything is started
        Server(damaged, environment=serving_environment)


@in_container
def test_of_an_artifacts_folder_only_what_is_served_is_copied_and_a_proxy_is_not_asked(
    artifact, serving_environment, tmp_path, monkeypatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    (copy / "training").mkdir()
    (copy / "training" / "lost").symlink_to("/nowhere")
    with Server(copy, environment=serving_environment) as server:
        assert ask(server, JPEG, "image/jpeg").status == 200
        assert not (server.folder / "ml" / "model" / "training").exists()


@pytest.mark.parametrize(
    "member",
    [
        make_member("../escaped"),
        make_member("code/../../escaped"),
        make_member("/tmp/robostig-escaped"),
        make_member("link", tarfile.SYMTYPE, "/etc/passwd"),
        make_member("link", tarfile.LNKTYPE, "../../etc/passwd"),
        make_member("pipe", tarfile.FIFOTYPE),
        make_member("device", tarfile.CHRTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()}",
)
def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(member, tmp_path):
    archive = make_archive(tmp_path / "model.tar.gz", make_member("good"), member)
    with pytest.raises(ValueError, match=r"model\.tar\.gz holds .*nothing was unpacked"):
        unpack(archive, tmp_path / "out" / "model")
    assert os.listdir(tmp_path / "out" / "model") == [] and os.listdir(tmp_path / "out") == ["model"]


def test_an_archive_of_plain_files_is_unpacked(tmp_path):
    archive = make_archive(tmp_path / "model.tar.gz", make_member("./a"), make_member("code/lib/b"))
    unpack(archive, tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == (tmp_path / "model" / "code" / "lib" / "b").read_text() == "x"


@pytest.mark.parametrize("content", [b"", b"junk", b"\x1f\x8b\x08\x00" + bytes(40)])
def test_what_is_no_archive_is_an_error_that_names_it(content, tmp_path):
    (tmp_path / "model.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.tar\.gz is no model\.tar\.gz, or is damaged"):
        unpack(tmp_path / "model.tar.gz", tmp_path / "out")


def test_an_archive_that_was_cut_short_is_an_error_that_names_it(artifact, tmp_path):
    whole = pack(artifact, tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=r"cut\.tar\.gz is no model\.tar\.gz, or is damaged"), open_model(
        tmp_path / "cut.tar.gz"
    ):
        pass
