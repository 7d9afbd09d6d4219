"""libshoal.so as ctypes sees it; the structs and numbers of include/shoal/shoal.h."""

from __future__ import annotations

import ctypes
import os

SONAME = "libshoal.so.1"
NO_TIMEOUT = -1
TIMEOUT_MS_MAX = 365 * 86400 * 1000


COUNTS = ("bytes_total", "bytes_done", "bytes_left", "objects_total", "objects_done",
          "objects_left", "failures")
PROGRESS_NAMES = (*COUNTS, "seconds", "bytes_per_second", "stage", "last_error")


class RawProgress(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in COUNTS]
    _fields_ += [("seconds", ctypes.c_double), ("bytes_per_second", ctypes.c_double),
                 ("stage", ctypes.c_char_p), ("last_error", ctypes.c_char_p)]


ProgressFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(RawProgress), ctypes.c_void_p)


class SyncOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("level", ctypes.c_int),
                ("timeout_ms", ctypes.c_int64), ("on_progress", ProgressFunction),
                ("context", ctypes.c_void_p)]


class PublishOptions(ctypes.Structure):
    _fields_ = [*SyncOptions._fields_, ("latest", ctypes.c_char_p),
                ("keep_last", ctypes.c_uint32)]


def load() -> ctypes.CDLL:
    named = os.environ.get("SHOAL_LIBRARY")
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), SONAME)
    path = named or (beside if os.path.exists(beside) else SONAME)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"{path} cannot be loaded ({error}); install it (make install) or name "
                          "it in SHOAL_LIBRARY") from None
    text, pointer = ctypes.c_char_p, ctypes.POINTER
    for name, result, arguments in (
            ("shoal_client_open_socket", ctypes.c_int, [text, text, pointer(ctypes.c_void_p)]),
            ("shoal_client_close", None, [ctypes.c_void_p]),
            ("shoal_sync", ctypes.c_int, [ctypes.c_void_p, text, pointer(SyncOptions)]),
            ("shoal_publish", ctypes.c_int, [ctypes.c_void_p, text, pointer(PublishOptions)]),
            ("shoal_file_level", ctypes.c_int, [text, pointer(ctypes.c_int)]),
            ("shoal_last_error", text, []),
            ("shoal_last_progress", pointer(RawProgress), []),
            ("shoal_version", text, [])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
