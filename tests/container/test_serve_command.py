"""``robostig serve``: two models by their own command lines, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import cv2
import pytest
from conftest import draw_road
from served import find_processes, make_archive, make_artifact, make_member

from robostig.artifact import FACTS, pack
from robostig.cli import main
from robostig.container.server import find_free_port


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    return make_artifact("nvidia", tmp_path_factory.mktemp("artifacts") / "nvidia")


def test_it_serves_every_model_until_it_is_told_to_end(artifact, serving_environment, tmp_path):
    archive = pack(make_artifact("comma", tmp_path / "comma"), tmp_path / "comma.tar.gz")
    cv2.imwrite(str(tmp_path / "frame.jpg"), draw_road(0.3))
    port = find_free_port()
    command = [sys.executable, "-m", "robostig.cli", "serve", str(artifact), str(archive), "--port", str(port)]
    temporary = Path(tempfile.mkdtemp())  # short: sockets lie in it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    ) as process:
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if str(port + 1) in line and "curl" in line:
                    break
            text = "".join(said)
            assert text.count(serving_environment.description) == 2
            assert f"nvidia  http://127.0.0.1:{port}/invocations" in text
            assert f"comma  http://127.0.0.1:{port + 1}/invocations" in text
            commands = re.findall("curl .*", text)
            answers = [_run_curl(command, tmp_path) for command in commands]
            assert len(answers) == 2 and answers[0] != answers[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 143
    assert not find_processes(str(temporary)) and os.listdir(temporary) == []
    temporary.rmdir()


def _run_curl(command: str, folder: Path) -> float:
    """Do what a command for curl would, where there is none."""
    if shutil.which("curl"):
        answer = subprocess.run(shlex.split(command), cwd=folder, capture_output=True, check=True).stdout
    else:
        _, _, body, _, header, url = shlex.split(command)
        request = urllib.request.Request(url, (folder / body[1:]).read_bytes(), dict([header.split(": ")]))
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = response.read()
    (steering,) = json.loads(answer)
    return steering


@pytest.fixture
def broken(artifact, tmp_path):
    """Return a function that copies the artifact and breaks it in a way."""

    def make(how: str) -> Path:
        folder = tmp_path / how
        if how == "climbing.tar.gz":
            return make_archive(folder, make_member("../escaped"))
        if how == "missing":
            return folder
        shutil.copytree(artifact, folder)
        if how == "damaged":
            (folder / "model-0000.params").write_bytes(b"junk")
        if how == "newer":
            facts = json.loads((folder / FACTS).read_text())
            (folder / FACTS).write_text(json.dumps({**facts, "format": 99}))
        return folder

    return make


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "there is no such folder"),
        ("damaged", "model-0000.params is not the file it was saved with"),
        ("newer", "is of format 99"),
        ("climbing.tar.gz", "leads out of its folder"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line_before_anything_starts(how, words, artifact, broken, capsys):
    assert main(["serve", str(artifact), str(broken(how))]) == 1
    said = capsys.readouterr()
    assert words in said.err and how in said.err and len(said.err.splitlines()) == 1 and said.out == ""


def test_an_archive_is_named_as_the_user_named_it(broken, tmp_path, capsys):
    archive = tmp_path / "model.tar.gz"
    subprocess.run(["tar", "-czf", str(archive), "-C", str(broken("newer")), "."], check=True)
    assert main(["serve", str(archive)]) == 1
    assert f"{archive}/robostig.json is of format 99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "0"], "--workers is 0"),
        (["--port", "32767"], "0 (any) to 32766"),
        (["--port", "-1"], "0 (any) to 32766"),
        (["--host", ""], "host is empty"),
    ],
)
def test_flags_that_cannot_be_are_faults_of_the_command_line(flags, words, artifact, capsys):
    assert main(["serve", str(artifact), *flags]) == 2
    assert words in capsys.readouterr().err


def test_the_second_models_port_is_looked_at_too(artifact, capsys):
    port = find_free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        assert main(["serve", str(artifact), str(artifact), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port + 1}: somebody listens there already" in capsys.readouterr().err
