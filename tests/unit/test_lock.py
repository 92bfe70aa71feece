"""One run at a time on a project."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stack import lock
from stack.errors import LockHeld, NotPermitted

HOLD = """
import sys, time
from pathlib import Path
from stack import lock
with lock.held(Path(sys.argv[1]), verb="`scale web=3`", wait_s=0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stack.lock"


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        (sys.executable, "-c", HOLD, str(path)), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_who_holds_the_lock(path: Path) -> None:
    with hold(path) as process:
        with pytest.raises(LockHeld) as caught, lock.held(path, verb="`up`", wait_s=0):
            pass
        assert f"process {process.pid}, `scale web=3`" in str(caught.value)
        assert str(process.pid) in lock.holder(path)
        process.kill()


def test_a_holder_that_is_killed_holds_nothing(path: Path) -> None:
    with hold(path) as process:
        process.kill()
    with lock.held(path, verb="`up`", wait_s=0):
        assert path.exists()
    assert lock.holder(path) == ""


def test_a_run_that_waits_gets_the_lock_when_it_is_free(path: Path) -> None:
    with hold(path) as process:
        process.terminate()
        with lock.held(path, verb="`up`", wait_s=10):
            pass


def test_a_file_that_is_removed_while_it_is_locked_lets_nobody_else_in(path: Path) -> None:
    with lock.held(path, verb="`up`", wait_s=0):
        path.unlink()
        for _ in range(2):
            with pytest.raises(LockHeld), lock.held(path, verb="`down`", wait_s=0):
                pass
    with lock.held(path, verb="`down`", wait_s=0):
        pass


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert lock.holder(path) == ""
    with pytest.raises(NotPermitted, match="is not a file"), lock.held(path, verb="", wait_s=0):
        pass


def test_waiting_ends_in_time(path: Path) -> None:
    with lock.held(path, verb="`up`", wait_s=0):
        started = time.monotonic()
        with pytest.raises(LockHeld), lock.held(path, verb="`down`", wait_s=0.3):
            pass
        assert time.monotonic() - started >= 0.3
