from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from robostig._files import describe_error, fill_folder, make_folder, replace_file


def test_a_file_is_replaced_when_all_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replace_file(path, "w") as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [each.name for each in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replace_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replace_file(tmp_path / "pipe") as file:
            file.write(b"whole")
        assert os.read(reader, 10) == b"whole" and (tmp_path / "pipe").is_fifo()
    finally:
        os.close(reader)
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "file"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=f"{path} cannot be written") as caught, replace_file(path) as file:
            file.write(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG and list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file; name a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError, match="cannot write to"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "new" / "folder").is_dir()


def test_a_folder_gets_its_name_when_all_is_written(tmp_path):
    with fill_folder(tmp_path / "new" / "out") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("all")
        assert folder.parent == tmp_path / "new" and not (tmp_path / "new" / "out").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert (tmp_path / "new" / "out" / "below" / "file").read_text() == "all"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit, OSError])
def test_a_folder_that_was_not_finished_is_not_there(tmp_path, error):
    with pytest.raises(error), fill_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path / 'out'} is there already; name another"), fill_folder(
        tmp_path / "out"
    ):
        pytest.fail("the block is not entered")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_a_folder_that_was_filled_by_somebody_else_meanwhile_is_not_touched(tmp_path):
    with pytest.raises(OSError), fill_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("theirs")
    assert (tmp_path / "out" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_no_folder_to_fill(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"file"), fill_folder(path):
            pytest.fail("the block is not entered")
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_where_nobody_may_write_no_folder_is_filled():
    with pytest.raises(OSError, match="cannot write to /proc"), fill_folder("/proc/robostig"):
        pytest.fail("the block is not entered")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_filled_folder_is_for_those_whom_the_umask_lets(tmp_path, umask):
    before = os.umask(umask)
    try:
        with fill_folder(tmp_path / "out"):
            assert os.umask(umask) == umask  # it is not changed
        (tmp_path / "like").mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "like").stat().st_mode


@pytest.mark.parametrize("place", ["an empty folder", "a link to an empty folder", "the folder that one is in"])
def test_a_folder_that_is_there_and_empty_is_filled(tmp_path, place, monkeypatch):
    """Or refused before anything is recorded; but not after."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out"
    if place == "a link to an empty folder":
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "out")
    elif place == "the folder that one is in":
        monkeypatch.chdir(path)
        path = Path(".")
    entered = False
    try:
        with fill_folder(path) as folder:
            entered = True
            (folder / "file").write_text("all")
    except OSError:
        assert not entered
    else:
        assert (tmp_path / "out" / "file").read_text() == "all"


def test_two_may_fill_the_same_name_and_one_of_them_wins(tmp_path):
    with pytest.raises(OSError), fill_folder(tmp_path / "out") as slow:
        (slow / "file").write_text("slow")
        with fill_folder(tmp_path / "out") as quick:
            assert quick != slow
            (quick / "file").write_text("quick")
    assert (tmp_path / "out" / "file").read_text() == "quick" and len(list(tmp_path.iterdir())) == 1


def test_an_error_is_described_without_pythons_number_but_with_the_file_that_it_is_about(tmp_path):
    assert (
        describe_error(OSError(28, "out/model cannot be written: it is full"))
        == "out/model cannot be written: it is full"
    )
    assert describe_error(ValueError("epochs is 0")) == "epochs is 0"
    with pytest.raises(OSError) as caught:
        (tmp_path / "none").read_text()
    assert describe_error(caught.value) == f"{tmp_path / 'none'}: No such file or directory"
