"""The server that Udacity's simulator connects to, and on the same port a live page for people.

Each simulator that connects is driven, by a driver of its own and one model for all. The page and the recording follow
the one that connected last. The model works in a thread: pings are answered, and the page is served, while it thinks.
Nobody at the other end of a socket can hold the server up: not by sending nonsense, not by reading nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import ipaddress
import json
import logging
import re
import signal
import socket as network
import threading
import time
import traceback
import uuid
from collections import deque
from pathlib import Path
from typing import Any, Awaitable, Callable, Deque, Dict, List, Optional, Tuple, Union
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from robostig.driving import protocol
from robostig.driving.driver import Driver, Sight, Steer
from robostig.driving.line import Line
from robostig.driving.lookout import Lookout
from robostig.driving.recorder import Recorder
from robostig.driving.speed import SET_SPEED_MPH, SpeedController
from robostig.metrics import DEGREES, summarize_latency

__all__ = ["DrivingServer", "serve"]

logger = logging.getLogger(__name__)

LARGEST_MESSAGE = 1 << 22  # bytes; a frame is some 16 KB, and rubbish of a megabyte must not end the connection
MOST = 16  # simulators, and pages
# Messages that want no answer; anything else that is not understood gets one, or the car would stop for good.
UNANSWERED = (protocol.PONG, protocol.CONNECTED, protocol.DISCONNECT, "5", "6")
ENDING_S = 1.0  # for requests that are being answered when the server ends
INBOX = 8  # messages that may wait for one simulator's driver; it sends two at most
WARNING_EVERY_S = 10.0  # of each kind
PAGE_EVERY_S = 1 / 15
PAGE_AT_LEAST_EVERY_S = 1.0
RATE_S = 2.0  # over which frames a second are counted
RECENT = 10_000  # durations kept for the summary

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DrivingServer:
    """Drives every simulator that connects, and shows it on a page.

    Parameters
    ----------
    steer
        Frame (H, W, 3) uint8 RGB -> steering, -1..1. Called from one thread of the server's own.
    name
        What to call it.
    set_speed_mph
        Speed on a straight, above 0 and up to 30 mph. Default 15.
    record
        Folder of a driving log to write or go on with; none if None.

    Raises
    ------
    ValueError
        If the speed cannot be held.
    """

    def __init__(
        self,
        steer: Steer,
        *,
        name: str = "model",
        set_speed_mph: float = SET_SPEED_MPH,
        record: Union[str, Path, None] = None,
    ) -> None:
        SpeedController(set_speed_mph)  # refuses one that cannot be held, before anything listens
        self.name = name
        self.set_speed_mph = set_speed_mph
        self.frames = self.blind = 0
        self.model_s: Deque[float] = deque(maxlen=RECENT)
        self.answer_s: Deque[float] = deque(maxlen=RECENT)
        self.recorder: Optional[Recorder] = None
        self.warnings = _Warnings()
        self._record = record
        self.lookout = Lookout(steer)
        self._drives: List[_Drive] = []  # one a simulator; the last one is followed
        self._pages: Dict[Line, asyncio.Event] = {}
        self._page, self._policy = _read_page()
        self._runner: Optional[web.AppRunner] = None

    async def start(self, host: str = "127.0.0.1", port: int = protocol.PORT) -> int:
        """Begin to listen, and return the port.

        Parameters
        ----------
        host
            Address to listen at: loopback by default, ``"0.0.0.0"`` for every network that the machine is in. Those
            who connect must name the server so, or by an IP address, or ``localhost``.
        port
            0 for any that is free.

        Raises
        ------
        OSError
            If it cannot listen there, or not write the recording.
        ValueError
            If the model cannot steer by a frame of the simulator's size, the recording's folder holds a log that cannot
            be gone on with, or ``host`` is empty.
        """
        if not host.strip():
            raise ValueError("an empty host would be every network; say 0.0.0.0 for that, or 127.0.0.1")
        loop = asyncio.get_running_loop()
        await self.lookout.begin()
        application = web.Application(middlewares=[_make_guard(host)])
        application.router.add_get("/", self._show_page)
        application.router.add_get("/live", self._show_live)
        application.router.add_get(protocol.PATH, self._drive)
        application.router.add_get(protocol.PATH.rstrip("/"), self._drive)
        application.on_shutdown.append(self._hang_up)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=ENDING_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except (OSError, OverflowError) as error:
            await self.stop()
            raise OSError(_explain_refusal(error, host, port)) from error

        def warn(kind: str, text: str) -> None:
            loop.call_soon_threadsafe(self.warnings.add, kind, text)

        try:  # not before, so that a port in use leaves no empty log; and no frame comes in between
            self.recorder = None if self._record is None else Recorder(self._record, warn)
        except (OSError, ValueError):
            await self.stop()
            raise
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Hang up, finish the recording, and log what was not yet."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.lookout.end()
        if self.recorder is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.recorder.close)
        self.warnings.flush()

    def summarize(self) -> str:
        """Return one line on what was driven."""
        if not self.frames:
            return f"{self.name} drove nothing: no simulator sent a frame"
        text = f"{self.name} drove {self.frames:,} frames"
        if self.answer_s:
            text += (
                f"; frame in to command out {summarize_latency(self.answer_s)['p50']:.1f} ms (median), "
                f"of which the model {summarize_latency(self.model_s)['p50']:.1f} ms"
            )
        if self.blind:
            text += f"; {self.blind:,} frames driven blind"
        if self.recorder is not None:
            text += f"; {self.recorder.rows:,} rows recorded in {self.recorder.folder}"
        return text

    # The simulator's side.

    async def _drive(self, request: web.Request) -> web.StreamResponse:
        line = Line(
            f"the simulator from {request.remote}",
            max_msg_size=LARGEST_MESSAGE,
            autoping=False,  # which would answer without a limit
            receive_timeout=protocol.PING_INTERVAL_S + protocol.PING_TIMEOUT_S,  # engine.io's rule: it has gone
        )
        # engine.io's own way to say no, with words for people
        if not line.socket.can_prepare(request):
            message = f"RoboStig speaks over WebSocket only: connect to {protocol.PATH}?{protocol.QUERY}"
            return web.json_response({"code": 0, "message": message}, status=400)
        if len(self._drives) >= MOST:
            message = f"{MOST} simulators are connected, and no more are driven: end one of them first"
            self.warnings.add("too many simulators", f"a simulator from {request.remote} was refused: {message}")
            return web.json_response({"code": 0, "message": message}, status=503)
        drive = _Drive(self, line)
        self._drives.append(drive)
        try:
            await line.open(request)
            logger.info("a simulator connected from %s", request.remote)
            if len(self._drives) > 1:
                text = f"{len(self._drives)} simulators are connected: each is driven, the newest is shown and recorded"
                self.warnings.add("several simulators", text)
            self.notify()
            await drive.run()
        finally:
            self._drives.remove(drive)
            logger.info("%s has gone", line.name)
            self.notify()
        return line.socket

    def count(self, drive: _Drive, sight: Optional[Sight], seconds: float) -> None:
        """Take note of a command that was sent ``seconds`` after its frame came."""
        self.frames += 1
        if sight is None:
            self.blind += 1
        else:
            self.model_s.append(sight.seconds)
            self.answer_s.append(seconds)
            if self.recorder is not None and self._drives[-1:] == [drive]:
                self.recorder.record(sight.jpeg, drive.driver.command, drive.driver.speed_mph, time.time())
        self.notify()

    # The page's side.

    def notify(self) -> None:
        """Wake the pages: there is something new."""
        for news in self._pages.values():
            news.set()

    async def _show_page(self, request: web.Request) -> web.Response:
        headers = {
            "Content-Security-Policy": self._policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return web.Response(text=self._page, content_type="text/html", headers=headers)

    async def _show_live(self, request: web.Request) -> web.StreamResponse:
        line = Line(f"the page at {request.remote}", heartbeat=20.0)
        if not line.socket.can_prepare(request):
            return web.json_response(self.describe())
        if len(self._pages) >= MOST:
            return web.Response(text=f"{MOST} pages are open, and no more are served: close one first", status=503)
        news = self._pages[line] = asyncio.Event()
        listener: Optional[asyncio.Future[None]] = None
        shown: Optional[str] = ""
        try:
            await line.open(request)
            listener = asyncio.ensure_future(_listen(line.socket))  # sees that the page has closed
            while not line.socket.closed:
                news.clear()
                state = self.describe()
                if state["image"] == shown:
                    del state["image"]
                else:
                    shown = state["image"]
                # A page that cannot keep up waits here, alone, and gets the newest state when it is done.
                await line.send(json.dumps(state))
                await asyncio.sleep(PAGE_EVERY_S)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), PAGE_AT_LEAST_EVERY_S)
        except ConnectionError:
            pass  # closed while it was being written to
        finally:
            del self._pages[line]
            if listener is not None:
                listener.cancel()
        return line.socket

    def describe(self) -> Dict[str, Any]:
        """Return what the page shows."""
        drive = self._drives[-1] if self._drives else None
        state: Dict[str, Any] = {
            "name": self.name,
            "who": "nobody",
            "set_speed_mph": self.set_speed_mph,
            "frames": self.frames,
            "blind": self.blind,
            "simulators": len(self._drives),
            "model_ms": _median_ms(self.model_s),
            "answer_ms": _median_ms(self.answer_s),
            "recording": None,
            "warning": self.warnings.describe(),
            "image": None,
        }
        if self.recorder is not None:
            state["recording"] = {
                "folder": self.recorder.folder, "rows": self.recorder.rows, "fault": self.recorder.fault
            }  # fmt: skip
        if drive is not None:
            command = drive.driver.command
            state.update(
                who="manual" if drive.manual else "model",
                blind_now=command.blind,
                silent_s=time.monotonic() - drive.heard,
                steering=command.steering,
                steering_deg=command.steering * DEGREES,
                throttle=command.throttle,
                speed_mph=drive.driver.speed_mph,
                target_mph=drive.driver.speed.target_mph,
                fps=drive.measure_rate(),
                image=drive.image,
            )
        return state

    async def _hang_up(self, application: web.Application) -> None:
        lines = [drive.line for drive in self._drives] + list(self._pages)
        await asyncio.gather(*(line.close(1001, b"the server ends") for line in lines), return_exceptions=True)
        self.notify()


class _Drive:
    """The conversation with one simulator."""

    def __init__(self, server: DrivingServer, line: Line) -> None:
        self.server = server
        self.line = line
        self.driver = Driver(server.set_speed_mph)
        self.manual = False
        self.image: Optional[str] = None
        self.heard = time.monotonic()
        self._decimal_comma = False
        self._moments: Deque[float] = deque(maxlen=1000)
        self._inbox: asyncio.Queue[Tuple[str, float]] = asyncio.Queue(INBOX)

    async def run(self) -> None:
        """Talk until either side hangs up."""
        tasks = [asyncio.ensure_future(self._listen()), asyncio.ensure_future(self._answer_all())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:  # a connection that is open and silent would stop the car for good: after a fault, it connects again
            for task in tasks:
                task.cancel()
            faults = await asyncio.gather(*tasks, return_exceptions=True)
            await self.line.close()
            for fault in faults:
                if isinstance(fault, Exception) and not isinstance(fault, (ConnectionError, asyncio.TimeoutError)):
                    logger.error("%s is hung up on, after a fault of the server's own", self.line.name, exc_info=fault)

    async def _listen(self) -> None:
        await self.line.send(protocol.encode_open(uuid.uuid4().hex))
        await self.line.send(protocol.CONNECTED)
        async for message in self.line.socket:
            if message.type is WSMsgType.PING:
                await self.line.pong(message.data)
                continue
            if message.type is WSMsgType.PONG:
                continue
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break  # what came cannot be a message; the simulator connects again
            text = message.data if message.type is WSMsgType.TEXT else ""
            if text in (protocol.PING, protocol.PING + "probe"):
                await self.line.send(protocol.PONG + text[1:])
            elif text == protocol.CLOSE:
                break
            elif text not in UNANSWERED:
                await self._inbox.put((text, time.perf_counter()))

    async def _answer_all(self) -> None:
        last, answer, answered = None, "", 0.0
        while True:
            text, came = await self._inbox.get()
            # The simulator reports twice when it connects, and from then on for each of the two answers: the second
            # report is the first one again, sent before that was answered.
            again = text == last and came < answered
            sight: Optional[Sight] = None
            if not again:
                sight, answer = await self._answer(text)
            await self.line.send(answer)
            last, answered = text, time.perf_counter()
            if not again:
                self._moments.append(answered)
                if not self.manual:
                    self.server.count(self, sight, answered - came)
                self.server.notify()

    async def _answer(self, text: str) -> Tuple[Optional[Sight], str]:
        self.heard = time.monotonic()
        telemetry: Optional[protocol.Telemetry] = protocol.Telemetry()
        sight: Optional[Sight] = None
        try:
            event, payload = protocol.decode_event(text)
            if event != "telemetry":
                raise ValueError(f"unknown event {event[:24]!r}")
            telemetry = protocol.decode_telemetry(payload)
            self.manual = telemetry is None
            if telemetry is None:
                return None, protocol.encode_event("manual", {})
            self._decimal_comma = telemetry.decimal_comma
            sight = await self.server.lookout.see(telemetry.image)
            self.image = telemetry.image
        except Exception as error:  # whatever a model may raise: without an answer, the car would stop for good
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]  # MXNet adds a stack of calls
            self.server.warnings.add(_find_origin(error), f"driving blind: {reason[:200]}")
        command = self.driver.drive(telemetry or protocol.Telemetry(), sight)
        return sight, protocol.encode_steer(command.steering, command.throttle, decimal_comma=self._decimal_comma)

    def measure_rate(self) -> float:
        """Return frames a second over the last seconds."""
        now = time.perf_counter()
        while self._moments and self._moments[0] < now - RATE_S:
            self._moments.popleft()
        if len(self._moments) < 2:
            return 0.0
        return (len(self._moments) - 1) / max(self._moments[-1] - self._moments[0], 1e-6)


class _Warnings:
    """Logs the first of a kind at once, and of many alike only some; keeps the newest for the page."""

    def __init__(self) -> None:
        self._logged: Dict[str, float] = {}
        self._unlogged: Dict[str, Tuple[int, str]] = {}  # how many, and the newest
        self._text: Optional[str] = None
        self._time = 0.0
        self._count = 0

    def add(self, kind: str, text: str) -> None:
        now = time.monotonic()
        self._text, self._time, self._count = text, now, self._count + 1
        more, _ = self._unlogged.pop(kind, (0, ""))
        if now - self._logged.get(kind, -WARNING_EVERY_S) < WARNING_EVERY_S:
            self._unlogged[kind] = more + 1, text
            return
        self._logged[kind] = now
        logger.warning("%s%s", text, f" ({more:,} more of this kind before)" if more else "")

    def flush(self) -> None:
        """Log how many were not."""
        for more, text in self._unlogged.values():
            logger.warning("%s (the last of %s more of this kind)", text, f"{more:,}")
        self._unlogged.clear()

    def describe(self) -> Optional[Dict[str, Any]]:
        if self._text is None:
            return None
        return {"text": self._text, "count": self._count, "ago_s": time.monotonic() - self._time}


def serve(
    server: DrivingServer, host: str = "127.0.0.1", port: int = protocol.PORT, *, announce: Callable[[str], None]
) -> None:
    """Run a server until the process is interrupted or terminated; a second signal does not wait for anything.

    Parameters
    ----------
    server
        Not started yet.
    host, port
        As in :meth:`DrivingServer.start`.
    announce
        Called with the page's address once it listens.

    Raises
    ------
    OSError, ValueError
        As :meth:`DrivingServer.start`.
    """

    async def drive() -> None:
        real_port = await server.start(host, port)
        announce(f"http://{_name_host(host)}:{real_port}/")
        await asyncio.Event().wait()

    async def run() -> None:
        driving = asyncio.ensure_future(drive())
        if is_main:
            loop = asyncio.get_running_loop()
            for number in before:
                loop.add_signal_handler(number, end, loop, driving)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await driving
        finally:
            await server.stop()

    def end(loop: asyncio.AbstractEventLoop, driving: asyncio.Future[None]) -> None:
        for number in before:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once, whatever it is at
        driving.cancel()

    is_main = threading.current_thread() is threading.main_thread()  # signals go to no other thread
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(run())
    finally:
        if is_main:
            for number, handler in before.items():
                signal.signal(number, handler)


def _name_host(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host


def _explain_refusal(error: Exception, host: str, port: int) -> str:
    if isinstance(error, network.gaierror):
        return f"there is no address {host!r} ({error.strerror}); use 127.0.0.1, or 0.0.0.0 for every network"
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another robostig drive: end that one, or choose another port "
            f"with --port (Udacity's simulator always connects to {protocol.PORT})"
        )
    if number == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for every network"
    if number == errno.EACCES:
        return f"port {port} of {host} is not for everybody; choose one above 1023 with --port"
    return f"cannot listen on port {port} of {host}: {error}"


def _make_guard(listening: str) -> Any:
    """Return what refuses the pages of other sites: browsers let any page connect to this machine.

    Their origin gives them away; unless their name has been made to lead here, which then stands in ``Host``.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if not _is_own_name(request.host, listening):
            text = (
                f"{request.host!r} is no name of this server: use its IP address, or start it with --host and that name"
            )
        elif origin is not None and re.sub(r"^[a-z]+://", "", origin) != request.host:
            text = f"{origin} may not connect here; open http://{request.host}/ itself"
        else:
            return await handler(request)
        return web.Response(text=text, status=403)

    return guard


def _is_own_name(host: str, listening: str) -> bool:
    """Tell whether a request's host is one that no other site can have."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name not in ("localhost", listening.lower()):
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _find_origin(error: BaseException) -> str:
    """Return the line of code that raised: what one line raises is one kind of fault."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{type(error).__name__} in {frame.f_code.co_filename}, line {line}"


async def _listen(socket: web.WebSocketResponse) -> None:
    async for _ in socket:  # a page has nothing to say
        pass


def _read_page() -> Tuple[str, str]:
    """Return the live page and its Content-Security-Policy: its own script, styles and sockets, and nothing else."""
    page = Path(__file__).with_name("live.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return page, (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


def _median_ms(seconds: Deque[float]) -> Optional[float]:
    newest = list(seconds)[-60:]
    return summarize_latency(newest)["p50"] if newest else None
