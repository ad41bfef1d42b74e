from __future__ import annotations

import gc
import os
import pickle
import shutil
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_road

from robostig.augmentation import Augmentation
from robostig.backend import mx
from robostig.data import (
    SteeringDataset,
    TrainingLoader,
    balance_weights,
    has_arrays,
    open_frames,
    read_arrays,
)
from robostig.driving_log import read_driving_log, read_picture
from robostig.models import get_spec
from robostig.preprocessing import InputSpec, preprocess
from robostig.split import split_by_time

SPEC = InputSpec(8, 16, crop_top=0.25)
NEVER = {each.name: 0.0 for each in fields(Augmentation)}
UNCHANGED = Augmentation(**{**NEVER, "correction": 0.2})
CAMERAS = {"center": 0, "left": 100, "right": 200}


class Pictures:
    """Frames whose first pixel tells where they come from: row, camera."""

    def __init__(self, camera: str, count: int) -> None:
        self.spec, self.camera, self.count = SPEC, camera, count

    def __len__(self) -> int:
        return self.count

    def read(self, numbers):
        frames = np.zeros((len(numbers), *SPEC.shape), np.uint8)
        frames[:, 0, 0, 0], frames[:, 0, 0, 1] = numbers, CAMERAS[self.camera]
        return frames


def make_dataset(count: int = 50, cameras=tuple(CAMERAS), rows=None) -> SteeringDataset:
    steering = np.linspace(-0.6, 0.6, count, dtype=np.float32)
    return SteeringDataset({camera: Pictures(camera, count) for camera in cameras}, steering, rows)


def collect(loader: TrainingLoader, epoch: int = 0):
    frames, steering = zip(*loader.epoch(epoch))
    return np.concatenate(frames), np.concatenate(steering)


def test_a_frame_keeps_the_label_of_its_row_corrected_for_its_camera():
    dataset = make_dataset(rows=np.arange(10, 40))
    frames, steering = collect(TrainingLoader(dataset, 16, augmentation=UNCHANGED, side_cameras=0.5))
    rows, cameras = frames[:, 0, 0, 0], frames[:, 0, 0, 1]
    corrections = np.select([cameras == 100, cameras == 200], [0.2, -0.2])
    assert set(rows) <= set(range(10, 40)) and set(cameras) == {0, 100, 200}
    np.testing.assert_allclose(steering, np.linspace(-0.6, 0.6, 50)[rows] + corrections, atol=1e-6)


@pytest.mark.parametrize(
    ("side_cameras", "cameras", "expected"),
    [
        (0.0, tuple(CAMERAS), [1, 0, 0]),
        (0.6, tuple(CAMERAS), [0.4, 0.3, 0.3]),
        (1.0, tuple(CAMERAS), [0, 0.5, 0.5]),
        (0.6, ("center",), [1, 0, 0]),
        (0.6, ("right", "center"), [0.4, 0, 0.6]),
    ],
)
def test_cameras_are_chosen_as_often_as_told(side_cameras, cameras, expected):
    loader = TrainingLoader(make_dataset(200, cameras), augmentation=UNCHANGED, side_cameras=side_cameras)
    chosen = np.concatenate([collect(loader, epoch)[0][:, 0, 0, 1] for epoch in range(4)])
    np.testing.assert_allclose([(chosen == number).mean() for number in CAMERAS.values()], expected, atol=0.06)


def test_real_frames_come_from_their_camera_augmented(make_recording):
    log = read_driving_log(make_recording(8, size=(40, 80)))
    dataset = SteeringDataset(open_frames(log, SPEC), log.steering)
    for position, camera in enumerate(dataset.cameras):
        expected = [preprocess(read_picture(path), SPEC) for path in log.pictures[camera]]
        np.testing.assert_array_equal(dataset.pick(range(8), np.full(8, position)), expected)
    mixed = dataset.pick([3, 3, 5], np.array([2, 0, 1]))
    for frame, (camera, row) in zip(mixed, (("right", 3), ("center", 3), ("left", 5))):
        np.testing.assert_array_equal(frame, preprocess(read_picture(log.pictures[camera][row]), SPEC))
    flipped = TrainingLoader(dataset, 8, augmentation=Augmentation(**{**NEVER, "flip": 1.0}), balance=0, side_cameras=0)
    frames, steering = collect(flipped)
    order = [int(np.abs(log.steering + label).argmin()) for label in steering]
    assert sorted(order) == list(range(8))
    np.testing.assert_array_equal(frames, dataset.read(order)[:, :, ::-1])


