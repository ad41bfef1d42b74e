from __future__ import annotations

import errno
import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robostig import packed_log
from robostig.backend import mx
from robostig.driving_log import LOG_NAME, DrivingLog, pack_driving_log, read_driving_log, read_picture
from robostig.packed_log import INDEX_NAME, PackedPicture, unpack_stream
from robostig.picture import measure_picture, read_in_order, read_picture_bytes
from robostig.split import split_by_time

MAGIC = struct.pack("<I", 0xCED7230A)
ARRAYS = ("steering", "throttle", "brake", "speed_mph", "time_s")
PIECES = st.lists(st.sampled_from([MAGIC, MAGIC[:2], MAGIC[2:], b"a", b"bcde", b"\0"]), max_size=12).map(b"".join)


@pytest.fixture
def recording(make_recording) -> Path:
    return make_recording(30, size=(16, 32))


@pytest.fixture
def packed(recording, tmp_path) -> Path:
    """The recording, packed into several shards a camera."""
    pack_driving_log(read_driving_log(recording), tmp_path / "packed", shard_mb=0.01)
    return tmp_path / "packed"


def list_bytes(log: DrivingLog) -> List[bytes]:
    return [read_picture_bytes(picture) for camera in log.pictures for picture in log.pictures[camera]]


def assert_same(log: DrivingLog, other: DrivingLog) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name))
        assert getattr(log, name).dtype == getattr(other, name).dtype
    assert list(log.pictures) == list(other.pictures) and list_bytes(log) == list_bytes(other)
    assert (log.skipped, log.drives) == (other.skipped, other.drives)
    assert log.fingerprint() == other.fingerprint() and log.identify_drives() == other.identify_drives()
    first, second = (split_by_time(each, gap_s=0.1) for each in (log, other))
    assert first.description == second.description
    np.testing.assert_array_equal(first.train, second.train)
    np.testing.assert_array_equal(first.validation, second.validation)


def write(path: Path, records: List[bytes]) -> bytes:
    with open(path, "wb") as file:
        for record in records:
            packed_log._write_record(file, record)
    return path.read_bytes()


def read(path: Path) -> List[bytes]:
    with open(path, "rb") as file:
        return list(iter(lambda: packed_log._read_record(file), None))


