from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robostig.driving_log import (
    CAMERAS,
    LOG_NAME,
    DrivingLog,
    DrivingLogWriter,
    pack_driving_log,
    read_driving_log,
    read_picture,
)
from robostig.picture import encode_jpeg

STEERING = ("0", "-0.25", "7.8E-05", "0.5")
STAMPS = tuple(f"2022_04_28_15_48_0{row}_{row * 70:03d}" for row in range(4))
HEADER = "center,left,right,steering,throttle,brake,speed\n"


def name_picture(camera: str, row: int) -> str:
    return f"{camera}_{STAMPS[row]}.jpg"


def write_rows(prefixes="/Users/somebody/Desktop/recording/IMG/", separator=",", end="\n") -> str:
    prefixes = [prefixes] * 4 if isinstance(prefixes, str) else prefixes
    rows = (
        [*(prefix + name_picture(camera, row) for camera in CAMERAS), STEERING[row], "0.5", "0", "30.19027"]
        for row, prefix in enumerate(prefixes)
    )
    return "".join(separator.join(row) + end for row in rows)


def draw_picture(path: Path, size=(12, 24)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path):
    """A recording's folder with twelve pictures and no log yet."""
    jpeg = draw_picture(tmp_path / "recording" / "IMG" / name_picture("center", 0))
    for row in range(4):
        for camera in CAMERAS:
            (tmp_path / "recording" / "IMG" / name_picture(camera, row)).write_bytes(jpeg)
    return tmp_path / "recording"


