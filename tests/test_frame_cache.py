from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import List

import cv2
import numpy as np
import pytest

from robostig import frame_cache, threads
from robostig.driving_log import pack_driving_log, read_driving_log, read_picture
from robostig.frame_cache import CachedFrames, default_cache_folder
from robostig.preprocessing import InputSpec, preprocess

SPEC = InputSpec(8, 16, crop_top=0.25, color_space="yuv")
FRAME_BYTES = 8 * 16 * 3
HEADER_BYTES = 128


def draw_pictures(folder: Path, count: int = 6, seed: int = 0) -> List[str]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = [str(folder / f"center_{number}.jpg") for number in range(count)]
    for path in paths:
        cv2.imwrite(path, cv2.resize(generator.integers(0, 256, (3, 6, 3), np.uint8), (32, 24)))
    return paths


@pytest.fixture
def pictures(tmp_path):
    return draw_pictures(tmp_path / "IMG")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Count how often each picture is really decoded, by file name."""
    counter: Counter = Counter()
    decode = frame_cache.decode_picture

    def count(data, name):
        counter[os.path.basename(name)] += 1
        return decode(data, name)

    monkeypatch.setattr(frame_cache, "decode_picture", count)
    return counter


@pytest.fixture
def forget(monkeypatch):
    """Return a function after which this process uses no file any more, as if it had just begun."""
    return lambda: monkeypatch.setattr(frame_cache, "_in_use", Counter())


def expect(pictures) -> np.ndarray:
    return np.stack([preprocess(read_picture(path), SPEC) for path in pictures])


def gigabytes(frames: int) -> float:
    return (frames * FRAME_BYTES + 0.5) / 1e9


def list_names(cache: Path) -> List[str]:
    return sorted(path.name for path in cache.iterdir())


def test_frames_are_the_preprocessed_pictures_in_any_order(pictures, cache):
    frames = CachedFrames(pictures, SPEC, folder=cache)
    assert len(frames) == frames.mapped == 6
    numbers = [5, 0, 3, 3]
    np.testing.assert_array_equal(frames.read(numbers), expect(pictures)[numbers])
    assert frames.read([]).shape == (0, 8, 16, 3)


def test_what_is_read_may_be_changed_without_changing_the_file(pictures, cache):
    frames = CachedFrames(pictures, SPEC, folder=cache)
    frames.read(range(6))[:] = 0
    np.testing.assert_array_equal(frames.read(range(6)), expect(pictures))


@pytest.mark.parametrize("kept", [0, 4, 6])
def test_what_is_picked_is_the_same_and_on_disk_the_mapped_file_itself_which_nobody_can_change(pictures, cache, kept):
    frames = CachedFrames(pictures, SPEC, folder=cache, budget_gb=gigabytes(kept))
    assert frames.mapped == kept and frames.pick([]) == []
    picked = frames.pick([3, 5, 3, 0])
    np.testing.assert_array_equal(picked, expect(pictures)[[3, 5, 3, 0]])
    if kept:
        assert np.shares_memory(picked[0], picked[2])
        with pytest.raises(ValueError, match="read-only"):
            picked[0][:] = 0


@pytest.mark.parametrize("number", [-1, 6])
def test_a_frame_that_is_not_there_is_refused(pictures, cache, number):
    with pytest.raises(IndexError, match="there are 0 to 5"):
        CachedFrames(pictures, SPEC, folder=cache).read([0, number])


@pytest.mark.parametrize("can_gather", [True, False])
@pytest.mark.parametrize("threads_there", ["1", "2"])
@pytest.mark.parametrize("written", [1, 2 * FRAME_BYTES, 5 * FRAME_BYTES + 1])
def test_frames_written_some_at_once_are_all_in_their_places(
    tmp_path, cache, decoded, monkeypatch, written, threads_there, can_gather
):
    monkeypatch.setenv("OMP_NUM_THREADS", threads_there)
    monkeypatch.setattr(frame_cache, "_WRITE_BYTES", written)
    monkeypatch.setattr(frame_cache, "_CAN_GATHER", can_gather)
    pictures = draw_pictures(tmp_path / "more", 37)
    for _ in range(2):  # the second time, it is found by its name
        np.testing.assert_array_equal(CachedFrames(pictures, SPEC, folder=cache).read(range(37)), expect(pictures))
    assert set(decoded.values()) == {1}


def test_a_disk_that_takes_a_frame_in_pieces_gets_all_of_it(pictures, cache, monkeypatch):
    pwritev, frame_bytes = os.pwritev, int(np.prod(SPEC.shape))

    def write_a_piece(descriptor, data, offset):  # now less than a frame, now one and a bit, now up to a frame's end
        count = next(pieces)
        return pwritev(descriptor, [b"".join(data)[:count]], offset)

    pieces = itertools.cycle([100, frame_bytes + 7, frame_bytes - 107, 2 * frame_bytes])
    monkeypatch.setattr(os, "pwritev", write_a_piece)
    np.testing.assert_array_equal(CachedFrames(pictures, SPEC, folder=cache).read(range(6)), expect(pictures))


def test_more_frames_than_a_chunk_keep_their_order(pictures, cache, monkeypatch):
    monkeypatch.setattr(threads, "_CHUNK", 4)
    monkeypatch.setattr(threads, "_TASK", 3)
    np.testing.assert_array_equal(CachedFrames(pictures, SPEC, folder=cache).read(range(6)), expect(pictures))


def test_pictures_are_decoded_once(pictures, cache, decoded):
    for _ in range(2):
        CachedFrames(pictures, SPEC, folder=cache).read(range(6))
    assert len(decoded) == 6 and set(decoded.values()) == {1}
    assert len(list_names(cache)) == 1


def test_the_key_is_the_content_and_not_its_place_or_age(pictures, cache, tmp_path, decoded):
    CachedFrames(pictures, SPEC, folder=cache)
    copies = shutil.copytree(tmp_path / "IMG", tmp_path / "elsewhere")
    moved = [str(copies / os.path.basename(path)) for path in pictures]
    os.utime(moved[0], (1, 1))
    CachedFrames(moved, SPEC, folder=cache)
    assert len(list_names(cache)) == 1 and sum(decoded.values()) == 6


@pytest.mark.parametrize("change", ["content", "order", "number", "spec"])
def test_whatever_changes_the_frames_changes_the_key(pictures, cache, change):
    CachedFrames(pictures, SPEC, folder=cache)
    others, spec = list(pictures), SPEC
    if change == "content":
        shutil.copy(pictures[1], pictures[0])
    elif change == "order":
        others.reverse()
    elif change == "number":
        others.pop()
    else:
        spec = InputSpec(8, 16, crop_top=0.25, color_space="rgb")
    frames = CachedFrames(others, spec, folder=cache)
    assert len(list_names(cache)) == 2
    np.testing.assert_array_equal(frames.read([0])[0], preprocess(read_picture(others[0]), spec))


def test_a_budget_of_0_decodes_everything_as_it_is_needed(pictures, cache, decoded, caplog):
    frames = CachedFrames(pictures, SPEC, folder=cache, budget_gb=0)
    assert frames.mapped == 0 and not cache.exists() and not decoded
    for _ in range(2):
        np.testing.assert_array_equal(frames.read([4, 1]), expect(pictures)[[4, 1]])
    assert decoded == {"center_4.jpg": 2, "center_1.jpg": 2}
    assert "6 of 6 frames do not fit" in caplog.text


def test_a_budget_for_half_of_the_frames_maps_half(pictures, cache, decoded, caplog):
    frames = CachedFrames(pictures, SPEC, folder=cache, budget_gb=gigabytes(3))
    assert frames.mapped == 3 and len(decoded) == 3
    assert "3 of 6 frames do not fit" in caplog.text
    np.testing.assert_array_equal(frames.read([5, 0, 2, 3]), expect(pictures)[[5, 0, 2, 3]])
    assert decoded == {f"center_{number}.jpg": 1 for number in (0, 1, 2, 3, 5)}


def test_a_negative_budget_is_refused(pictures, cache):
    with pytest.raises(ValueError, match="budget_gb is -1"):
        CachedFrames(pictures, SPEC, folder=cache, budget_gb=-1)


def test_the_file_unused_for_longest_makes_room(tmp_path, cache, forget):
    recordings = [draw_pictures(tmp_path / str(seed), seed=seed) for seed in range(3)]
    names = []
    for age, recording in ((300, recordings[0]), (200, recordings[1])):
        CachedFrames(recording, SPEC, folder=cache)
        names += [name for name in list_names(cache) if name not in names]
        os.utime(cache / names[-1], (time.time() - age,) * 2)
    CachedFrames(recordings[0], SPEC, folder=cache)  # used again: now the second is the oldest
    forget()
    CachedFrames(recordings[2], SPEC, folder=cache, budget_gb=gigabytes(12) + 2 * HEADER_BYTES / 1e9)
    assert names[0] in list_names(cache) and names[1] not in list_names(cache) and len(list_names(cache)) == 2


def test_files_in_use_are_kept_and_count(tmp_path, cache):
    first = CachedFrames(draw_pictures(tmp_path / "1", seed=1), SPEC, folder=cache)
    names = list_names(cache)
    os.utime(cache / names[0], (1, 1))  # the oldest, but in use
    unused, users_own = f"{'0' * 40}.npy", "train_X.npy"
    for name in (unused, users_own):
        (cache / name).write_bytes(bytes(6 * FRAME_BYTES))
    pictures = draw_pictures(tmp_path / "2", seed=2)
    second = CachedFrames(pictures, SPEC, folder=cache, budget_gb=gigabytes(8) + HEADER_BYTES / 1e9)
    assert {*names, users_own} < set(list_names(cache)) and unused not in list_names(cache)
    assert first.mapped == 6 and second.mapped == 2
    np.testing.assert_array_equal(second.read(range(6)), expect(pictures))


FAULTS = {"cut off": "cut off", "no picture": "neither a JPEG", "garbled": "no picture"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_build_that_fails_names_the_picture_and_leaves_no_file(pictures, cache, fault):
    data = Path(pictures[3]).read_bytes()
    damaged = {"cut off": data[:-40], "no picture": b"no picture\xff\xd9", "garbled": data[:4] + b"\xff\xd9"}
    Path(pictures[3]).write_bytes(damaged[fault])
    with pytest.raises(ValueError, match=f"center_3.jpg:? .*is {FAULTS[fault]}"):
        CachedFrames(pictures, SPEC, folder=cache)
    assert list_names(cache) == []


def test_a_picture_that_is_not_there_is_named(pictures, cache):
    os.remove(pictures[3])
    with pytest.raises(FileNotFoundError, match=r"center_3\.jpg"):
        CachedFrames(pictures, SPEC, folder=cache)


def test_what_dead_processes_left_is_removed_and_what_others_write_is_not(pictures, cache):
    cache.mkdir()
    dead, alive = (f"{'0' * 40}.npy.{process}-0123abcd.partial" for process in (1, 2))
    for name, age in ((dead, 25 * 3600), (alive, 60)):
        (cache / name).write_bytes(b"half")
        os.utime(cache / name, (time.time() - age,) * 2)
    CachedFrames(pictures, SPEC, folder=cache)
    assert dead not in list_names(cache) and alive in list_names(cache)


def test_two_processes_build_at_once(pictures, cache):
    script = (
        "import sys, time, numpy as np\n"
        "from robostig import frame_cache\n"
        "frame_cache.FREE_DISK_GB = 0.0\n"
        "from robostig.frame_cache import CachedFrames\n"
        "from robostig.preprocessing import InputSpec\n"
        "assert 'mxnet' not in sys.modules\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "spec = InputSpec(8, 16, crop_top=0.25, color_space='yuv')\n"
        "frames = CachedFrames(sys.argv[2:], spec, folder=sys.argv[1])\n"
        "print(frames.mapped, frames.read(range(6)).astype(int).sum())\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(frame_cache.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(cache), *pictures]
    builders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True, env=environ)
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    answers = [builder.communicate(timeout=60)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert answers == [f"6 {expect(pictures).astype(int).sum()}\n"] * 2
    assert [Path(name).suffix for name in list_names(cache)] == [".npy"]


def test_a_file_that_another_process_removes_in_between_is_no_error(pictures, cache, monkeypatch, caplog):
    monkeypatch.setattr(CachedFrames, "_build", lambda self, folder, *_: folder / "gone.npy")  # built, and removed
    frames = CachedFrames(pictures, SPEC, folder=cache)
    np.testing.assert_array_equal(frames.read(range(6)), expect(pictures))
    assert frames.mapped == 0 and "decoded as they are needed" in caplog.text


@pytest.mark.parametrize("fault", ["folder is a file", "disk breaks", "disk is full"])
def test_where_nothing_can_be_kept_frames_are_decoded_with_a_warning(pictures, cache, fault, monkeypatch, caplog):
    if fault == "folder is a file":
        cache.write_text("in the way")
    elif fault == "disk breaks":  # which the system tells to the first fsync, and to none after it
        faults = iter([errno.EIO])
        fsync = os.fsync

        def break_once(descriptor: int) -> None:
            for number in faults:
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", break_once)
        monkeypatch.setattr(frame_cache, "_SYNC_BYTES", 1)
    else:
        monkeypatch.setattr(frame_cache, "FREE_DISK_GB", 1e9)
    with caplog.at_level(logging.WARNING):
        frames = CachedFrames(pictures, SPEC, folder=cache)
    assert frames.mapped == 0
    np.testing.assert_array_equal(frames.read([2, 0]), expect(pictures)[[2, 0]])
    assert f"frames cannot be kept in {cache}" in caplog.text
    assert cache.is_file() or not list_names(cache)


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBOSTIG_CACHE", str(tmp_path / "own"))
    assert default_cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ROBOSTIG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "robostig"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "robostig"


@pytest.mark.parametrize("size", [0, 100, 400])
def test_a_damaged_file_is_built_again(pictures, cache, size, caplog):
    CachedFrames(pictures, SPEC, folder=cache)
    (name,) = list_names(cache)
    os.truncate(cache / name, size)
    again = CachedFrames(pictures, SPEC, folder=cache)
    assert again.mapped == len(pictures) and "damaged" in caplog.text
    np.testing.assert_array_equal(again.read(range(len(pictures))), expect(pictures))


def test_a_user_without_a_home_has_a_cache_too(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ROBOSTIG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_cache_folder().is_absolute()


COUNT_OPENS = """
import json, os, sys
from collections import Counter
from robostig.driving_log import read_driving_log
from robostig.frame_cache import CachedFrames
from robostig.preprocessing import InputSpec