@settings(deadline=None, max_examples=60)
@given(records=st.lists(PIECES, min_size=1, max_size=4))
def test_mxnet_writes_and_reads_the_same_records(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    ours, theirs = folder / "ours.rec", folder / "theirs.rec"
    writer = mx.recordio.MXRecordIO(str(theirs), "w")
    for record in records:
        writer.write(record)
    writer.close()
    assert write(ours, records) == theirs.read_bytes()
    assert read(theirs) == records
    reader = mx.recordio.MXRecordIO(str(ours), "r")
    assert [reader.read() for _ in records] == records and reader.read() is None
    reader.close()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_is_packed_is_the_log(recording, tmp_path, on_error):
    if on_error == "skip":
        rows = (recording / LOG_NAME).read_text().splitlines(keepends=True)
        (recording / LOG_NAME).write_text("".join([*rows[:3], "nowhere.jpg,,,0.1\n", *rows[3:]]))
    log = read_driving_log(recording, on_error=on_error)
    files = pack_driving_log(log, tmp_path / "packed", shard_mb=0.01)
    again = read_driving_log(tmp_path / "packed")
    assert_same(log, again)
    assert ["nowhere.jpg" in each.detail for each in again.skipped] == [True] * (on_error == "skip")
    assert files == len(list((tmp_path / "packed").iterdir())) > 6
    assert max(path.stat().st_size for path in (tmp_path / "packed").glob("recording-*")) <= 10_000
    assert again.source == tmp_path / "packed" / INDEX_NAME and again.folder == tmp_path / "packed"
    assert_same(read_driving_log(tmp_path / "packed" / INDEX_NAME), again)


def test_packing_again_gives_the_same_bytes(recording, packed, tmp_path):
    pack_driving_log(read_driving_log(packed), tmp_path / "other" / "packed", shard_mb=0.01)
    for path in packed.iterdir():
        assert path.read_bytes() == (tmp_path / "other" / "packed" / path.name).read_bytes()


def test_drives_that_were_joined_are_packed_as_one_log(make_recording, tmp_path):
    for name in ("b", "a"):
        make_recording(12, name=f"drives/{name}", seed=ord(name), size=(16, 32))
    log = read_driving_log(tmp_path / "drives")
    pack_driving_log(log, tmp_path / "packed")
    assert [drive.name for drive in log.drives] == ["a", "b"]
    assert_same(log, read_driving_log(tmp_path / "packed"))


def test_of_packed_logs_that_are_joined_no_picture_is_made_before_it_is_asked_for(
    make_recording, tmp_path, monkeypatch
):
    for name in ("a", "b"):
        pack_driving_log(
            read_driving_log(make_recording(12, name=name, seed=ord(name), size=(16, 32))), tmp_path / "packed" / name
        )
    made: List[str] = []
    make = PackedPicture
    monkeypatch.setattr(packed_log, "PackedPicture", lambda *values: made.append(values[-1]) or make(*values))
    log = read_driving_log(tmp_path / "packed")
    assert [each.name for each in log.drives] == ["a", "b"] and not made
    assert log.pictures["left"][20].endswith(made[0]) and len(made) == 1


def test_a_picture_that_holds_the_magic_number_is_packed_as_it_is(recording, tmp_path):
    (path,) = recording.glob("IMG/center_*_00_133.jpg")
    data = path.read_bytes()
    data += b"\0" * (-len(data) % 4) + MAGIC * 3 + b"end"
    path.write_bytes(data)
    pack_driving_log(read_driving_log(recording), tmp_path / "packed")
    again = read_driving_log(tmp_path / "packed")
    assert read_picture_bytes(again.pictures["center"][2]) == data
    assert_same(read_driving_log(recording), again)
    assert (tmp_path / "packed" / "recording-center-00000.rec").read_bytes().count(MAGIC) == 30 + 3


def test_png_and_names_of_another_encoding_are_packed_too(recording, tmp_path):
    import cv2

    (path,) = recording.glob("IMG/center_*_00_133.jpg")
    name = os.fsdecode(b"J\xf6rg.png")
    cv2.imwrite(str(recording / "IMG" / "x.png"), cv2.imread(str(path)))
    os.replace(recording / "IMG" / "x.png", recording / "IMG" / name)
    rows = (recording / LOG_NAME).read_bytes().replace(path.name.encode(), os.fsencode(name))
    (recording / LOG_NAME).write_bytes(rows)
    pack_driving_log(read_driving_log(recording), tmp_path / "packed")
    again = read_driving_log(tmp_path / "packed")
    assert_same(read_driving_log(recording), again)
    assert os.path.basename(again.pictures["center"][2]) == name and np.isnan(again.time_s[2])


def test_mxnet_itself_reads_a_shard(recording, tmp_path):
    log = read_driving_log(recording)
    pack_driving_log(log, tmp_path / "packed")
    shard = str(tmp_path / "packed" / "recording-left-00000.rec")
    numbers = np.stack([log.steering, log.throttle, log.brake, log.speed_mph], axis=1)
    reader = mx.recordio.MXRecordIO(shard, "r")
    for row in range(len(log)):
        header, data = mx.recordio.unpack(reader.read())
        np.testing.assert_array_equal(header.label, numbers[row])
        assert data == Path(log.pictures["left"][row]).read_bytes() and header.id == row
    reader.close()
    batches = mx.io.ImageRecordIter(path_imgrec=shard, data_shape=(3, 16, 32), label_width=4, batch_size=10)
    seen = 0
    for batch in batches:
        np.testing.assert_array_equal(batch.label[0].asnumpy(), numbers[seen : seen + 10])
        for frame in batch.data[0].asnumpy():
            picture = read_picture(log.pictures["left"][seen]).transpose(2, 0, 1).astype(int)
            assert np.abs(frame - picture).max() <= 3  # another decoder of JPEG
            seen += 1
    assert seen == len(log)


def test_a_picture_in_a_shard_reads_as_a_path_and_survives_pickling(recording, packed):
    log, source = read_driving_log(packed), read_driving_log(recording)
    picture = log.pictures["right"][-1]
    assert isinstance(picture, PackedPicture) and os.path.basename(picture) == os.path.basename(
        source.pictures["right"][-1]
    )
    copy = pickle.loads(pickle.dumps(picture))
    assert copy == picture and read_picture_bytes(copy) == Path(source.pictures["right"][-1]).read_bytes()
    np.testing.assert_array_equal(read_picture(copy), read_picture(source.pictures["right"][-1]))
    assert measure_picture(copy) == os.path.getsize(source.pictures["right"][-1])
    assert list(log.pictures["right"])[3:7:2] == list(log.pictures["right"][3:7:2])
    assert list(log.pictures["right"])[20:2:-5][1:] == list(log.pictures["right"][20:2:-5][1:])


def test_pictures_are_read_in_order_with_files_among_them(recording, packed):
    shards, files = read_driving_log(packed).pictures["center"], read_driving_log(recording).pictures["center"]
    mixed = [shards[3], files[4], shards[29], shards[0]]
    assert list(read_in_order(mixed)) == [
        None if picture is files[4] else read_picture_bytes(picture) for picture in mixed
    ]


def test_a_packed_log_appears_as_a_whole_or_not_at_all(recording, tmp_path):
    log = read_driving_log(recording)
    os.remove(log.pictures["right"][20])
    with pytest.raises(FileNotFoundError):
        pack_driving_log(log, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["recording"]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine").write_text("")
    with pytest.raises(FileExistsError, match="packed is there already"):
        pack_driving_log(log, tmp_path / "packed")


@pytest.mark.parametrize("shard_mb", [0, -1.0, float("inf"), 1e303, float("nan")])
def test_shards_of_an_impossible_size_are_refused(recording, tmp_path, shard_mb):
    with pytest.raises(ValueError, match=f"shard_mb is {shard_mb:g}; ".replace("+", r"\+")):
        pack_driving_log(read_driving_log(recording), tmp_path / "packed", shard_mb=shard_mb)
    assert [path.name for path in tmp_path.iterdir()] == ["recording"]


def test_a_full_disk_is_named_and_leaves_nothing(recording, tmp_path):
    log = read_driving_log(recording)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match=r"packing into .*packed failed: File too large") as caught:
            pack_driving_log(log, tmp_path / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["recording"]


def test_what_a_killed_process_packed_is_removed_by_the_next_and_a_living_ones_is_not(recording, tmp_path):
    script = (
        "import sys; from robostig import driving_log;"
        "driving_log.packed.write_packed = lambda *_, **__: print('packing', flush=True) or sys.stdin.read();"
        "driving_log.pack_driving_log(driving_log.read_driving_log(sys.argv[1]), sys.argv[2])"
    )
    words = [sys.executable, "-c", script, str(recording), str(tmp_path / "packed")]
    environ = {**os.environ, "PYTHONPATH": str(Path(packed_log.__file__).parents[1])}
    packing = [
        subprocess.Popen(words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        assert [each.stdout.readline() for each in packing] == ["packing\n"] * 2
        assert len(list(tmp_path.glob("packed.*.partial"))) == 2
        packing[0].kill()
        packing[0].wait()
        pack_driving_log(read_driving_log(recording), tmp_path / "packed")
        assert len(list(tmp_path.glob("packed.*.partial"))) == 1
    finally:
        for each in packing:
            each.kill()
            each.communicate()
    assert len(read_driving_log(tmp_path / "packed")) == 30


def overwrite(path: Path, place: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


SHARD = "recording-center-00001.rec"
DAMAGES: List[Tuple[Callable[[Path], object], type, str]] = [
    (
        lambda folder: os.remove(folder / SHARD),
        FileNotFoundError,
        f"lacks 1 of its .* shards .{SHARD}.*FullyReplicated",
    ),
    (lambda folder: os.truncate(folder / SHARD, 99), ValueError, f"{SHARD} has 99 bytes, and was packed with"),
    (lambda folder: os.remove(folder / INDEX_NAME), FileNotFoundError, "no driving_log.csv in .*robostig pack wrote"),
    (lambda folder: os.truncate(folder / INDEX_NAME, 0), ValueError, f"{INDEX_NAME} is no index of robostig pack"),
    (lambda folder: os.truncate(folder / INDEX_NAME, 99), ValueError, f"{INDEX_NAME} is damaged .it is cut off"),
    (lambda folder: overwrite(folder / INDEX_NAME, 0, b"PK"), ValueError, f"{INDEX_NAME} is damaged .*should begin"),
    (lambda folder: overwrite(folder / INDEX_NAME, 900, b"damage"), ValueError, f"{INDEX_NAME} is damaged"),
    (lambda folder: shutil.copy(folder / SHARD, folder / INDEX_NAME), ValueError, "is no index of robostig pack"),
    (
        lambda folder: write(folder / INDEX_NAME, [b"robostig driving log 2\nwhatever"]),
        ValueError,
        "later version of RoboStig",
    ),
]


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES, ids=[message for *_, message in DAMAGES])
def test_what_is_damaged_is_refused_with_the_reason(packed, damage, error, message):
    damage(packed)
    with pytest.raises(error, match=message):
        read_driving_log(packed)


Header, Arrays = Dict[str, Any], Dict[str, np.ndarray]
# what is wrong -> what makes it so of an index's header and arrays, what the message says
WRONGS: Dict[str, Tuple[Callable[[Header, Arrays], object], str]] = {
    "no shards": (lambda header, arrays: header.pop("shards"), "a value is missing or of another kind: 'shards'"),
    "no token": (lambda header, arrays: header.pop("token"), "a value is missing or of another kind: 'token'"),
    "no places": (lambda header, arrays: arrays.pop("left_place"), "of another kind: 'left_place'"),
    "no time": (lambda header, arrays: arrays.pop("time_s"), "a value is missing or of another kind: 'time_s'"),
    "no drives": (lambda header, arrays: header["facts"].pop("drives"), "its drives and skipped rows: 'drives'"),
    "no centre": (lambda header, arrays: header["cameras"].remove("center"), "its cameras are left, right"),
    "facts of another kind": (lambda header, arrays: header.update(facts=3), "its header is not one of robostig pack"),
    "sizes of another kind": (lambda header, arrays: header["shards"][0].update(bytes="many"), "of another kind: "),
    "a drive from nowhere": (lambda header, arrays: header["facts"].update(drives=[["", 7]]), r"drives begin at \[7\]"),
    "drives beyond the end": (
        lambda header, arrays: header["facts"].update(drives=[["a", 0], ["b", 30]]),
        r"its drives begin at \[0, 30\]",
    ),
    "fewer times": (lambda header, arrays: arrays.update(time_s=arrays["time_s"][:20]), r"time_s is float64 \(20,\)"),
    "fewer labels": (
        lambda header, arrays: arrays.update(numbers=arrays["numbers"][:20], time_s=arrays["time_s"][:20]),
        r"center_place is int64 \(30, 3\) where \(20, 3\) belongs",
    ),
    "a shard that is not named": (lambda header, arrays: arrays["left_place"].fill(99), "of the left camera are in a"),
    "a shard elsewhere": (
        lambda header, arrays: header["shards"][0].update(name="../../outside.rec"),
        "'../../outside.rec' is not the plain name of a file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONGS)
def test_an_index_that_does_not_fit_together_is_refused(packed, wrong):
    (record,) = read(packed / INDEX_NAME)
    header, arrays = packed_log._parse_index(record, "index")
    damage, message = WRONGS[wrong]
    damage(header, arrays)
    content = io.BytesIO()
    np.savez_compressed(content, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    write(packed / INDEX_NAME, [b"robostig driving log 1\n" + content.getvalue()])
    with pytest.raises(ValueError, match=f"{INDEX_NAME} is damaged .*{message}.*pack the recording again"):
        read_driving_log(packed)


def test_a_shard_is_not_read_by_itself(packed):
    with pytest.raises(ValueError, match=f"{SHARD} is at most one shard of a packed log; give its folder, {packed}"):
        read_driving_log(packed / SHARD)


@pytest.mark.parametrize("place", ["the record's head", "the picture"])
def test_a_damaged_picture_is_named_when_it_is_read(packed, place):
    picture = read_driving_log(packed).pictures["center"][20]
    overwrite(Path(picture.holder), picture.offset + (0 if place == "the record's head" else 200), b"\0damage\0")
    for reading in (lambda: read_picture(picture), lambda: list(read_in_order([picture]))):
        with pytest.raises(ValueError, match=r"center_.*jpg: the shard is damaged here; copy it again, or pack"):
            reading()


def test_the_files_of_logs_in_any_order_are_a_stream(make_recording, tmp_path):
    for name in ("one", "two"):
        make_recording(12, name=name, seed=ord(name[0]), size=(16, 32))
        pack_driving_log(read_driving_log(tmp_path / name), tmp_path / "packed" / name, shard_mb=0.003)
    files = sorted((tmp_path / "packed").rglob("*.rec"))
    for order in (files, files[::-1], list(np.random.default_rng(0).permutation(files))):
        folder = tmp_path / "arrived"
        folder.mkdir()
        assert unpack_stream(io.BytesIO(b"".join(path.read_bytes() for path in order)), folder, name="pipe") == 2
        joined = read_driving_log(tmp_path / "packed")
        arrived = read_driving_log(folder)
        assert [drive.name.split("-")[0] for drive in arrived.drives] == [drive.name for drive in joined.drives]
        assert list_bytes(arrived) == list_bytes(joined) and arrived.fingerprint() == joined.fingerprint()
        shutil.rmtree(folder)


STREAMS = {
    "nothing": (lambda files: b"", "is empty: it was closed before anything came"),
    "a driving log": (lambda files: b"center_2022.jpg,,,0.1\n\xff\xd8\xff", "something else than packed .*File or"),
    "an array": (lambda files: b"\x93NUMPY\x01\x00v\x00", "brings something else than packed driving logs"),
    "a file beside packed ones": (lambda files: b"".join(files) + b"# notes", "# notes' where a record should begin"),
    "a part of a record": (lambda files: b"".join(files)[:-5], "ended in the middle of a record, after"),
    "a part of a record's head": (lambda files: b"".join(files) + files[0][:6], "ended in the middle of a record"),
    "no index": (lambda files: b"".join(files[1:]), "pictures without their index.rec.*FullyReplicated"),
    "the index alone": (lambda files: files[0], "brings 0 pictures of the center camera of packed, which has 30"),
    "not all shards": (lambda files: b"".join(files[:-1]), r"brings \d+ pictures of the right camera of packed"),
    "a shard twice": (lambda files: b"".join([*files, files[1]]), "brings .* pictures of the center camera of packed"),
    "everything twice": (lambda files: b"".join(files * 2), "brings the packed log packed twice"),
    "another's records": (lambda files: MAGIC + struct.pack("<I", 4) + b"abcd", "RecordIO that robostig pack did not"),
}  # fmt: skip


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_of_anything_else_is_refused_with_the_reason(packed, tmp_path, stream):
    make, message = STREAMS[stream]
    data = make([path.read_bytes() for path in sorted(packed.iterdir())])
    (tmp_path / "arrived").mkdir()
    with pytest.raises(ValueError, match=f"^pipe .*{message}"):
        unpack_stream(io.BytesIO(data), tmp_path / "arrived", name="pipe")


def test_a_record_of_mxnets_own_tools_is_refused(packed, tmp_path):
    record = mx.recordio.pack(mx.recordio.IRHeader(0, 3.0, 1, 0), b"\xff\xd8" * 40)
    (tmp_path / "arrived").mkdir()
    data = write(tmp_path / "foreign.rec", [record])
    with pytest.raises(ValueError, match="RecordIO that robostig pack did not write"):
        unpack_stream(io.BytesIO(data), tmp_path / "arrived", name="pipe")


def test_a_name_from_a_stream_does_not_climb_out_of_the_folder(packed, tmp_path):
    (record,) = read(packed / INDEX_NAME)
    header, arrays = packed_log._parse_index(record, "index")
    shards = [shard["name"] for shard in header["shards"]]
    packed_log._write_index(packed, {**header, "name": "../../climbed"}, shards, arrays)
    (tmp_path / "arrived").mkdir()
    data = b"".join(path.read_bytes() for path in packed.iterdir())
    unpack_stream(io.BytesIO(data), tmp_path / "arrived", name="pipe")
    assert [path.name.split("-")[0] for path in (tmp_path / "arrived").iterdir()] == ["climbed"]