def read(folder: Path, text="", **kwargs) -> DrivingLog:
    (folder / LOG_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_driving_log(folder, **kwargs)


FORMS = {
    "as the simulator writes it": write_rows(),
    "with a header": HEADER + write_rows("IMG/"),
    "with a header in capitals and with spaces": HEADER.title().replace(",", ", ") + write_rows("IMG/"),
    "with a header of other names": HEADER.replace("steering", "steering_angle").replace("center", "Centre")
    + write_rows(),
    "with columns of one's own": HEADER.replace("\n", ",lap,\n") + write_rows(end=",2,\n"),
    "with numbered rows": ","
    + HEADER
    + "".join(f"{row},{line}\n" for row, line in enumerate(write_rows().splitlines())),
    "with backslashes": write_rows("C:\\Users\\somebody\\recording\\IMG\\"),
    "with spaces in paths": write_rows("/Users/some body/My Drive (2)/IMG/"),
    "with quotes": "".join(f'"{line}"\n' for line in write_rows(separator='","').splitlines()),
    "with quotes and spaces": "".join(f'"{line}"\n' for line in write_rows(separator='", "').splitlines()),
    "under another folder's name": write_rows("/data/old name/pictures/"),
    "with bare names": write_rows(""),
    "with several prefixes": write_rows(["", "IMG/", "/a/b/IMG/", "D:\\c\\IMG\\"]),
    "with a space after commas": write_rows(separator=", "),
    "with spaces around commas": write_rows(separator=" , "),
    "without a newline at the end": write_rows().rstrip("\n"),
    "with a comma at the ends of rows": write_rows(end=",\n"),
    "with a byte order mark": b"\xef\xbb\xbf" + write_rows().encode(),
    "with a byte order mark and a header": b"\xef\xbb\xbf" + (HEADER + write_rows()).encode(),
    "with bytes of another encoding": write_rows("/Users/J\xf6rg/IMG/").encode("latin-1"),
    "from Windows": (HEADER + write_rows()).replace("\n", "\r\n"),
    "with blank lines": "\n" + HEADER + "\n  \n" + write_rows(end="\n\n") + ",,,,,,\n\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_log_is_read(folder, form):
    log = read(folder, FORMS[form])
    np.testing.assert_array_equal(log.steering, np.array(STEERING, np.float32))
    assert log.throttle.tolist() == [0.5] * 4 and log.brake.tolist() == [0.0] * 4
    np.testing.assert_allclose(log.speed_mph, 30.19027)
    for camera in CAMERAS:
        expected = [str(folder / "IMG" / name_picture(camera, row)) for row in range(4)]
        assert list(log.pictures[camera]) == expected
    np.testing.assert_allclose(np.diff(log.time_s), 1.07, atol=1e-6)
    assert not log.skipped and not log.unused_pictures


@pytest.mark.parametrize("place", ["the folder", "the file", "the folder above", "the folder as text"])
def test_a_log_is_found_from(folder, place):
    (folder / LOG_NAME).write_text(write_rows())
    path = {"the file": folder / LOG_NAME, "the folder above": folder.parent, "the folder as text": str(folder)}.get(
        place, folder
    )
    assert read_driving_log(path).source == folder / LOG_NAME


def test_pictures_beside_the_log_or_where_it_says_are_found(folder, tmp_path):
    shutil.move(str(folder / "IMG"), str(tmp_path / "moved"))
    assert len(read(folder, write_rows(f"{tmp_path}/moved/"))) == 4
    for path in (tmp_path / "moved").iterdir():
        shutil.move(str(path), str(folder))
    assert len(read(folder, write_rows(""))) == 4


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_a_picture_whose_name_is_in_another_encoding_is_found(folder):
    name = b"center_J\xf6rg.jpg"
    shutil.copy(folder / "IMG" / name_picture("center", 0), os.path.join(os.fsencode(folder), b"IMG", name))
    log = read(folder, b"IMG/" + name + b",,,0.1\n")
    assert os.fsencode(log.pictures["center"][0]).endswith(name)
    assert read_picture(log.pictures["center"][0]).shape == (12, 24, 3) and len(log.fingerprint()) == 64


@pytest.mark.parametrize("header", ["", HEADER])
def test_side_cameras_may_be_missing(folder, header):
    text = "".join(f"IMG/{name_picture('center', row)},,,{STEERING[row]},0,0,0\n" for row in range(4))
    assert list(read(folder, header + text).pictures) == ["center"]


def test_a_header_may_name_fewer_columns(folder):
    log = read(
        folder, "steering,center\n" + "".join(f"{STEERING[row]},{name_picture('center', row)}\n" for row in range(4))
    )
    np.testing.assert_array_equal(log.steering, np.array(STEERING, np.float32))
    assert list(log.pictures) == ["center"] and log.speed_mph.tolist() == [0.0] * 4


def test_pictures_behind_a_link_are_found_and_a_link_in_a_circle_ends(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "IMG").symlink_to(folder / "IMG")
    (tmp_path / "linked" / "again").symlink_to(tmp_path / "linked")
    log = read(tmp_path / "linked", write_rows())
    assert len(log) == 4 and log.unused_pictures == 0


def test_pictures_elsewhere_do_not_count_as_unused(folder, tmp_path):
    (tmp_path / "other").mkdir()
    log = read(tmp_path / "other", write_rows(f"{folder}/IMG/"))
    assert len(log) == 4 and log.unused_pictures == 0


def test_a_picture_may_go_on_after_its_end(folder):
    path = folder / "IMG" / name_picture("center", 1)
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert len(read(folder, write_rows())) == 4


def test_pictures_without_a_row_are_counted(folder):
    log = read(folder, "".join(write_rows().splitlines(keepends=True)[:3]))
    assert log.unused_pictures == 3
    assert "3 pictures that no row names" in log.describe()


def test_clocks_that_go_backwards_and_gaps_begin_a_new_stretch(make_recording):
    time_s = np.array([0.0, 0.07, 0.14, 9.0, 9.07, 5.0, 5.07, np.nan, 5.2])
    log = replace(read_driving_log(make_recording(len(time_s), size=(12, 24))), time_s=time_s)
    assert log.find_breaks().tolist() == [True, False, False, True, False, True, False, False, False]
    assert not log.find_breaks(max_gap_s=10.0)[3]
    hz15 = 1 / 15
    np.testing.assert_allclose(np.diff(log.driving_clock()), [0.07, 0.07, hz15, 0.07, hz15, 0.07, hz15, hz15])
    assert log.driving_clock()[0] == 0.0


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("center_1970_01_02_00_00_01_250.jpg", 86401.25),
        ("frame_7.jpg", None),
        ("center_2022_13_01_00_00_00_000.jpg", None),
    ],
)
def test_time_comes_from_the_pictures_name(folder, name, seconds):
    shutil.copy(folder / "IMG" / name_picture("center", 0), folder / "IMG" / name)
    (time_s,) = read(folder, f"{name},,,0.1\n").time_s
    assert time_s == seconds if seconds else np.isnan(time_s)


