"""Has a signal's handler raised this, in the midst of whatever ran then? It is the process that is to end by it."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from opcode import opmap
from types import CodeType, TracebackType
from typing import Any

_RAISE = opmap["RAISE_VARARGS"]


def is_of_signal(error: BaseException) -> bool:
    """Whether the error is no affair of the code in which it was raised. Asked before that code's caller goes on."""
    if not isinstance(error, KeyboardInterrupt | SystemExit):
        return False
    if threading.current_thread() is not threading.main_thread():
        # Handlers run in the main thread.
        return False
    frames = [*traceback.walk_tb(error.__traceback__)]
    handlers = set(_handlers())
    return any(frame.f_code in handlers for frame, _ in frames) or _is_of_default_handler(error)


def _handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _is_of_default_handler(error: BaseException) -> bool:
    """Python's own handler has no frame: its KeyboardInterrupt comes up where nothing is raised."""
    if type(error) is not KeyboardInterrupt or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        return False
    innermost: TracebackType | None = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return innermost is not None and innermost.tb_frame.f_code.co_code[innermost.tb_lasti] != _RAISE