def test_a_chosen_camera_is_opened_alone(make_recording):
    log = read_driving_log(make_recording(3, size=(40, 80)))
    assert list(open_frames(log, SPEC, cameras=["center"], budget_gb=0)) == ["center"]


def test_every_row_is_drawn_once_when_nothing_is_balanced():
    loader = TrainingLoader(make_dataset(48), 16, augmentation=UNCHANGED, balance=0)
    for epoch in range(3):
        assert sorted(collect(loader, epoch)[0][:, 0, 0, 0]) == list(range(48))


def test_all_batches_are_full_and_there_are_as_many_as_said():
    loader = TrainingLoader(make_dataset(50), 16)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 4
    for frames, steering in batches:
        assert frames.shape == (16, 8, 16, 3) and frames.dtype == np.uint8
        assert steering.shape == (16,) and steering.dtype == np.float32 and np.abs(steering).max() <= 1
    assert collect(TrainingLoader(make_dataset(3), 16))[0].shape[0] == 16


skewed = np.repeat(np.array([0.0, 0.1, -0.3, 0.7], np.float32), [700, 200, 90, 10])


@pytest.mark.parametrize(("strength", "expected"), [(0.0, [0.7, 0.2, 0.09, 0.01]), (1.0, [0.25] * 4)])
def test_balance_weighs_angles_as_recorded_or_alike(strength, expected):
    weights = balance_weights(skewed, strength)
    assert weights.sum() == pytest.approx(1.0)
    assert [weights[skewed == label].sum() for label in dict.fromkeys(skewed)] == pytest.approx(expected)


def test_half_a_balance_lies_in_between():
    weights = balance_weights(skewed, 0.5)
    assert weights[skewed == np.float32(0.7)].sum() == pytest.approx(10**0.5 / sum(np.sqrt([700, 200, 90, 10])))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_an_impossible_balance_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength of balancing is {strength}"):
        balance_weights(skewed, strength)


@pytest.mark.parametrize(("balance", "expected"), [(0.0, [700, 200, 90, 10]), (1.0, [250] * 4)])
def test_an_epoch_is_balanced(balance, expected):
    dataset = SteeringDataset({"center": Pictures("center", 1000)}, skewed)
    labels = TrainingLoader(dataset, 100, augmentation=UNCHANGED, balance=balance).labels(0)
    counts = [int((labels == label).sum()) for label in dict.fromkeys(skewed)]
    np.testing.assert_allclose(counts, expected, atol=25 * balance)


def test_the_same_seed_and_epoch_give_the_same_batches():
    first, again = (collect(TrainingLoader(make_dataset(), 16, seed=3), 2) for _ in range(2))
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("seed", "epoch"), [(3, 1), (4, 2), (2, 3)])
def test_another_seed_or_epoch_gives_others(seed, epoch):
    frames, steering = collect(TrainingLoader(make_dataset(), 16, seed=3), 2)
    others, labels = collect(TrainingLoader(make_dataset(), 16, seed=seed), epoch)
    assert (frames[:, 0, 0, 0] != others[:, 0, 0, 0]).mean() > 0.5 and (steering != labels).mean() > 0.5


def test_a_batch_that_is_kept_stays_as_it_is_though_memory_is_used_again(make_recording):
    log = read_driving_log(make_recording(40, size=(40, 80)))
    dataset = SteeringDataset(open_frames(log, SPEC), log.steering)
    loader = TrainingLoader(dataset, 2)
    assert len(loader) == 20
    kept = [batch.frames for batch in loader.epoch(0)]
    places, copies = set(), []
    for frames, _ in loader.epoch(0):
        places.add(frames.ctypes.data)
        copies.append(frames.copy())
    assert len(places) < 10
    np.testing.assert_array_equal(kept, copies)


def test_labels_are_what_the_epoch_yields():
    loader = TrainingLoader(make_dataset(), 16)
    for epoch in range(2):
        np.testing.assert_array_equal(loader.labels(epoch), collect(loader, epoch)[1])


