"""The other end of the socket: a client that does what Udacity's simulator does, with the built-in track for its world.

It sends and expects the simulator's messages, byte for byte, with the simulator's habits: two reports when it connects
and from then on one for each answer, pings of its own, no CONNECT, numbers as texts in its locale, and never a report
before an answer. A frame stands for 1/15 second on the track, however long the answer took.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional

import aiohttp
import numpy as np
from tqdm import tqdm

from robostig.driving import protocol
from robostig.driving.protocol import Telemetry
from robostig.driving_log import encode_jpeg
from robostig.metrics import DEGREES, LIMIT_M, measure_autonomy, summarize_latency
from robostig.simulation import FRAME_S, Simulation, steer_towards

__all__ = ["SimulatedDrive", "parse_address", "simulate"]

NO_ANSWER_S = 20.0  # the real simulator would wait for ever
STANDS_STILL_S = 60.0  # on the track
HUMAN_MPH = 15.0


@dataclass(frozen=True)
class SimulatedDrive:
    """How a drive through the socket went.

    Parameters
    ----------
    autonomy
        Percent of the time without help, by NVIDIA's rule; the time that a human drove is left out.
    interventions
        How often the car was more than a metre off the lane's middle, and put back.
    lateral_rmse_m, lateral_max_m
        Distance from the lane's middle.
    distance_m, distance_per_intervention_m
        Metres along the lane; the second is None without an intervention.
    laps, frames
        What was driven.
    simulated_s, elapsed_s
        Seconds on the track, and on the clock.
    answer_ms
        ``p50`` and ``p99`` from a report sent to its answer.
    finished
        Whether the laps were driven; else the car stood still before.
    """

    autonomy: float
    interventions: int
    lateral_rmse_m: float
    lateral_max_m: float
    distance_m: float
    distance_per_intervention_m: Optional[float]
    laps: float
    frames: int
    simulated_s: float
    elapsed_s: float
    answer_ms: Dict[str, float]
    finished: bool

    def to_dict(self) -> Dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)


def parse_address(text: str) -> str:
    """Return the full address to connect to, with the simulator's path and query.

    Raises
    ------
    ValueError
        If it is no address of a server.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "ws", text
    host = rest.rstrip("/").split("/")[0]
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    if scheme not in schemes or not host or any(character in host for character in " ?#@"):
        raise ValueError(f"{text!r} is no address; write it as in ws://127.0.0.1:{protocol.PORT}")
    return f"{schemes[scheme]}://{host}{protocol.PATH}?{protocol.QUERY}"


async def simulate(
    address: str,
    simulation: Simulation,
    *,
    laps: float = 1.0,
    manual_s: float = 0.0,
    decimal_comma: bool = False,
    real_time: bool = False,
) -> SimulatedDrive:
    """Connect as Udacity's simulator does, and let the server drive.

    Parameters
    ----------
    address
        From :func:`parse_address`.
    simulation
        The car on its track; it sets off from rest.
    laps
        How far to drive; may be a part of one.
    manual_s
        Seconds on the track that a human drives first, in which telemetry is null.
    decimal_comma
        Write and read numbers as a machine with decimal commas does.
    real_time
        15 frames a second, rather than as many as are answered.

    Raises
    ------
    OSError
        If nobody listens there, or the server hangs up.
    ValueError
        If what it answers would stop a real simulator.
    """
    simulation.car.speed_mps = 0.0
    world = _World(simulation, laps, manual_s, decimal_comma)
    started = time.perf_counter()
    # As the simulator's library introduces itself.
    async with aiohttp.ClientSession(headers={"User-Agent": "websocket-sharp/1.0"}) as session:
        try:
            socket = await session.ws_connect(address, max_msg_size=0)
        except aiohttp.WSServerHandshakeError as error:
            raise ValueError(
                f"{address} answers, but not as a driving server does (status {error.status}); is it robostig drive?"
            ) from error
        except (aiohttp.ClientConnectionError, asyncio.TimeoutError) as error:
            raise ConnectionError(
                f"nobody listens at {address.split(protocol.PATH)[0]}: start a server with robostig drive "
                "ARTIFACT, and name its address with --connect"
            ) from error
        pinging = asyncio.ensure_future(_ping(socket))
        bar = tqdm(total=round(laps * simulation.track.lane.length_m), desc="driving", unit="m", disable=None)
        try:
            await _talk(socket, world, bar, real_time)
            await socket.send_str(protocol.DISCONNECT)
            await socket.send_str(protocol.CLOSE)
        finally:
            pinging.cancel()
            bar.close()
            await socket.close()
    return world.summarize(time.perf_counter() - started)


