"""A WebSocket to somebody who may stop reading: a page that was put to sleep, a simulator that was halted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Iterator, Optional

from aiohttp import web

__all__ = ["Line"]

logger = logging.getLogger(__name__)

SENDING_S = 5.0  # for the other side to take what is sent
CLOSING_S = 1.0  # for it to say goodbye


class Line:
    """The server's end of a WebSocket: whoever does not take what is sent is hung up on, whatever still waits.

    Parameters
    ----------
    name
        Who is at the other end, for the log.
    options
        As of :class:`aiohttp.web.WebSocketResponse`.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.socket = web.WebSocketResponse(compress=False, timeout=CLOSING_S, **options)
        self._transport: Optional[asyncio.Transport] = None

    async def open(self, request: web.Request) -> None:
        """Answer the handshake."""
        await self.socket.prepare(request)
        self._transport = request.transport

    async def send(self, text: str) -> None:
        """Send a message.

        Raises
        ------
        ConnectionError
            If the other side has gone, or was hung up on.
        """
        with self._limit(SENDING_S):
            await self.socket.send_str(text)

    async def pong(self, data: bytes) -> None:
        """Answer a ping of WebSocket's own; raises as :meth:`send`."""
        with self._limit(SENDING_S):
            await self.socket.pong(data)

    async def close(self, code: int = 1000, message: bytes = b"") -> None:
        """Say goodbye, wait a moment for an answer, and hang up."""
        with self._limit(2 * CLOSING_S), contextlib.suppress(ConnectionError):
            await self.socket.close(code=code, message=message)
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()  # an orderly end would come after all that waits, which is never read

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Iterator[None]:
        timer = asyncio.get_running_loop().call_later(seconds, self._give_up)
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        logger.info("%s does not read what is sent to it, and is hung up on", self.name)
        if self._transport is not None:
            self._transport.abort()  # wakes whoever waits to send
