from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
from conftest import draw_road
from raw_simulator import BINARY, WS_PING, WS_PONG, RawSimulator, ServerThread, write_telemetry

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.driving import lookout
from robostig.driving.driver import decode_jpeg
from robostig.driving.server import DrivingServer
from robostig.driving_log import DrivingLogWriter, read_driving_log, read_picture
from robostig.models import get_model, get_spec
from robostig.picture import encode_jpeg
from robostig.pilot import Pilot

GOOD = write_telemetry(draw_road(0.3))


def steer_by_brightness(frame: np.ndarray) -> float:
    """Steer so that a test can tell what was seen."""
    return float(frame[-1].mean()) / 255.0


def expect(frame: np.ndarray) -> float:
    return steer_by_brightness(decode_jpeg(encode_jpeg(frame)))


@pytest.fixture
def server():
    with ServerThread(DrivingServer(steer_by_brightness, name="brightness")) as running:
        yield running


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    mx.random.seed(3)
    net = get_model("nvidia")
    net.initialize(mx.init.Xavier())
    folder = tmp_path_factory.mktemp("nvidia")
    return save_artifact(folder, net, get_spec("nvidia").input, {"model": "nvidia"})


def test_the_simulator_is_welcomed_and_both_first_reports_are_answered(server):
    with RawSimulator(server.port) as car:
        assert car.status == 101
        car.send(GOOD)  # at the open socket
        assert car.receive().startswith('0{"sid":"')
        car.send(GOOD)  # at the welcome
        assert car.receive() == "40"
        (event, first), (event_again, second) = car.await_event(), car.await_event()
        assert event == event_again == "steer"
        # The throttle may differ: a second report that comes after the first one's answer is a frame of its own.
        assert first["steering_angle"] == second["steering_angle"]
        for _ in range(3):  # from now on, two reports of each moment
            car.send(GOOD)
            car.send(GOOD)
            assert car.await_event()[0] == car.await_event()[0] == "steer"


def test_what_was_reported_twice_at_once_is_driven_once():
    hold = threading.Event()
    seen = []

    def steer(frame):
        if frame.any():
            seen.append(frame)
            hold.wait(10)
        return 0.1

    with ServerThread(DrivingServer(steer)) as server, RawSimulator(server.port) as car:
        car.send(GOOD)
        car.send(GOOD)
        car.send("2")
        while car.receive() != "3":  # then both have been read
            pass
        hold.set()
        assert car.await_event() == car.await_event()
        assert len(seen) == server.server.frames == 1
        for count in (2, 3):  # the same picture again, after the answer: the car stands, and is driven
            car.ask(GOOD)
            assert len(seen) == count


def test_real_frames_are_steered_as_the_pilot_steers_them(artifact, lake):
    pilot = Pilot.load(artifact)
    log = read_driving_log(lake)
    with ServerThread(DrivingServer(pilot.steer)) as server, RawSimulator(server.port) as car:
        for row in range(0, 400, 20):
            path = log.pictures["center"][row]
            with open(path, "rb") as file:
                steering, _ = car.ask(write_telemetry(file.read()))
            assert steering == pytest.approx(pilot.steer(read_picture(path)), abs=2e-6)


def test_pings_of_the_socket_s_own_are_answered(server):
    with RawSimulator(server.port) as car:
        assert [car.receive()[:2], car.receive()] == ["0{", "40"]
        car.send(b"hello", WS_PING)
        car.send(b"", WS_PONG)
        while b"hello" not in car.buffer:
            car._read_more()
        car.buffer = b""
        assert car.ask(GOOD)[1] > 0


def test_pings_are_answered_while_the_model_thinks():
    hold = threading.Event()
    server = DrivingServer(lambda frame: hold.wait(10) * 0.5 if frame.any() else 0.0)
    with ServerThread(server) as running, RawSimulator(running.port) as car:
        assert [car.receive()[:2], car.receive()] == ["0{", "40"]
        car.send("2")
        assert car.receive() == "3"
        car.send(GOOD)
        car.send("2")
        assert car.receive() == "3"
        hold.set()
        assert car.await_event()[1]["steering_angle"] == "0.500000"


