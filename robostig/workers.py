"""The workers that train one network together: one a host, as SageMaker starts them with MXNet's parameter server.

Small gradients, and what large ones of dense layers follow from, they exchange themselves; other large gradients are
added up by the parameter server. Everything else that workers have to tell each other goes through a connection of each
to the first: whether they have the same data, how good an epoch was, and that one of them has failed. The parameter
server itself notices no failure; whoever waits there for a worker that is gone waits for ever.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np

from robostig._files import describe_error
from robostig.backend import mx, view_memory
from robostig.mesh import Mesh, keep_alive, meet

__all__ = ["WorkerGroup", "join_workers"]

logger = logging.getLogger(__name__)

JOIN_LIMIT_S = 900.0  # the training toolkit waits as long for the hosts' names
STALL_LIMIT_S = 900.0  # no step takes as long, unless somebody is gone
_HELLO_LIMIT_S = 10.0
_LAST_WORDS_LIMIT_S = 10.0
_WELCOME = {"welcome": True}
_KEYS_A_NETWORK = 100_000  # more than a network has parameters
_SMALL = 250_000  # numbers in a gradient: a megabyte

T = TypeVar("T")


class WorkerGroup:
    """The workers of a training run and this one's place among them; alone, unless :func:`join_workers` says otherwise.

    Used as a context: what ends it with an error ends the run of every worker, and each is told why.

    Parameters
    ----------
    hosts
        The workers' names, the same on each.
    rank
        This worker's position there; 0 is the first, which alone writes files.
    links
        The connections to the others by their ranks: the first worker's to each, or of each to the first.
    """

    def __init__(
        self, hosts: Sequence[str] = ("this host",), rank: int = 0, links: Optional[Mapping[int, _Link]] = None
    ) -> None:
        self.hosts, self.rank, self.count = tuple(hosts), rank, len(hosts)
        self._links, self._lock = dict(links or {}), threading.Lock()
        self._inbox: queue.Queue[Optional[Tuple[int, Any]]] = queue.Queue()
        self._lost: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._tasks: queue.Queue[Tuple[concurrent.futures.Future[Any], Callable[..., Any], Any]] = queue.Queue()
        self._server: Any = None  # the connection to the parameter server
        self._mesh: Optional[Mesh] = None
        self._networks = 0
        if self._links:
            # MXNet's waiting ends only with the process, so it is done in a thread that may be left behind.
            threading.Thread(target=_work, args=(self._tasks,), name="worker", daemon=True).start()
        for peer, link in self._links.items():
            threading.Thread(target=self._listen, args=(peer, link), name=f"worker {peer}", daemon=True).start()

    @property
    def host(self) -> str:
        """The name of this worker."""
        return self.hosts[self.rank]

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes files."""
        return self.rank == 0

    def share(self, count: int, rank: Optional[int] = None) -> Tuple[int, int]:
        """Return which of ``count`` things are a worker's, as start and stop: every thing is one worker's.

        Parameters
        ----------
        count
            How many there are.
        rank
            The worker; this one if None.
        """
        rank = self.rank if rank is None else rank
        return count * rank // self.count, count * (rank + 1) // self.count

    def gather(self, value: Any = None) -> List[Any]:
        """Return every worker's value, by rank; waits until all have given theirs.

        Parameters
        ----------
        value
            Anything that JSON holds; a float arrives exactly.

        Raises
        ------
        ConnectionError
            If another worker has failed; it says which, and why.
        """
        if self.count == 1:
            return [value]
        if not self.is_first:
            self._tell({"value": value})
            return list(self._receive()[1])
        values = {self.rank: value, **dict(self._receive() for _ in self._links)}
        ordered = [values[rank] for rank in range(self.count)]
        self._tell({"value": ordered})
        return ordered

    def agree(self, values: Mapping[str, Any]) -> None:
        """Make sure that these values are the same on every worker.

        Raises
        ------
        ValueError
            On every worker, if they are not: which value is what, and where.
        ConnectionError
            As :meth:`gather`.
        """
        told = self.gather(dict(values))
        differing = [name for name in told[0] if any(each.get(name) != told[0][name] for each in told)]
        if differing:
            found = "; ".join(
                f"{name} is " + ", ".join(f"{each.get(name)} on {host}" for host, each in zip(self.hosts, told))
                for name in differing
            )
            raise ValueError(
                f"the hosts do not train the same: {found}. Each needs all of the data, the same settings, and the "
                "same checkpoint or none"
            )

    def make_kvstore(self, count: Callable[[], int]) -> Any:
        """Return what Gluon's ``Trainer`` adds up one network's gradients with: among this host's devices, and hosts.

        All workers must have the same parameters already. Raises as :meth:`wait`.

        Parameters
        ----------
        count
            Says how many of its parameters have gradients; that may change between steps.
        """
        if self.count == 1:
            return "device"
        self._networks += 1
        if self._server is None:
            self.gather()  # some may take hours to decode their frames
            self._server = self.wait(mx.kv.create, "dist_device_sync")
            address = next(iter(self._links.values())).address
            self._mesh = self.wait(meet, self.hosts, self.rank, address, self.gather)
        return _GradientSum(self, _KEYS_A_NETWORK * self._networks, count)

    def share_rows(self, arrays: Sequence[np.ndarray]) -> None:
        """Give all workers each one's rows of arrays that all have, in place; for use within :meth:`wait`.

        Parameters
        ----------
        arrays
            C-contiguous, of the same shapes on every worker. Of each, this worker has its :meth:`share` of the rows.

        Raises
        ------
        ConnectionError
            If the connection with another worker broke.
        """
        parts = [[array[slice(*self.share(len(array), rank))] for array in arrays] for rank in range(self.count)]
        self._exchange([parts[self.rank]] * self.count, parts)

    def add_up(self, values: np.ndarray) -> None:
        """Replace an array by its sum over all workers, the same on each to the bit; for use within :meth:`wait`.

        Each adds up its share of all, and gives it to the others.

        Parameters
        ----------
        values
            (n,) of numbers, contiguous; of the same length on every worker.

        Raises
        ------
        ConnectionError
            If the connection with another worker broke.
        """
        own = values[slice(*self.share(len(values)))]
        received = np.empty((self.count, len(own)), values.dtype)
        received[self.rank] = own
        outgoing = [[values[slice(*self.share(len(values), rank))]] for rank in range(self.count)]
        self._exchange(outgoing, [[row] for row in received])
        np.sum(received, axis=0, out=own)
        self.share_rows([values])

    def _exchange(self, outgoing: Sequence[Sequence[np.ndarray]], incoming: Sequence[Sequence[np.ndarray]]) -> None:
        """Send every other worker the arrays under its rank, and write what it sends to those under its rank."""
        if self.count == 1:
            return
        if self._mesh is None:
            raise RuntimeError("the workers are not connected with each other yet; make_kvstore() does that")
        views = ([[each.data.cast("B") for each in part if each.size] for part in way] for way in (outgoing, incoming))
        self._mesh.exchange(*views)

    def wait(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what a function returns that may wait for other workers, or for the parameter server, hence for them.

        Raises
        ------
        ConnectionError
            If another worker has failed meanwhile, with its reason, even where the function fails first because of it.
        TimeoutError
            If it takes 15 minutes.
        """
        if self.count == 1:
            return function(*arguments)
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._tasks.put((result, function, arguments))
        both: List[concurrent.futures.Future[Any]] = [result, self._lost]
        concurrent.futures.wait(both, STALL_LIMIT_S, return_when=concurrent.futures.FIRST_COMPLETED)
        if result.done():
            with contextlib.suppress(concurrent.futures.TimeoutError):
                if isinstance(result.exception(), OSError):  # the one that was lost is about to say why
                    self._lost.result(_LAST_WORDS_LIMIT_S)
            return result.result()
        if self._lost.done():
            self._lost.result()
        raise TimeoutError(
            f"neither another host nor the parameter server has answered {self.host} for {STALL_LIMIT_S:.0f} s; "
            "are they running?"
        )

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self.count == 1:
            return
        try:
            if error is None:
                self.gather()  # nobody leaves before the first has written its files
                self.wait(self._leave_server)
        except ConnectionError as lost:
            error = lost
            raise
        finally:
            self._leave(error)

    def _leave_server(self) -> None:
        # MXNet does it when nothing refers to its store any more, and waits for all workers; the servers end then.
        self._server = None

    def _leave(self, error: Optional[BaseException]) -> None:
        """Say good-bye, or what went wrong if the others do not know yet."""
        if error is None or self._lost.done():
            self._tell({"bye": self.host})
        else:
            self._tell({"failed": f"{self.host} failed: {describe_error(error) or type(error).__name__}"})
        if error is not None and self._networks:
            atexit.register(_exit_at_once)
        if self._mesh is not None:
            self._mesh.close()
        for link in self._links.values():
            link.finish()

    def _tell(self, message: Mapping[str, Any], *, but: Optional[_Link] = None) -> None:
        with self._lock:  # all get an answer before any gets the next message
            for link in self._links.values():
                if link is not but:
                    link.send(message)

    def _receive(self) -> Tuple[int, Any]:
        """Return the next value that came, and from whom."""
        item = self._inbox.get()
        if item is None:
            self._inbox.put(None)
            self._lost.result()
        assert item is not None
        return item

    def _listen(self, peer: int, link: _Link) -> None:
        """Take in what another worker says until it has left."""
        is_told = False
        for message in link.receive():
            if "value" in message:
                self._inbox.put((peer, message["value"]))
            else:
                is_told = True
                if "failed" in message:
                    self._lose(message["failed"], link)
        if not is_told:
            self._lose(f"{self.hosts[peer]} has gone without a word; look at its log", link)
        link.close()

    def _lose(self, news: str, link: _Link) -> None:
        """End this worker's waiting; the first worker passes the bad news on."""
        self._tell({"failed": news}, but=link)  # before this worker can leave for that reason
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # another was lost before
            self._lost.set_exception(ConnectionError(news))
        self._inbox.put(None)


def join_workers(environ: Mapping[str, str]) -> WorkerGroup:
    """Meet the other hosts of a SageMaker job.

    The first host listens on the port after the parameter server's (``DMLC_PS_ROOT_PORT``).

    Parameters
    ----------
    environ
        The process's environment, as the training toolkit leaves it; anywhere else, the group is this worker alone.

    Raises
    ------
    ValueError
        If there are several hosts without a parameter server, or each would get a part of the data only.
    OSError
        If they do not meet within 15 minutes.
    """
    hosts = json.loads(environ.get("SM_HOSTS", "[]"))
    if environ.get("DMLC_ROLE") != "worker" or environ.get("DMLC_NUM_WORKER") == "1":
        if len(hosts) > 1:
            raise ValueError(
                f"this job has {len(hosts)} hosts, and nothing that lets them train together: give the estimator "
                'distribution={"parameter_server": {"enabled": True}}, or instance_count=1'
            )
        return WorkerGroup()
    host = environ.get("SM_CURRENT_HOST", "")
    if str(len(hosts)) != environ.get("DMLC_NUM_WORKER") or host not in hosts:
        raise ValueError(
            f"this host is {host!r} of {hosts} (SM_CURRENT_HOST, SM_HOSTS), and DMLC_NUM_WORKER is "
            f"{environ.get('DMLC_NUM_WORKER')}; it must be one of as many"
        )
    for channel, about in json.loads(environ.get("SM_INPUT_DATA_CONFIG", "{}")).items():
        if about.get("S3DistributionType") == "ShardedByS3Key":
            raise ValueError(
                f"the channel {channel} gives each host a part of the data (ShardedByS3Key). Use FullyReplicated: the "
                "hosts divide every batch among themselves"
            )
    rank, address = hosts.index(host), (environ["DMLC_PS_ROOT_URI"], int(environ["DMLC_PS_ROOT_PORT"]) + 1)
    deadline = time.monotonic() + JOIN_LIMIT_S
    links = _await_others(hosts, address, deadline) if rank == 0 else {0: _meet_first(hosts, rank, address, deadline)}
    logger.info("%d hosts train together; this is %s, number %d", len(hosts), host, rank + 1)
    return WorkerGroup(hosts, rank, links)


def _await_others(hosts: Sequence[str], address: Tuple[str, int], deadline: float) -> Dict[int, _Link]:
    links: Dict[int, _Link] = {}
    try:
        listening = socket.create_server(address)
    except OSError as error:
        raise OSError(
            f"the hosts of a job meet at {hosts[0]}, port {address[1]}, the one after DMLC_PS_ROOT_PORT, where nobody "
            f"can listen: {error.strerror}"
        ) from error
    with listening as server:
        while len(links) < len(hosts) - 1:
            missing = [host for rank, host in enumerate(hosts[1:], 1) if rank not in links]
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except socket.timeout:
                raise TimeoutError(f"{', '.join(missing)} did not come within {JOIN_LIMIT_S:.0f} s") from None
            link = _Link(connection)
            connection.settimeout(_HELLO_LIMIT_S)
            hello = next(link.receive(), None)
            connection.settimeout(None)
            ranks = [rank for rank, host in enumerate(hosts) if host in missing and hello == _greet(hosts, rank)]
            if ranks:
                link.send(_WELCOME)
                links[ranks[0]] = link
            else:
                link.close()  # a stranger
    return links


def _meet_first(hosts: Sequence[str], rank: int, address: Tuple[str, int], deadline: float) -> _Link:
    while True:
        reason = "somebody else listens there"
        try:
            connection = socket.create_connection(address, max(0.01, deadline - time.monotonic()))
            connection.settimeout(_HELLO_LIMIT_S)
            link = _Link(connection)
            link.send(_greet(hosts, rank))
            if next(link.receive(), None) == _WELCOME:
                connection.settimeout(None)
                return link
            link.close()
        except OSError as error:  # it is not there yet
            reason = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{hosts[0]} did not come within {JOIN_LIMIT_S:.0f} s ({reason})")
        time.sleep(0.1)


def _greet(hosts: Sequence[str], rank: int) -> Dict[str, Any]:
    return {"rank": rank, "hosts": list(hosts)}


class _GradientSum(mx.kv.KVStoreBase):
    """What a ``Trainer`` needs of the workers, which is the sum of their gradients.

    Small ones are added up together, by the workers themselves, sooner than by the parameter server. In place of a
    large one, its factors may travel (:mod:`robostig.factors`). The server adds up others.

    Parameters
    ----------
    workers
        Those who train together.
    first_key
        The number of the first parameter there, followed by those of the others; no other network has them.
    count
        Says how many parameters are summed in a step.
    """

    def __init__(self, workers: WorkerGroup, first_key: int, count: Callable[[], int]) -> None:
        self._workers, self._first_key, self._count = workers, first_key, count
        self._seen = 0
        self._factored: Dict[int, Any] = {}
        self._small: List[Sequence[mx.nd.NDArray]] = []
        # By where small ones begin and end: each device's row of all of them, and its pieces.
        self._joined: Dict[Tuple[int, ...], Tuple[List[mx.nd.NDArray], List[List[mx.nd.NDArray]]]] = {}

    @property
    def type(self) -> str:
        """Return MXNet's name of the store."""
        return str(self._workers._server.type)

    @staticmethod
    def is_capable(capability: str) -> bool:
        """Say that optimizers stay with the workers."""
        return False

    def factor(self, key: int, factored: Any) -> None:
        """Exchange, in place of a parameter's gradients, the factors that they follow from.

        Parameters
        ----------
        key
            The parameter's position in the trainer.
        factored
            A :class:`robostig.factors.FactoredDense`.
        """
        self._factored[key] = factored

    def broadcast(self, key: int, value: mx.nd.NDArray, out: Sequence[mx.nd.NDArray], priority: int = 0) -> None:
        """Make place for a parameter's gradients, if they travel alone; its value is the same everywhere."""
        if key not in self._factored and not _is_small(value):
            self._make_place(self._first_key + key, value)

    def pushpull(self, key: int, value: Sequence[mx.nd.NDArray], out: Any = None, priority: int = 0) -> None:
        """Replace a parameter's gradients, one a device, by the sum over all devices of all workers.

        It happens with the step's last parameter at the latest.
        """
        self._seen += 1
        if key in self._factored:
            self._workers.share_rows(self._factored[key].read())
            self._factored[key].write_gradient()
        elif _is_small(value[0]):
            self._small.append(value)
        else:
            self._workers._server.pushpull(self._first_key + key, value, priority=priority)
        if self._seen == self._count():
            if self._small:
                self._sum_small()
            self._seen, self._small = 0, []

    def _sum_small(self) -> None:
        devices = [[array.reshape(-1) for array in arrays] for arrays in zip(*self._small)]  # the same memory
        cuts = (0, *np.cumsum([array.size for array in devices[0]]).tolist())
        if cuts not in self._joined:
            rows = [mx.nd.zeros(cuts[-1], ctx=arrays[0].context) for arrays in devices]
            pieces = [[row[start:stop] for start, stop in zip(cuts, cuts[1:])] for row in rows]
            self._joined[cuts] = rows, pieces
        rows, pieces = self._joined[cuts]
        # Piece by piece: in a seventh of the time that MXNet's operators take to join arrays and to split one.
        pairs = [pair for arrays, parts in zip(devices, pieces) for pair in zip(arrays, parts)]
        for array, piece in pairs:
            array.copyto(piece)
        first, *others = rows
        for row in others:
            first += row.as_in_context(first.context)
        if first.context.device_type == "cpu":
            first.wait_to_read()
            self._workers.add_up(view_memory(first).reshape(-1))
        else:
            values = first.asnumpy()
            self._workers.add_up(values)
            first[:] = mx.nd.array(values)
        for row in others:
            first.copyto(row)
        for array, piece in pairs:
            piece.copyto(array)

    def _make_place(self, key: int, value: mx.nd.NDArray) -> None:
        # Sending the value would fail: MXNet 1.9 loses arrays that oneDNN has laid out for inference.
        self._workers._server.init(key, mx.nd.zeros(value.shape, dtype=value.dtype))


def _is_small(array: mx.nd.NDArray) -> bool:
    return array.size <= _SMALL and array.dtype == np.float32


class _Link:
    """A connection to another worker: one line of JSON a message."""

    def __init__(self, connection: socket.socket) -> None:
        keep_alive(connection)
        self._connection, self._file = connection, connection.makefile("rb")

    def send(self, message: Mapping[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:  # it has gone, which the listener tells
            logger.debug("a message could not be sent: %s", error)

    def receive(self) -> Iterator[Dict[str, Any]]:
        """Yield messages until the connection ends or says what no worker would."""
        try:
            for line in self._file:
                message = json.loads(line)
                if not isinstance(message, dict):
                    return
                yield message
        except (OSError, ValueError) as error:
            logger.debug("a connection ended: %s", error)

    @property
    def address(self) -> str:
        """The IP address of this end."""
        return str(self._connection.getsockname()[0])

    def finish(self) -> None:
        """Say no more, and leave it to the listener to hear the other out."""
        with contextlib.suppress(OSError):  # it has gone
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self._connection.close()


def _work(tasks: queue.Queue[Tuple[concurrent.futures.Future[Any], Callable[..., Any], Any]]) -> None:
    while True:
        result, function, arguments = tasks.get()
        try:
            result.set_result(function(*arguments))
        except BaseException as error:
            result.set_exception(error)


def _exit_at_once() -> None:
    # MXNet would wait for the parameter server, and that for the worker that is gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
