"""What Udacity's simulator says and wants to hear: text messages of engine.io 3 and socket.io 2, in both directions.

The simulator is the client. Its library asks for ``EIO=4``, which it does not speak, and has been the same since 2016;
so the few kinds of messages that it knows are written out here, rather than left to a library that moves on.

====================================  =================================================================================
``0{"sid": ...}``                     server: welcome; the simulator answers with telemetry
``40``                                server: connected. The simulator never sends it
``2`` and ``3``                       the simulator's ping every 25 seconds, and our pong
``42["telemetry",{...}]``             simulator: four texts: ``steering_angle`` in degrees, ``throttle``, ``speed`` in
                                      miles an hour, ``image``, a JPEG in base64; or null while a human drives
``42["steer",{...}]``                 server: two texts, ``steering_angle`` and ``throttle``, each -1..1
``42["manual",{}]``                   server: seen that a human drives
``41`` and ``1``                      the simulator leaves
====================================  =================================================================================

It is lock-step: telemetry comes only after an answer, and a simulator without an answer stands still for good.

References
----------
CommandServer.cs, SocketIOComponent.cs, Encoder.cs and Decoder.cs of Udacity's self-driving-car-sim.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

__all__ = [
    "CLOSE",
    "CONNECTED",
    "DISCONNECT",
    "PATH",
    "PING",
    "PING_INTERVAL_S",
    "PING_TIMEOUT_S",
    "PONG",
    "PORT",
    "QUERY",
    "Telemetry",
    "decode_event",
    "decode_number",
    "decode_telemetry",
    "encode_event",
    "encode_number",
    "encode_open",
    "encode_steer",
    "encode_telemetry",
]

PORT = 4567  # set in the simulator's scenes; it has no option for another
PATH, QUERY = "/socket.io/", "EIO=4&transport=websocket"
PING, PONG, CONNECTED, DISCONNECT, CLOSE = "2", "3", "40", "41", "1"
PING_INTERVAL_S, PING_TIMEOUT_S = 25.0, 60.0

# A namespace and a number to acknowledge may stand before the list; both are short, and so is the search for them.
_EVENT = re.compile(r"42(?:/[^,\[]{0,64},)?\d{0,20}(?=\[)")
_LONGEST_NUMBER = 64  # characters
_SPACES = re.compile(r"[\s'’]")  # between thousands, in some locales


@dataclass(frozen=True)
class Telemetry:
    """What the simulator reports of its car; None is what it did not say, or not so that it could be understood.

    Parameters
    ----------
    image
        The camera's picture, a JPEG in base64.
    steering_deg
        Angle of the front wheels in degrees, right is positive.
    throttle
        -1..1.
    speed_mph
        Miles an hour.
    decimal_comma
        Whether it writes its numbers with a comma.
    """

    image: Optional[str] = None
    steering_deg: Optional[float] = None
    throttle: Optional[float] = None
    speed_mph: Optional[float] = None
    decimal_comma: bool = False


def encode_open(sid: str) -> str:
    """Return the server's welcome; the simulator wants a ``sid`` in it, and has its own intervals."""
    facts = {"sid": sid, "upgrades": [], "pingInterval": PING_INTERVAL_S * 1000, "pingTimeout": PING_TIMEOUT_S * 1000}
    return "0" + _to_json(facts)


def encode_event(name: str, payload: Any) -> str:
    """Return the message for an event."""
    return "42" + _to_json([name, payload])


def decode_event(text: str) -> Tuple[str, Any]:
    """Return an event's name and payload, None if it has none.

    Raises
    ------
    ValueError
        If the message is no event.
    """
    match = _EVENT.match(text)
    if not match:
        raise ValueError(f"a message of {len(text):,} characters is no event: {text[:24]!r}")
    try:
        event = json.loads(text[match.end() :], parse_int=float)  # which takes no longer for a million digits
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a message of {len(text):,} characters holds no JSON ({str(error)[:80]})") from error
    if not event or not isinstance(event[0], str):
        raise ValueError(f"an event has no name: {text[:24]!r}")
    return event[0], event[1] if len(event) > 1 else None


def encode_steer(steering: float, throttle: float, *, decimal_comma: bool = False) -> str:
    """Return the command for the car; both -1..1, as texts, because the simulator takes nothing else."""
    numbers = {"steering_angle": steering, "throttle": throttle}
    return encode_event("steer", {name: encode_number(value, decimal_comma) for name, value in numbers.items()})


def encode_number(value: float, decimal_comma: bool = False) -> str:
    """Return a number so that the simulator reads it right.

    It writes and reads by its machine's locale. Where that has decimal commas, a point separates thousands, and
    "0.25" would be read as 25, full lock. "250000E-6" is a quarter in every locale, and in every language.
    """
    return f"{round(value * 1e6)}E-6" if decimal_comma else f"{value:.6f}"


def decode_number(value: Any) -> float:
    """Read a number as any locale writes it: "30.1904", "30,1904", "1,234.5000", "1.234,5000".

    Raises
    ------
    ValueError
        If it is none, or not finite.
    """
    if not isinstance(value, (str, int, float)) or len(str(value)) > _LONGEST_NUMBER:
        raise ValueError(
            f"a number is a text of up to {_LONGEST_NUMBER} characters, and this {type(value).__name__} is none"
        )
    text = _SPACES.sub("", str(value)).replace("\N{MINUS SIGN}", "-")
    if text.rfind(",") > text.rfind("."):
        text = text.replace(".", "").replace(",", ".")
    number = float(text.replace(",", ""))
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def decode_telemetry(payload: Any) -> Optional[Telemetry]:
    """Return what can be understood of telemetry, or None while a human drives: its payload is null or empty then."""
    if payload is None or payload == {}:
        return None
    if not isinstance(payload, dict):
        return Telemetry()
    numbers: Dict[str, Optional[float]] = {}
    for name in ("steering_angle", "throttle", "speed"):
        try:
            numbers[name] = decode_number(payload[name])
        except (KeyError, ValueError):
            numbers[name] = None
    image = payload.get("image")
    return Telemetry(
        image=image if isinstance(image, str) else None,
        steering_deg=numbers["steering_angle"],
        throttle=numbers["throttle"],
        speed_mph=numbers["speed"],
        decimal_comma=any(
            value is not None and "," in str(payload[name]) and "." not in str(payload[name])
            for name, value in numbers.items()
        ),
    )


def encode_telemetry(telemetry: Optional[Telemetry]) -> str:
    """Return the simulator's message, byte for byte: numbers with four decimals; null while a human drives (None)."""
    if telemetry is None:
        return encode_event("telemetry", None)
    numbers = {
        "steering_angle": telemetry.steering_deg,
        "throttle": telemetry.throttle,
        "speed": telemetry.speed_mph,
    }
    fields = {name: f"{value:,.4f}" for name, value in numbers.items() if value is not None}
    if telemetry.decimal_comma:
        swap = str.maketrans(",.", ".,")
        fields = {name: text.translate(swap) for name, text in fields.items()}
    if telemetry.image is not None:
        fields["image"] = telemetry.image
    return encode_event("telemetry", fields)


def _to_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
