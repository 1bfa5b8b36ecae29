"""F22: the primary dies and its replica takes its place. Commits that never reached the replica are lost; the run goes on from
what the replica has. With min-replicas-to-write the primary takes no commits that no replica would get."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from graphflow.result import RunResult
from tests.faults.graphs import AGGREGATES, FORMS, Form, agent_of, answer_of, executions, items_of, task_of
from tests.faults.harness import looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.faults.proxy import ChaosProxy
from tests.helpers import run, wait_until
from tests.servers import RealServer


@dataclass
class Pair:
    primary: RealServer
    replica: RealServer

    def fail_over(self, proxy: ChaosProxy) -> None:
        """Kill the primary and send its clients to the replica, which is one no longer."""
        self.primary.kill()
        self.cut_off()
        proxy.socket_path = socket_path(self.replica)

    def cut_off(self) -> None:
        """The replica follows the primary no more."""
        with looking_at(self.replica.url) as client:
            client.replicaof("NO", "ONE")


def revision(client: redis.Redis, run_id: str) -> int:
    return int(run_field(client, run_id, "revision") or 0)


def socket_path(server: RealServer) -> str:
    return str(server.folder / "redis.sock")


def two_sided(options: dict[str, str]) -> RealServer:
    """A server on a port, for its replica, and on a socket, for the proxy."""
    options = {"repl-diskless-sync-delay": "0", **options}
    server = RealServer(tcp=True, options=options)
    options["unixsocket"] = socket_path(server)
    return server


@contextmanager
def replicated(options: dict[str, str]) -> Iterator[Pair]:
    with two_sided(options) as primary, two_sided({}) as replica:
        with looking_at(replica.url) as client:
            client.replicaof("127.0.0.1", primary.port)
            wait_until(
                lambda: client.info("replication").get("master_link_status") == "up", what="the replica"
            )
        with looking_at(primary.url) as client:
            wait_until(lambda: client.info("replication")["connected_slaves"] == 1)
        yield Pair(primary, replica)


@pytest.mark.parametrize("form", FORMS)
def test_run_goes_on_from_the_older_state_of_a_replica_that_had_been_cut_off(
    form: Form, tmp_path: Path
) -> None:
    log = tmp_path / "bodies.log"

    async def main(pair: Pair) -> RunResult:
        async with ChaosProxy(socket_path(pair.primary)) as proxy:
            agent = agent_of(form, proxy.url, log, delay=0.08, lease_seconds=1.0)
            driving = asyncio.create_task(agent.run_task(task_of(form), run_id=tmp_path.name))
            await asyncio.to_thread(wait_bodies_begun, log, items_of(form) // 4)
            await asyncio.to_thread(pair.cut_off)
            with looking_at(pair.primary.url) as client:
                cut_at = revision(client, tmp_path.name)
                # What the primary acknowledges from here on the replica does not know.
                await asyncio.to_thread(wait_until, lambda: revision(client, tmp_path.name) > cut_at + 1)
            await asyncio.to_thread(pair.fail_over, proxy)
            return await driving

    with replicated({}) as pair:
        outcome = run(main(pair))
        assert outcome[AGGREGATES[form][1]] == answer_of(form)
        with looking_at(pair.replica.url) as client:
            check_run(client, tmp_path.name, form)
    if form == "map":
        found = executions(log)
        assert set(found) == set(range(items_of(form)))
        assert max(found.values()) == 2, "what was lost has run again, once"


def test_primary_that_needs_a_replica_acknowledges_nothing_that_a_failover_would_lose(tmp_path: Path) -> None:
    log = tmp_path / "bodies.log"

    async def main(pair: Pair) -> RunResult:
        async with ChaosProxy(socket_path(pair.primary)) as proxy:
            agent = agent_of("map", proxy.url, log, delay=0.08, lease_seconds=2.0)
            driving = asyncio.create_task(agent.run_task(task_of("map"), run_id=tmp_path.name))
            await asyncio.to_thread(wait_bodies_begun, log, 5)
            await asyncio.to_thread(pair.cut_off)
            with looking_at(pair.primary.url) as client:
                wait_until(lambda: client.info("replication")["connected_slaves"] == 0)
                acknowledged = revision(client, tmp_path.name)
            await asyncio.sleep(0.5)
            assert not driving.done(), "refused writes make it wait, not fail"
            for server in (pair.primary, pair.replica):
                with looking_at(server.url) as client:
                    assert revision(client, tmp_path.name) == acknowledged
            await asyncio.to_thread(pair.fail_over, proxy)
            return await driving

    with replicated({"min-replicas-to-write": "1"}) as pair:
        outcome = run(main(pair))
        assert outcome["combine"] == answer_of("map")
        with looking_at(pair.replica.url) as client:
            check_run(client, tmp_path.name, "map")
            assert run_field(client, tmp_path.name, "leases") in ("1", "2")
    # Nothing acknowledged was lost: only what was in flight may run again, if the lease ended meanwhile.
    assert executions(log).total() <= items_of("map") + 4