async def _talk(socket: aiohttp.ClientWebSocketResponse[bool], world: _World, bar: tqdm, real_time: bool) -> None:
    """Report, and drive on once every report is answered, until the drive is over."""
    report = world.report()
    sent, unanswered, reports = time.perf_counter(), 1, 1
    next_frame = sent + FRAME_S
    await socket.send_str(report)  # at the open socket; a second one follows at the server's welcome
    while True:
        text = await _receive(socket)
        if text.startswith("0"):
            unanswered, reports = unanswered + 1, reports + 1
            await socket.send_str(report)
            continue
        if not text.startswith("42"):
            continue  # "40" and pongs
        world.obey(text)
        world.answer_s.append(time.perf_counter() - sent)
        unanswered -= 1
        if unanswered:
            continue
        world.step()
        bar.update(min(bar.total, max(0, round(world.simulation.travelled_m))) - bar.n)
        if world.is_over():
            return
        if real_time:
            await asyncio.sleep(max(0.0, next_frame - time.perf_counter()))
            next_frame = max(next_frame + FRAME_S, time.perf_counter())
        report = world.report()
        sent, unanswered = time.perf_counter(), reports
        for _ in range(reports):
            await socket.send_str(report)


async def _receive(socket: aiohttp.ClientWebSocketResponse[bool]) -> str:
    try:
        message = await socket.receive(timeout=NO_ANSWER_S)
    except asyncio.TimeoutError:
        raise ConnectionError(f"no answer within {NO_ANSWER_S:g} s; the real simulator would wait for ever") from None
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise ConnectionError("the server has hung up")
    return str(message.data)


async def _ping(socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await socket.send_str(protocol.PING)
            await asyncio.sleep(protocol.PING_INTERVAL_S)


class _World:
    """The track behind the client, and what is to be known of the drive."""

    def __init__(self, simulation: Simulation, laps: float, manual_s: float, decimal_comma: bool) -> None:
        self.simulation = simulation
        self.laps, self.manual_s, self.decimal_comma = laps, manual_s, decimal_comma
        self.steering = self.throttle = 0.0
        self.frames = self.interventions = 0
        self.lateral_m: List[float] = []
        self.answer_s: List[float] = []
        self._furthest_m, self._furthest_s = 0.0, 0.0

    @property
    def is_manual(self) -> bool:
        return self.simulation.time_s < self.manual_s

    def report(self) -> str:
        if self.is_manual:
            return protocol.encode_telemetry(None)
        car = self.simulation.car
        telemetry = Telemetry(
            image=base64.b64encode(encode_jpeg(self.simulation.look())).decode("ascii"),
            steering_deg=car.steering * DEGREES,
            throttle=self.throttle,
            speed_mph=car.speed_mph,
            decimal_comma=self.decimal_comma,
        )
        return protocol.encode_telemetry(telemetry)

    def obey(self, text: str) -> None:
        """Do what an answer says, as CommandServer.cs does."""
        event, payload = protocol.decode_event(text)
        if event == "manual":
            return
        try:
            if event != "steer":
                raise ValueError("an unknown event")
            self.steering, self.throttle = (self._read(payload[name]) for name in ("steering_angle", "throttle"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the answer {text[:100]!r} would stop a real simulator ({error})") from error

    def _read(self, text: Any) -> float:
        """Read a number as .NET's float.Parse: by the locale, with separators of thousands anywhere."""
        if not isinstance(text, str):
            raise TypeError("a number, where it reads a text")
        return float(text.replace(".", "").replace(",", ".") if self.decimal_comma else text.replace(",", ""))

    def step(self) -> None:
        drive = self.simulation
        self.frames += 1
        if self.is_manual:
            throttle = 0.6 if drive.car.speed_mph < HUMAN_MPH else None
            drive.step(steer_towards(drive.car, drive.track.lane, drive.place), throttle)
            return
        drive.step(self.steering, min(1.0, max(-1.0, self.throttle)))
        self.lateral_m.append(drive.lateral_error_m)
        if abs(drive.lateral_error_m) > LIMIT_M:
            self.interventions += 1
            drive.put_back()

    def is_over(self) -> bool:
        drive = self.simulation
        if drive.travelled_m > self._furthest_m + 0.1:
            self._furthest_m, self._furthest_s = drive.travelled_m, drive.time_s
        return drive.laps >= self.laps or drive.time_s - self._furthest_s > STANDS_STILL_S

    def summarize(self, elapsed_s: float) -> SimulatedDrive:
        drive = self.simulation
        lateral_m = np.abs(self.lateral_m or [0.0])
        return SimulatedDrive(
            autonomy=measure_autonomy(self.interventions, max(FRAME_S, drive.time_s - self.manual_s)),
            interventions=self.interventions,
            lateral_rmse_m=float(np.sqrt(np.mean(np.square(lateral_m)))),
            lateral_max_m=float(lateral_m.max()),
            distance_m=drive.travelled_m,
            distance_per_intervention_m=drive.travelled_m / self.interventions if self.interventions else None,
            laps=drive.laps,
            frames=self.frames,
            simulated_s=drive.time_s,
            elapsed_s=elapsed_s,
            answer_ms=summarize_latency(self.answer_s),
            finished=drive.laps >= self.laps,
        )
