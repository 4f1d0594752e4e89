"""The memory that sessions on the CPU compute in: one arena for all, and what is free given back.

first session -> share_arena ... runs take and return, the arena keeps -> give_memory_back
"""

import ctypes
import os
from functools import cache
from threading import Lock

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default since onnxruntime 1.29
import onnxruntime as ort

SHARED = "session.use_env_allocators"
"""The session entry that takes the process's arena in place of one of the session's own."""

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
"""An ONNX file (opset 18): x -> Identity -> y, one float32 each."""
_NOTHING = {"x": np.zeros(1, np.float32)}
_GIVING = Lock()


@cache
def share_arena() -> None:
    """Make the arena that sessions of this process may share; they return to it after each run.

    An arena of its own keeps what a session's largest batch took, for every session there is; of
    one for all, as much is kept as ran at a time. It grows by powers of two, as theirs do: growing
    by what is asked for took more memory and brought nothing.
    """
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, -1, -1, -1))


def give_memory_back() -> None:
    """Return to the system what neither the arena's sessions nor glibc's callers use right now.

    Safe beside sessions that run, which wait for some milliseconds.
    """
    with _GIVING:
        session, options = _shrinking()
        session.run(None, _NOTHING, options)
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@cache
def _shrinking() -> tuple[ort.InferenceSession, ort.RunOptions]:
    """Return a session that does nothing, and the options with which its runs shrink the arena.

    onnxruntime shrinks an arena at the end of a run alone, and any session's run will do.
    """
    share_arena()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(SHARED, "1")
    once = ort.RunOptions()
    once.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return ort.InferenceSession(_IDENTITY, options, providers=["CPUExecutionProvider"]), once
