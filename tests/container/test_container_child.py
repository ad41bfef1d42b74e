"""What runs as in a container ends with whoever started it, even if that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT

CHILD = ROOT / "robostig" / "container" / "child.py"
SCRIPT = """\
import os, subprocess, sys
other = subprocess.Popen(["sleep", "600"])
print(os.getpid(), other.pid, *sys.argv[1:], flush=True)
other.wait()
"""
PROGRAM = """\
import os, subprocess, sys
subprocess.run([sys.executable, sys.argv[1], str(os.getpid()), sys.argv[2], "word"], start_new_session=True)
"""


def is_dead(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "XZ"
    except OSError:
        return True


def test_it_ends_with_the_program_that_started_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(CHILD), str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    script, other, word = program.stdout.readline().split()
    assert word == "word" and not is_dead(int(script)) and not is_dead(int(other))
    os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=60)  # its output ends when the last of them has
    while not (is_dead(int(script)) and is_dead(int(other))):
        time.sleep(0.05)


def test_it_ends_as_the_script_does(tmp_path):
    (tmp_path / "script.py").write_text("import sys\nprint(sys.argv[1:], __name__)\nsys.exit(3)\n")
    done = subprocess.run(
        [sys.executable, str(CHILD), str(os.getpid()), str(tmp_path / "script.py"), "a"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, "['a'] __main__\n"), done.stderr
