"""A forked program is to its test what one is that Python was started for."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until
from tests.programs import CAN_FORK, ROOT, run, start

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="programs are forked on Linux only")

PROGRAMS = {
    "ends": "pass",
    "prints": "print('out'); import sys; print('err', file=sys.stderr)",
    "exits": "raise SystemExit(7)",
    "complains": "raise SystemExit('no')",
    "exits at once": "import os; print('lost'); os._exit(3)",
    "dies": "import os; print('lost'); os.kill(os.getpid(), 9)",
    "is terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "says goodbye": "import atexit; atexit.register(print, 'goodbye')",
    "has threads": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "has a loop": "import asyncio; print(asyncio.run(asyncio.sleep(0.01, 'slept')))",
    "reads": "print(input())",
    "words": "import sys; print(sys.argv, sys.path[0], __name__)",
    "folder": "import os; print(os.getcwd())",
    "environment": "import os; print(sorted(os.environ.items()))",
    "signals": "import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)])",
    "mask": "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))",
    "files": "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:3], os.isatty(0), os.isatty(1))",
    "dies at a place": "from graphflow.failpoints import failpoint; failpoint('here'); print('past')",
    "session": "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))",
}
ENVIRONMENTS = {
    "dies at a place": {"GRAPHFLOW_FAILPOINTS": "here=kill"},
    "environment": {"MINE": "ä"},
}


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "code") for name in PROGRAMS), ("words", "file"), ("words", "module")]
)
def test_forked_program_does_what_it_does_in_a_python_of_its_own(
    name: str, form: str, tmp_path: Path
) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAMS[name])
    words = {"code": ["-c", PROGRAMS[name]], "file": [str(file)], "module": ["-m", "program"]}[form]

    def outcome(*, is_forked: bool) -> tuple[int, str, str]:
        process = start(
            [*words, "a", "b c"],
            is_forked=is_forked,
            cwd=tmp_path,
            env=os.environ | ENVIRONMENTS.get(name, {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=name == "session",
        )
        with process:
            output, errors = process.communicate("given\n", timeout=30)
        return process.returncode, output, errors

    assert outcome(is_forked=True) == outcome(is_forked=False)


def test_error_that_nobody_catches_ends_a_forked_program_with_1_and_its_traceback(tmp_path: Path) -> None:
    ended = run(["-c", "1 / 0"], cwd=tmp_path, timeout=30)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_malformed_failpoint_is_refused_in_a_forked_program() -> None:
    ended = run(["-c", "pass"], env=os.environ | {"GRAPHFLOW_FAILPOINTS": "here"}, timeout=30)

    assert ended.returncode == 1
    assert "malformed failpoint 'here'" in ended.stderr


def test_both_outputs_of_a_forked_program_may_be_one() -> None:
    words = ["-c", "import sys; print('out', flush=True); print('err', file=sys.stderr)"]

    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        output, _ = process.communicate(timeout=30)

    assert output == "out\nerr\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_forked_program_and_no_other(number: signal.Signals) -> None:
    def waiting() -> subprocess.Popen[Any]:
        process = start(
            ["-c", "print('begun', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    with waiting() as first, waiting() as second:
        assert first.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(timeout=0.01)

        first.send_signal(number)

        assert first.wait(timeout=30) == -number
        assert second.poll() is None
        second.communicate("go on\n", timeout=30)
        assert second.returncode == 0


def test_ended_program_is_gone_when_it_was_waited_for() -> None:
    with start(["-c", "pass"]) as process:
        assert process.wait(timeout=30) == 0

        # One call of waitpid lies between what is said of it and its end.
        wait_until(lambda: not Path(f"/proc/{process.pid}").exists())


def test_forked_programs_end_with_the_process_that_started_them() -> None:
    code = (
        "import subprocess; from tests.programs import start\n"
        "child = start(['-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    starter = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    pid = int(starter.stdout)

    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 30)[0], "it has ended"
    finally:
        os.close(handle)


def test_tests_end_where_the_interrupt_from_the_keyboard_is_ignored() -> None:
    """As in a script that puts them into its background."""
    interrupted = (
        "tests/contract/test_embedded_server.py::test_interrupt_from_the_keyboard_does_not_reach_the_server"
    )
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, '-m', 'pytest', *sys.argv[1:]])"
    )

    ended = run(["-c", code, interrupted], cwd=ROOT, timeout=120, is_forked=False)

    assert ended.returncode == 0, ended.stdout