@pytest.mark.parametrize("message", ['42["telemetry",null]', '42["telemetry",{}]', '42["telemetry"]'])
def test_a_human_who_drives_is_left_alone(server, message):
    with RawSimulator(server.port) as car:
        first = car.ask(GOOD)
        for _ in range(3):
            car.send(message)
            assert car.await_event() == ("manual", {})
        assert server.server.describe()["who"] == "manual" and server.server.frames == 1
        assert car.ask(GOOD)[0] == first[0]


def test_numbers_with_decimal_commas_are_understood_and_answered_in_kind(server):
    with RawSimulator(server.port) as car:
        car.ask(write_telemetry(draw_road(0.3), speed="28,5000", steering="-1,2500", throttle="0,5000"))
        assert server.server.describe()["speed_mph"] == 28.5
        car.send(write_telemetry(draw_road(0.3), speed="28,5000", steering="-1,2500", throttle="0,5000"))
        _, payload = car.await_event()
        # A machine that writes commas reads "0.5" as 5; this it reads as everybody does.
        assert all("." not in text and "," not in text for text in payload.values())
        assert float(payload["steering_angle"]) == pytest.approx(expect(draw_road(0.3)), abs=1e-5)
        assert float(payload["throttle"]) < 0


JPEG = encode_jpeg(draw_road(0.0))
HUGE = JPEG.replace(struct.pack(">HH", 160, 320), struct.pack(">HH", 60000, 60000), 1)
BAD = {
    "broken base64": write_telemetry(image="/9j/4AAQSkZJRg*"),
    "base64 of the wrong length": write_telemetry(image="/9j/4"),
    "base64 beyond ASCII": write_telemetry(image="ä" * 8),
    "no picture in it": write_telemetry(b"hello"),
    "a JPEG cut off": write_telemetry(JPEG[: len(JPEG) // 2]),
    "a JPEG of rubbish": write_telemetry(JPEG[:300] + bytes(300) + b"\xff\xd9"),
    "a JPEG's ends alone": write_telemetry(b"\xff\xd8\xff\xd9"),
    "a JPEG of gigabytes": write_telemetry(HUGE),
    "an empty picture": write_telemetry(image=""),
    "no picture": '42["telemetry",{"steering_angle":"0","throttle":"0","speed":"10"}]',
    "a picture of null": '42["telemetry",{"image":null}]',
    "a list": '42["telemetry",["a"]]',
    "a text": '42["telemetry","a"]',
    "an unknown event": '42["fly",{"height":"3"}]',
    "an event without a name": "42[{}]",
    "malformed JSON": '42["telemetry",{"image":',
    "deep JSON": "42" + "[" * 100_000,
    "an unknown packet": "9hello",
    "an empty message": "",
    "a megabyte of rubbish": "x" * (1 << 20),
    "a megabyte of a ping": "2" * (1 << 20),
    "a megabyte of base64": write_telemetry(image="/9j/" + "A" * (1 << 20)),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_bad_message_is_answered_with_the_last_steering_and_less_speed(server, message):
    with RawSimulator(server.port) as car:
        steering, throttle = car.ask(GOOD)
        assert throttle > 0
        for _ in range(2):
            blind = car.ask(message)
            assert blind[0] == steering and blind[1] <= 0
        assert car.ask(GOOD)[0] == steering
        state = server.server.describe()
        assert state["blind"] == 2 and state["warning"]["count"] == 2 and len(state["warning"]["text"]) < 300


def test_a_binary_message_is_answered_too(server):
    with RawSimulator(server.port) as car:
        assert car.ask(b"\x00\xff" * 100, BINARY) == (0.0, 0.0)
        assert car.ask(GOOD)[1] > 0


def test_missing_numbers_do_not_keep_the_car_from_being_driven(server):
    image = base64.b64encode(JPEG).decode()
    with RawSimulator(server.port) as car:
        steering, _ = car.ask(write_telemetry(JPEG, speed="29.0000"))
        for message in (f'42["telemetry",{{"image":"{image}"}}]', write_telemetry(JPEG, speed="NaN", throttle="")):
            assert car.ask(message) == (steering, pytest.approx(-1.0, abs=0.4))  # the last speed counts


@pytest.mark.parametrize("size", [(80, 160), (1, 1), (480, 640), (1200, 1600)])
def test_a_picture_of_another_size_is_driven_as_well(server, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frame = noise if size[0] == 1200 else cv2.resize(noise, size[::-1])
    with RawSimulator(server.port) as car:
        message = write_telemetry(frame)
        assert len(message) > 1 << 20 or size[0] != 1200
        assert car.ask(message)[0] == pytest.approx(expect(frame), abs=1e-5)


@pytest.mark.parametrize(
    "fault", [float("nan"), float("inf"), None, "left", ValueError("no"), OSError("gone\n" * 9), KeyError()]
)
def test_whatever_a_model_does_the_car_gets_its_answer(fault, caplog):
    broken = False

    def steer(frame):
        if broken and isinstance(fault, Exception):
            raise fault
        return fault if broken else 0.25

    with ServerThread(DrivingServer(steer)) as server, RawSimulator(server.port) as car:
        assert car.ask(GOOD)[0] == 0.25
        broken = True
        throttles = []
        with caplog.at_level(logging.WARNING):
            for _ in range(60):
                steering, throttle = car.ask(write_telemetry(draw_road(0.1), speed="14.0000"))
                assert steering == 0.25
                throttles.append(throttle)
        assert throttles[0] <= 0 and throttles[-1] < -0.5 and sorted(throttles, reverse=True) == throttles
        (warning,) = [record.message for record in caplog.records if "blind" in record.message]  # not 15 a second
        assert warning.startswith("driving blind: ") and "\n" not in warning
        broken = False
        assert car.ask(GOOD)[1] > 0
        assert server.server.blind == 60 and "60 frames driven blind" in server.server.summarize()


def test_a_model_that_hangs_does_not_stop_the_car(monkeypatch):
    monkeypatch.setattr(lookout, "PATIENCE_S", 0.15)
    hold = threading.Event()
    slow = False
    server = DrivingServer(lambda frame: hold.wait(20) * 0.5 if slow else 0.25)
    with ServerThread(server) as running, RawSimulator(running.port) as car:
        assert car.ask(GOOD)[0] == 0.25
        slow = True
        started = time.monotonic()
        answers = [car.ask(GOOD) for _ in range(20)]
        assert all(steering == 0.25 and throttle <= 0 for steering, throttle in answers)
        assert time.monotonic() - started < 5  # it is waited for once
        hold.set()
        while car.ask(GOOD)[0] == 0.25:
            assert time.monotonic() - started < 20
        assert car.ask(GOOD)[0] == 0.5


def test_a_simulator_that_breaks_off_can_connect_again(server):
    for goodbye in (b"\x81\x85\x00\x00\x00\x00\xff\xfe\xfd\xfc\xfb", b"\xff\xff\xff\xff", b""):  # no UTF-8, no frame
        with RawSimulator(server.port) as car:
            car.ask(GOOD)
            car.socket.sendall(goodbye)
            if goodbye:
                with pytest.raises(ConnectionError):
                    while True:
                        car.receive()
    with RawSimulator(server.port) as car:
        car.ask(GOOD)
        with pytest.raises(ConnectionError):
            car.send("x" * (5 << 20))  # more than any picture: the server hangs up
            while True:
                car.receive()
    with RawSimulator(server.port) as car:
        assert car.ask(GOOD)[0] == pytest.approx(expect(draw_road(0.3)), abs=1e-5)
        car.send("41")
        car.send("1")
        with pytest.raises(ConnectionError):
            car.receive(), car.receive(), car.receive()
    assert server.server.frames == 5


def test_of_several_simulators_each_is_driven_and_the_newest_is_shown(server, tmp_path):
    with RawSimulator(server.port) as first:
        bright, dark = (
            write_telemetry(np.full((160, 320, 3), 200, np.uint8)),
            write_telemetry(np.zeros((160, 320, 3), np.uint8)),
        )
        assert first.ask(bright)[0] == pytest.approx(200 / 255, abs=0.01)
        with RawSimulator(server.port) as second:
            assert second.ask(dark)[0] == pytest.approx(0, abs=0.01)
            assert first.ask(bright)[0] == pytest.approx(200 / 255, abs=0.01)
            state = server.server.describe()
            assert state["simulators"] == 2 and state["steering"] == pytest.approx(0, abs=0.01)
            assert "2 simulators" in state["warning"]["text"]
            second.send("1")
            with pytest.raises(ConnectionError):
                while True:
                    second.receive()
        first.ask(bright)
        assert server.server.describe()["steering"] == pytest.approx(200 / 255, abs=0.01)


def test_what_was_recorded_can_be_read_and_trained_on_again(tmp_path):
    frames = [draw_road(angle) for angle in np.linspace(-0.5, 0.5, 12)]
    for _ in range(2):  # the second drive goes on with the first one's log
        server = DrivingServer(steer_by_brightness, record=tmp_path / "driven")
        with ServerThread(server) as running, RawSimulator(running.port) as car:
            answers = [car.ask(write_telemetry(frame, speed="28.0000")) for frame in frames]
            car.ask(write_telemetry(b"broken"))
            car.send('42["telemetry",null]')
            car.await_event()
        assert "12 rows recorded" in server.summarize()
    log = read_driving_log(tmp_path / "driven")
    assert len(log) == 24 and not log.skipped and not log.unused_pictures
    assert log.steering[12:] == pytest.approx([steering for steering, _ in answers], abs=1e-5)
    assert log.brake[12:] == pytest.approx([max(0, -throttle) for _, throttle in answers], abs=1e-5)
    assert log.speed_mph == pytest.approx([28.0] * 24)
    # A frame is a fifteenth of a second, however quickly it comes; the second drive begins after the first.
    assert (np.diff(log.time_s) > 1 / 15 - 0.002).all() and len(set(log.pictures["center"])) == 24
    assert not log.find_breaks()[1:12].any()
    for path, frame in zip(log.pictures["center"][12:], frames):
        with open(path, "rb") as file:
            assert file.read() == encode_jpeg(frame)


def test_a_disk_that_takes_nothing_does_not_stop_the_car(tmp_path, caplog):
    server = DrivingServer(steer_by_brightness, record=tmp_path / "driven")
    with ServerThread(server) as running, RawSimulator(running.port) as car:
        shutil.rmtree(tmp_path / "driven" / "IMG")
        for _ in range(30):
            car.ask(GOOD)
        wait_for(lambda: server.describe()["recording"]["fault"])
        (tmp_path / "driven" / "IMG").mkdir()
        wait_for(lambda: car.ask(GOOD) and not server.describe()["recording"]["fault"])
    first, *others = [record.message for record in caplog.records if "not recorded" in record.message]
    assert "No such file" in first and len(others) == 1 and "more of this kind" in others[0]
    assert 1 <= len(read_driving_log(tmp_path / "driven")) < 30 < server.frames


def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file"), ServerThread(
        DrivingServer(lambda frame: 0.0, record=tmp_path / "file")
    ):
        pass


@pytest.mark.parametrize("kind", ["header", "cameras"])
def test_a_log_that_cannot_be_gone_on_with_is_said_at_once_and_left_alone(artifact, tmp_path, capsys, kind):
    from robostig.cli import main

    with DrivingLogWriter(tmp_path) as writer:
        pictures = dict.fromkeys(("center", "left", "right"), JPEG)
        writer.write(pictures, steering=0.0, throttle=0.0, brake=0.0, speed_mph=0.0, time_s=1.0)
    log = tmp_path / "driving_log.csv"
    if kind == "header":
        log.write_text("center,left,right,steering,throttle,brake,speed\n" + log.read_text())
    before = log.read_text()
    assert main(["drive", str(artifact), "--port", "0", "--record", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("robostig drive: ") and err.count("\n") == 1 and str(tmp_path) in err
    assert log.read_text() == before


def test_a_model_that_answers_no_number_is_never_announced(tmp_path, capsys):
    from robostig.cli import main

    net = get_model("nvidia")
    net.initialize(mx.init.Constant(float("nan")))
    folder = save_artifact(tmp_path, net, get_spec("nvidia").input, {"model": "nvidia"})
    assert main(["drive", str(folder), "--port", "0"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "the model answered nan" in err and "train it again" in err


def test_faults_are_counted_by_their_kind_and_none_is_lost(caplog):
    with ServerThread(DrivingServer(steer_by_brightness)) as server, RawSimulator(server.port) as car:
        for count in range(4):
            car.ask(write_telemetry(b"no JPEG" * (count + 1)))
            car.ask(write_telemetry(JPEG[:500]))
            car.ask("9hello")
        logged = [record.message for record in caplog.records if "blind" in record.message]
        assert len(logged) == 3 and ["no JPEG" in logged[0], "cut off" in logged[1], "no event" in logged[2]] == [
            1,
            1,
            1,
        ]
        assert "more of this kind" not in "".join(logged)
    logged = [record.message for record in caplog.records if "blind" in record.message][3:]
    assert len(logged) == 3 and all("the last of 3 more of this kind" in text for text in logged)


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def fetch(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_a_client_that_wants_to_poll_is_told_what_to_do(server):
    status, _, body = fetch(server.port, "/socket.io/?EIO=3&transport=polling")
    assert status == 400 and "WebSocket" in json.loads(body)["message"]


@pytest.mark.parametrize("path", ["/socket.io/?EIO=3&transport=websocket", "/socket.io/", "/socket.io?EIO=99&x=y"])
def test_any_query_will_do(server, path):
    with RawSimulator(server.port, path=path) as car:
        assert car.status == 101 and car.ask(GOOD)


def test_the_page_is_one_file_that_may_load_nothing(server):
    status, headers, page = fetch(server.port, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "unsafe-inline'; img" in policy
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("https:", "")
    assert fetch(server.port, "/nothing")[0] == 404


def test_the_page_s_socket_tells_what_happens(server):
    with RawSimulator(server.port, path="/live") as page:
        state = json.loads(page.receive())
        assert state["who"] == "nobody" and state["name"] == "brightness" and state["image"] is None
        with RawSimulator(server.port) as car:
            steering, _ = car.ask(write_telemetry(JPEG, speed="12.5000"))
            while state["who"] != "model" or state["frames"] < 1:
                state.update(json.loads(page.receive()))
        assert state["steering"] == pytest.approx(steering, abs=1e-5) and state["speed_mph"] == 12.5
        assert base64.b64decode(state["image"]) == JPEG
        assert state["model_ms"] < state["answer_ms"] < 1000
        while state["who"] != "nobody":
            state.update(json.loads(page.receive()))
    assert json.loads(fetch(server.port, "/live")[2])["frames"] == 1  # for scripts


def test_other_sites_may_not_look_in(server):
    for path in ("/live", "/socket.io/?EIO=4&transport=websocket"):
        for origin, status in ((f"http://127.0.0.1:{server.port}", 101), ("http://example.org", 403), ("null", 403)):
            with RawSimulator(server.port, path=path, headers=[f"Origin: {origin}"]) as client:
                assert client.status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 101),
        ("localhost", 101),
        ("LocalHost", 101),
        ("[::1]", 101),
        ("192.168.1.7", 101),
        ("attacker.example", 403),  # a name that its owner has made to lead here
        ("127.0.0.1.attacker.example", 403),
        ("[::1", 403),
    ],
)
@pytest.mark.parametrize("path", ["/live", "/socket.io/?EIO=4&transport=websocket"])
def test_the_server_is_asked_by_its_own_name_only(server, host, status, path):
    headers = [f"Origin: http://{host}:{server.port}"]
    with RawSimulator(server.port, path=path, headers=headers, host=host) as client:
        assert client.status in (status, 400 if host == "[::1" else status)


def test_the_name_that_it_was_told_is_its_own_as_well():
    from robostig.driving.server import _is_own_name

    assert _is_own_name("Car.local:4567", "car.local") and not _is_own_name("car.local:4567", "0.0.0.0")


@pytest.mark.parametrize("path", ["/live", "/socket.io/?EIO=4&transport=websocket"])
def test_there_is_room_for_sixteen(server, path):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawSimulator(server.port, path=path)) for _ in range(17)]
        assert [client.status for client in clients] == [101] * 16 + [503]
        assert b"16 " in clients[-1].buffer or b"16 " in clients[-1].socket.recv(1000)
        clients[0].send("1") if "socket.io" in path else clients[0].socket.close()
        wait_for(lambda: RawSimulator(server.port, path=path).status == 101)


def test_after_a_fault_of_its_own_the_server_hangs_up_so_that_the_simulator_connects_again(tmp_path, caplog):
    server = DrivingServer(steer_by_brightness, record=tmp_path / "driven")
    with ServerThread(server) as running, RawSimulator(running.port) as car:
        car.ask(GOOD)
        server.recorder.close()  # then it takes no more rows
        with pytest.raises(ConnectionError):
            for _ in range(3):
                car.ask(GOOD)
        wait_for(lambda: any("fault of the server's own" in record.message for record in caplog.records))


def test_a_page_that_reads_nothing_does_not_hold_up_the_car(server):
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    message = write_telemetry(noise)
    assert len(message) > 500_000
    with RawSimulator(server.port, path="/live") as page, RawSimulator(server.port) as car:
        page.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        started = time.monotonic()
        for _ in range(40):
            car.ask(message)
        assert time.monotonic() - started < 10


def test_frames_a_second_are_counted(server):
    with RawSimulator(server.port) as car:
        started = time.perf_counter()
        for _ in range(20):
            time.sleep(0.03)  # as a simulator: what the machine's other work adds is little beside it
            car.ask(GOOD)
        rate = 20 / (time.perf_counter() - started)
        assert server.server.describe()["fps"] == pytest.approx(rate, rel=0.6)


def run_drive(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "robostig.cli", "drive", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_the_command_drives_until_it_is_interrupted_and_says_what_it_did(artifact, tmp_path, signal_name):
    import signal

    process = run_drive(artifact, "--port", 0, "--record", tmp_path / "driven", "--set-speed", 9)
    try:
        line = process.stderr.readline()
        assert line.startswith("nvidia is ready: ")
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
        with RawSimulator(port) as car:
            for _ in range(5):
                car.ask(GOOD)
            process.send_signal(getattr(signal, signal_name))
            out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in err
    assert out.count("\n") == 1 and out.startswith("nvidia drove 5 frames; frame in to command out ")
    assert len(read_driving_log(tmp_path / "driven")) == 5


def test_a_port_in_use_and_a_host_unknown_are_said_in_one_line(artifact, capsys):
    from robostig.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, message in (
            (["--port", str(port)], f"port {port} of 127.0.0.1 is in use"),
            (["--host", "no-such-host.invalid", "--port", "0"], "there is no address 'no-such-host.invalid'"),
            (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1 is no address of this machine"),
        ):
            assert main(["drive", str(artifact), *words]) == 1
            out, err = capsys.readouterr()
            assert out == "" and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "one of the two"),
        (["out/x", "--endpoint", "stig"], 2, "one of the two"),
        (["out/x", "--set-speed", "31"], 2, "up to 30"),
        (["out/x", "--set-speed", "0"], 2, "up to 30"),
        (["out/x", "--port", "70000"], 2, "there is no port 70000"),
        (["out/x", "--host", ""], 2, "host is empty"),
        (["out/x"], 1, "no trained model in out/x"),
    ],
)
def test_a_mistake_of_the_command_line_is_answered_in_one_line(words, status, message, capsys, tmp_path, monkeypatch):
    from robostig.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["drive", *words]) == status
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.startswith("robostig drive: ") and err.count("\n") == 1


def test_an_artifact_of_another_kind_is_refused(tmp_path, capsys):
    from robostig.cli import main

    (tmp_path / "robostig.json").write_text('{"format": 99, "files": {}, "input": {}, "model": "x"}')
    assert main(["drive", str(tmp_path)]) == 1
    assert "format 99" in capsys.readouterr().err


def test_an_empty_host_is_not_every_network():
    with pytest.raises(ValueError, match=r"0\.0\.0\.0"):
        asyncio.run(DrivingServer(steer_by_brightness).start("", 0))
