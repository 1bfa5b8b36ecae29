"""Which store is meant? Reads store URLs, prints them without their passwords, and finds the store when none is named.

What lives at an address is opened by `connection.py`; the server of an `embedded://` address is run by `embedded.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, unquote_to_bytes, urlencode, urlsplit

from graphflow.errors import InvalidAddress

Kind = Literal["tcp", "tls", "unix", "embedded", "memory"]

#: The environment variable that names the store.
URL_VARIABLE = "GRAPHFLOW_REDIS_URL"
#: The folder of the embedded server, inside the folder that it serves.
EMBEDDED_FOLDER = ".graphflow"
LOCAL_URL = "redis://localhost:6379/0"
DEFAULT_PORT = 6379
#: Seconds to wait for an answer from a server on this machine that may not be there.
PROBE_SECONDS = 0.2
#: How a server begins that takes no more clients.
FULL_REPLY = "ERR max number of clients"

ACCEPTED_FORMS = (
    "redis://[user:password@]host[:port][/db]",
    "rediss://... (TLS)",
    "valkey://... and valkeys://... (the same)",
    "unix:///path/to/redis.sock[?db=0]",
    "embedded:// (a server of this folder's own) or embedded:///path/to/folder",
    "memory:// (tests; gone with the process)",
)

_KINDS: dict[str, Kind] = {
    "redis": "tcp",
    "valkey": "tcp",
    "rediss": "tls",
    "valkeys": "tls",
    "unix": "unix",
    "embedded": "embedded",
    "memory": "memory",
}
_SCHEMES: dict[Kind, str] = {
    "tcp": "redis",
    "tls": "rediss",
    "unix": "unix",
    "embedded": "embedded",
    "memory": "memory",
}
_CREDENTIALS = {"username", "password"}
_OPTIONS: dict[Kind, set[str]] = {
    "tcp": {"db", *_CREDENTIALS},
    "tls": {
        "db",
        *_CREDENTIALS,
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    },
    "unix": {"db", *_CREDENTIALS},
    "embedded": set(),
    "memory": set(),
}


#: What stands for a secret, and for all of a URL that cannot be read.
STARS = "***"
#: A name, or an IPv4 or IPv6 address with its zone.
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?")
_LOGIN = re.compile(r":[^@]*@")
_PASSWORD = re.compile(r":([^:@/]+)@")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
#: What may be a secret in a word of a command line.
_SECRETS = re.compile(r"(?<=://)\S*(?=@)|(?i:(?<=password=))[^&\s]*")


class _Unreadable(Exception):
    """A URL cannot be read. The text says why, and quotes nothing of it: any part may be the password, out of place."""


@dataclass(frozen=True, slots=True)
class Address:
    """A store's address. Its printed form shows the login as `***`; `url` is the whole of it.

    `path` is the socket of a `unix` address and the `.graphflow` folder of an `embedded` one; `name` tells apart the
    stores of `memory` addresses; `tls` holds redis-py's `ssl_...` options as given in the query.
    """

    kind: Kind
    host: str = ""
    port: int = 0
    db: int = 0
    username: str | None = None
    password: str | None = None
    path: Path | None = None
    name: str = ""
    tls: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """The address as a URL that `parse_address` reads back; with the password, so never print it."""
        return self._written(_login(self.username, self.password))

    @property
    def masked(self) -> str:
        """The address as people may see it. The user is hidden too: a password without its colon is taken for one."""
        return self._written("" if self.username is None and self.password is None else f"{STARS}@")

    def without_password(self, text: str) -> str:
        """What a server said to this address, which may quote the login."""
        for secret in (self.password, None if self.password else self.username):
            if secret:
                text = text.replace(secret, STARS)
        return text

    def __str__(self) -> str:
        return self.masked

    def __repr__(self) -> str:
        return f"Address({self.masked!r})"

    def _written(self, login: str) -> str:
        prefix = f"{_SCHEMES[self.kind]}://"
        if self.kind == "memory":
            return prefix + self.name
        if self.kind == "embedded":
            return prefix + _quoted_path(self.path)
        if self.kind == "unix":
            return f"{prefix}{login}{_quoted_path(self.path)}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = f"?{urlencode(self.tls)}" if self.tls else ""
        return f"{prefix}{login}{host}:{self.port}/{self.db}{options}"


def parse_address(url: str, *, cwd: Path | None = None, source: str = "") -> Address:
    """Read a store URL. Raises `InvalidAddress`, which lists the accepted forms and shows nothing but a known scheme.

    `cwd` is the folder that `embedded://` stands for (default: the working folder); `source` says in an error where
    the URL came from.
    """
    found = _read(url, cwd)
    if isinstance(found, Address):
        return found
    raise InvalidAddress(_scheme_alone(url), found, ACCEPTED_FORMS, source)


def masked_url(url: str) -> str:
    """A URL as people may see it, whether it can be read or not."""
    found = _read(url, Path("/"))
    if not isinstance(found, Address):
        return _scheme_alone(url)
    # Neither has a login, and the folder that `embedded://` stands for is not chosen yet.
    return url if found.kind in ("embedded", "memory") else found.masked


def masked_words(words: Sequence[str]) -> Iterator[str]:
    """The words of a command line as people may see them."""
    for before, word in zip(("", *words), words, strict=False):
        if before == "--url":
            yield masked_url(word)
        elif word.startswith("--url="):
            yield f"--url={masked_url(word.removeprefix('--url='))}"
        else:
            yield _SECRETS.sub(STARS, word)


def masked_where_typed(text: str, words: Sequence[str]) -> str:
    """A text that may quote words of a command line: without the logins in them, also where no URL belongs."""
    for word in words:
        shown = _SECRETS.sub(STARS, word)
        text = text.replace(word, shown) if shown != word else text
        # Whole, and the password alone: a word may be taken apart before it is quoted.
        for secret in filter(None, (word[: word.rfind("@")], *_PASSWORD.findall(word))):
            text = text.replace(secret, STARS) if _LOGIN.search(word) else text
    return text


def find_address(url: str | None, environ: Mapping[str, str], cwd: Path | None = None) -> Address:
    """Where is the store? The first of: `url`; `GRAPHFLOW_REDIS_URL`; the embedded server that `cwd` already has;
    a Redis on localhost:6379 that answers; a new embedded server in `cwd` (default: the working folder).

    Raises `InvalidAddress`.
    """
    if url:
        return parse_address(url, cwd=cwd)
    if named := environ.get(URL_VARIABLE):
        return parse_address(named, cwd=cwd, source=URL_VARIABLE)
    if not _has_folder(cwd):
        local = parse_address(LOCAL_URL)
        if _is_usable(ping((local.host, local.port))):
            return local
    return parse_address("embedded://", cwd=cwd)


def _has_folder(cwd: Path | None) -> bool:
    """Whether there is an embedded folder, or a link in its place: where that leads is looked at by who needs it."""
    try:
        folder = (cwd or Path.cwd()) / EMBEDDED_FOLDER
        return folder.is_symlink() or folder.is_dir()
    except OSError:
        return False


def ping(target: str | tuple[str, int], timeout_seconds: float = PROBE_SECONDS) -> str | None:
    """The first line that a server at a socket path or at (host, port) answers to PING; None if nobody answers."""
    return ask(target, "PING", timeout_seconds)


def ask(target: str | tuple[str, int], command: str, timeout_seconds: float) -> str | None:
    """The first line of the answer to a command of one word; None if nobody answers, or the connection is closed."""
    try:
        with connected(target, timeout_seconds) as conversation:
            # A server that takes no more clients says so and closes at once: there is something to read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                conversation.sendall(f"*1\r\n${len(command)}\r\n{command}\r\n".encode())
            reply = conversation.recv(512)
    except OSError:
        return None
    return reply.decode(errors="replace").partition("\r\n")[0] or None


def connected(target: str | tuple[str, int], timeout_seconds: float) -> socket.socket:
    """A socket that is connected to a socket path or to (host, port). Raises OSError."""
    if isinstance(target, tuple):
        return socket.create_connection(target, timeout_seconds)
    conversation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    conversation.settimeout(timeout_seconds)
    try:
        conversation.connect(target)
    except OSError:
        conversation.close()
        raise
    return conversation


def _is_usable(reply: str | None) -> bool:
    """Whether a Redis without a password is there; one that is busy, full or loads its data will serve in a moment."""
    if reply is None:
        return False
    return reply.startswith(("+PONG", "-LOADING", "-BUSY", "-MISCONF", f"-{FULL_REPLY}"))


def _read(url: str, cwd: Path | None) -> Address | str:
    """The address, or why the URL cannot be read: an error's context would keep what it was raised from, URL included."""
    try:
        return _parse(url, cwd)
    except _Unreadable as refusal:
        return str(refusal)
    except ValueError:
        # Those of urllib quote what they do not understand.
        return "it is not a well-formed URL"


