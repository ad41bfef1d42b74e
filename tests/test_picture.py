from __future__ import annotations

import io
import os
import struct
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from robostig.backend import mx
from robostig.picture import (
    decode_picture,
    encode_jpeg,
    encode_png,
    inspect_picture,
    measure_png,
    read_picture_bytes,
)

FRAME = np.full((16, 32, 3), (200, 100, 50), np.uint8)


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_picture_is_rgb(kind):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    picture = decode_picture(cv2.imencode(kind, red)[1].tobytes(), "red")
    assert picture.dtype == np.uint8 and np.abs(picture.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_file_is_read_whole(tmp_path, size):
    data = np.random.default_rng(0).bytes(size)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert read_picture_bytes(path) == read_picture_bytes(str(path)) == data


def test_what_has_no_size_of_its_own_is_read_to_its_end(tmp_path):
    data = np.random.default_rng(0).bytes(300_000)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert read_picture_bytes(tmp_path / "pipe") == data
    writer.join()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        read_picture_bytes(tmp_path)
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        read_picture_bytes(str(tmp_path / "missing.jpg"))
    assert caught.value.filename == str(tmp_path / "missing.jpg")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG RGB", "JPEG L", "JPEG CMYK", "PNG RGB", "PNG L", "PNG P", "PNG RGBA", "PNG 1"])
def test_a_picture_of_any_kind_is_what_opencv_makes_of_it(kind, orientation):
    form, mode = kind.split()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(data, form, exif=exif)
    expected = cv2.imdecode(np.frombuffer(data.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_picture(data.getvalue(), "noise"), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"GIF89a" * 20, "neither a JPEG"), (b"\xff\xd8\xff\xd9", "can be decoded")],
)
def test_what_is_no_picture_is_refused(data, message):
    with pytest.raises(ValueError, match=f"frame.jpg: .*{message}"):
        decode_picture(data, "frame.jpg")


def test_a_picture_that_promises_gigabytes_is_refused():
    data = bytearray(encode_jpeg(FRAME))
    size = data.index(b"\xff\xc0") + 5  # of the frame, in its header
    data[size : size + 4] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(ValueError, match="is no picture that can be decoded"):
        decode_picture(bytes(data), "frame.jpg")


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_files_fault_is_found_without_decoding_it(tmp_path, kind):
    path, data = tmp_path / "frame", cv2.imencode(kind, FRAME)[1].tobytes()
    faults = {
        data: None,
        data + bytes(1000): None,  # some cameras add to their pictures
        data[:-20]: f"is cut off: its {len(data) - 20:,} bytes do not end as a whole picture does",
        b"x" + data: "is neither a JPEG nor a PNG",
        b"": "is empty",
    }
    for content, fault in faults.items():
        path.write_bytes(content)
        assert inspect_picture(path) == fault


def test_a_jpeg_is_rgb_and_about_as_small_as_the_simulators():
    data = encode_jpeg(FRAME)
    assert data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9") and type(data) is bytes
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - FRAME).max() <= 4
    noise = np.random.default_rng(0).integers(0, 256, (160, 320, 3), np.uint8)
    assert len(encode_jpeg(noise, 30)) < len(encode_jpeg(noise)) < len(encode_jpeg(noise, 95))


@pytest.mark.parametrize("size", [(1, 1), (16, 32), (160, 320), (257, 85)])
def test_a_png_is_the_frame_itself_and_as_long_as_was_said(size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    data = encode_png(frame)
    np.testing.assert_array_equal(decode_picture(data, "frame"), frame)
    np.testing.assert_array_equal(mx.image.imdecode(data).asnumpy(), frame)  # where there is no OpenCV
    assert len(data) == measure_png(*size)
    assert encode_png(np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)) == data  # as HDF5 has them
