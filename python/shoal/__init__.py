"""Waits until what was written through a Shoal mount is safe.

    import shoal

    torch.save(state, "/mnt/data/run/step-1000/rank0.pt")
    shoal.sync("/mnt/data/run/step-1000", level="replicated", timeout=60)   # the nodes have it
    shoal.publish("/mnt/data/run/step-1000", keep_last=3)                   # the origin has all of it

Files are read and written with open(); this package talks to the daemon that serves the mount, which
must run on this machine as the same user. Calls block without the GIL, may be made by any thread at any
time, and can be interrupted with Ctrl-C: uploads go on by themselves.

Failures are `shoal.Error`, an OSError: `errno` says what, `str()` why and what to do next, `progress`
how far it had come. `shoal.Timeout` is a TimeoutError too, `shoal.NotFound` a FileNotFoundError.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import enum
import errno
import os
import queue
import threading
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional, Union

from . import _library

__all__ = ["Cancelled", "Error", "Level", "NotFound", "NotMounted", "Progress", "Timeout",
           "Unavailable", "file_level", "publish", "sync", "version"]

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Duration = Union[float, datetime.timedelta]


class Level(enum.IntEnum):
    """How safe a file is; greater is safer."""

    OPEN = 0        # is being written: only a state, never what to wait for
    LOCAL = 1       # on this machine's disk
    REPLICATED = 2  # on the disks of several nodes
    DURABLE = 3     # committed in the origin


@dataclass(frozen=True)
class Progress:
    """How far a call has come. `objects` are files; `last_error` is "" unless something fails, which
    is tried again; `stage` says what is being done where there is more than one thing to do."""

    bytes_total: int = 0
    bytes_done: int = 0
    bytes_left: int = 0
    objects_total: int = 0
    objects_done: int = 0
    objects_left: int = 0
    failures: int = 0
    seconds: float = 0.0
    bytes_per_second: float = 0.0
    stage: str = ""
    last_error: str = ""


class Error(OSError):
    """A call failed. `progress` is what was known last."""

    progress: Progress = Progress()


class Timeout(Error, TimeoutError):
    """The timeout came first; `progress` says what is left."""


class NotFound(Error, FileNotFoundError):
    """There is no such file or directory in the mount."""


class NotMounted(Error):
    """No Shoal mount of this user holds the path."""


class Cancelled(Error):
    """The progress function answered False."""


class Unavailable(Error, ConnectionError):
    """The daemon is not there, died meanwhile, or is silent."""


OnProgress = Callable[[Progress], Optional[bool]]

_KINDS = {errno.ETIMEDOUT: Timeout, errno.ENOENT: NotFound, errno.ENODEV: NotMounted,
          errno.ECANCELED: Cancelled, errno.ENOTCONN: Unavailable}
_lib = _library.load()


def sync(path: Path, level: Union[str, Level] = "durable", timeout: Optional[Duration] = None,
         progress: Optional[OnProgress] = None, *, socket: Optional[Path] = None) -> Progress:
    """Waits until everything written at or below `path` is safe, and returns the last progress.

    level     "replicated" (on several nodes; in a cluster only) or "durable" (in the origin)
    timeout   seconds, or a timedelta; None: as long as it takes
    progress  called with a Progress at least once a second, on this thread; False ends the call with
              Cancelled, None and True go on; what it raises is raised from here
    socket    the daemon's admin socket, where the mount cannot be looked up (in a container)
    """
    options = _library.SyncOptions()
    with _client(socket) as client:
        return _run(_lib.shoal_sync, client, path, options, level, timeout, progress)


def publish(directory: Path, latest: str = "latest", keep_last: int = 0,
            level: Union[str, Level] = "durable", timeout: Optional[Duration] = None,
            progress: Optional[OnProgress] = None, *, socket: Optional[Path] = None) -> Progress:
    """Makes a directory visible as one: waits for the files that any node wrote below it, leaves a
    manifest in it and moves the pointer `latest` beside it. Call it on one node, after all writers
    have closed their files.

    keep_last  removes older published directories beside it, but for so many; 0: removes none
    The other arguments are as for sync().
    """
    if not 0 <= keep_last < 1_000_000:
        raise ValueError("keep_last must be 0 to 999,999")
    options = _library.PublishOptions()
    options.latest = _bytes_of(latest)
    options.keep_last = keep_last
    with _client(socket) as client:
        return _run(_lib.shoal_publish, client, directory, options, level, timeout, progress)


def file_level(path: Path) -> Level:
    """How safe a file is right now, at least: while it is being uploaded it may be told as LOCAL
    though it is replicated, and in a cluster the news may lag behind by a moment."""
    level = ctypes.c_int()
    _check(_lib.shoal_file_level(_bytes_of(path), ctypes.byref(level)), path)
    return Level(level.value)


def version() -> str:
    """Of the library."""
    return str(_lib.shoal_version().decode())


@contextlib.contextmanager
def _client(socket: Optional[Path]) -> Iterator[Optional[ctypes.c_void_p]]:
    if socket is None:
        yield None
        return
    client = ctypes.c_void_p()
    _check(_lib.shoal_client_open_socket(_bytes_of(socket), None, ctypes.byref(client)), socket)
    try:
        yield client
    finally:
        _lib.shoal_client_close(client)


def _bytes_of(path: Path) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name


def _text(raw: Optional[bytes]) -> str:
    return (raw or b"").decode("utf-8", "replace")


def _progress_of(raw: _library.RawProgress) -> Progress:
    values = {name: getattr(raw, name) for name in _library.PROGRESS_NAMES}
    values["stage"], values["last_error"] = _text(raw.stage), _text(raw.last_error)
    return Progress(**values)


def _check(code: int, path: Path, progress: Progress = Progress()) -> None:
    if code == 0:
        return
    error = _KINDS.get(code, Error)(code, _text(_lib.shoal_last_error()), os.fsdecode(path))
    error.progress = progress
    raise error


def _level_of(level: Union[str, Level]) -> Level:
    known = Level[level.upper()] if isinstance(level, str) and level.upper() in Level.__members__ \
        else level
    if known not in (Level.REPLICATED, Level.DURABLE):
        raise ValueError(f"level must be \"replicated\" or \"durable\", not {level!r}")
    return Level(known)


def _milliseconds(timeout: Optional[Duration]) -> int:
    if timeout is None:
        return _library.NO_TIMEOUT
    seconds = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else timeout
    if not 0 <= seconds <= _library.TIMEOUT_MS_MAX / 1000:
        raise ValueError(f"timeout must be 0 s to a year, not {timeout!r}")
    return round(seconds * 1000)


class _NoThread(Exception):
    pass


class _Call:
    """One call of the C interface, by whichever thread runs it: that thread alone can ask how it
    ended."""

    def __init__(self, function: Any, client: Optional[ctypes.c_void_p], path: Path, options: Any):
        self._function, self._client, self._options = function, client, options
        self._path, self._name = path, _bytes_of(path)
        self.last = Progress()

    def run(self, hear: Callable[[Progress], bool]) -> None:
        """`hear` answers whether to go on. Raises Error."""
        raised: list[BaseException] = []

        def heard(raw: Any, _context: Any) -> int:
            try:
                return 0 if hear(_progress_of(raw.contents)) else 1
            except BaseException as error:  # pylint: disable=broad-except
                raised.append(error)
                return 1

        self._options.on_progress = _library.ProgressFunction(heard)
        code = self._function(self._client, self._name, ctypes.byref(self._options))
        if raised:
            raise raised[0]
        self.last = _progress_of(_lib.shoal_last_progress().contents)
        _check(code, self._path, self.last)


def _interruptible(call: _Call, on_progress: Callable[[Progress], bool]) -> Progress:
    """Runs the call in another thread. In this one, the main one, Ctrl-C would be raised in the first
    instruction of the progress function, where nothing can catch it."""
    told: queue.SimpleQueue[Union[Progress, BaseException, None]] = queue.SimpleQueue()
    stop = threading.Event()

    def hear(progress: Progress) -> bool:
        told.put(progress)
        return not stop.is_set()

    def work() -> None:
        try:
            call.run(hear)
            told.put(None)
        except BaseException as error:  # pylint: disable=broad-except
            told.put(error)

    thread = threading.Thread(target=work, name="shoal", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # at exit there are no new ones
        raise _NoThread from error
    try:
        while isinstance(item := told.get(), Progress):
            if not stop.is_set() and not on_progress(item):
                stop.set()
    except BaseException:
        stop.set()
        thread.join()
        raise
    thread.join()
    if isinstance(item, BaseException):
        raise item
    return call.last


def _run(function: Any, client: Optional[ctypes.c_void_p], path: Path, options: Any,
         level: Union[str, Level], timeout: Optional[Duration],
         progress: Optional[OnProgress]) -> Progress:
    options.size = ctypes.sizeof(options)
    options.level = _level_of(level)
    options.timeout_ms = _milliseconds(timeout)
    call = _Call(function, client, path, options)

    def on_progress(now: Progress) -> bool:
        return progress is None or progress(now) is not False

    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(_NoThread):
            return _interruptible(call, on_progress)
    call.run(on_progress)
    return call.last
