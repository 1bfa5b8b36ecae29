"""The scripts against a model of what they promise: any calls in any order, leases that expire, and any earlier call
arriving once more."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from graphflow.server.address import parse_address
from graphflow.server.connection import open_sync_client
from graphflow.store.keys import StoreKeys
from graphflow.store.scripts import script
from graphflow.store.write_list import WriteList
from tests.servers import RealServer

LENGTH = 60_000
OWNERS = st.sampled_from(["one:1:1", "two:2:2", "three:3:3"])


class Model:
    """One run as the scripts' heads describe it."""

    def __init__(self) -> None:
        self.revision, self.op, self.status, self.leases = 0, "op0", "executing", 0
        self.token, self.owner, self.expired = "", "", False
        self.inbox: list[str] = []
        self.posted: list[str] = []
        self.committed: list[str] = []

    def acquire(self, owner: str, nonce: str, dead: str) -> list[Any]:
        if self.token and self.token.endswith(nonce):
            return ["ok", self.token, self.op, str(self.revision)]
        if self.status != "executing":
            return ["over", self.status]
        if self.token and not self.expired and self.token != dead:
            return ["held", self.owner, self.token]
        self.leases += 1
        self.token, self.owner, self.expired = f"{self.leases}-{nonce}", owner, False
        return ["ok", self.token, self.op, str(self.revision)]

    def renew(self, token: str) -> list[Any]:
        if token != self.token:
            return ["lost"]
        self.expired = False
        return ["ok", len(self.inbox)]

    def release(self, token: str) -> list[Any]:
        if token != self.token:
            return ["lost"]
        self.token = self.owner = ""
        return ["ok"]

    def commit(
        self, token: str, expected: int, revision: int, before: str, op: str, taken: int, status: str
    ) -> list[Any]:
        if op == self.op:
            return ["ok", len(self.inbox), 0]
        if token != self.token:
            return ["lost", self.token]
        if (expected, before) != (self.revision, self.op):
            return ["other", str(self.revision)]
        self.revision, self.op, self.status = revision, op, status
        self.inbox = self.inbox[taken:]
        self.committed.append(op)
        return ["ok", len(self.inbox), 0]

    def post(self, op: str, request: str) -> list[Any]:
        if op in self.posted[:16]:
            return ["ok"]
        if self.status != "executing":
            return ["over", self.status]
        self.posted.insert(0, op)
        self.inbox.append(request)
        return ["ok"]


