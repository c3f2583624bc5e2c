"""A lock file that names its holder, so that one process writes to a store at a time."""

import json
import os
import socket
from pathlib import Path
from time import sleep

from lattice_lightning.exceptions import InputError

__all__ = ["Lock"]


class Lock:
    """A file that names the process writing; a dead one's is taken over on the same machine.

    Args:
        path: the file, made when the lock is taken and deleted by :meth:`release`.
        what: is being written, for the refusal.

    Raises:
        InputError: when another process holds it, or it cannot be written.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        for _ in range(2):
            try:
                with path.open("x") as file:
                    file.write(mine)
                return
            except FileExistsError:
                self._require_dead()
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"cannot write the lock {path}: {error.strerror}") from error
        raise InputError(f"cannot take the lock {path}: another process takes it at the same time")

    def _holder(self) -> tuple[int, str] | None:
        try:
            holder = json.loads(self.path.read_text())
            return int(holder["pid"]), str(holder["host"])
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            return None

    def _require_dead(self) -> None:
        holder = self._holder()
        if holder is None:
            sleep(0.2)  # it may be being written right now
            holder = self._holder()
        if holder is None:
            return  # its writer was killed in between
        pid, host = holder
        if host == socket.gethostname() and not _alive(pid):
            return
        raise InputError(
            f"process {pid} on {host} is writing {self.what} ({self.path}); wait for it, or delete "
            "the lock if that process is gone"
        )

    def release(self) -> None:
        """Let others write."""
        self.path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
