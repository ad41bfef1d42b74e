from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_manifest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from robostig.driving_log import Drive, pack_driving_log, read_driving_log, read_picture
from robostig.split import split_by_time

VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=8))
KEYS = ["_index", "_timestamp_ms", "_session_id", "cam/image_array", "user/angle", "user/mode", "user/throttle"]
RECORDS = st.dictionaries(st.sampled_from(KEYS), VALUES).map(json.dumps)
LINES = st.lists(st.one_of(RECORDS, VALUES.map(json.dumps), st.text(max_size=20)), max_size=5).map("\n".join)


def change(folder: Path, row: int, **values) -> None:
    """Change values of a record of a tub's first catalog; None takes one away."""
    path = folder / "catalog_0.catalog"
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[row]), **values}
    lines[row] = json.dumps({key: value for key, value in record.items() if value is not None})
    path.write_text("\n".join(lines) + "\n")


def test_a_tub_is_a_log(make_tub):
    folder = make_tub()
    log = read_driving_log(folder)
    assert (log.source, log.folder, log.format) == (folder / "manifest.json", folder, "donkeycar tub")
    np.testing.assert_allclose(log.steering, 0.8 * np.sin(np.arange(60) / 4.0), atol=1e-6)
    assert log.steering.dtype == np.float32 and set(log.throttle) == {0.5} and not log.brake.any()
    np.testing.assert_allclose(log.time_s, 1.7e9 + 0.05 * np.arange(60), atol=1e-3)
    assert list(log.pictures) == ["center"] and log.drives == (Drive("", 0),)
    assert [os.path.basename(each) for each in log.pictures["center"][:2]] == [
        "0_cam_image_array_.jpg",
        "1_cam_image_array_.jpg",
    ]
    assert read_picture(log.pictures["center"][59]).shape == (120, 160, 3)
    assert not log.skipped and not log.unused_pictures
    for name in ("manifest.json", "catalog_1.catalog"):
        assert read_driving_log(folder / name).fingerprint() == log.fingerprint()


def test_the_real_tub_is_read_as_its_readme_describes_it(tub, caplog):
    log = read_driving_log(tub)
    assert len(log) == 1000 and not log.skipped and not log.unused_pictures and log.drives == (Drive("", 0),)
    assert log.steering.min() == pytest.approx(-0.8566, abs=1e-4) and log.steering.max() == 1.0
    assert log.steering.mean() == pytest.approx(0.1605, abs=1e-4)
    assert 0.41 < log.throttle.min() < log.throttle.max() < 0.81
    assert read_picture(log.pictures["center"][999]).shape == (120, 160, 3)
    # It was converted: its stamps are those of a program that wrote 300 records a second.
    assert "3.0 ms apart" in caplog.messages[0] and "20 records a second are assumed" in caplog.messages[0]
    np.testing.assert_allclose(np.diff(log.time_s), 0.05, atol=1e-6)
    assert len(split_by_time(log).train) == 760


def test_deleted_records_and_those_of_a_pilot_are_left_out_and_counted(make_tub):
    folder = make_tub()
    write_manifest(folder, rows=60, catalogs=2, deleted=[*range(10, 40), 41])
    change(folder, 5, **{"user/mode": "local_angle"})
    (folder / "images" / "11_cam_image_array_.jpg").unlink()  # deleted ones need no picture
    log = read_driving_log(folder)
    assert len(log) == 60 - 31 - 1
    assert [(each.row, each.kind, each.log) for each in log.skipped[:2]] == [
        (6, "driven by a pilot", "catalog_0.catalog"),
        (11, "deleted record", "catalog_0.catalog"),
    ]
    assert (log.skipped[-1].row, log.skipped[-1].log) == (2, "catalog_1.catalog")
    assert "1 x driven by a pilot (row 6 of catalog_0.catalog); 31 x deleted record" in log.describe()
    assert np.flatnonzero(log.find_breaks()).tolist() == [0, 9] and not log.unused_pictures


