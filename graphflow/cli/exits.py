"""How does a command end? With an exit code and, if something went wrong, one sentence on stderr; never with a traceback.

0 done, 1 a run that failed, is partial or was cancelled, or something that could not be done, 2 wrong usage, 3 not found,
4 a run that waits for a signal, 5 the store cannot be reached or does not do its part, 130 and 143 stopped by Ctrl-C or
SIGTERM. `--verbose` logs the traceback of what was not foreseen.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import typer

from graphflow.cli.words import escaped, printable
from graphflow.errors import (
    AgentMismatch,
    GraphflowError,
    InvalidAddress,
    InvalidGraph,
    InvalidName,
    InvalidSetting,
    InvalidSignal,
    PlanMismatch,
    RunComplete,
    RunNotFound,
    RunOver,
    SnapshotNotFound,
    StoreError,
    TaskMismatch,
    UnstorableValue,
)

#: What click raises for wrong usage. Typer brings click along under a name of its own, or not, by its version.
UsageException = typer.BadParameter.__mro__[2]

#: What to do about errors of the system, by their number.
_REMEDIES = {
    errno.EACCES: "have its owner let you, or work in a folder of your own",
    errno.EPERM: "have its owner let you, or work in a folder of your own",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "work in a folder that can be written to",
    errno.ELOOP: "have its links lead somewhere",
    errno.EMFILE: "allow more open files, as by `ulimit -n 4096`",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
}


class Interrupted(Exception):
    """The command was asked to stop, and did. `exit_code` is what shells expect of that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def ended(command: Callable[[], object]) -> int:
    """Carry out a command; its exit code, with what went wrong said on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding has not is printed as an escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
        _flush()
    except SystemExit:
        raise
    except BaseException as error:
        return _end_by(error)
    return 0


def _end_by(error: BaseException) -> int:
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, UsageException):
        error.message = _without_logins(error.message)  # type: ignore[attr-defined]
        error.show()  # type: ignore[attr-defined]
        return error.exit_code  # type: ignore[attr-defined, no-any-return]
    import logging  # of which `--help` has no need

    code, sentence = exit_of(error)
    logging.getLogger(__name__).info("the command ends by %s", type(error).__name__, exc_info=error)
    with contextlib.suppress(OSError, ValueError):
        print(f"Error: {printable(_without_logins(sentence))}", file=sys.stderr, flush=True)
    try:
        _flush()
    except OSError:
        # Else the interpreter would try once more to write what nobody reads or no disk takes, and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def _without_logins(sentence: str) -> str:
    """It may quote a store URL that was typed where none belongs."""
    # Only what goes wrong pays for the import.
    from graphflow.server.address import masked_where_typed

    return masked_where_typed(sentence, sys.argv[1:])


def _flush() -> None:
    # A process that was started without an output has none.
    if sys.stdout is not None:
        sys.stdout.flush()


def exit_of(error: BaseException) -> tuple[int, str]:
    """The exit code, and what there is to say."""
    match error:
        case BaseExceptionGroup():
            return exit_of(error.exceptions[0])
        case GraphflowError():
            return exit_code(error), str(error)
        case Interrupted():
            return error.exit_code, "stopped by a signal"
        case KeyboardInterrupt() | typer.Abort():
            return 130, "stopped by Ctrl-C"
        case UnicodeError():
            return 2, _unreadable(error)
        case FileNotFoundError() if not _has_working_folder():
            return 2, "the working folder is no longer there; change to one that is"
        case BrokenPipeError():
            return 1, "nobody reads the output any more"
        case OSError():
            return 1, _of_system(error)
        case RecursionError():
            return 1, "a value or a file is nested too deeply to be read; make it flatter"
        case MemoryError():
            return 1, "there is no memory left; close other programs, or work on less at a time"
    return 1, f"{_described(error)}; this should not happen: please report it, with what --verbose shows"


def exit_code(error: GraphflowError) -> int:
    match error:
        case (
            InvalidAddress()
            | InvalidGraph()
            | InvalidName()
            | InvalidSetting()
            | InvalidSignal()
            | TaskMismatch()
            | AgentMismatch()
            | PlanMismatch()
            | RunComplete()
            | RunOver()
            | UnstorableValue()
        ):
            return 2
        case RunNotFound() | SnapshotNotFound():
            return 3
        case StoreError():
            return 5
    return 1


def _unreadable(error: UnicodeError) -> str:
    if isinstance(error, UnicodeEncodeError | UnicodeDecodeError):
        around = error.object[max(0, error.start - 30) : error.end + 30]
        quoted = escaped(around) if isinstance(around, str) else repr(bytes(around))
        return f"{quoted} is no text in {error.encoding.upper()}; write or name it in UTF-8"
    return f"a text cannot be read: {error}; write it in UTF-8"


def _of_system(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{named}{what}" + (f"; {remedy}" if remedy else "")


def _described(error: BaseException) -> str:
    """The error, with the line that it comes from."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{said} (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else said


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