@pytest.mark.parametrize("count", [2, 3, 16])
def test_the_parts_of_all_workers_are_the_batches_of_one_byte_for_byte(make_recording, count):
    log = read_driving_log(make_recording(30, size=(80, 160)))
    dataset = SteeringDataset(open_frames(log, InputSpec(20, 40, crop_top=0.1)), log.steering)
    often = Augmentation(**{each.name: 0.7 for each in fields(Augmentation)})
    whole = TrainingLoader(dataset, 16, augmentation=often)
    cuts = [16 * rank // count for rank in range(count + 1)]
    parts = [TrainingLoader(dataset, 16, augmentation=often, part=part) for part in zip(cuts, cuts[1:])]
    for batch, *cuts in zip(whole.epoch(1), *(part.epoch(1) for part in parts)):
        frames, steering = zip(*cuts)
        assert max(map(len, frames)) - min(map(len, frames)) <= 1
        np.testing.assert_array_equal(np.concatenate(frames), batch.frames)
        np.testing.assert_array_equal(np.concatenate(steering), batch.steering)
    for part in parts:
        assert len(part) == len(whole)
        np.testing.assert_array_equal(part.labels(1), whole.labels(1))


def test_a_part_reads_no_frames_but_its_own_and_those_that_they_get_something_from():
    dataset, read = make_dataset(64, cameras=["center"]), []
    pictures = dataset.frames["center"]
    pictures.read = lambda rows: read.extend(rows) or Pictures.read(pictures, rows)
    for _ in TrainingLoader(dataset, 64, augmentation=UNCHANGED, balance=0, part=(16, 32)).epoch(0):
        pass
    assert len(read) == 16
    read.clear()
    for _ in TrainingLoader(
        dataset, 64, augmentation=Augmentation(scenery=1, bonnet=0), balance=0, part=(16, 32)
    ).epoch(0):
        pass
    assert 16 < len(read) <= 32


@pytest.mark.parametrize("part", [(0, 17), (2, 2), (-1, 2), (3, 1)])
def test_an_impossible_part_is_refused(part):
    with pytest.raises(ValueError, match="is not a start and a stop within a batch of 16"):
        TrainingLoader(make_dataset(), 16, part=part)


def list_loader_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_an_error_in_the_background_reaches_the_caller(make_recording):
    log = read_driving_log(make_recording(16, size=(40, 80)))
    dataset = SteeringDataset(open_frames(log, SPEC, budget_gb=0), log.steering)
    picture = Path(log.pictures["center"][7])
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{picture.name}: is cut off"):
        collect(TrainingLoader(dataset, 16, balance=0, side_cameras=0))
    assert list_loader_threads() == []


@pytest.mark.parametrize("change", [lambda frames: frames[:, :-1], lambda frames: frames.astype(np.float32)])
def test_a_source_whose_frames_are_not_as_its_spec_says_is_refused(change):
    dataset = make_dataset(cameras=["center"])
    pictures = dataset.frames["center"]
    pictures.read = lambda rows: change(Pictures.read(pictures, rows))
    with pytest.raises(ValueError, match=r"the frames make .*; the batch has uint8 of shape"):
        collect(TrainingLoader(dataset, 16))


def test_an_error_comes_with_its_batch_and_takes_none_before(make_recording):
    log = read_driving_log(make_recording(16, size=(40, 80)))
    dataset = SteeringDataset(open_frames(log, SPEC, budget_gb=0), log.steering)
    loader = TrainingLoader(dataset, 2, balance=0, side_cameras=0, augmentation=UNCHANGED)
    *_, last = loader._draw_rows(0)
    Path(log.pictures["center"][last[0]]).write_bytes(b"")
    batches = loader.epoch(0)
    for _ in range(7):
        next(batches)
    with pytest.raises(ValueError, match="is empty"):
        next(batches)


def test_stopping_in_mid_epoch_leaves_no_thread():
    epoch = TrainingLoader(make_dataset(), 4).epoch(0)
    next(epoch)
    assert len(list_loader_threads()) == 2
    epoch.close()
    assert list_loader_threads() == []
    for _ in TrainingLoader(make_dataset(), 4).epoch(0):
        break
    assert list_loader_threads() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's threads have a niceness each")
def test_what_prepares_batches_gives_way_and_nothing_else_does():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    epoch = TrainingLoader(make_dataset(), 4).epoch(0)
    next(epoch)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    given = [os.getpriority(os.PRIO_PROCESS, thread.native_id) for thread in threads]
    assert given == [min(before + 10, 19)] * 2 and os.getpriority(os.PRIO_PROCESS, 0) == before
    epoch.close()


def test_an_epoch_that_garbage_collection_ends_in_a_thread_of_its_own_blocks_none():
    dataset, collected = make_dataset(), []
    pictures = dataset.frames["center"]

    def read_and_collect(numbers):
        time.sleep(0.1)
        if left.is_set() and not collected:
            collected.append(gc.collect())
        return Pictures.read(pictures, numbers)

    def leave_an_epoch():
        epoch = TrainingLoader(dataset, 4, side_cameras=0).epoch(0)
        next(epoch)
        circle = [epoch]
        circle.append(circle)

    left, pictures.read = threading.Event(), read_and_collect
    gc.disable()
    try:
        leave_an_epoch()
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
        left.set()
        for thread in threads:
            thread.join(20.0)
    finally:
        gc.enable()
    assert collected and len(threads) == 2 and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("cameras", [[0, 3], [-1, 0]])
def test_a_camera_that_is_not_there_is_refused(cameras):
    with pytest.raises(IndexError, match="there are 3"):
        make_dataset().pick([0, 1], np.array(cameras))


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "thread_pool": True}])
def test_gluons_own_loader_takes_the_dataset(make_recording, workers):
    log = read_driving_log(make_recording(6, size=(40, 80)))
    rows = [1, 4, 5]
    dataset = SteeringDataset(open_frames(log, SPEC), log.steering, rows)
    ((frames, steering),) = list(mx.gluon.data.DataLoader(dataset, batch_size=3, **workers))
    assert frames.shape == (3, 3, 8, 16) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames.asnumpy().transpose(0, 2, 3, 1), dataset.read([0, 1, 2]))
    np.testing.assert_allclose(steering.asnumpy(), log.steering[rows])