GOOD, CUT, NOTHING = (f"IMG/{name}.jpg" for name in ("good", "cut", "nothing"))
# kind of fault, what stands in the row, what the message says
FAULTS = [
    ("picture not found", "IMG/nowhere.jpg,,,0.1", FileNotFoundError, "there is no picture 'nowhere.jpg' in"),
    ("picture not found", "C:\\IMG\\nowhere.jpg,,,0.1", FileNotFoundError, "there is no picture 'nowhere.jpg' in"),
    ("center picture damaged", f"{CUT},,,0.1", ValueError, "cut.jpg is cut off: its"),
    ("center picture damaged", f"{NOTHING},,,0.1", ValueError, "nothing.jpg is empty"),
    ("picture ambiguous", "twin.jpg,,,0.1", ValueError, "could be"),
    ("no center picture named", ",,,0.1,0,0,0", ValueError, "names no center picture"),
    (
        "decimal commas",
        f"{GOOD},,,0,05,0,5,0,30,19",
        ValueError,
        "10 columns where 7 belong: numbers seem to be written with",
    ),
    ("decimal commas", f'{GOOD},,,"-0,05",0,0,0', ValueError, "steering is '-0,05': numbers seem"),
    ("steering is no number", f"{GOOD},,,left,0,0,0", ValueError, "steering is 'left', which is no number"),
    ("steering is no number", GOOD, ValueError, "steering is '', which is no number"),
    ("throttle is no number", f"{GOOD},,,0.1,full,0,0", ValueError, "throttle is 'full'"),
    ("steering is not finite", f"{GOOD},,,nan,0,0,0", ValueError, "steering is nan, which is not finite"),
    ("speed is not finite", f"{GOOD},,,0.1,0,0,1e99", ValueError, "speed is 1e99, which is not finite"),
    ("steering out of range", f"{GOOD},,,-12.5,0,0,0", ValueError, "steering is -12.5, outside -1..1"),
]


@pytest.fixture
def faulty(folder):
    """A recording's folder with good, damaged and ambiguous pictures beside it."""
    jpeg = draw_picture(folder / GOOD)
    (folder / CUT).write_bytes(jpeg[: len(jpeg) // 2])
    (folder / NOTHING).write_bytes(b"")
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "twin.jpg").write_bytes(jpeg)
    return folder


@pytest.mark.parametrize(("kind", "row", "error", "message"), FAULTS)
def test_a_bad_row_is_refused_naming_file_row_and_value(faulty, kind, row, error, message):
    with pytest.raises(error) as caught:
        read(faulty, f"{HEADER}{GOOD},,,0.2,0,0,0\n\n{row}\n{GOOD},,,0.3,0,0,0\n")
    assert f"{faulty / LOG_NAME}, row 4: " in str(caught.value)
    assert message in str(caught.value) and "--on-error skip" in str(caught.value)


@pytest.mark.parametrize(("kind", "row", "error", "message"), FAULTS)
def test_a_bad_row_is_left_out_counted_and_explained(faulty, kind, row, error, message):
    log = read(faulty, f"{GOOD},,,0.2,0,0,0\n{row}\n{GOOD},,,0.3,0,0,0\n{row}\n", on_error="skip")
    np.testing.assert_array_equal(log.steering, np.array([0.2, 0.3], np.float32))
    assert [(skipped.row, skipped.kind) for skipped in log.skipped] == [(2, kind), (4, kind)]
    assert message in log.skipped[0].detail
    assert log.describe().endswith(f"left out 2 rows: 2 x {kind} (row 2, 4)")


def test_a_link_that_leads_nowhere_is_a_fault_of_its_row(folder):
    (folder / "IMG" / name_picture("left", 2)).unlink()
    (folder / "IMG" / name_picture("left", 2)).symlink_to("elsewhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"row 3: the left picture .* cannot be read \(No such file"):
        read(folder, write_rows())
    log = read(folder, write_rows(), on_error="skip")
    assert [(each.row, each.kind) for each in log.skipped] == [(3, "left picture cannot be read")]


def test_a_side_picture_missing_from_one_row_is_a_fault_of_that_row(folder):
    rows = write_rows().splitlines()
    rows[2] = rows[2].replace("/Users/somebody/Desktop/recording/IMG/" + name_picture("left", 2), "")
    with pytest.raises(ValueError, match="row 3: it names no left picture"):
        read(folder, "\n".join(rows))
    assert len(read(folder, "\n".join(rows), on_error="skip")) == 3


def test_pictures_of_the_same_name_are_told_apart_by_their_folders(folder):
    for name in ("first", "second"):
        draw_picture(folder / name / "IMG" / "center.jpg")
    log = read(folder, "/old/first/IMG/center.jpg,,,0.1\nD:\\old\\second\\IMG\\center.jpg,,,0.2\n")
    assert list(log.pictures["center"]) == [str(folder / name / "IMG" / "center.jpg") for name in ("first", "second")]
    with pytest.raises(ValueError, match=r"row 1: 'third/IMG/center.jpg' could be .* or "):
        read(folder, "third/IMG/center.jpg,,,0.1\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; record a drive first"),
        ("\n\r\n ,, \n", "is empty"),
        (HEADER, "is empty; record a drive first"),
        ("center,left,right,throttle\na.jpg,,,1\n", "has no column steering"),
        ('"' + "x" * 200_000, "is not a readable CSV file"),
    ],
)
def test_a_log_without_rows_is_refused(folder, text, message):
    with pytest.raises(ValueError, match=f"{LOG_NAME}.*{message}"):
        read(folder, text)


def test_a_log_whose_rows_are_all_bad_is_refused_with_the_first_reason(folder):
    with pytest.raises(
        ValueError, match="no usable row among its 2; the first was left out because there is no picture"
    ):
        read(folder, "a.jpg,,,0.1\nb.jpg,,,0.1\n", on_error="skip")


def test_what_is_not_there_is_refused_naming_what_is(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*elsewhere"):
        read_driving_log(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"no {LOG_NAME} in .*, which holds IMG"):
        read_driving_log(folder)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=f"no {LOG_NAME} in .*, which holds nothing; .*robostig pack"):
        read_driving_log(tmp_path / "nothing")


def test_an_unknown_way_with_errors_is_refused(folder):
    with pytest.raises(ValueError, match='"raise" or "skip", not \'ignore\''):
        read(folder, write_rows(), on_error="ignore")


CELLS = st.one_of(
    st.sampled_from(
        ["IMG/" + name_picture("center", 0), "C:\\x\\" + name_picture("left", 1), "/", "\\", *HEADER.strip().split(",")]
    ),
    st.floats().map(str),
    st.text("0123456789.,;-+eE_\"' \\/\x00\r\n\u0660\ufeffcenter", max_size=12),
)
TABLES = st.lists(st.lists(CELLS, max_size=11).map(",".join), max_size=6).map("\n".join)
CSV_BYTES = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda text, encoding: text.encode(encoding), TABLES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
)