def _scheme_alone(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return f"{scheme}://{STARS}" if separator and scheme.lower() in _KINDS else STARS


def _parse(url: str, cwd: Path | None) -> Address:
    scheme, separator, _ = url.partition("://")
    kind = _KINDS.get(scheme.lower())
    if not separator:
        raise _Unreadable("it has no scheme; begin it with redis://, or what fits of the forms below")
    if kind is None:
        raise _Unreadable(f"its scheme is not known{_meant(scheme.lower(), _KINDS, '{}://')}")
    parts = urlsplit(url)
    if parts.fragment or "#" in url:
        raise _Unreadable("it has a #; write # inside a password as %23")
    options = _options(kind, parts.query)
    if kind == "memory":
        return Address("memory", name=_memory_name(parts))
    if kind == "embedded":
        return Address("embedded", path=_embedded_folder(parts, cwd))
    return _server_address(kind, parts, options)


def _meant(word: str, known: Iterable[str], form: str) -> str:
    nearest = get_close_matches(word, known, n=1)
    return f"; did you mean {form.format(nearest[0])}?" if nearest else ""


def _options(kind: Kind, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    for number, (name, value) in enumerate(pairs, 1):
        if name not in _OPTIONS[kind]:
            meant = _meant(name.lower(), _OPTIONS[kind], "{}")
            known = ", ".join(sorted(_OPTIONS[kind])) or "none"
            raise _Unreadable(
                f"option {number} after its ? is not known{meant} "
                f"(known here: {known}; graphflow sets the others itself)"
            )
        if name != "password":
            _refuse_misplaced(value, f"the value of its option {name}")
    return dict(pairs)


def _server_address(kind: Kind, parts: SplitResult, options: dict[str, str]) -> Address:
    if "@" in (parts.username or ""):
        raise _Unreadable(
            "it has an @ before the password's colon; write @ inside a user or a password as %40"
        )
    username = _decoded(parts.username) or options.get("username") or None
    password = _decoded(parts.password) or options.get("password") or None
    _refuse_unprintable(f"{username}{password}", "its user or password")
    if kind == "unix":
        if parts.netloc.rpartition("@")[2] or not parts.path.strip("/"):
            raise _Unreadable("a unix socket needs an absolute path: unix:///path/to/redis.sock")
        if re.search("[:@&;]", parts.path):
            raise _Unreadable(
                "a login stands before the path, options after a ?; inside the path write : @ & ; as %3A %40 %26 %3B"
            )
        path, db = _path(parts), _database(options.get("db", ""))
        _refuse_misplaced(str(path), "its path")
        return Address("unix", db=db, username=username, password=password, path=path)
    return Address(
        kind,
        host=_host(parts),
        port=_port(parts),
        db=_database(parts.path.strip("/") or options.get("db", "")),
        username=username,
        password=password,
        tls=tuple(sorted((key, value) for key, value in options.items() if key.startswith("ssl_"))),
    )


def _refuse_misplaced(text: str, what: str) -> None:
    """A login or an option that got into another part, as when its @, ? or & was encoded."""
    if _LOGIN.search(text) or re.search("[?&;]", text):
        raise _Unreadable(f"{what} holds what looks like a login or another option")
    _refuse_unprintable(text, what)


def _refuse_unprintable(text: str, what: str) -> None:
    if _UNPRINTABLE.search(text):
        raise _Unreadable(f"{what} holds a character that is no text")


def _memory_name(parts: SplitResult) -> str:
    name = parts.netloc + parts.path
    if not re.fullmatch(r"[\w./-]*", name):
        raise _Unreadable("the name of a store in memory is made of letters, digits and . _ / -")
    return name


def _embedded_folder(parts: SplitResult, cwd: Path | None) -> Path:
    if parts.netloc:
        raise _Unreadable("the folder must be absolute: embedded:///path/to/folder")
    if _LOGIN.search(parts.path):
        raise _Unreadable("a folder has no login; write : and @ inside its path as %3A and %40")
    folder = _path(parts) if parts.path.strip("/") else cwd or _working_folder()
    if "\0" in str(folder):
        raise _Unreadable("its path holds a character that is no text")
    if not _is_utf8(folder):
        raise _Unreadable(f"the path of its folder, {os.fsencode(folder)!r}, is not UTF-8")
    return (folder if folder.name == EMBEDDED_FOLDER else folder / EMBEDDED_FOLDER).absolute()


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as exc:
        why = f"there is no working folder ({exc.strerror}), which it stands for; change to one that is there"
    raise _Unreadable(why)


def _is_utf8(folder: Path) -> bool:
    try:
        str(folder).encode()
    except UnicodeError:
        return False
    return True


def _path(parts: SplitResult) -> Path:
    """Paths are bytes: whatever a folder's name is made of, its address can be written and read."""
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(parts.path))))


def _quoted_path(path: Path | None) -> str:
    return quote(os.fsencode(path or ""))


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "localhost")
    if not _HOST.fullmatch(host):
        raise _Unreadable("its host is neither a name nor an IP address")
    return host


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _Unreadable("its port is not a number from 1 to 65535")
    return port or DEFAULT_PORT


def _database(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch("[0-9]{1,9}", text):
        raise _Unreadable("its database, after the / or as db=, is not a number")
    return int(text)


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part)


def _login(username: str | None, password: str | None) -> str:
    if username is None and password is None:
        return ""
    secret = "" if password is None else f":{quote(password, safe='')}"
    return f"{quote(username or '', safe='')}{secret}@"
