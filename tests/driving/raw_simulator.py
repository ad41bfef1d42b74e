"""Udacity's simulator as far as a socket shows it, written with nothing but a socket; and a server in a thread."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import threading
from typing import Any, Iterable, Optional, Tuple, Union

from robostig.driving.server import DrivingServer
from robostig.picture import encode_jpeg

TEXT, BINARY, CLOSE, WS_PING, WS_PONG = 1, 2, 8, 9, 10


class RawSimulator:
    """A WebSocket client: the handshake of websocket-sharp, masked frames, and the simulator's few messages."""

    def __init__(
        self,
        port: int,
        *,
        path: str = "/socket.io/?EIO=4&transport=websocket",
        headers: Iterable[str] = (),
        host: str = "",
        reads: bool = True,
    ):
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if not reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # then little is on its way to it
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        lines = [
            f"GET {path} HTTP/1.1",
            "User-Agent: websocket-sharp/1.0",
            f"Host: {host or '127.0.0.1'}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self.buffer:
            self._read_more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.head = head.decode()
        self.status = int(self.head.split()[1])

    def __enter__(self) -> RawSimulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _read_more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server has hung up")
        self.buffer += data

    def _take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._read_more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def send(self, payload: Union[str, bytes], opcode: int = TEXT) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        mask = os.urandom(4)
        size = len(data)
        if size < 126:
            head = struct.pack(">BB", 0x80 | opcode, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        self.socket.sendall(head + mask + (int.from_bytes(data, "big") ^ key).to_bytes(size, "big"))

    def receive(self) -> str:
        """Return the next text; a close raises ConnectionError."""
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._take(8))
            data = self._take(size)
            if first & 0x0F == TEXT:
                return data.decode()
            if first & 0x0F == CLOSE:
                raise ConnectionError(f"closed: {data!r}")

    def await_event(self) -> Tuple[str, Any]:
        """Return the next event, whatever else comes before."""
        while True:
            text = self.receive()
            if text.startswith("42"):
                name, payload = json.loads(text[2:])
                return name, payload

    def ask(self, message: Union[str, bytes], opcode: int = TEXT) -> Tuple[float, float]:
        """Send a message and return steering and throttle of the answer, which must be the simulator's kind."""
        self.send(message, opcode)
        name, payload = self.await_event()
        assert name == "steer" and set(payload) == {"steering_angle", "throttle"}
        assert all(isinstance(text, str) for text in payload.values())
        steering, throttle = float(payload["steering_angle"]), float(payload["throttle"])
        assert -1 <= steering <= 1 and -1 <= throttle <= 1
        return steering, throttle


def write_telemetry(
    frame_or_jpeg: Any = None,
    *,
    image: Optional[str] = None,
    speed: str = "10.0000",
    steering: str = "-1.2500",
    throttle: str = "0.5000",
) -> str:
    """Return telemetry as the simulator writes it."""
    if image is None:
        jpeg = frame_or_jpeg if isinstance(frame_or_jpeg, bytes) else encode_jpeg(frame_or_jpeg)
        image = base64.b64encode(jpeg).decode()
    fields = f'"steering_angle":"{steering}","throttle":"{throttle}","speed":"{speed}","image":"{image}"'
    return f'42["telemetry",{{{fields}}}]'


class ServerThread:
    """A driving server with an event loop of its own."""

    def __init__(self, server: DrivingServer, host: str = "127.0.0.1") -> None:
        self.server = server
        self.host = host
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def __enter__(self) -> ServerThread:
        self.thread.start()
        self.port = self.call(self.server.start(self.host, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