@settings(
    deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(CSV_BYTES, st.sampled_from(["raise", "skip"]))
def test_any_bytes_are_a_log_or_a_value_error(folder, data, on_error):
    try:
        log = read(folder, data, on_error=on_error)
    except (ValueError, FileNotFoundError) as error:
        assert str(folder / LOG_NAME) in str(error)
    else:
        assert len(log) > 0 and np.isfinite([log.steering, log.throttle, log.brake, log.speed_mph]).all()
        assert {len(paths) for paths in log.pictures.values()} == {len(log)}


def test_a_picture_that_is_cut_off_is_refused_naming_its_file(tmp_path):
    path = tmp_path / "frame.jpg"
    path.write_bytes(draw_picture(path)[:-20])
    with pytest.raises(ValueError, match=r"frame.jpg: is cut off: its"):
        read_picture(path)


def test_a_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path):
    log = read(folder, write_rows())
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert read_driving_log(copy).fingerprint() == log.fingerprint()
    assert read(copy, write_rows("IMG/")).fingerprint() == log.fingerprint()
    assert read(copy, write_rows().replace("-0.25", "-0.26")).fingerprint() != log.fingerprint()
    (copy / LOG_NAME).write_text(write_rows())
    draw_picture(copy / "IMG" / name_picture("left", 2), size=(24, 24))
    assert read_driving_log(copy).fingerprint() != log.fingerprint()


def test_a_log_of_one_drive_keeps_the_fingerprint_that_artifacts_remember(folder):
    digest = hashlib.sha256(np.array(STEERING, np.float32).tobytes())
    size = (folder / "IMG" / name_picture("center", 0)).stat().st_size
    for camera in sorted(CAMERAS):
        for row in range(4):
            digest.update(f"{name_picture(camera, row)}:{size};".encode())
    assert read(folder, write_rows()).fingerprint() == digest.hexdigest()


@pytest.fixture
def drives(make_recording, tmp_path):
    """A folder with three drives, recorded at the same time."""
    for number, name in enumerate(("tuesday", "monday/morning", "monday/evening")):
        make_recording(12, name=f"drives/{name}", size=(12, 24), seed=number)
    return tmp_path / "drives"


def test_drives_in_sub_folders_are_one_log_in_the_order_of_their_names(drives):
    log = read_driving_log(drives)
    alone = [read_driving_log(drives / name) for name in ("monday/evening", "monday/morning", "tuesday")]
    assert log.drives == (("monday/evening", 0), ("monday/morning", 12), ("tuesday", 24))
    assert log.source == log.folder == drives and len(log) == 36
    for name in ("steering", "throttle", "brake", "speed_mph", "time_s"):
        joined = np.concatenate([getattr(each, name) for each in alone])
        np.testing.assert_array_equal(getattr(log, name), joined)
        assert getattr(log, name).dtype == joined.dtype
    for camera in CAMERAS:
        assert list(log.pictures[camera]) == [path for each in alone for path in each.pictures[camera]]
    assert f"{drives}: 36 rows of 3 drives, " in log.describe()
    assert log.identify_drives() == tuple(each.identify_drives()[0] for each in alone)
    assert len(set(log.identify_drives())) == 3


