"""A SageMaker endpoint on this machine: the serving toolkit and its model server, over one artifact."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import weakref
import zlib
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Iterator, Mapping, Optional, Type, Union

from robostig._files import make_folder
from robostig.artifact import CODE, Artifact, add_code, find_artifact, list_files, load_artifact
from robostig.container.environment import ContainerError, Environment, find_environment
from robostig.container.job import kill_group

__all__ = ["Server", "check_port", "open_model", "unpack"]

_PLAIN = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine
PORTS = range(32767)  # multi-model-server keeps a port in a Java short, and refuses larger ones
FREE_PORTS = range(20000, 32000)  # below those that systems hand out to clients
START_S = 120.0
SHORT = 56  # characters: the workers' sockets lie in folders in it, and the path of a socket has at most 107
NOT_LOADED = "the model cannot be loaded"
LOG_LINES = 40  # shown when a server does not start


class Server:
    """SageMaker's own serving stack over one model, until :meth:`stop`.

    Parameters
    ----------
    artifact
        Folder of a trained model, or a ``model.tar.gz``. It is copied; if it has no ``code`` of its own, this
        package's is put beside it.
    port
        To listen on; 0 takes a free one.
    workers
        Processes that answer.
    host
        The address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in.
    environment
        Where it runs; :func:`robostig.container.find_environment` if None.
    env
        Further environment variables, such as ``SAGEMAKER_PROGRAM``.
    start_s
        Seconds that it may take to answer for the first time.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no model, or its archive is unsafe or damaged.
    ContainerError
        If the server does not start, with the end of its log.

    Examples
    --------
    >>> with Server("out/nvidia", port=8080) as server:     # doctest: +SKIP
    ...     print(server.url)
    http://127.0.0.1:8080/invocations
    """

    def __init__(
        self,
        artifact: Union[str, Path],
        *,
        port: int = 0,
        workers: int = 1,
        host: str = "127.0.0.1",
        environment: Optional[Environment] = None,
        env: Optional[Mapping[str, str]] = None,
        start_s: float = START_S,
    ) -> None:
        self.environment = environment or find_environment("serving")
        self.port = port or find_free_port(host)
        self.host = host
        temporary = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="robostig-", dir=temporary if len(temporary) <= SHORT else "/tmp"))
        self.log = self.folder / "server.log"
        cleanup = contextlib.ExitStack()
        self._stop = weakref.finalize(
            self, cleanup.close
        )  # at the latest when this process ends, or forgets the server
        cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._lay_out(Path(artifact))
            self._process = self._start(workers, env or {})
            cleanup.callback(kill_group, self._process)
            self._wait_until_ready(start_s)
        except BaseException:
            self.stop()
            raise

    @property
    def base_url(self) -> str:
        """Where ``/ping`` and ``/invocations`` are."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where frames are posted to."""
        return f"{self.base_url}/invocations"

    def stop(self) -> None:
        """End the server, its workers and its Java, and remove what it wrote; doing so twice is fine."""
        self._stop()

    def check(self) -> None:
        """Raise ContainerError if the server has ended, with the end of its log."""
        if self._process.poll() is not None:
            raise ContainerError(f"the server on port {self.port} has ended; {self._describe_log()}")

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    def _lay_out(self, artifact: Path) -> None:
        model = self.folder / "ml" / "model"
        if artifact.is_file():
            unpack(artifact, model)
        else:
            folder = find_artifact(artifact)
            make_folder(model)
            for name in list_files(folder):
                shutil.copy(folder / name, model / name)
            if (folder / CODE).is_dir():
                shutil.copytree(folder / CODE, model / CODE, ignore=shutil.ignore_patterns("__pycache__"))
        if not (model / CODE).is_dir():
            add_code(model)

    def _start(self, workers: int, env: Mapping[str, str]) -> subprocess.Popen:
        variables = {
            "SAGEMAKER_BASE_DIR": str(self.folder / "ml"),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers),
            # To the model server, it takes precedence over its settings, where the toolkit says 0.0.0.0.
            "MMS_INFERENCE_ADDRESS": f"http://{self.host}:{self.port}",
            "TMPDIR": str(self.folder),
            **env,
        }
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                self.environment.make_command("serve.py"),
                cwd=self.folder,
                env=self.environment.make_variables(variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_ready(self, start_s: float) -> None:
        deadline = time.monotonic() + start_s
        while self._ask("/ping") != 200:
            self.check()
            if time.monotonic() > deadline:
                raise ContainerError(f"no answer on port {self.port} within {start_s:g} s; {self._describe_log()}")
            time.sleep(0.1)
        # /ping is content before the model is loaded, and even if it cannot be: ask for an answer, whatever it is. Code
        # that cannot be imported makes it a 503, a model that cannot be loaded a 500 and a line of robostig.serving's.
        status = self._ask("/invocations", b"", timeout=max(1.0, deadline - time.monotonic()))
        if status in (None, 503) or (status == 500 and NOT_LOADED in self.log.read_text(errors="replace")):
            raise ContainerError(f"the model on port {self.port} cannot be loaded; {self._describe_log()}")

    def _ask(self, path: str, body: Optional[bytes] = None, timeout: float = 5.0) -> Optional[int]:
        """Return the status of an answer, None if there is none."""
        request = urllib.request.Request(self.base_url + path, body, {"Content-Type": "application/json"})
        try:
            with _PLAIN.open(request, timeout=timeout) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def _describe_log(self) -> str:
        lines = deque(self.log.read_text(errors="replace").splitlines(), maxlen=LOG_LINES)
        return "\n  ".join(["its log ends with:", *lines])


@contextlib.contextmanager
def open_model(artifact: Union[str, Path]) -> Iterator[Artifact]:
    """Load a trained model from its folder, or from a ``model.tar.gz``, which is unpacked for the length of the block.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is damaged, unsafe, or of a format that this version does not read.
    """
    artifact = Path(artifact)
    if not artifact.is_file():
        yield load_artifact(artifact)
        return
    with tempfile.TemporaryDirectory(prefix="robostig-model-") as folder:
        unpack(artifact, folder)
        try:
            loaded = load_artifact(folder)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(folder, str(artifact))) from error
        yield loaded


