import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from graphflow.failpoints import FailpointHit, configure, failpoint, reset

PASSES_TWICE = """
from graphflow.failpoints import failpoint
for turn in (1, 2):
    failpoint("commit.after_reply")
    print(turn, flush=True)
"""


@pytest.fixture(autouse=True)
def failpoints_off_afterwards() -> Iterator[None]:
    yield
    reset()


def start(failpoints: str, script: str = PASSES_TWICE) -> subprocess.Popen[str]:
    environ = os.environ | {"GRAPHFLOW_FAILPOINTS": failpoints}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def hits(name: str, times: int) -> list[bool]:
    """Pass the failpoint and tell for each time whether it raised."""
    raised = []
    for _ in range(times):
        try:
            failpoint(name)
        except FailpointHit:
            raised.append(True)
        else:
            raised.append(False)
    return raised


def test_a_place_that_nobody_chose_does_nothing() -> None:
    configure("commit.before=raise")

    failpoint("commit.after")


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("a=raise", [True, False, False]),
        ("a@1=raise", [True, False, False]),
        ("a@2=raise", [False, True, False]),
        ("a@*=raise", [True, True, True]),
        ("a@1=raise;a@3=raise", [True, False, True]),
        (" a@2 = raise ; b=raise;", [False, True, False]),
        ("", [False, False, False]),
    ],
)
def test_an_action_happens_the_nth_time(text: str, raised: list[bool]) -> None:
    configure(text)

    assert hits("a", 3) == raised


def test_a_hit_names_its_failpoint() -> None:
    configure("commit.before=raise")

    with pytest.raises(FailpointHit, match=r"commit\.before") as hit:
        failpoint("commit.before")

    assert hit.value.name == "commit.before"


def test_configure_replaces_what_was_and_counts_anew() -> None:
    configure("a@2=raise;b=raise")
    failpoint("a")

    configure("a@2=raise")

    assert hits("a", 2) == [False, True]
    assert hits("b", 1) == [False]


def test_reset_switches_everything_off() -> None:
    configure("a@*=raise")

    reset()

    assert hits("a", 1) == [False]


def test_sleep_blocks_for_its_seconds() -> None:
    configure("a=sleep:0.05")

    before = time.monotonic()
    failpoint("a")

    assert time.monotonic() - before >= 0.05


def test_passes_are_counted_over_all_threads() -> None:
    configure("a@40=raise")
    raised: list[bool] = []
    threads = [threading.Thread(target=lambda: raised.extend(hits("a", 10))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(raised) == 1


def test_kill_ends_the_process_at_once() -> None:
    with start("commit.after_reply@2=kill") as process:
        out, _ = process.communicate(timeout=30)

    assert process.returncode == -signal.SIGKILL
    assert out == "1\n"


def test_stop_pauses_the_process_until_it_is_continued() -> None:
    with start("commit.after_reply@2=stop") as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    assert out == "1\n2\n"


def test_hang_blocks_until_the_process_is_killed() -> None:
    with start("commit.after_reply@2=hang") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)

        process.kill()

    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "write NAME=ACTION"),
        ("=kill", "write NAME=ACTION"),
        ("a=explode", "the actions are kill, stop, hang, raise and sleep:SECONDS"),
        ("a=kill:9", "the actions are"),
        ("a@0=kill", "a number from 1, or *"),
        ("a@=kill", "a number from 1, or *"),
        ("a@x=kill", "a number from 1, or *"),
        ("a=sleep", "sleep needs seconds"),
        ("a=sleep:soon", "sleep needs seconds"),
        ("a=sleep:-1", "a finite number"),
        ("a=sleep:nan", "a finite number"),
    ],
)
def test_a_malformed_failpoint_is_an_error_that_says_how_to_write_it(text: str, says: str) -> None:
    configure("kept@*=raise")

    with pytest.raises(ValueError, match="malformed failpoint") as error:
        configure(f"b=raise;{text}")

    assert says in str(error.value)
    assert hits("kept", 1) == [True]
    assert hits("b", 1) == [False]


def test_a_malformed_environment_is_an_error_at_import() -> None:
    with start("commit.after_reply=explode") as process:
        _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "ValueError: malformed failpoint 'commit.after_reply=explode' (GRAPHFLOW_FAILPOINTS)" in err