def test_a_drive_begins_a_stretch_even_where_time_goes_on(drives):
    log = replace(read_driving_log(drives), time_s=np.arange(36) / 10.0)
    assert np.flatnonzero(log.find_breaks()).tolist() == [0, 12, 24]
    assert np.flatnonzero(log.find_breaks(np.arange(11, 30))).tolist() == [0, 1, 13]
    np.testing.assert_allclose(np.diff(log.driving_clock())[[10, 11, 12]], [0.1, 1 / 15, 0.1])
    assert replace(log, drives=log.drives[:1]).fingerprint() != log.fingerprint()  # its split is another


def test_a_log_that_is_there_twice_is_refused_or_left_out_and_counted(drives):
    shutil.copytree(drives / "tuesday", drives / "backup" / "tuesday")
    with pytest.raises(ValueError, match=r"s/tuesday/driving_log.csv is the same recording as .*/backup/tuesday/driv"):
        read_driving_log(drives)
    log = read_driving_log(drives, on_error="skip")
    assert [each.name for each in log.drives] == ["backup/tuesday", "monday/evening", "monday/morning"]
    assert len(log) == 36 and len(log.skipped) == 12
    assert "left out 12 rows: 12 x copy of another log (row 1 of tuesday/driving_log.csv, 2 of" in log.describe()
    assert log.skipped[0].detail == "tuesday/driving_log.csv: it is in backup/tuesday/driving_log.csv, too"


def test_a_packed_log_among_drives_is_one_of_them(drives):
    alone = read_driving_log(drives)
    fingerprint = alone.fingerprint()
    pack_driving_log(read_driving_log(drives / "monday"), drives / "packed")
    shutil.rmtree(drives / "monday")
    log = read_driving_log(drives)
    assert [each.name for each in log.drives] == ["packed/evening", "packed/morning", "tuesday"]
    np.testing.assert_array_equal(log.steering, alone.steering)
    assert log.fingerprint() == fingerprint
    pack_driving_log(read_driving_log(drives / "tuesday"), drives / "copy")
    with pytest.raises(ValueError, match=r"tuesday/driving_log.csv is the same recording as .*copy/index.rec"):
        read_driving_log(drives)


@pytest.mark.parametrize("dated", [True, False], ids=["dated", "undated"])
def test_a_drive_that_is_in_a_packed_log_too_is_refused_or_left_out_and_counted(drives, dated):
    if not dated:
        for path in [*drives.rglob("*.jpg"), *drives.rglob(LOG_NAME)]:
            if path.suffix == ".jpg":
                path.rename(path.with_name(path.name.replace("2022_", "take_")))
            else:
                path.write_text(path.read_text().replace("2022_", "take_"))
    alone = read_driving_log(drives)
    pack_driving_log(alone, drives / "packed")
    twins = r"the drive monday/evening of .*packed/index.rec is the same recording as .*monday/evening/driving_log.csv"
    with pytest.raises(ValueError, match=twins):
        read_driving_log(drives)
    log = read_driving_log(drives, on_error="skip")
    assert log.drives == (("monday/evening", 0), ("monday/morning", 12), ("packed/tuesday", 24))
    assert [len(log), len(log.skipped)] == [36, 36]  # tuesday's own comes after the packed one
    shutil.rmtree(drives / "monday" / "evening")
    log = read_driving_log(drives, on_error="skip")
    assert log.drives == (("monday/morning", 0), ("packed/monday/evening", 12), ("packed/tuesday", 24))
    assert [(each.row, each.log) for each in log.skipped[11:13]] == [
        (24, "packed/index.rec"),
        (1, "tuesday/" + LOG_NAME),
    ]
    order = np.r_[12:24, 0:12, 24:36]
    for name in ("steering", "throttle", "brake", "speed_mph", "time_s"):
        np.testing.assert_array_equal(getattr(log, name), getattr(alone, name)[order])
    for camera in CAMERAS:
        names = [os.path.basename(alone.pictures[camera][row]) for row in order]
        assert list(map(os.path.basename, log.pictures[camera])) == names
    assert sorted(log.identify_drives()) == sorted(alone.identify_drives())


def test_joined_pictures_are_taken_by_number_and_by_slice(drives):
    pictures = read_driving_log(drives).pictures["left"]
    listed = list(pictures)
    assert [pictures[row] for row in (0, 11, 12, 35, -1, -36)] == [listed[row] for row in (0, 11, 12, 35, -1, -36)]
    assert list(pictures[10:30:7]) == listed[10:30:7] and pictures[np.int64(13)] == listed[13]
    for row in (36, -37):
        with pytest.raises(IndexError):
            pictures[row]


