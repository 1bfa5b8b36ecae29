"""`graphflow gc`, `delete` and `doctor`: a store is looked after by people who did not write the runs in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import redis

from tests.acceptance.command_line import doubles_file, graphflow, started
from tests.acceptance.support import client, keys_of_run
from tests.helpers import wait_until
from tests.servers import RealServer


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store of the test's own."""
    with RealServer("current") as server:
        doubles_file(tmp_path)
        yield server.url


def run_doubles(folder: Path, url: str, run_id: str) -> None:
    done = graphflow(folder, "run", "doubles.py", "--id", run_id, "--url", url)
    assert done.returncode == 0, done.stderr


# gc and delete


def test_finished_run_ends_by_itself_and_gc_has_nothing_to_do(tmp_path: Path, url: str) -> None:
    run_doubles(tmp_path, url, "good")

    with client(url) as store:
        ends = [store.ttl(key) for key in keys_of_run(url, "good")]
    assert len(ends) > 8
    assert all(6 * 24 * 3600 < end <= 7 * 24 * 3600 for end in ends)
    swept = graphflow(tmp_path, "gc", "--url", url)
    assert (swept.returncode, swept.stdout) == (0, "nothing to do\n")


def test_gc_finishes_what_a_crash_left_and_a_dry_run_only_says_so(tmp_path: Path, url: str) -> None:
    run_doubles(tmp_path, url, "good")
    with client(url) as store:
        for key in keys_of_run(url, "good"):
            store.persist(key)
        store.zadd("gf:runs", {"gone": 1})
        store.zadd("gf:runs:open", {"good": 1})

        would = graphflow(tmp_path, "gc", "--dry-run", "--url", url)
        assert would.stdout == (
            "would have given an end to 1 finished run\nwould have removed 2 index entries\n"
        )
        assert store.ttl("gf:run:{good}") == -1

        swept = graphflow(tmp_path, "gc", "--url", url)
        assert swept.stdout == "given an end to 1 finished run\nremoved 2 index entries\n"
        assert all(store.ttl(key) > 0 for key in keys_of_run(url, "good"))
        assert store.zrange("gf:runs", 0, -1) == ["good"]
        assert store.zcard("gf:runs:open") == 0


def test_gc_in_an_empty_folder_starts_no_server(tmp_path: Path) -> None:
    swept = graphflow(tmp_path, "gc")

    assert (swept.returncode, swept.stdout) == (0, "nothing to do\n")
    assert not (tmp_path / ".graphflow").exists()


def test_deleted_run_is_gone_and_deleting_it_again_says_so(tmp_path: Path, url: str) -> None:
    for run_id in ("one", "two"):
        run_doubles(tmp_path, url, run_id)

    deleted = graphflow(tmp_path, "delete", "@last", "--url", url)

    assert (deleted.returncode, deleted.stdout) == (0, "deleted two\n")
    assert keys_of_run(url, "two") == []
    assert keys_of_run(url, "one") != []
    again = graphflow(tmp_path, "delete", "two", "--url", url)
    assert again.returncode == 3
    assert "no run 'two'" in again.stderr