opened, folder = Counter(), os.path.realpath(sys.argv[1])

def count(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and os.path.realpath(arguments[0]).startswith(folder):
        assert not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), arguments
        if os.path.basename(sys._getframe(1).f_code.co_filename) == "pathlib.py":  # Python 3.8's, on open()'s behalf
            return
        opened[os.path.basename(arguments[0])] += 1

sys.addaudithook(count)
spec = InputSpec(8, 16, crop_top=0.25, color_space="yuv")
for _ in range(2):
    opened.clear()
    log = read_driving_log(folder)
    CachedFrames(log.pictures["center"], spec, folder=sys.argv[2]).read(range(len(log)))
    print(json.dumps(opened))
"""


def count_opens(folder: Path, cache: Path) -> List[Counter]:
    """Count how often files of a recording are opened, when its frames are not in the cache and when they are."""
    environ = {**os.environ, "PYTHONPATH": str(Path(frame_cache.__file__).parents[1])}
    words = [sys.executable, "-c", COUNT_OPENS, str(folder), str(cache)]
    printed = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Counter(json.loads(line)) for line in printed.splitlines()]


def test_a_picture_is_opened_to_be_looked_at_and_once_more_and_a_shard_once(make_recording, tmp_path, cache):
    recording = make_recording(12, size=(16, 32))
    for opened in count_opens(recording, cache):
        centers = {name: count for name, count in opened.items() if name.startswith("center")}
        assert len(centers) == 12 and set(centers.values()) == {2}
        assert opened["driving_log.csv"] == 1
    pack_driving_log(read_driving_log(recording), tmp_path / "packed", shard_mb=0.004)
    shards = len(list((tmp_path / "packed").glob("recording-center-*.rec")))
    assert shards > 1
    cold, warm = count_opens(tmp_path / "packed", cache / "other")
    assert cold.pop("index.rec") == warm.pop("index.rec") == 1
    assert len(cold) == shards and set(cold.values()) == {1} and not warm


def test_frames_of_a_packed_log_are_those_of_its_source_in_the_same_file(make_recording, tmp_path, cache, decoded):
    source = read_driving_log(make_recording(12, size=(24, 32)))
    pack_driving_log(source, tmp_path / "packed", shard_mb=0.004)
    packed = read_driving_log(tmp_path / "packed")
    for log in (source, packed):
        frames = CachedFrames(log.pictures["left"], SPEC, folder=cache)
        np.testing.assert_array_equal(frames.read(range(12)), expect(source.pictures["left"]))
    assert len(list_names(cache)) == 1 and sum(decoded.values()) == 12
    unkept = CachedFrames(packed.pictures["right"], SPEC, folder=cache, budget_gb=0)
    np.testing.assert_array_equal(unkept.read([7, 2]), expect(source.pictures["right"])[[7, 2]])


@pytest.mark.parametrize("fault", ["removed", "damaged"])
def test_a_shard_that_cannot_be_read_is_an_error_and_leaves_no_file(make_recording, tmp_path, cache, fault):
    pack_driving_log(read_driving_log(make_recording(12, size=(24, 32))), tmp_path / "packed")
    pictures = read_driving_log(tmp_path / "packed").pictures["center"]
    if fault == "removed":
        os.remove(pictures[0].holder)
    else:
        with open(pictures[0].holder, "r+b") as file:
            file.seek(pictures[9].offset + 300)
            file.write(b"damage")
    error = FileNotFoundError if fault == "removed" else ValueError
    with pytest.raises(error, match=r"recording-center-00000\.rec"):
        CachedFrames(pictures, SPEC, folder=cache)
    assert list_names(cache) == []


def test_other_pictures_of_the_same_names_are_told_apart(tmp_path, cache, decoded):
    first, second = (draw_pictures(tmp_path / str(seed), seed=seed) for seed in range(2))
    for pictures in (first, second, first):
        np.testing.assert_array_equal(CachedFrames(pictures, SPEC, folder=cache).read(range(6)), expect(pictures))
    assert len(list_names(cache)) == 2 and sum(decoded.values()) == 12