def test_an_empty_log_among_others_is_refused_or_left_out_and_counted(drives):
    (drives / "tuesday" / LOG_NAME).write_text("")
    (drives / "monday" / "evening" / LOG_NAME).write_text(HEADER)
    with pytest.raises(ValueError, match=r"evening/driving_log.csv is empty; record a drive first"):
        read_driving_log(drives)
    log = read_driving_log(drives, on_error="skip")
    assert log.drives == (("monday/morning", 0),) and [each.kind for each in log.skipped] == ["log without rows"] * 2
    assert log.describe().endswith("(row 1 of monday/evening/driving_log.csv, 1 of tuesday/driving_log.csv)")


@pytest.mark.parametrize("closed", ["tuesday", "tuesday/IMG", "monday"])
def test_a_folder_that_cannot_be_read_is_named(drives, monkeypatch, closed):
    scan = os.scandir

    def refuse(path):
        if str(path) == str(drives / closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=rf"cannot read the folder {drives / closed} \(Permission denied\)"):
        read_driving_log(drives)


def test_what_a_file_system_keeps_to_itself_is_no_folder_of_drives(drives, monkeypatch):
    (drives / "lost+found").mkdir()
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(read_driving_log(drives)) == 36


def test_a_bad_row_of_a_drive_is_named_with_its_file(drives, make_recording):
    with open(drives / "tuesday" / LOG_NAME, "a") as file:
        file.write("nowhere.jpg,,,0.1\n")
    with pytest.raises(FileNotFoundError, match=r"tuesday/driving_log.csv, row 13: there is no picture 'nowhere.jpg'"):
        read_driving_log(drives)
    log = read_driving_log(drives, on_error="skip")
    assert len(log) == 36 and log.skipped[0].detail.startswith("tuesday/driving_log.csv: there is no picture")
    assert log.describe().endswith("left out 1 rows: 1 x picture not found (row 13 of tuesday/driving_log.csv)")
    pack_driving_log(log, drives / "packed" / "all")
    for name in ("tuesday", "monday"):
        shutil.rmtree(drives / name)
    make_recording(12, name="drives/wednesday", size=(12, 24), seed=3)
    (skipped,) = read_driving_log(drives, on_error="skip").skipped
    assert skipped.log == "packed/all/tuesday/driving_log.csv" and skipped.detail.startswith(f"{skipped.log}: there is")


def test_drives_whose_rows_are_all_bad_are_counted_and_if_all_are_it_is_an_error(drives):
    for name in ("tuesday", "monday/morning", "monday/evening"):
        (drives / name / LOG_NAME).write_text("nowhere.jpg,,,0.1\n")
        if name != "monday/evening":
            log = read_driving_log(drives, on_error="skip")
    assert [each.name for each in log.drives] == ["monday/evening"] and len(log.skipped) == 2
    with pytest.raises(
        ValueError, match=r"drives has no usable row among its 3; the first was left out because monday"
    ):
        read_driving_log(drives, on_error="skip")
    (drives / "tuesday" / LOG_NAME).write_text("")
    with pytest.raises(
        ValueError, match=r"drives has no usable row among its 3; the first was left out because monday"
    ):
        read_driving_log(drives, on_error="skip")


def test_cameras_that_not_every_drive_has_are_there_where_they_are(drives):
    path = drives / "tuesday" / LOG_NAME
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(",".join([row[0], row[1], "", *row[3:]]) + "\n" for row in rows))
    log = read_driving_log(drives)
    assert list(log.pictures) == list(CAMERAS) and log.locate_pictures("left").all()
    np.testing.assert_array_equal(log.locate_pictures("right"), np.arange(36) < 24)
    assert set(log.pictures["right"][24:]) == {""} and "center, left, right (in 24 rows) camera" in log.describe()
    pack_driving_log(log, drives.parent / "packed")
    again = read_driving_log(drives.parent / "packed")
    assert again.fingerprint() == log.fingerprint() != read_driving_log(drives / "monday").fingerprint()
    for camera in CAMERAS:
        names, packed = ([os.path.basename(picture) for picture in each.pictures[camera]] for each in (log, again))
        assert names == packed
    assert read_picture(again.pictures["right"][23]).shape == (12, 24, 3)


def test_a_folders_own_log_wins_over_those_below_it_with_a_warning(drives, caplog):
    shutil.copytree(drives / "tuesday", drives.parent / "own")
    for name in ("monday/morning", "monday/evening"):
        (drives.parent / "own" / name).mkdir(parents=True)
        shutil.move(str(drives / name / LOG_NAME), str(drives.parent / "own" / name))
    pack_driving_log(read_driving_log(drives), drives.parent / "own" / "packed")
    log = read_driving_log(drives.parent / "own")
    assert len(log) == 12 and log.source == drives.parent / "own" / LOG_NAME
    (message,) = caplog.messages
    assert "3 further logs below it are not (monday/evening/driving_log.csv, monday/morning/driving_log" in message
    caplog.clear()
    assert len(read_driving_log(drives)) == 12 and not caplog.messages


