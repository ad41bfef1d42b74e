"""The other end of the socket: a client that does what Udacity's simulator does, with the built-in track for its world.

It sends and expects the simulator's messages, byte for byte, with the simulator's habits: two reports when it connects
and from then on one for each answer, pings of its own, no CONNECT, numbers as texts in its locale, and never a report
before an answer. A frame stands for 1/15 second on the track, however long the answer took.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from tqdm import tqdm

from robostig.driving import protocol
from robostig.driving.protocol import Telemetry
from robostig.metrics import DEGREES, LIMIT_M, measure_autonomy, measure_whiteness, summarize_latency
from robostig.picture import encode_jpeg
from robostig.simulation import FRAME_S, Simulation, steer_towards

__all__ = ["SimulatedDrive", "parse_address", "simulate"]

NO_ANSWER_S = 20.0  # the real simulator would wait for ever
STANDS_STILL_S = 60.0  # on the track
STANDING_MPH = 0.1  # and slower is not driving
HUMAN_MPH = 15.0


@dataclass(frozen=True)
class SimulatedDrive:
    """How a drive through the socket went: what the model drove, without what a human did, or a car that stood.

    Names mean what they mean in :class:`robostig.closed_loop.ClosedLoop`.

    Parameters
    ----------
    track, direction
        Where: ``"lake:0"`` and ``"forward"``.
    autonomy
        Percent of the time without help, by NVIDIA's rule; None if the model drove nothing.
    interventions
        How often the car was more than a metre off the lane's middle, and put back.
    distance_per_intervention_m
        Metres along the lane; None without an intervention.
    distance_m, laps, frames
        What was driven.
    lateral_rmse_m, lateral_max_m
        Distance from the lane's middle; None if the model drove nothing.
    whiteness
        Of the steering, degrees a second; None for less than two frames.
    simulated_s, elapsed_s
        Seconds of driving on the track, and of everything on the clock.
    answer_ms
        ``p50`` and ``p99`` from a report sent to its answer.
    finished
        Whether the model drove all laps; else the car came no further.
    """

    track: str
    direction: str
    autonomy: Optional[float]
    interventions: int
    distance_per_intervention_m: Optional[float]
    distance_m: float
    laps: float
    frames: int
    lateral_rmse_m: Optional[float]
    lateral_max_m: Optional[float]
    whiteness: Optional[float]
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
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    try:
        parts = urlsplit(text if "://" in text else f"ws://{text}")
        if parts.scheme not in schemes:
            raise ValueError(f"{parts.scheme}:// is none of {', '.join(f'{scheme}://' for scheme in schemes)}")
        if parts.username is not None:
            raise ValueError("there is no user to log in")
        if not parts.hostname:
            raise ValueError("it names no host")
        if not re.fullmatch(r"[\w.-]+|[0-9a-f]*:[0-9a-f:.]*(%\w+)?", parts.hostname):
            raise ValueError(f"{parts.hostname!r} is no name of a host")
        if parts.port == 0 or parts.netloc.endswith(":"):
            raise ValueError("it names no port; ports are 1 to 65535")
        if parts.query or parts.fragment:
            raise ValueError("nothing comes after the port")
    except ValueError as error:
        reason = str(error).replace("Port", "the port").replace("Invalid", "this is an invalid")  # urllib's
        raise ValueError(f"{text!r} is no address: {reason}; write it as in ws://127.0.0.1:{protocol.PORT}") from error
    return f"{schemes[parts.scheme]}://{parts.netloc}{protocol.PATH}?{protocol.QUERY}"


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
            socket = await asyncio.wait_for(session.ws_connect(address, max_msg_size=0), NO_ANSWER_S)
        except aiohttp.InvalidURL as error:
            raise ValueError(f"{address} is no address that can be connected to: {error.__cause__ or error}") from error
        except aiohttp.ClientResponseError as error:
            raise ValueError(
                f"{address} answers, but not as a driving server does (status {error.status}); is it robostig drive?"
            ) from error
        except (aiohttp.ClientConnectionError, asyncio.TimeoutError) as error:
            raise ConnectionError(
                f"nobody listens at {address.split(protocol.PATH)[0]}: start a server with robostig drive "
                "ARTIFACT, and name its address with --connect"
            ) from error
        pinging = asyncio.ensure_future(_ping(socket))
        bar = tqdm(total=round(world.goal_m), desc="driving", unit="m", disable=None)
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
        bar.update(min(bar.total, max(0, round(world.driven_m))) - bar.n)
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
        self.goal_m = laps * simulation.track.lane.length_m
        self.manual_s, self.decimal_comma = manual_s, decimal_comma
        self.steering = self.throttle = 0.0
        self.driven_m = 0.0  # by the model, along the lane
        self.answer_s: List[float] = []
        self._steps: List[Tuple[float, float, bool]] = []  # of the model: off the middle, steering, put back
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
        if self.is_manual:
            throttle = 0.6 if drive.car.speed_mph < HUMAN_MPH else None
            drive.step(steer_towards(drive.car, drive.track.lane, drive.place), throttle)
            return
        before_m = drive.travelled_m
        drive.step(self.steering, min(1.0, max(-1.0, self.throttle)))
        self.driven_m += drive.travelled_m - before_m
        is_off = abs(drive.lateral_error_m) > LIMIT_M
        if abs(drive.car.speed_mph) > STANDING_MPH:
            self._steps.append((drive.lateral_error_m, self.steering, is_off))
        if is_off:
            drive.put_back()

    def is_over(self) -> bool:
        drive = self.simulation
        if drive.travelled_m > self._furthest_m + 0.1:
            self._furthest_m, self._furthest_s = drive.travelled_m, drive.time_s
        return self.driven_m >= self.goal_m or drive.time_s - self._furthest_s > STANDS_STILL_S

    def summarize(self, elapsed_s: float) -> SimulatedDrive:
        track, frames = self.simulation.track, len(self._steps)
        lateral_m, steering, put_back = np.array(self._steps).reshape(-1, 3).T
        interventions = int(put_back.sum())
        breaks = np.r_[True, put_back[:-1] > 0.0][:frames]
        return SimulatedDrive(
            track=track.name,
            direction=track.direction,
            autonomy=measure_autonomy(interventions, frames * FRAME_S) if frames else None,
            interventions=interventions,
            distance_per_intervention_m=self.driven_m / interventions if interventions else None,
            distance_m=self.driven_m,
            laps=self.driven_m / track.lane.length_m,
            frames=frames,
            lateral_rmse_m=float(np.sqrt(np.mean(np.square(lateral_m)))) if frames else None,
            lateral_max_m=float(np.abs(lateral_m).max()) if frames else None,
            whiteness=measure_whiteness(steering, np.arange(frames) * FRAME_S, breaks),
            simulated_s=frames * FRAME_S,
            elapsed_s=elapsed_s,
            answer_ms=summarize_latency(self.answer_s),
            finished=self.driven_m >= self.goal_m,
        )
