"""What does an error reply mean? One table, by how the server's own words begin, for all servers.

The words come bare, in what a server puts around the error of a script's command, or, from redis-py, with their first
one cut off. docs/server-replies.md has what each server says; `python -m tests.replies` asks those that are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from graphflow.errors import (
    AccessDenied,
    ClusterMember,
    MissingRight,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnreachable,
    WritesRefused,
)

#: In front of the words in a script's error before Redis 7; some of it twice, or, in a reply that was passed on, not at all.
_BEFORE = re.compile(r"(?:ERR )?(?:Error running script \(call to f_\w+\): )?(?:@\w+: ?\d+: )*-?")
#: Behind them from Redis 7 on; Valkey 9 leaves the hash out.
_BEHIND = re.compile(r" script: (?:\w+, )?on @\w+:\d+\.$")

_Meaning = Callable[[str, str], StoreError]

#: What makes an error of an address and the words, and how such words begin.
_MEANINGS: tuple[tuple[_Meaning, tuple[str, ...]], ...] = (
    (lambda url, _: StoreFull(url), ("OOM ",)),
    (
        MissingRight,
        (
            "NOPERM ",
            # In scripts without a word of its own in front.
            "ACL failure in script",
            "The user executing the script can't ",
        ),
    ),
    (
        AccessDenied,
        (
            "NOAUTH ",
            "WRONGPASS ",
            "DENIED ",
            "invalid password",
            "AUTH <password> called ",
            "Client sent AUTH",
        ),
    ),
    (WritesRefused, ("READONLY ", "MISCONF ", "NOREPLICAS ")),
    (
        ClusterMember,
        (
            "MOVED ",
            "ASK ",
            "CROSSSLOT ",
            "CLUSTERDOWN ",
            "SELECT is not allowed in cluster mode",
            "Lua script attempted to ",
            "Script attempted to ",
            "Attempted to access a non local key",
            "Can not execute a write command '",
        ),
    ),
    (
        StoreBusy,
        (
            "LOADING ",
            "BUSY ",
            "TRYAGAIN ",
            "MASTERDOWN ",
            # A blocking command of a server that became a replica.
            "UNBLOCKED ",
            "Script killed by user",
            "max number of clients",
        ),
    ),
)


def error_of(reply: str, url: str) -> StoreError:
    """The error that an error reply means; `url` has its password masked."""
    words = server_words(reply)
    for meaning, beginnings in _MEANINGS:
        if words.startswith(beginnings):
            return meaning(url, words)
    return StoreError(f"Redis at {url} answered: {reply}")


def error_of_exception(exc: BaseException, url: str) -> StoreError:
    """The same of what redis-py has raised; StoreUnreachable where there was no reply."""
    from redis import exceptions

    reply = _cut_off(exc) + (str(exc) or type(exc).__name__)
    error = error_of(reply, url)
    if type(error) is not StoreError:
        return error
    if isinstance(exc, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        return AccessDenied(url, reply)
    if isinstance(exc, (OSError, exceptions.ConnectionError, exceptions.TimeoutError)):
        return StoreUnreachable(url, reply)
    return error


def server_words(reply: str) -> str:
    """What the server says of the command that it refused, whether or not a script called it."""
    return _BEHIND.sub("", _BEFORE.sub("", reply.rstrip(), count=1))


def _cut_off(exc: BaseException) -> str:
    """The first word of the reply, where redis-py has made a class of it and kept the others alone."""
    from redis import exceptions

    words = {
        exceptions.OutOfMemoryError: "OOM ",
        exceptions.NoPermissionError: "NOPERM ",
        exceptions.ReadOnlyError: "READONLY ",
        exceptions.BusyLoadingError: "LOADING ",
        exceptions.TryAgainError: "TRYAGAIN ",
        exceptions.MasterDownError: "MASTERDOWN ",
        exceptions.ClusterDownError: "CLUSTERDOWN ",
        exceptions.ClusterCrossSlotError: "CROSSSLOT ",
        exceptions.MovedError: "MOVED ",
        exceptions.AskError: "ASK ",
    }
    return words.get(type(exc), "")