def test_links_to_drives_are_followed_and_a_link_in_a_circle_ends(drives):
    shutil.move(str(drives / "tuesday"), str(drives.parent / "elsewhere"))
    (drives / "tuesday").symlink_to(drives.parent / "elsewhere")
    (drives / "monday" / "circle").symlink_to(drives)
    assert len(read_driving_log(drives)) == 36


def test_the_lake_recording_is_read_as_its_readme_describes_it(lake):
    log = read_driving_log(lake)
    assert len(log) == 2459 and not log.skipped and list(log.pictures) == list(CAMERAS)
    assert np.flatnonzero(log.find_breaks()).tolist() == [0, 1238]
    assert log.steering.min() == pytest.approx(-0.283, abs=5e-4) and log.steering.max() == pytest.approx(
        0.340, abs=5e-4
    )
    assert (log.steering == 0).mean() == pytest.approx(0.2, abs=0.01)
    assert log.steering.std() == pytest.approx(0.086, abs=5e-4)
    assert log.steering[:1238].mean() == pytest.approx(-0.033, abs=5e-4)
    assert log.steering[1238:].mean() == pytest.approx(0.035, abs=5e-4)
    assert np.median(np.diff(log.time_s)) == pytest.approx(0.07, abs=0.005)
    assert read_picture(log.pictures["left"][7]).shape == (160, 320, 3)


NOON = 1651147681.762  # 2022-04-28 12:08:01.762
FRAME = np.full((16, 32, 3), (200, 100, 50), np.uint8)


def write(writer: DrivingLogWriter, row: int = 0, cameras=CAMERAS, frame=FRAME, **values) -> None:
    values = {
        "steering": 0.25,
        "throttle": 0.5,
        "brake": 0.0,
        "speed_mph": 30.19027,
        "time_s": NOON + row / 15,
        **values,
    }
    writer.write(dict.fromkeys(cameras, frame), **values)


def test_a_row_is_written_as_the_simulator_does(tmp_path):
    with DrivingLogWriter(tmp_path / "new" / "out") as writer:
        write(writer)
        write(writer, 1, steering=-7.8e-05, throttle=1.0)
        assert writer.rows == 2
    stamps = ("2022_04_28_12_08_01_762", "2022_04_28_12_08_01_829")
    names = [[tmp_path / "new" / "out" / "IMG" / f"{camera}_{stamp}.jpg" for camera in CAMERAS] for stamp in stamps]
    rows = [
        ",".join([*map(str, names[0]), "0.25,0.5,0,30.19027"]),
        ",".join([*map(str, names[1]), "-7.8e-05,1,0,30.19027"]),
    ]
    assert (tmp_path / "new" / "out" / LOG_NAME).read_bytes().decode() == "".join(f"{row}\n" for row in rows)
    assert sorted((tmp_path / "new" / "out" / "IMG").iterdir()) == sorted(names[0] + names[1])


