"""Whether the process that holds a lease still lives is asked without ever taking a living one for dead."""

import os
import subprocess
import sys

import pytest

from graphflow.server.owner import current_owner, is_gone

SCRIPT = "from graphflow.server.owner import current_owner; print(current_owner(), flush=True); input()"


def start_child():
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return child, child.stdout.readline().strip()


def test_this_process_is_not_gone():
    assert not is_gone(current_owner())
    assert f":{os.getpid()}:" in current_owner()


def test_living_child_is_not_gone_until_it_ends():
    child, owner = start_child()
    with child:
        assert not is_gone(owner)

        child.kill()
        # A zombie, not waited for yet, drives no run either.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert is_gone(owner)
    assert is_gone(owner)


def test_forked_process_is_an_owner_of_its_own():
    script = (
        "import os; from graphflow.server.owner import current_owner; before = current_owner();"
        "pid = os.fork(); print(before != current_owner()) if not pid else os.waitpid(pid, 0)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "True"


def test_later_process_of_the_same_number_is_another():
    host, pid, start = current_owner().rsplit(":", 2)

    assert is_gone(f"{host}:{pid}:{start}1")


@pytest.mark.parametrize("owner", ["", "me", "host:pid:start", "a:b"])
def test_owner_that_cannot_be_read_is_not_taken_for_dead(owner):
    assert not is_gone(owner)


def test_process_of_another_host_is_not_taken_for_dead():
    _, _, start = current_owner().rsplit(":", 2)

    assert not is_gone(f"elsewhere:999999:{start}")


def test_process_of_another_container_under_this_host_name_is_not_taken_for_dead():
    host, _, start = current_owner().rsplit(":", 2)

    assert not is_gone(f"{host}:999999:1{start}")
