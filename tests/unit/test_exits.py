"""Whatever a command meets, it ends with an exit code and a sentence: each of graphflow's errors, and the system's."""

from __future__ import annotations

import errno
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from graphflow import errors
from graphflow.cli import main as front
from graphflow.cli.exits import Interrupted, UsageException, exit_of

#: Something for each type of argument that an error takes.
SAMPLES: dict[str, Any] = {
    "str": "a text \x1b[31m\udcff",
    "int": 3,
    "float": 1.5,
    "Sequence[str]": ("first", "second"),
    "Sequence[int]": (1, 2),
    "bool": True,
    "int | None": 3,
    "str | None": "a text",
}
CODES = {
    errors.InvalidAddress: 2,
    errors.InvalidGraph: 2,
    errors.UnknownSetting: 2,
    errors.InvalidName: 2,
    errors.InvalidSetting: 2,
    errors.InvalidSignal: 2,
    errors.TaskMismatch: 2,
    errors.AgentMismatch: 2,
    errors.PlanMismatch: 2,
    errors.RunComplete: 2,
    errors.RunOver: 2,
    errors.UnstorableValue: 2,
    errors.RunNotFound: 3,
    errors.SnapshotNotFound: 3,
    errors.StoreError: 5,
    errors.GraphflowError: 1,
}


def tree(root: type[errors.GraphflowError] = errors.GraphflowError) -> Iterator[type[errors.GraphflowError]]:
    yield root
    for below in root.__subclasses__():
        if below.__module__ == "graphflow.errors":
            yield from tree(below)


def made(kind: type[errors.GraphflowError]) -> errors.GraphflowError:
    if kind.__init__ is errors.GraphflowError.__init__:
        return kind("a sentence")
    parameters = inspect.signature(kind.__init__).parameters.values()
    required = [
        each for each in parameters if each.name != "self" and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    return kind(*(SAMPLES[each.annotation] for each in required))


def from_system() -> list[tuple[BaseException, int, str]]:
    kinds: list[tuple[BaseException, int, str]] = [
        (OSError(number, os.strerror(number), "/some/file"), 1, os.strerror(number))
        for number in errno.errorcode
    ]
    # Of these the system gives other classes than OSError itself.
    kinds = [each for each in kinds if not isinstance(each[0], BrokenPipeError)]
    return [
        *kinds,
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "nobody reads the output any more"),
        (OSError(), 1, "OSError"),
        (OSError("only words"), 1, "only words"),
        (TimeoutError(), 1, "TimeoutError"),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/caf\xe9"),
            1,
            "Permission denied; have its owner",
        ),
        (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "why"), 2, r"'caf\udce9' is no text in UTF-8"),
        (UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "why"), 2, r"b'caf\xe9' is no text in UTF-8"),
        (UnicodeError("why"), 2, "a text cannot be read: why"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (typer.Abort(), 130, "stopped by Ctrl-C"),
        (Interrupted(signal.SIGTERM), 143, "stopped by a signal"),
        (RecursionError("maximum"), 1, "nested too deeply"),
        (MemoryError(), 1, "there is no memory left"),
        (OverflowError("cannot convert float infinity to integer"), 1, "OverflowError: cannot convert"),
        (ZeroDivisionError(), 1, "ZeroDivisionError"),
        (KeyError("a"), 1, "KeyError: 'a'"),
        (AssertionError(), 1, "AssertionError"),
        (BaseExceptionGroup("two", [errors.RunOver("r"), KeyboardInterrupt()]), 2, "run 'r' is over"),
    ]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """How the command line ends when the command `list` meets an error: its exit code, and stderr."""

    def end(error: BaseException) -> tuple[Any, str]:
        def meet(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("graphflow.cli.look.list_runs", meet)
        monkeypatch.setattr(sys, "argv", ["graphflow", "list"])
        with pytest.raises(SystemExit) as caught:
            front.main()
        shown = capsys.readouterr()
        assert shown.out == ""
        return caught.value.code, shown.err

    return end


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_of_graphflow_ends_the_command_with_its_sentence(
    kind: type[errors.GraphflowError], ends: Any
) -> None:
    error = made(kind)

    code, said = ends(error)

    assert code == next(CODES[each] for each in kind.__mro__ if each in CODES)
    assert said.startswith("Error: ")
    assert "Traceback" not in said
    assert "\x1b" not in said, "nothing of it moves the cursor"
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    from_system(),
    ids=lambda each: (
        f"{type(each).__name__}{getattr(each, 'errno', None) or ''}"
        if isinstance(each, BaseException)
        else ""
    ),
)
def test_every_error_of_the_system_ends_the_command_with_a_sentence(
    error: BaseException, code: int, sentence: str, ends: Any
) -> None:
    ended, said = ends(error)

    assert ended == code
    assert said.startswith("Error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_what_should_not_happen_says_where_it_did(ends: Any) -> None:
    _, said = ends(ZeroDivisionError("by zero"))

    assert "ZeroDivisionError: by zero (at test_exits.py:" in said
    assert "please report it" in said


def test_wrong_usage_is_shown_with_the_usage(ends: Any) -> None:
    code, said = ends(typer.BadParameter("not this"))

    assert code == 2
    assert "not this" in said
    assert UsageException.__name__ == "ClickException"


def test_file_that_is_not_there_is_told_from_a_working_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "x")
    assert exit_of(missing) == (1, "x: No such file or directory")
    monkeypatch.setattr(os, "getcwd", lambda: (_ for _ in ()).throw(FileNotFoundError()))

    assert exit_of(missing) == (2, "the working folder is no longer there; change to one that is")


@pytest.mark.parametrize(
    "word",
    [
        "redis://:s3cret@h",
        "redis://me:s3cret@h",
        ":s3cret@h",
        ":s3cret@h:6379",
        "redis:s3cret@h",
        "redis:/:s3cret@h",
        "h?password=s3cret",
    ],
)
@pytest.mark.parametrize(
    "command", ["list", "show", "run", "resume", "cancel", "retry", "signal", "delete", "gc", "nothing"]
)
def test_login_that_was_typed_where_none_belongs_is_not_shown(
    command: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPHFLOW_REDIS_URL", "memory://typed")
    monkeypatch.setattr(sys, "argv", ["graphflow", command, word])

    with pytest.raises(SystemExit) as caught:
        front.main()

    shown = capsys.readouterr()
    assert caught.value.code != 0
    assert "s3cret" not in shown.out + shown.err
