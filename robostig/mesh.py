"""Connections of every worker with every other, for what is larger than news."""

from __future__ import annotations

import contextlib
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, Sequence

__all__ = ["Mesh", "meet"]

_MEET_LIMIT_S = 60.0  # all are about to come
_HELLO_LIMIT_S = 10.0
_TOKEN_BYTES = 16


class Mesh:
    """A worker's connections with all others.

    Parameters
    ----------
    peers
        The connections to the others by their ranks.
    """

    def __init__(self, peers: Mapping[int, socket.socket]) -> None:
        self._peers = dict(peers)
        self._senders = ThreadPoolExecutor(max(1, len(peers)), "mesh")  # all send at once, and receive meanwhile
        for peer in self._peers.values():
            peer.settimeout(None)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, outgoing: Sequence[Sequence[memoryview]], incoming: Sequence[Sequence[memoryview]]) -> None:
        """Send every other worker something, and take in what each sends; all call it at the same time.

        Parameters
        ----------
        outgoing, incoming
            By rank: memory of bytes to read from, and to write to. Each is as long as what the other worker has for it;
            this worker's own is left alone.

        Raises
        ------
        OSError
            If another worker is gone.
        """
        sent = [self._senders.submit(_send, peer, outgoing[rank]) for rank, peer in self._peers.items()]
        for rank, peer in self._peers.items():
            for part in incoming[rank]:
                _fill(peer, part)
        for each in sent:
            each.result()

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
    with socket.create_server(("", 0)) as server:
        told = gather([address, server.getsockname()[1], secrets.token_hex(_TOKEN_BYTES)])
        for other, (place, port, token) in enumerate(told[:rank]):
            try:
                peers[other] = socket.create_connection((place, port), _MEET_LIMIT_S)
                peers[other].sendall(_greet(token, rank))
            except OSError as error:
                raise OSError(
                    f"{hosts[rank]} cannot reach {hosts[other]} at {place}, port {port} ({error}): the hosts of a job "
                    "must be open to each other at all ports"
                ) from error
        expected = {_greet(told[rank][2], other): other for other in range(rank + 1, len(told))}
        server.settimeout(_MEET_LIMIT_S)
        while expected:
            try:
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
                peers[guest] = connection
    return Mesh(peers)


def _hear(connection: socket.socket, length: int) -> bytes:
    """Return how somebody greets, or nothing."""
    connection.settimeout(_HELLO_LIMIT_S)
    greeting = bytearray(length)
    try:
        _fill(connection, memoryview(greeting))
    except OSError:
        return b""
    return bytes(greeting)


def _greet(token: str, rank: int) -> bytes:
    return f"{token} {rank:08d}".encode()


def _send(peer: socket.socket, parts: Sequence[memoryview]) -> None:
    for part in parts:
        peer.sendall(part)


def _fill(peer: socket.socket, part: memoryview) -> None:
    while part:
        count = peer.recv_into(part)
        if not count:
            raise ConnectionResetError("another host has closed its connection")
        part = part[count:]