def check_port(port: int, host: str) -> None:
    """Raise ValueError or OSError if a server could not listen there now.

    Parameters
    ----------
    port
        One of :data:`PORTS`.
    host
        An address or name of this machine.
    """
    if not host.strip():
        raise ValueError("the host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in")
    if port not in PORTS:
        raise ValueError(f"there is no port {port} for a model server; it takes 0 (any) to {PORTS.stop - 1}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else one that has just ended would count
        try:
            probe.bind((host, port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            why = "somebody listens there already; name another port" if in_use else str(error.strerror or error)
            raise OSError(f"cannot listen on {host}:{port}: {why}") from error


def find_free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now, drawn by chance: two processes that ask at once get different ones."""
    for _ in range(1000):
        port = random.randrange(FREE_PORTS.start, FREE_PORTS.stop)
        with contextlib.suppress(OSError):
            check_port(port, host)
            return port
    check_port(port, host)
    return port


def unpack(archive: Union[str, Path], folder: Union[str, Path]) -> Path:
    """Unpack a ``model.tar.gz`` into a folder, and nothing outside of it.

    Raises
    ------
    ValueError
        If it is no such archive, or has a member that is neither a plain file nor a folder, or that leads out.
    """
    folder = make_folder(folder)
    try:
        with tarfile.open(archive, "r:gz") as opened:
            members = opened.getmembers()
            for member in members:
                _check_member(member, archive)
            # Python's own guard, where it has one, after ours, which says more clearly what is wrong.
            options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            opened.extractall(folder, members, **options)  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        mixed_up = (FileExistsError, NotADirectoryError, IsADirectoryError)  # a name that is a file and a folder
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, mixed_up):
            raise  # such as a full disk
        raise ValueError(f"{archive} is no model.tar.gz, or is damaged ({error}); copy it again") from error
    return folder


def _check_member(member: tarfile.TarInfo, archive: Union[str, Path]) -> None:
    path = os.path.normpath(member.name)
    if "\0" in path:
        raise ValueError(f"{archive} holds {member.name!r}, which is no name; nothing was unpacked")
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise ValueError(f"{archive} holds {member.name!r}, which leads out of its folder; nothing was unpacked")
    if not (member.isfile() or member.isdir()):
        raise ValueError(f"{archive} holds {member.name!r}, which is a link or a device; nothing was unpacked")