def test_rows_of_a_split_are_the_datasets_own():
    dataset = make_dataset(rows=[7, 3])
    assert len(dataset) == 2 and dataset.spec == SPEC
    np.testing.assert_array_equal(dataset.read([0, 1])[:, 0, 0, 0], [7, 3])
    np.testing.assert_array_equal(dataset.steering, make_dataset().steering[[7, 3]])


@pytest.mark.parametrize(
    ("cameras", "count", "rows", "message"),
    [
        (("left",), 50, None, "the centre camera's frames are needed; these are of left"),
        ((), 50, None, "these are of none"),
        (("center",), 49, None, "49 steering values for {'center': 50} frames"),
        (("center",), 50, [], "at least one row"),
    ],
)
def test_an_impossible_dataset_is_refused(cameras, count, rows, message):
    with pytest.raises(ValueError, match=message):
        SteeringDataset({camera: Pictures(camera, 50) for camera in cameras}, np.zeros(count, np.float32), rows)


# The arrays of the earlier modules.


LABELS = np.linspace(-0.5, 0.5, 10, dtype=np.float32)


@pytest.fixture(scope="module")
def module_1(tmp_path_factory):
    """Ten pictures, and the four arrays that module 1 makes of them: preprocessed, float32, NHWC."""
    folder, spec = tmp_path_factory.mktemp("module_1"), get_spec("nvidia").input
    for row, steering in enumerate(LABELS):
        cv2.imwrite(str(folder / f"{row}.jpg"), cv2.cvtColor(draw_road(steering), cv2.COLOR_RGB2BGR))
    frames = np.stack([preprocess(read_picture(folder / f"{row}.jpg"), spec) for row in range(10)])
    for name, rows in (("train", slice(0, 8)), ("valid", slice(8, 10))):
        np.save(folder / f"{name}_X.npy", frames[rows].astype(np.float32))
        np.save(folder / f"{name}_Y.npy", LABELS[rows])
    return folder


@pytest.fixture
def arrays(module_1, tmp_path):
    """A copy of the arrays that may be spoilt."""
    return Path(shutil.copytree(module_1, tmp_path / "arrays"))


def test_arrays_are_the_very_frames_and_labels(arrays, tmp_path):
    spec = get_spec("nvidia").input
    train, validation = read_arrays(arrays)
    assert has_arrays(arrays) and not has_arrays(tmp_path)
    assert len(train) == 8 and len(validation) == 2
    assert train.spec == validation.spec == spec
    np.testing.assert_array_equal(train.steering, LABELS[:8])
    np.testing.assert_array_equal(validation.read([1])[0], preprocess(read_picture(arrays / "9.jpg"), spec))
    frames, _ = collect(TrainingLoader(train, 4, augmentation=UNCHANGED, balance=0))
    assert frames.shape == (8, 66, 200, 3) and frames.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, np.int64])
