"""Connections of every worker with every other, for what is larger than news."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, Sequence

__all__ = ["Mesh", "keep_alive", "meet"]

_MEET_LIMIT_S = 60.0  # all are about to come
_HELLO_LIMIT_S = 5.0
_TOKEN_BYTES = 16


class Mesh:
    """A worker's connections with all others.

    Parameters
    ----------
    hosts
        The workers' names, by rank.
    peers
        The connections to the others by their ranks.
    """

    def __init__(self, hosts: Sequence[str], peers: Mapping[int, socket.socket]) -> None:
        self._hosts, self._peers = hosts, dict(peers)
        self._senders = ThreadPoolExecutor(max(1, len(peers)), "mesh")  # all send at once, and receive meanwhile
        for peer in self._peers.values():
            peer.settimeout(None)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(peer)

    def exchange(self, outgoing: Sequence[Sequence[memoryview]], incoming: Sequence[Sequence[memoryview]]) -> None:
        """Send every other worker something, and take in what each sends; all call it at the same time.

        Parameters
        ----------
        outgoing, incoming
            By rank: memory of bytes to read from, and to write to. Each is as long as what the other worker has for it;
            this worker's own is left alone.

        Raises
        ------
        ConnectionError
            If the connection with another worker broke; all others are closed then, too.
        """
        sent = {rank: self._senders.submit(_send, peer, outgoing[rank]) for rank, peer in self._peers.items()}
        rank = -1
        try:
            for rank, peer in self._peers.items():
                for part in incoming[rank]:
                    _fill(peer, part)
            for rank in sent:
                sent[rank].result()
        except OSError as error:
            self.close()  # or one of the threads might go on sending for ever
            raise ConnectionError(f"the connection with {self._hosts[rank]} broke: {error}") from error

    def close(self) -> None:
        """End all connections, whatever is under way."""
        for peer in self._peers.values():
            with contextlib.suppress(OSError):  # it has gone
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        self._senders.shutdown(wait=False)


def meet(hosts: Sequence[str], rank: int, address: str, gather: Callable[[Any], List[Any]]) -> Mesh:
    """Connect this worker with every other; all call it at the same time.

    Parameters
    ----------
    hosts
        The workers' names, the same on each.
    rank
        This worker's position there.
    address
        Where the others reach it: an IP address.
    gather
        Returns every worker's value, by rank.

    Raises
    ------
    OSError
        If another one cannot be reached, or does not come within a minute.
    """
    peers: Dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", 0)))
        met = stack.enter_context(contextlib.ExitStack())  # what is closed if anything fails
        told = gather([address, server.getsockname()[1], secrets.token_hex(_TOKEN_BYTES)])
        for other, (place, port, token) in enumerate(told[:rank]):
            try:
                peers[other] = met.enter_context(socket.create_connection((place, port), _MEET_LIMIT_S))
                peers[other].sendall(_greet(token, rank))
            except OSError as error:
                raise OSError(
                    f"{hosts[rank]} cannot reach {hosts[other]} at {place}, port {port} ({error}): the hosts of a job "
                    "must be open to each other at all ports"
                ) from error
        expected = {_greet(told[rank][2], other): other for other in range(rank + 1, len(told))}
        deadline = time.monotonic() + _MEET_LIMIT_S
        while expected:
            try:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                connection, _ = server.accept()
            except socket.timeout:
                missing = ", ".join(hosts[other] for other in expected.values())
                raise TimeoutError(
                    f"{missing} did not connect to {hosts[rank]} within {_MEET_LIMIT_S:.0f} s: the hosts of a job must "
                    "be open to each other at all ports"
                ) from None
            guest = expected.pop(_hear(connection, len(next(iter(expected)))), None)
            if guest is None:
                connection.close()  # a stranger
            else:
                peers[guest] = met.enter_context(connection)
        met.pop_all()
    return Mesh(hosts, peers)


def keep_alive(connection: socket.socket) -> None:
    """Have a connection end two minutes after the other host has lost its power, which would say nothing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _hear(connection: socket.socket, length: int) -> bytes:
    """Return how somebody greets, or what came of it within some seconds."""
    deadline, greeting = time.monotonic() + _HELLO_LIMIT_S, b""
    with contextlib.suppress(OSError):
        while len(greeting) < length:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            more = connection.recv(length - len(greeting))
            if not more or time.monotonic() > deadline:
                break
            greeting += more
    return greeting


def _greet(token: str, rank: int) -> bytes:
    return f"{token} {rank:08d}".encode()


def _send(peer: socket.socket, parts: Sequence[memoryview]) -> None:
    for part in parts:
        peer.sendall(part)


def _fill(peer: socket.socket, part: memoryview) -> None:
    while part:
        count = peer.recv_into(part)
        if not count:
            raise ConnectionResetError("it was closed there")
        part = part[count:]
