"""What the tests of the serving stack share: untrained artifacts, requests, archives, and a look at what runs."""

from __future__ import annotations

import contextlib
import http.client
import io
import tarfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.container import Server
from robostig.models import get_model, get_spec


def make_artifact(name: str, folder: Path) -> Path:
    mx.random.seed(7)
    net = get_model(name)
    net.initialize(mx.init.Xavier(), force_reinit=True)
    return save_artifact(folder, net, get_spec(name).input, {"model": name})


class Answer(NamedTuple):
    status: int
    reason: str
    kind: Optional[str]
    body: bytes


def ask(
    server: Server,
    body: bytes,
    kind: Optional[str],
    accept: Optional[str] = None,
    *,
    method: str = "POST",
    path: str = "/invocations",
) -> Answer:
    """Send one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers: Dict[str, str] = {"Content-Type": kind} if kind else {}
    if accept:
        headers["Accept"] = accept
    connection.request(method, path, body, headers)
    with contextlib.closing(connection):
        answer = connection.getresponse()
        return Answer(answer.status, answer.reason, answer.getheader("Content-Type"), answer.read())


def find_processes(word: str) -> List[Tuple[str, str]]:
    """Return the processes that run with a word in their command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended
        if word in words:
            found.append((process.name, words))
    return found


def make_archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def make_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
    return member
