from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from robostig import channel
from robostig.channel import find_channel
from robostig.driving_log import pack_driving_log, read_driving_log
from robostig.picture import read_picture_bytes


@pytest.fixture
def packed(make_recording, tmp_path) -> Path:
    pack_driving_log(read_driving_log(make_recording(30, size=(16, 32))), tmp_path / "packed", shard_mb=0.01)
    return tmp_path / "packed"


@pytest.fixture
def send(tmp_path) -> Iterator[Callable[[List[bytes]], str]]:
    """Return a function that sends objects through the FIFO of a channel, and returns the channel's place."""
    threads = []

    def start(objects: List[bytes]) -> str:
        (tmp_path / "data").mkdir()
        pipe = tmp_path / "data" / "training_0"
        os.mkfifo(pipe)

        def write() -> None:
            try:
                with open(pipe, "wb") as file:
                    for each in objects:
                        file.write(each)
            except BrokenPipeError:  # the reader has had enough
                pass

        threads.append(threading.Thread(target=write))
        threads[-1].start()
        return str(tmp_path / "data" / "training")

    yield start
    for thread in threads:
        thread.join(60)


def list_objects(folder: Path) -> List[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_a_folder_is_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("SM_INPUT_DATA_CONFIG", json.dumps({"training": {"TrainingInputMode": "FastFile"}}))
    assert find_channel(str(tmp_path / "training")) == tmp_path / "training"
    monkeypatch.delenv("SM_INPUT_DATA_CONFIG")
    assert find_channel("recording") == Path("recording")


def test_what_comes_through_a_pipe_is_the_log_that_was_packed(packed, send):
    folder = find_channel(send(list_objects(packed)))
    log, source = read_driving_log(folder), read_driving_log(packed)
    assert folder.parent == Path(os.environ["ROBOSTIG_CACHE"]) and folder.name.startswith("training_0-")
    assert log.fingerprint() == source.fingerprint() and log.folder.name.startswith("packed-")
    for camera in source.pictures:
        pairs = zip(log.pictures[camera], source.pictures[camera])
        assert all(read_picture_bytes(one) == read_picture_bytes(other) for one, other in pairs)


def test_a_driving_log_cannot_come_through_a_pipe(make_recording, send):
    recording = make_recording(3, size=(16, 32))
    with pytest.raises(ValueError, match=r"training_0 brings something else .* pack the recording with robostig pack"):
        find_channel(send([(recording / "driving_log.csv").read_bytes(), *list_objects(recording / "IMG")]))


def test_an_empty_and_a_broken_pipe_are_errors(packed, send, tmp_path):
    with pytest.raises(ValueError, match=r"training_0 is empty"):
        find_channel(send([]))
    os.rename(tmp_path / "data", tmp_path / "before")
    with pytest.raises(ValueError, match=r"training_0 ended in the middle of a record, after [\d,]+ bytes"):
        find_channel(send([b"".join(list_objects(packed))[:20_000]]))


def test_a_pipe_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SM_INPUT_DATA_CONFIG", json.dumps({"training": {"TrainingInputMode": "Pipe"}}))
    with pytest.raises(FileNotFoundError, match=r"the channel training is a pipe, and there is no .*training_0"):
        find_channel(str(tmp_path / "training"))


def test_a_disk_that_takes_no_more_is_said_with_what_to_do(packed, send, monkeypatch):
    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(channel, "unpack_stream", fill)
    with pytest.raises(OSError, match=r"cannot be kept in .* \(No space left on device\); give the job more disk"):
        find_channel(send(list_objects(packed)))


def test_what_a_killed_process_kept_is_removed_by_the_next(packed, send, tmp_path):
    script = (
        "import os, sys; from robostig.channel import find_channel;"
        "print(find_channel(sys.argv[1]), flush=True); os.kill(os.getpid(), 9)"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(channel.__file__).parents[1])}
    words = [sys.executable, "-c", script, send(list_objects(packed))]
    left = Path(subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True).stdout.strip())
    assert left.is_dir()
    os.rename(tmp_path / "data", tmp_path / "before")
    mine = find_channel(send(list_objects(packed)))
    assert not left.exists() and mine.is_dir()
    os.rename(tmp_path / "data", tmp_path / "between")
    assert find_channel(send(list_objects(packed))) != mine and mine.is_dir()


def test_what_was_kept_is_removed_when_the_process_ends(packed, send):
    script = "import sys; from robostig.channel import find_channel; print(find_channel(sys.argv[1]))"
    environ = {**os.environ, "PYTHONPATH": str(Path(channel.__file__).parents[1])}
    words = [sys.executable, "-c", script, send(list_objects(packed))]
    folder = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert Path(folder.strip()).parent.is_dir() and not Path(folder.strip()).exists()