def test_run_that_is_driven_is_not_deleted(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    with started(tmp_path, "run", "doubles.py", "--id", "busy", "--param", "seconds=60") as process:
        wait_until((tmp_path / "executions").exists, timeout_seconds=30)

        refused = graphflow(tmp_path, "delete", "busy")

        assert refused.returncode == 1
        assert "is driven by" in refused.stderr
        process.kill()
        process.wait()
        deleted = graphflow(tmp_path, "delete", "busy")
        assert (deleted.returncode, deleted.stdout) == (0, "deleted busy\n")


# doctor


def test_doctor_finds_nothing_wrong_with_a_good_store(tmp_path: Path, url: str) -> None:
    run_doubles(tmp_path, url, "good")

    shown = graphflow(tmp_path, "doctor", "--url", url)
    told = json.loads(graphflow(tmp_path, "doctor", "--json", "--url", url).stdout)

    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.endswith("nothing is wrong\n")
    assert re.search(r"^runs +1, 0 open, 0 with a stale lease$", shown.stdout, re.MULTILINE)
    assert told["problems"] == []
    assert told["versions"]["redis"] == redis.__version__
    assert told["store"]["engine"] == "Valkey"
    assert told["store"]["appendonly"] == "yes"
    assert told["store"]["maxmemory_policy"] == "noeviction"
    assert 0 < told["store"]["latency_ms"] < 1000
    assert abs(told["store"]["clock_skew_ms"]) < 1000
    assert told["store"]["schema"] == "1"
    assert told["fixed_index_entries"] is None


def test_doctor_finds_what_is_wrong_and_rebuilds_the_indexes_if_asked(tmp_path: Path, url: str) -> None:
    run_doubles(tmp_path, url, "good")
    with client(url) as store:
        store.delete("gf:runs", "gf:runs:open")
        store.zadd("gf:runs:open", {"gone": 1})
        for key in keys_of_run(url, "good"):
            store.persist(key)
        store.hset("gf:run:{idle}", mapping={"status": "executing", "created": "2026-01-01T00:00:00.000Z"})
        store.hset(
            "gf:run:{idle}:lease", mapping={"token": "1-a", "owner": "other:1:1", "deadline": 5, "length": 5}
        )
        store.hset("gf:run:{torn}", mapping={"status": "executing", "created": "2026-01-02T00:00:00.000Z"})
        store.hset("gf:run:{torn}:lease", mapping={"owner": "other:1:1", "deadline": "soon", "length": 5})
        store.config_set("maxmemory-policy", "allkeys-lru")
        store.config_set("appendonly", "no")

    found = graphflow(tmp_path, "doctor", "--json", "--url", url)

    assert found.returncode == 1
    told = json.loads(found.stdout)
    assert sorted(told["runs"]["open"]) == sorted(told["runs"]["stale_leases"]) == ["idle", "torn"]
    assert sorted(told["runs"]["unindexed"]) == ["good", "idle", "torn"]
    assert told["runs"]["orphaned_index_entries"] == ["gone"]
    assert told["runs"]["without_end"] == ["good"]
    assert set(told["risks"]) == {"persistence", "eviction"}
    assert "nothing survives a restart" in told["risks"]["persistence"]

    fixed = graphflow(tmp_path, "doctor", "--fix", "--url", url)

    assert fixed.returncode == 1, "the settings are as they were"
    assert re.search(r"^fixed +6 index entries$", fixed.stdout, re.MULTILINE)
    with client(url) as store:
        assert set(store.zrange("gf:runs", 0, -1)) == {"good", "idle", "torn"}
        assert store.zrange("gf:runs:open", 0, -1) == ["idle", "torn"]
        store.config_set("maxmemory-policy", "noeviction")
        store.config_set("appendonly", "yes")
    assert graphflow(tmp_path, "gc", "--url", url).returncode == 0
    assert graphflow(tmp_path, "doctor", "--url", url).returncode == 0


def test_doctor_tells_of_a_store_that_a_newer_graphflow_wrote(tmp_path: Path, url: str) -> None:
    with client(url) as store:
        store.hset("gf:meta", "schema", "99")

    found = graphflow(tmp_path, "doctor", "--url", url)

    assert found.returncode == 1
    assert "schema '99'" in found.stdout


def test_doctor_where_no_store_is_makes_none(tmp_path: Path) -> None:
    found = graphflow(tmp_path, "doctor")

    assert found.returncode == 3
    assert not (tmp_path / ".graphflow").exists()


def test_run_on_a_server_that_keeps_nothing_warns(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    with RealServer("current", options={"appendonly": "no"}) as server:
        done = graphflow(tmp_path, "run", "doubles.py", "--url", server.url)

    assert done.returncode == 0
    assert "append-only file is off: nothing survives a restart" in done.stderr
