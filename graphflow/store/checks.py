"""Does the server keep what graphflow promises? Looks at its settings when a store is opened and warns, or refuses it.

The promise holds as far as Redis keeps what it has acknowledged; each risk here is a setting that breaks it. A user who may
not run all that scripts run breaks it too: Redis does not roll back what a script has written that is refused half way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graphflow.errors import AccessDenied, MissingRight, StoreError, UnsafeStore
from graphflow.server.address import Address
from graphflow.server.replies import error_of
from graphflow.settings import OnRisk
from graphflow.store.patient_client import PatientClient

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

#: The oldest Redis with every command that the scripts use.
OLDEST_VERSION = (6, 2)

#: Stores whose risks this process has told of.
_told: set[str] = set()
#: Stores whose user has every right that scripts need, as far as this process knows.
_allowed: set[str] = set()


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; a field is empty if it does not let this user ask."""

    engine: str = ""
    version: str = ""
    #: "yes" or "no".
    appendonly: str = ""
    appendfsync: str = ""
    #: When it writes snapshots of its memory, as in its configuration; None if unknown.
    save: str | None = None
    policy: str = ""
    #: Bytes; 0 is no limit.
    max_memory: int = 0
    used_memory: int = 0


@dataclass(frozen=True, slots=True)
class Risk:
    """A setting that breaks the promise, and what to do about it."""

    name: Literal["version", "persistence", "eviction"]
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


async def check_server(redis: PatientClient, address: Address, on_risk: OnRisk) -> None:
    """Tell once per process and store what is risky about it, or raise UnsafeStore each time.

    Embedded stores are graphflow's own and those in memory are for tests: they are not looked at.
    """
    if on_risk == "ignore" or address.kind in ("embedded", "memory") or address.url in _told:
        return
    risks = risks_of(await ask_server(redis))
    if risks and on_risk == "refuse":
        raise UnsafeStore(address.masked, [str(risk) for risk in risks])
    _told.add(address.url)
    for risk in risks:
        logger.warning("%s: %s", address.masked, risk)


async def check_rights(redis: PatientClient, address: Address, prefix: str) -> None:
    """MissingRight with all commands that this user may not run and scripts need; asked until there are none.

    Who only looks at runs needs none of them: it is asked before a run is made or taken.
    """
    if address.kind in ("embedded", "memory") or address.url in _allowed:
        return
    _, *refused = await redis.script("rights", [f"{prefix}:rights"], [])
    missing = [
        command.lower()
        for command, words in zip(refused[::2], refused[1::2], strict=True)
        if isinstance(error_of(words, address.masked), MissingRight)
    ]
    if missing:
        raise MissingRight(
            address.masked,
            f"its user may not run {', '.join(missing)} in scripts",
            " ".join(f"+{command}" for command in missing),
        )
    _allowed.add(address.url)


def risks_of(server: Server) -> list[Risk]:
    """What is not known is no risk."""
    risks: list[Risk] = []
    if server.version and _numbers(server.version) < OLDEST_VERSION:
        risks.append(
            Risk("version", f"it is {server.engine} {server.version}", "graphflow needs Redis 6.2 or later")
        )
    if server.appendonly == "no":
        kept = (
            "nothing survives a restart"
            if server.save == ""
            else "a crash loses what came after its last snapshot"
        )
        risks.append(
            Risk(
                "persistence",
                f"its append-only file is off: {kept}",
                "set appendonly to yes in its configuration",
            )
        )
    if server.policy and server.policy != "noeviction":
        lost = "finished runs before their time" if server.policy.startswith("volatile") else "parts of runs"
        risks.append(
            Risk(
                "eviction",
                f"its maxmemory-policy is {server.policy}: it drops {lost} when memory is full",
                "set maxmemory-policy to noeviction",
            )
        )
    return risks


async def ask_server(redis: PatientClient) -> Server:
    """What the server says; of what this user may not ask, nothing."""
    info = await _asked(redis, "INFO", lambda client: client.info())
    config: dict[str, Any] = {}
    for name in ("appendonly", "appendfsync", "save"):  # a server before 7 takes one name at a time
        config |= await _asked(redis, "CONFIG GET", _configured(name))
    appendonly = config.get("appendonly")
    if appendonly is None and "aof_enabled" in info:
        appendonly = "yes" if info["aof_enabled"] else "no"
    is_valkey = "valkey_version" in info
    return Server(
        engine="Valkey" if is_valkey else "Redis",
        version=str(info.get("valkey_version" if is_valkey else "redis_version", "")),
        appendonly=appendonly or "",
        appendfsync=config.get("appendfsync", ""),
        save=config.get("save"),
        policy=info.get("maxmemory_policy", ""),
        max_memory=int(info.get("maxmemory", 0)),
        used_memory=int(info.get("used_memory", 0)),
    )


def _configured(name: str) -> Callable[[Redis], Any]:
    return lambda client: client.config_get(name)


async def _asked(redis: PatientClient, command: str, ask: Callable[[Redis], Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await redis.command(ask, command)
    except StoreError as error:
        # Not allowed, or, as CONFIG on hosted servers, not known; anything else is no answer at all.
        if not isinstance(error, AccessDenied) and type(error) is not StoreError:
            raise
        logger.debug("%s is not answered: %s", command, error)
        return {}
    return answer


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
