"""The live page in a real browser, beside a real model that drives real pictures."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest
from conftest import ROOT, draw_road
from raw_simulator import RawSimulator, ServerThread, write_telemetry

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.driving.server import DrivingServer
from robostig.driving_log import read_driving_log
from robostig.models import get_model, get_spec
from robostig.picture import encode_jpeg
from robostig.pilot import Pilot

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (Debian: apt-get install chromium)")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--disable-dev-shm-usage"),
    "--remote-debugging-port=0",
]
KEEP = os.environ.get("ROBOSTIG_SCREENSHOTS")  # a folder to keep them in, for eyes


class Browser:
    """One tab of a headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.count = 0
        self.complaints: list = []

    async def call(self, method: str, **parameters):
        self.count += 1
        await self.socket.send_json({"id": self.count, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=30)
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(message["params"])

    async def evaluate(self, expression: str):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def wait_for(self, expression: str, seconds: float = 20):
        end = time.monotonic() + seconds
        while not await self.evaluate(expression):
            assert time.monotonic() < end, (expression, await self.evaluate("document.body.innerText"))
            await asyncio.sleep(0.05)

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete'")

    async def photograph(self, name: str, width: int, height: int, *, dark: bool = False) -> np.ndarray:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert await self.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
        data = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
        if KEEP:
            (Path(KEEP) / f"{name}.png").write_bytes(data)
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@contextlib.asynccontextmanager
async def start_browser(profile: Path):
    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 30
        while not (profile / "DevToolsActivePort").is_file() or not (profile / "DevToolsActivePort").read_text():
            assert time.monotonic() < end and process.poll() is None, "chromium does not start"
            await asyncio.sleep(0.05)
        port = (profile / "DevToolsActivePort").read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (tab,) = [tab for tab in json.loads(await answer.text()) if tab["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    mx.random.seed(5)
    net = get_model("nvidia")
    net.initialize(mx.init.Xavier())
    folder = save_artifact(tmp_path_factory.mktemp("nvidia"), net, get_spec("nvidia").input, {"model": "nvidia"})
    return Pilot.load(folder)


@pytest.fixture(scope="module")
def pictures():
    """JPEGs of the real recording where there is one."""
    folder = Path(os.environ.get("ROBOSTIG_DATA") or ROOT.parent / "shared" / "data" / "lake")
    if not (folder / "driving_log.csv").is_file():
        return [encode_jpeg(draw_road(angle)) for angle in np.sin(np.arange(60) / 8) * 0.5]
    log = read_driving_log(folder, on_error="skip")
    return [Path(path).read_bytes() for path in log.pictures["center"][200:260]]


class Replay:
    """A simulator that replays pictures until it is told something else."""

    def __init__(self, port, pictures):
        self.port, self.pictures = port, pictures
        self.mode = "drive"
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(10)

    def run(self):
        speed = 0.0
        with RawSimulator(self.port) as car:
            count = 0
            while not self.ended.wait(1 / 30):  # its own frame rate
                if self.mode == "silent":
                    continue
                picture = self.pictures[count % len(self.pictures)]
                if self.mode == "manual":
                    car.send('42["telemetry",null]')
                    car.await_event()
                    continue
                telemetry = write_telemetry(picture if self.mode == "drive" else b"broken", speed=f"{speed:.4f}")
                _, throttle = car.ask(telemetry)
                speed = max(0.0, speed + 0.4 * throttle - 0.012 * speed)
                count += 1


def text(element: str) -> str:
    return f"document.getElementById('{element}').textContent"


@pytest.mark.default_python("it is the browser that runs the page")
def test_the_page_shows_the_drive_as_it_goes_on(pilot, pictures, tmp_path):
    record = tmp_path / "driven"

    async def look_at_it(server: DrivingServer, port: int) -> None:
        async with start_browser(tmp_path / "profile") as browser:
            await browser.open(f"http://127.0.0.1:{port}/")
            await browser.wait_for(f"{text('who')} === 'Waiting for the simulator'")
            assert f"ws://127.0.0.1:{port}" in await browser.evaluate(text("simulate"))
            waiting = await browser.photograph("waiting", 1280, 860)
            await browser.photograph("waiting-phone-dark", 390, 844, dark=True)

            with Replay(port, pictures) as car:
                await browser.wait_for(f"{text('who')} === 'nvidia drives' && parseFloat({text('speed')}) > 8")
                names = ("steering", "speed", "fps", "frames", "model", "answer", "set", "recording")
                before = {name: await browser.evaluate(text(name)) for name in names}
                wheel = await browser.evaluate("document.getElementById('wheel').style.transform")
                image = await browser.evaluate("document.getElementById('image').src.length")
                assert image > 3000 and await browser.evaluate("document.getElementById('image').naturalWidth") == 320
                driving = await browser.photograph("driving", 1280, 860)
                await browser.photograph("driving-dark", 1280, 860, dark=True)
                await browser.photograph("driving-phone", 390, 844)
                await browser.photograph("driving-phone-dark", 390, 844, dark=True)
                await browser.wait_for(
                    f"{text('steering')} !== {before['steering']!r} && {text('frames')} !== {before['frames']!r} && "
                    f"{text('recording')} !== {before['recording']!r} && "
                    f"document.getElementById('wheel').style.transform !== {wheel!r}"
                )
                assert before["steering"].endswith("°") and before["set"] == "15"
                assert 1 < float(before["fps"]) < 40
                assert 0 < float(before["model"]) < float(before["answer"]) < 500
                assert before["recording"].endswith(" rows to driven")
                assert np.abs(driving.astype(int) - waiting).mean() > 3  # the pictures differ

                car.mode = "broken"
                await browser.wait_for(f"{text('who')} === 'nvidia drives blind'")
                assert "no JPEG" in await browser.evaluate(text("warned"))
                await browser.photograph("blind", 1280, 860)
                car.mode = "manual"
                await browser.wait_for(f"{text('who')} === 'A human drives'")
                await browser.photograph("manual-phone", 390, 844)
                car.mode = "silent"
                await browser.wait_for(f"{text('who')} === 'The simulator is silent'")
                car.mode = "drive"
                await browser.wait_for(f"{text('who')} === 'nvidia drives'")
            await browser.wait_for(f"{text('who')} === 'Waiting for the simulator'")
            assert not browser.complaints  # no errors of the script, nothing that the policy had to block
            await asyncio.get_running_loop().run_in_executor(None, server_thread.stop_listening)
            await browser.wait_for(f"{text('who')} === 'RoboStig does not answer'")
            await asyncio.get_running_loop().run_in_executor(None, server_thread.listen_again)
            await browser.wait_for(f"{text('who')} === 'Waiting for the simulator'")

    class Restartable(ServerThread):
        def stop_listening(self):
            self.call(self.server.stop())

        def listen_again(self):
            self.server = DrivingServer(pilot.steer, name="nvidia")
            self.call(self.server.start("127.0.0.1", self.port))

    server = DrivingServer(pilot.steer, name="nvidia", record=record)
    with Restartable(server) as server_thread:
        asyncio.run(look_at_it(server, server_thread.port))
    assert len(read_driving_log(record)) == server.recorder.rows > 30