class Scripts:
    """The same verbs on a server."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.keys = StoreKeys("model").run(uuid.uuid4().hex[:12])
        writes = WriteList(self.keys.run)
        writes.set_fields(self.keys.run, {"revision": "0", "status": "executing"})
        self._run("create", writes.keys, "op0", 10_000, *writes.arguments)

    def acquire(self, owner: str, nonce: str, dead: str) -> list[Any]:
        reply = self._run("acquire", [self.keys.run, self.keys.lease], owner, LENGTH, nonce, dead)
        return [*reply[:2], reply[3]] if reply[0] == "held" else reply

    def renew(self, token: str) -> list[Any]:
        return self._run("renew", [self.keys.lease, self.keys.inbox], token, LENGTH)

    def release(self, token: str) -> list[Any]:
        return self._run("release", [self.keys.run, self.keys.lease], token)

    def commit(
        self, token: str, expected: int, revision: int, before: str, op: str, taken: int, status: str
    ) -> list[Any]:
        writes = WriteList(self.keys.run, self.keys.lease, self.keys.inbox)
        writes.set_fields(self.keys.run, {"status": status})
        writes.put("XADD", self.keys.events, ["op", op])
        writes.put("LTRIM", self.keys.inbox, [taken])
        return self._run(
            "commit", writes.keys, token, expected, revision, before, op, 0, 10_000, *writes.arguments
        )

    def post(self, op: str, request: str) -> list[Any]:
        return self._run("post", [self.keys.run, self.keys.inbox], op, request)

    def expire(self) -> None:
        self.client.hset(self.keys.lease, "deadline", 1)

    def _run(self, name: str, keys: list[str], *arguments: str | int) -> list[Any]:
        return script(name).run_sync(self.client, keys, arguments)


class Machine(RuleBasedStateMachine):
    def __init__(self, client: Any) -> None:
        super().__init__()
        self.model, self.scripts = Model(), Scripts(client)
        self.numbers = itertools.count(1)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.tokens = ["0-none"]

    def call(self, verb: str, *arguments: Any) -> None:
        self.calls.append((verb, arguments))
        wanted = getattr(self.model, verb)(*arguments)
        assert getattr(self.scripts, verb)(*arguments) == wanted, f"{verb}{arguments}"
        if self.model.token and self.model.token not in self.tokens:
            self.tokens.append(self.model.token)

    def some_token(self, age: int) -> str:
        """The latest token, or an older one."""
        return self.tokens[max(0, len(self.tokens) - 1 - age)]

    @initialize(owner=OWNERS)
    def first_lease(self, owner: str) -> None:
        self.acquire(owner, None)

    @rule(owner=OWNERS, dead=st.sampled_from([None, 0, 1]))
    def acquire(self, owner: str, dead: int | None) -> None:
        self.call(
            "acquire", owner, f"n{next(self.numbers):05}", "" if dead is None else self.some_token(dead)
        )

    @rule(age=st.integers(0, 2))
    def renew(self, age: int) -> None:
        self.call("renew", self.some_token(age))

    @rule(age=st.sampled_from([0, 0, 1, 2]))
    def release(self, age: int) -> None:
        self.call("release", self.some_token(age))

    @precondition(lambda self: self.model.token)
    @rule(grows=st.integers(0, 1), taken=st.integers(0, 1))
    def commit_by_the_book(self, grows: int, taken: int) -> None:
        self.commit(0, grows, 0, taken, "executing")

    @rule(
        age=st.sampled_from([0, 0, 0, 1]),
        grows=st.integers(0, 2),
        off=st.sampled_from([0, 0, 0, 1]),
        taken=st.integers(0, 2),
        status=st.sampled_from(["executing"] * 5 + ["complete"]),
    )
    def commit(self, age: int, grows: int, off: int, taken: int, status: str) -> None:
        expected = self.model.revision + off
        op = f"c{next(self.numbers)}"
        self.call(
            "commit", self.some_token(age), expected, expected + grows, self.model.op, op, taken, status
        )

    @rule(request=st.sampled_from(["stop", "go"]))
    def post(self, request: str) -> None:
        self.call("post", f"p{next(self.numbers)}", request)

    @precondition(lambda self: self.model.token)
    @rule()
    def expire(self) -> None:
        self.scripts.expire()
        self.model.expired = True

    @precondition(lambda self: self.calls)
    @rule(place=st.integers(0, 7))
    def arrive_again(self, place: int) -> None:
        """A copy of the last call, or of one before it."""
        verb, arguments = self.calls[-1 - place % len(self.calls)]
        self.call(verb, *arguments)

    @precondition(lambda self: any(verb == "commit" for verb, _ in self.calls))
    @rule(place=st.integers(0, 3))
    def commit_arrives_again(self, place: int) -> None:
        commits = [arguments for verb, arguments in self.calls if verb == "commit"]
        self.call("commit", *commits[-1 - place % len(commits)])

    @invariant()
    def run_is_as_the_model_says(self) -> None:
        client, keys, model = self.scripts.client, self.scripts.keys, self.model
        pipe = client.pipeline(transaction=False)
        pipe.hmget(keys.run, "revision", "op", "status", "owner")
        pipe.hget(keys.lease, "token")
        pipe.lrange(keys.inbox, 0, -1)
        pipe.xrange(keys.events)
        run, token, inbox, entries = pipe.execute()
        assert run == [str(model.revision), model.op, model.status, model.owner or None]
        assert token == (model.token or None)
        assert inbox == model.inbox
        assert [fields["op"] for _, fields in entries] == model.committed


def test_scripts_agree_with_the_model(redis_server: RealServer) -> None:
    client = open_sync_client(parse_address(redis_server.url), role="test")
    try:
        run_state_machine_as_test(
            lambda: Machine(client),
            settings=settings(stateful_step_count=40),
        )
    finally:
        client.close()
