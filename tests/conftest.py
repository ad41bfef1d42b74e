"""What the tests share: the real recording where it is at hand, and small drives drawn on the spot."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Sequence, Tuple

import cv2
import numpy as np
import pytest

from robostig.frame_cache import default_cache_folder

if TYPE_CHECKING:
    from robostig.container import Environment

ROOT = Path(__file__).resolve().parents[1]
# Nobody's credentials, and none of the machine's.
DUMMY_AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
CONTAINERS = default_cache_folder() / "containers"
# What takes longest, by the beginning of its path, the longest first.
LONG = (
    "tests/notebooks/",
    "tests/integration/test_sagemaker",
    "tests/local/",
    "tests/test_tuning",
    "tests/integration/",
    "tests/container/",
    "tests/cli/",
    "tests/driving/",
    "tests/test_entry_point",
)


in_container = pytest.mark.default_python("what it starts has a Python 3.8 of its own")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``make test`` say that the default Python has run the tests before."""
    parser.addoption("--again", action="store_true", help="skip what is marked default_python: it has been run before")


def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    """Skip what need not run again, and give time to tests that may have to build an environment, or to wait for it."""
    for item in items:
        if {"training_environment", "serving_environment"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(900))
        once = item.get_closest_marker("default_python")
        if once and config.getoption("again"):
            item.add_marker(pytest.mark.skip(reason=f"run by the default Python alone: {once.args[0]}"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out the files that take long before those with many tests, lest all wait for one of them at the end."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LongFirst(LoadFileScheduling):
        def _assign_work_unit(self, node: Any) -> None:
            ranks = {file: [file.startswith(name) for name in (*LONG, "")].index(True) for file in self.workqueue}
            self.workqueue.move_to_end(min(ranks, key=ranks.__getitem__), last=False)
            super()._assign_work_unit(node)

    return LongFirst(config, log)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded frames out of the user's cache; all tests of a worker share one, however full the disk is.

    The containers' environments stay in the user's: they take minutes to build, and never change.
    """
    folder = tmp_path_factory.getbasetemp() / "frames"
    monkeypatch.setenv("ROBOSTIG_CACHE", str(folder))
    monkeypatch.setattr("robostig.frame_cache.FREE_DISK_GB", 0.0)
    if not folder.is_dir():
        folder.mkdir()
        CONTAINERS.mkdir(parents=True, exist_ok=True)
        (folder / CONTAINERS.name).symlink_to(CONTAINERS)


@pytest.fixture(scope="session")
def training_environment() -> Environment:
    """Return the Python environment of SageMaker's training image, built once and kept in the user's cache."""
    return _find_environment("training")


@pytest.fixture(scope="session")
def serving_environment() -> Environment:
    """Return the Python environment of SageMaker's inference image, built once and kept in the user's cache."""
    return _find_environment("serving")


def _find_environment(kind: str) -> Environment:
    from robostig.container import NotAvailableError, find_environment

    try:
        return find_environment(kind)
    except NotAvailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def lake() -> Path:
    """Return the folder of the real recording."""
    folder = Path(os.environ.get("ROBOSTIG_DATA") or ROOT.parent / "shared" / "data" / "lake")
    if not (folder / "driving_log.csv").is_file():
        pytest.skip(f"no recording in {folder}: set ROBOSTIG_DATA to a folder with a driving_log.csv")
    return folder


@pytest.fixture(scope="session")
def tub() -> Path:
    """Return the folder of the real donkey car's recording."""
    folder = ROOT.parent / "shared" / "data" / "donkeycar_tub"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no recording of a donkey car in {folder}")
    return folder


def draw_road(steering: float, *, offset: float = 0.0, height: int = 160, width: int = 320) -> np.ndarray:
    """Draw a road that bends by ``steering``, seen from ``offset`` (share of the width) beside it: RGB, uint8."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[: height // 3] = (120, 170, 220)
    frame[height // 3 :] = (90, 140, 60)
    rows = np.arange(height // 3, height)
    nearness = (rows - height // 3) / (height - height // 3)
    middle = width * (0.5 - offset * nearness + 0.5 * steering * (1 - nearness) ** 2)
    for row, center, near in zip(rows, middle, nearness):
        half = width * (0.03 + 0.3 * near)
        left, right = (int(np.clip(center + side * half, 0, width)) for side in (-1, 1))
        frame[row, left:right] = (100, 100, 105)
        frame[row, max(0, left - 2) : left + 2] = (230, 230, 230)
        frame[row, max(0, right - 2) : right + 2] = (230, 230, 230)
    return frame


def log_in_to_aws(patch: pytest.MonkeyPatch) -> None:
    """Put :data:`DUMMY_AWS` in place of the machine's variables."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in DUMMY_AWS.items():
        patch.setenv(name, value)


@pytest.fixture
def dummy_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log in to AWS with nobody's credentials; only this machine can be reached."""
    log_in_to_aws(monkeypatch)
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (None, "localhost", "127.0.0.1", "::1"):
            raise socket.gaierror(f"the tests do not go to {host}")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


def find_ports() -> int:
    """Find two free ports beside each other, and return the first."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def make_recording(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small drive as the simulator does, and returns its folder."""

    def make(
        rows: int = 60, *, name: str = "recording", size: tuple = (160, 320), seed: int = 0, hz: float = 15.0
    ) -> Path:
        folder = tmp_path / name
        (folder / "IMG").mkdir(parents=True)
        generator = np.random.default_rng(seed)
        lines = []
        for row in range(rows):
            steering = 0.5 * float(np.sin(row / 4.0)) + float(generator.normal(0, 0.01))
            clock = datetime(2022, 4, 28, 15, 48) + timedelta(milliseconds=round(row * 1000.0 / hz))
            stamp = f"{clock:%Y_%m_%d_%H_%M_%S}_{clock.microsecond // 1000:03d}"
            names = []
            for camera, offset in (("center", 0.0), ("left", -0.1), ("right", 0.1)):
                picture = f"{camera}_{stamp}.jpg"
                frame = draw_road(steering, offset=offset, height=size[0], width=size[1])
                cv2.imwrite(str(folder / "IMG" / picture), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                names.append(f"/Users/somebody/Desktop/{name}/IMG/{picture}")
            lines.append(",".join([*names, f"{steering:.7g}", "0.5", "0", "30.19027"]))
        (folder / "driving_log.csv").write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture
def make_tub(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small drive as donkeycar does, and returns its folder."""

    def make(rows: int = 60, *, name: str = "tub", seed: int = 0, catalog_rows: int = 40, **more: Any) -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        start = 1700000000 + 1000 * seed
        lines = []
        for row in range(rows):
            angle, picture = 0.8 * float(np.sin(row / 4.0 + seed)), f"{row}_cam_image_array_.jpg"
            frame = cv2.cvtColor(draw_road(angle, height=120, width=160), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / "images" / picture), frame)
            record = {"_index": row, "_session_id": f"day_{seed}", "_timestamp_ms": 1000 * start + 50 * row}
            record.update({"cam/image_array": picture, "user/angle": angle, "user/mode": "user", "user/throttle": 0.5})
            lines.append(json.dumps({**record, **more}, sort_keys=True) + "\r\n")
        catalogs = [lines[first : first + catalog_rows] for first in range(0, rows, catalog_rows)]
        for number, catalog in enumerate(catalogs):
            (folder / f"catalog_{number}.catalog").write_bytes("".join(catalog).encode())
        write_manifest(folder, rows=rows, catalogs=len(catalogs))
        return folder

    return make


def write_manifest(folder: Path, *, rows: int, catalogs: int = 1, deleted: Sequence[int] = ()) -> None:
    """Write the manifest of a tub."""
    paths = [f"catalog_{number}.catalog" for number in range(catalogs)]
    last = {"paths": paths, "current_index": rows, "max_len": 40, "deleted_indexes": list(deleted)}
    values = [["cam/image_array", "user/angle"], ["image_array", "float"], {}, {"created_at": 1.7e9}, last]
    (folder / "manifest.json").write_bytes("".join(json.dumps(value) + "\r\n" for value in values).encode())


@pytest.fixture
def make_comma_drive(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small drive as comma.ai's research data has it, and returns the folder."""

    def make(
        frames: int = 40, *, name: str = "comma", date: str = "2016-06-08--11-46-01", seed: int = 0, **more: Any
    ) -> Path:
        import h5py

        pictures = [draw_road(0.3 * float(np.sin(number / 8.0 + seed))) for number in range(frames)]
        samples = np.arange(5 * frames)  # 100 Hz beside 20 Hz
        log = {
            "cam1_ptr": samples // 5,
            "steering_angle": 150.0 * np.sin(samples / 40.0 + seed),
            "speed": np.full(len(samples), 20.0),
            "times": 3.5e5 + samples / 100.0,
            **more,
        }
        for place, arrays in (("camera", {"X": np.stack(pictures).transpose(0, 3, 1, 2)}), ("log", log)):
            (tmp_path / name / place).mkdir(parents=True, exist_ok=True)
            with h5py.File(tmp_path / name / place / f"{date}.h5", "w") as file:
                for key, values in arrays.items():
                    if values is not None:
                        file[key] = values
        return tmp_path / name

    return make


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put two models that train in no time, tiny1 and tiny2, in place of the zoo's, for the length of a test."""
    from robostig.backend import mx
    from robostig.models import register, registry
    from robostig.preprocessing import InputSpec

    nn = mx.gluon.nn
    monkeypatch.setattr(registry, "_MODELS", {})

    class Tiny(nn.HybridSequential):
        """A line through pixels."""

        def __init__(self, name: str) -> None:
            super().__init__(prefix=f"{name}_")
            with self.name_scope():
                self.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0), nn.Flatten(), nn.Dense(1))

    for name in ("tiny1", "tiny2"):

        def build(name: str = name) -> Tiny:
            """Build a small model."""
            return Tiny(name)

        register(name, input=InputSpec(6, 12), parameters=217, reference="none")(build)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Tuple[int, str, str]]:
    """Return a function that runs a command in an empty folder and returns status, stdout and stderr."""
    from robostig.cli import main

    monkeypatch.chdir(tmp_path)

    def run_command(*words: Any) -> Tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse's way out
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run_command


@pytest.fixture
def exportable(tmp_path: Path) -> Path:
    """Return the artifact of a model that can be exported, and has no convolutions."""
    from robostig.artifact import save_artifact
    from robostig.backend import mx
    from robostig.preprocessing import InputSpec

    nn = mx.gluon.nn
    net = nn.HybridSequential(prefix="mine_")
    with net.name_scope():
        net.add(nn.Dense(1))
    net.initialize()
    net(mx.nd.zeros((1, 3, 4, 8)))
    return save_artifact(tmp_path / "mine", net, InputSpec(4, 8), {"model": "mine"})
