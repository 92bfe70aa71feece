"""One change of a project at a time: a file lock, which the kernel frees when its holder dies."""

import contextlib
import errno
import fcntl
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from stack.errors import LockHeld, NotPermitted

POLL_S = 0.1
# Whoever only looks who holds it has it for a moment.
LOOK_S = 0.05


def lock_path(project: str, engine_id: str) -> Path:
    """Where the lock of a project is; the same for every user and every clone on this machine."""
    key = sha256(f"{engine_id}\n{project}".encode()).hexdigest()[:16]
    # Not tempfile's: TMPDIR may be a directory of each user's own.
    return Path("/tmp") / f"stack-{key}.lock"  # noqa: S108 - opened safely below


@contextlib.contextmanager
def held(path: Path, *, verb: str, wait_s: float) -> Iterator[None]:
    """Hold the lock; wait up to `wait_s` seconds for it, then raise LockHeld naming its holder."""
    deadline = time.monotonic() + max(wait_s, LOOK_S)
    while (taken := _try(path)) is None:
        if time.monotonic() >= deadline:
            raise LockHeld(
                f"another run is changing this project: {holder(path) or 'unknown'}. "
                "Try again when it has ended, or wait for it with --lock-wait SECONDS"
            )
        time.sleep(POLL_S)
    descriptor, guard = taken
    try:
        for one in (descriptor, guard):
            os.set_inheritable(one, True)  # see runner.run
        os.ftruncate(descriptor, 0)
        since = time.strftime("%H:%M:%S")
        os.write(descriptor, f"process {os.getpid()}, {verb}, since {since}".encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(guard)
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who holds the lock, in words; empty if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace")
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return ""


def described(argv: list[str]) -> str:
    """How a run is named in the lock: its verb and arguments."""
    return f"`{shlex.join(argv)[:100]}`"


def _try(path: Path) -> tuple[int, int] | None:
    """The descriptors that hold the lock; None if somebody else does."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have removed the file while we waited: a lock on it would exclude nobody.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor, _guard(path)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _guard(path: Path) -> int:
    """A name that only one can have, and that nobody can remove, as they can the file. Raises
    BlockingIOError if somebody has it. Only Linux has such names.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guard:
        if sys.platform == "linux":
            try:
                guard.bind(f"\0{path}")
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise BlockingIOError from None
                raise
        return guard.detach()


def _open(path: Path) -> int:
    # Who else may write there could have made a link, or a pipe that one waits for.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = _opened(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPermitted(f"the lock {path} is not a file: remove it")
    return descriptor


def _opened(path: Path, flags: int) -> int:
    try:
        try:
            # Without O_CREAT first: in a sticky directory the kernel refuses to open another
            # user's file with it (fs.protected_regular).
            return os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT, 0o666)
            # Every user of the engine has to be able to lock it, whatever the umask.
            with contextlib.suppress(PermissionError):
                os.fchmod(descriptor, 0o666)  # nosec B103 - it holds no more than who has it
            return descriptor
    except OSError as error:
        raise NotPermitted(f"cannot open the lock {path}: {error.strerror}") from None