def test_a_new_session_is_a_new_drive(make_tub):
    folder = make_tub()
    for row in range(20, 40):
        change(folder, row, _session_id="other")
    log = read_driving_log(folder)
    assert log.drives == (Drive("day_0", 0), Drive("other", 20), Drive("day_0 (2)", 40))
    assert np.flatnonzero(log.find_breaks()).tolist() == [0, 20, 40]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"user/angle": 1.5}, "steering out of range", r"steering is 1.5, outside -1\.\.1"),
        ({"user/angle": "left"}, "steering is no number", "user/angle is 'left', which is no number"),
        ({"user/angle": True}, "steering is no number", "user/angle is True"),
        ({"user/angle": None}, "steering is no number", "user/angle is None"),
        ({"user/angle": float("nan")}, "steering is not finite", "steering is nan, which is not finite"),
        ({"user/throttle": float("inf")}, "throttle is not finite", "throttle is inf"),
        ({"cam/image_array": "gone.jpg"}, "picture not found", r"there is no picture 'gone.jpg' in .*images"),
        ({"cam/image_array": None}, "no center picture named", "it names no picture"),
    ],
)
def test_a_bad_record_is_refused_or_left_out_and_counted(make_tub, values, kind, message):
    folder = make_tub()
    change(folder, 3, **values)
    error = FileNotFoundError if kind == "picture not found" else ValueError
    with pytest.raises(error, match=rf"tub/catalog_0.catalog, row 4: .*{message}.*--on-error skip"):
        read_driving_log(folder)
    log = read_driving_log(folder, on_error="skip")
    assert len(log) == 59 and [(each.row, each.kind) for each in log.skipped] == [(4, kind)]


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=LINES)
@example(text='{"user/angle": 0.0, "cam/image_array": "0_cam_image_array_.jpg", "_timestamp_ms": NaN, "_index": []}')
@example(text=f'{{"user/angle": 0.0, "cam/image_array": "0_cam_image_array_.jpg", "_index": {10**400}}}\n' * 2)
@example(text="[" * 5000)
def test_whatever_a_catalog_holds_is_read_or_refused(make_tub, text, tmp_path):
    folder = tmp_path / "tub" if (tmp_path / "tub").is_dir() else make_tub(2)
    (folder / "catalog_0.catalog").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        log = read_driving_log(folder, on_error="skip")
    except ValueError as error:
        assert "usable row" in str(error) or "is empty" in str(error)
    else:
        assert np.abs(log.steering).max() <= 1.0 and len(log.describe()) > 10
        assert len(log) + len(log.skipped) <= len(text.split("\n"))


def test_a_picture_that_is_cut_off_is_refused_or_left_out(make_tub):
    folder = make_tub()
    path = folder / "images" / "7_cam_image_array_.jpg"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"catalog_0\.catalog, row 8: the center picture .* is cut off"):
        read_driving_log(folder)
    assert [each.kind for each in read_driving_log(folder, on_error="skip").skipped] == ["center picture damaged"]


@pytest.mark.parametrize("cut", ["in a line", "between lines"])
def test_a_catalog_that_is_cut_is_reported(make_tub, caplog, cut):
    folder = make_tub()
    path = folder / "catalog_1.catalog"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10]) + (lines[10][:40] if cut == "in a line" else b""))
    if cut == "in a line":
        with pytest.raises(ValueError, match=r"catalog_1.catalog, row 11: it is no whole record in JSON \(Unterminat"):
            read_driving_log(folder)
    log = read_driving_log(folder, on_error="skip")
    assert len(log) == 50 and len(log.skipped) == (cut == "in a line")
    missing = 51 if cut == "in a line" else 50
    assert f"its catalogs have {missing} of the 60 records that it counts" in caplog.text