def test_arrays_of_other_types_and_sizes_are_taken_as_they_are(arrays, dtype):
    for name in ("train_X", "valid_X"):
        np.save(arrays / f"{name}.npy", np.load(arrays / f"{name}.npy")[:, ::2, ::2].astype(dtype))
    for name in ("train_Y", "valid_Y"):
        np.save(arrays / f"{name}.npy", np.load(arrays / f"{name}.npy").astype(np.float64)[:, None])
    train, _ = read_arrays(arrays)
    assert train.spec.shape == (33, 100, 3) and train.steering.shape == (8,)
    np.testing.assert_array_equal(train.read([3])[0], np.load(arrays / "train_X.npy")[3].astype(np.uint8))


@pytest.mark.parametrize("moved", [True, False])
def test_the_validation_pair_may_be_in_another_folder(arrays, tmp_path, moved):
    (tmp_path / "validation").mkdir()
    if moved:
        for name in ("valid_X.npy", "valid_Y.npy"):
            (arrays / name).rename(tmp_path / "validation" / name)
    assert len(read_arrays(arrays, tmp_path / "validation")[1]) == 2


@pytest.mark.parametrize("name", ["train_X", "train_Y", "valid_X", "valid_Y"])
def test_a_missing_array_is_named(arrays, name):
    (arrays / f"{name}.npy").unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no .*{name}.npy"):
        read_arrays(arrays)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("train_X", lambda x: x.transpose(0, 3, 1, 2), "is 8x3x66x200; frames are N x height x width x 3"),
        ("train_X", lambda x: x[0], "is 66x200x3; frames are N x"),
        ("train_X", lambda x: x[:0], "is 0x66x200x3; frames are N x"),
        ("train_X", lambda x: x / 255, "holds values from 0.* frames are 0..255, not scaled"),
        ("train_X", lambda x: x / 127.5 - 1, "holds values from -.* frames are 0..255"),
        ("train_X", lambda x: x * 2, "frames are 0..255"),
        ("valid_X", lambda x: np.where(x == x.max(), np.nan, x), "holds values from nan to nan"),
        ("train_X", lambda x: x[:7], "train_X.npy has 7 frames and train_Y.npy 8 labels"),
        ("valid_X", lambda x: x[:, :, :100], "66x200, the validation frames 66x100; they must agree"),
        ("train_X", lambda x: x.astype(str)[:, :2, :2], "holds <U.*; frames and labels are numbers"),
        ("train_Y", lambda y: y * 25, "has labels that are not in -1..1"),
        ("train_Y", lambda y: y * np.nan, "has labels that are not in -1..1"),
        ("train_Y", lambda y: y > 0, "holds bool"),
        ("train_Y", lambda y: np.stack([y, y], 1), "train_X.npy has 8 frames and train_Y.npy 16 labels"),
    ],
)
def test_arrays_of_anything_else_are_refused(arrays, name, spoil, message):
    path = arrays / f"{name}.npy"
    np.save(path, spoil(np.load(path)))
    with pytest.raises(ValueError, match=message):
        read_arrays(arrays)


@pytest.mark.parametrize("content", ["pickle", "objects", "archive", "zip", "text", "empty", "cut off"])
@pytest.mark.parametrize("name", ["train_X", "valid_Y"])
def test_a_file_that_holds_no_numbers_is_refused_and_never_unpickled(arrays, name, content):
    path, opened = arrays / f"{name}.npy", arrays / "opened"
    data = path.read_bytes()
    bomb = Bomb(opened)
    if content == "archive":
        with open(path, "wb") as file:
            np.savez(file, np.zeros(3))
    elif content == "objects":
        np.save(path, np.array([bomb], object))
    else:
        contents = {
            "pickle": pickle.dumps(bomb),
            "zip": b"PK\x03\x04 no zip",
            "text": b"0.1, 0.2",
            "empty": b"",
            "cut off": data[:-8],
        }
        path.write_bytes(contents[content])
    with pytest.raises(ValueError, match=f"{name}.npy is no array of numbers that can be read"):
        read_arrays(arrays)
    assert not opened.exists()


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_whole_recording_goes_from_log_to_batches(make_recording):
    log = read_driving_log(make_recording(60, size=(40, 80)))
    split = split_by_time(log, gap_s=0.2)
    frames = open_frames(log, SPEC)
    validation = SteeringDataset(frames, log.steering, split.validation)
    train = SteeringDataset(frames, log.steering, split.train)
    assert len(collect(TrainingLoader(train, 8))[0]) >= len(train)
    np.testing.assert_array_equal(validation.steering, log.steering[split.validation])