def test_what_was_written_is_read_back(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.uniform(-1.0, 1.0, 20)
    with DrivingLogWriter(tmp_path) as writer:
        for row, value in enumerate(values):
            write(writer, row, steering=value, throttle=abs(value), brake=0.1 * abs(value), speed_mph=30 * abs(value))
    log = read_driving_log(tmp_path)
    np.testing.assert_allclose(log.steering, values, rtol=1e-6)
    np.testing.assert_allclose(log.throttle, np.abs(values), rtol=1e-6)
    np.testing.assert_allclose(log.brake, 0.1 * np.abs(values), rtol=1e-6)
    np.testing.assert_allclose(log.speed_mph, 30 * np.abs(values), rtol=1e-6)
    np.testing.assert_allclose(log.time_s, NOON + np.arange(20) / 15, atol=6e-4)
    assert not log.unused_pictures and list(log.pictures) == list(CAMERAS)
    assert np.abs(read_picture(log.pictures["right"][3]).astype(int) - FRAME).max() <= 4


def test_rows_are_added_to_a_log_that_is_there(tmp_path):
    for row in range(3):
        with DrivingLogWriter(tmp_path) as writer:
            write(writer, row, steering=row / 10)
            assert writer.rows == 1
    np.testing.assert_allclose(read_driving_log(tmp_path).steering, [0.0, 0.1, 0.2], atol=1e-7)


@pytest.mark.parametrize("end", ["\n", "", "\r\n"], ids=["newline", "no newline", "Windows"])
def test_rows_are_added_to_a_log_however_its_last_one_ends(folder, end):
    """A simulator that was stopped, or an editor, leaves no newline at the end."""
    (folder / LOG_NAME).write_bytes((write_rows().rstrip("\n") + end).encode())
    with DrivingLogWriter(folder) as writer:
        write(writer)
    np.testing.assert_allclose(read_driving_log(folder).steering, [*map(float, STEERING), 0.25])


def test_a_log_of_a_header_alone_does_not_grow_and_one_of_blank_lines_does(tmp_path):
    (tmp_path / LOG_NAME).write_text(HEADER)
    with pytest.raises(ValueError, match="is there already, with a header"):
        DrivingLogWriter(tmp_path)
    (tmp_path / LOG_NAME).write_text("\n \n")
    with DrivingLogWriter(tmp_path) as writer:
        write(writer)
    assert len(read_driving_log(tmp_path)) == 1


def test_one_camera_may_be_written_alone(tmp_path):
    with DrivingLogWriter(tmp_path, cameras=["center"]) as writer:
        write(writer, cameras=["center"])
        with pytest.raises(ValueError, match="pictures of center, left, right; this log has center in every row"):
            write(writer)
    assert (tmp_path / LOG_NAME).read_text().split(",")[1:3] == ["", ""]
    assert list(read_driving_log(tmp_path).pictures) == ["center"]


def test_rows_of_other_cameras_are_not_added_to_a_log(tmp_path):
    with DrivingLogWriter(tmp_path) as writer:
        write(writer)
    before = (tmp_path / LOG_NAME).read_bytes()
    with pytest.raises(ValueError, match="with pictures of center, left, right; rows with pictures of center do not"):
        DrivingLogWriter(tmp_path, cameras=["center"])
    assert (tmp_path / LOG_NAME).read_bytes() == before


def test_nothing_is_added_to_a_log_with_a_header(tmp_path):
    (tmp_path / LOG_NAME).write_text("center,left,right,steering,throttle,brake,speed\nc.jpg,l.jpg,r.jpg,0,0,0,0\n")
    with pytest.raises(ValueError, match="is there already, with a header"):
        DrivingLogWriter(tmp_path)


def test_bytes_of_a_jpeg_are_written_as_they_came(tmp_path):
    jpeg = encode_jpeg(FRAME, 93)
    with DrivingLogWriter(tmp_path) as writer:
        write(writer, frame=jpeg)
    assert {path.read_bytes() for path in (tmp_path / "IMG").iterdir()} == {jpeg}


def test_rows_are_in_the_file_while_the_drive_goes_on(tmp_path):
    with DrivingLogWriter(tmp_path) as writer:
        for row in range(3):
            write(writer, row)
            assert len(read_driving_log(tmp_path)) == row + 1


def test_a_picture_that_cannot_be_written_is_no_row(tmp_path):
    with DrivingLogWriter(tmp_path) as writer:
        write(writer, 0)
        blocked = tmp_path / "IMG" / "right_2022_04_28_12_08_01_829.jpg"
        blocked.mkdir()
        with pytest.raises(OSError, match=blocked.name):
            write(writer, 1)
        assert writer.rows == 1 and len((tmp_path / LOG_NAME).read_text().splitlines()) == 1
        write(writer, 2)  # and it goes on
    assert len(read_driving_log(tmp_path)) == 2


def test_the_folder_may_get_another_name_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with DrivingLogWriter("partial", named="out", cameras=["center"]) as writer:
        write(writer, cameras=["center"])
    os.rename("partial", "out")
    (path,) = [row.split(",")[0] for row in Path("out", LOG_NAME).read_text().splitlines()]
    assert path == str(tmp_path / "out" / "IMG" / "center_2022_04_28_12_08_01_762.jpg") and os.path.isfile(path)


def test_paths_are_absolute_however_the_folder_was_named(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with DrivingLogWriter("../a folder, with commas") as writer:
        write(writer)
    log = read_driving_log(tmp_path / "a folder, with commas")
    text = (tmp_path / "a folder, with commas" / LOG_NAME).read_text()
    assert text.startswith(f'"{tmp_path}/a folder, with commas/IMG/center_') and len(log) == 1


@pytest.mark.parametrize("blocked", ["the folder is a file", "IMG is a file", "the log is a folder", "below a file"])
def test_a_log_that_cannot_be_written_is_an_error_at_once(tmp_path, blocked):
    out = tmp_path / "out"
    if blocked == "the folder is a file":
        out.write_text("mine")
    elif blocked == "below a file":
        (tmp_path / "file").write_text("mine")
        out = tmp_path / "file" / "out"
    else:
        (out / (LOG_NAME if "log" in blocked else "nothing")).mkdir(parents=True)
        if "IMG" in blocked:
            (out / "IMG").write_text("mine")
    with pytest.raises(OSError, match=str(tmp_path)):
        DrivingLogWriter(out)