def test_what_macos_leaves_behind_is_not_looked_at(make_tub):
    folder = make_tub()
    for name in ("._catalog_0.catalog", "._manifest.json", "images/._0_cam_image_array_.jpg"):
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    log = read_driving_log(folder)
    assert len(log) == 60 and not log.unused_pictures
    assert read_driving_log(folder.parent).fingerprint() == log.fingerprint()


@pytest.mark.parametrize(
    ("manifest", "error", "message"),
    [
        (None, FileNotFoundError, "no manifest.json in .*tub, which has catalogs"),
        (b"", ValueError, "is no whole manifest of a donkeycar tub"),
        (b'["a"]\n{"paths": ["catalog_0', ValueError, "is no whole manifest"),
        (b'{"paths": 3, "deleted_indexes": [], "current_index": 0}', ValueError, "is no whole manifest"),
        (b'{"paths": [], "deleted_indexes": "x", "current_index": 0}', ValueError, "is no whole manifest"),
        (b"\xff\xfe", ValueError, "is no whole manifest"),
        (b'{"paths": [], "deleted_indexes": [Infinity], "current_index": 0}', ValueError, "is no whole manifest"),
        (b"[" * 5000, ValueError, "is no whole manifest"),
        (b'{"paths": ["../x"], "deleted_indexes": [], "current_index": 0}', FileNotFoundError, "no catalog '../x'"),
        (b'{"paths": ["catalog_9.catalog"], "deleted_indexes": [], "current_index": 0}', FileNotFoundError, "_9"),
        (b'{"paths": [], "deleted_indexes": [], "current_index": 0}', ValueError, "is empty; record a drive first"),
    ],
)
def test_a_manifest_that_is_no_use_is_refused(make_tub, manifest, error, message):
    folder = make_tub(5)
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(error, match=message):
        read_driving_log(folder)


def test_records_without_a_time_stamp_have_none(make_tub):
    folder = make_tub(5, _timestamp_ms=None)
    assert np.isnan(read_driving_log(folder).time_s).all()


def test_a_negative_throttle_is_braking(make_tub):
    log = read_driving_log(make_tub(5, **{"user/throttle": -0.25}))
    assert set(log.throttle) == {0.0} and set(log.brake) == {0.25}


def test_a_tub_of_old_is_read_too(make_tub):
    folder = make_tub(12)
    lines = (folder / "catalog_0.catalog").read_text().splitlines()
    old = folder.parent / "old"
    shutil.move(str(folder / "images"), str(old))
    for number, line in enumerate(lines):
        record = {key: value for key, value in json.loads(line).items() if not key.startswith("_")}
        (old / f"record_{number}.json").write_text(json.dumps({**record, "milliseconds": 50 * number}))
    (old / "meta.json").write_text(json.dumps({"inputs": [], "types": [], "start": 1.6e9}))
    log = read_driving_log(old)
    np.testing.assert_array_equal(
        log.steering, np.array([json.loads(line)["user/angle"] for line in lines], np.float32)
    )
    np.testing.assert_allclose(log.time_s, 1.6e9 + 0.05 * np.arange(12), atol=1e-3)
    for start in ("Infinity", 10**400, "[]"):
        (old / "meta.json").write_text(f'{{"start": {start}}}')
        assert np.isfinite(read_driving_log(old).time_s).all() == (start != "Infinity")
    (old / "record_3.json").write_text('{"user/ang')
    with pytest.raises(ValueError, match=r"old, row 3: it is no whole record .*record_3\.json"):
        read_driving_log(old)
    assert len(read_driving_log(old, on_error="skip")) == 11


def test_a_tub_is_packed(make_tub, tmp_path):
    folder = make_tub()
    write_manifest(folder, rows=60, catalogs=2, deleted=[3])
    log = read_driving_log(folder)
    pack_driving_log(log, tmp_path / "packed")
    again = read_driving_log(tmp_path / "packed")
    assert (again.fingerprint(), again.skipped) == (log.fingerprint(), log.skipped)
    assert again.format == "packed donkeycar tub"
    np.testing.assert_array_equal(again.time_s, log.time_s)
