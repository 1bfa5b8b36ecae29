"""A store as text: the commands that make it anew, one on each line, and a page for people.

What a store holds is text, so JSON keeps every character of it, and each server that graphflow runs on takes the same
commands. Times that a server compares with its clock, the ends of runs and of leases, are written as milliseconds from
the moment at which the commands are carried out: however late a store is loaded, it is as old as when it was kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import redis

#: A command with its arguments; `{"from_now": MS}` stands for a time in ms since 1970.
Command = list[Any]
#: Fields of hashes that hold such a time.
_TIMES = ("expires", "deadline")
#: Times as the store has them: in words, and as ms since 1970.
_ISO, _MS = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?=\.\d{3}Z)"), re.compile(r"\b1[789]\d{11}\b")
_DAY_MS = 24 * 3600 * 1000
#: Characters of a JSON value that stand on one line of the page.
_LINE = 100


def commands_of(client: redis.Redis) -> list[Command]:
    """What makes every key of the server anew, in the order of the keys and of what is in them."""
    now = _now(client)
    commands: list[Command] = []
    for key in sorted(client.keys("*")):
        commands += _commands_of_key(client, key, now)
        if client.pttl(key) != -1:
            commands.append(["PEXPIREAT", key, _from_now(now + client.pttl(key), now)])
    return commands


def load(client: redis.Redis, commands: Iterable[Command]) -> None:
    """Carry the commands out."""
    now = _now(client)
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(
                *(now + each["from_now"] if isinstance(each, dict) else each for each in command)
            )
        pipe.execute()


def write_commands(path: Path, commands: Iterable[Command]) -> None:
    path.write_text("".join(f"{json.dumps(command)}\n" for command in commands))


def read_commands(path: Path) -> list[Command]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def page_of(commands: Iterable[Command]) -> str:
    """Each key with what is in it. Long values that are JSON are taken apart."""
    parts = []
    for key, of_key in groupby(commands, key=lambda command: command[1]):
        lines = [line for verb, _, *rest in of_key for line in _lines(verb, rest)]
        parts.append("\n".join([key, *(f"    {line}" for line in lines), ""]))
    return "\n".join(parts)


def older(commands: list[Command], *, days: int) -> list[Command]:
    """The same store, written so much earlier."""
    text = _ISO.sub(lambda found: _earlier(found[0], days), json.dumps(commands))
    found: list[Command] = json.loads(_MS.sub(lambda ms: str(int(ms[0]) - days * _DAY_MS), text))
    return found


def _earlier(time: str, days: int) -> str:
    return f"{datetime.fromisoformat(time) - timedelta(days=days):%Y-%m-%dT%H:%M:%S}"


def _now(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def _from_now(time_ms: int, now: int) -> dict[str, int]:
    """In whole minutes, so that a recording is like the one before; what has ended has ended then, too."""
    return {"from_now": ceil((time_ms - now) / 60_000) * 60_000 or -60_000}


def _commands_of_key(client: redis.Redis, key: str, now: int) -> Iterator[Command]:
    match client.type(key):
        case "string":
            yield ["SET", key, client.get(key)]
        case "hash":
            for field, text in sorted(client.hgetall(key).items()):
                yield ["HSET", key, field, _from_now(int(text), now) if field in _TIMES else text]
        case "list":
            for text in client.lrange(key, 0, -1):
                yield ["RPUSH", key, text]
        case "zset":
            for member, score in client.zrange(key, 0, -1, withscores=True):
                yield ["ZADD", key, int(score), member]
        case "stream":
            for entry, fields in client.xrange(key):
                yield ["XADD", key, entry, *(part for pair in fields.items() for part in pair)]
        case other:
            raise ValueError(f"{key} is a {other}, of which graphflow has none")


def _lines(verb: str, rest: list[Any]) -> list[str]:
    if verb == "PEXPIREAT":
        return [f"(ends {rest[0]['from_now']} ms after it is loaded)"]
    if verb == "XADD":
        entry, *pairs = rest
        told = " ".join(f"{name}={_shown(text)}" for name, text in zip(pairs[::2], pairs[1::2], strict=True))
        return [f"{entry}  {told}"]
    *names, value = rest
    name = " ".join(map(str, names))
    shown = f"{value['from_now']} ms after it is loaded" if isinstance(value, dict) else _shown(value)
    if len(shown) <= _LINE or not shown.startswith(("{", "[")):
        return [f"{name}  {shown}".strip()]
    apart = json.dumps(json.loads(value), indent=2, ensure_ascii=True).splitlines()
    return [f"{name}  {apart[0]}".strip(), *apart[1:]]


def _shown(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)
