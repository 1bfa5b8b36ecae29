"""Which store is meant? Reads store URLs, prints them without their passwords, and finds the store when none is named.

What lives at an address is opened by `connection.py`; the server of an `embedded://` address is run by `embedded.py`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

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


@dataclass(frozen=True, slots=True)
class Address:
    """A store's address. Its printed form shows the password as `***`; `url` is the whole of it.

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
        return self._written(self.password)

    @property
    def masked(self) -> str:
        """The address as people may see it."""
        return self._written(None if self.password is None else "***")

    def __str__(self) -> str:
        return self.masked

    def __repr__(self) -> str:
        return f"Address({self.masked!r})"

    def _written(self, password: str | None) -> str:
        prefix = f"{_SCHEMES[self.kind]}://"
        if self.kind == "memory":
            return prefix + self.name
        if self.kind == "embedded":
            return prefix + quote(str(self.path))
        login = _login(self.username, password)
        if self.kind == "unix":
            return f"{prefix}{login}{quote(str(self.path))}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = f"?{urlencode(self.tls)}" if self.tls else ""
        return f"{prefix}{login}{host}:{self.port}/{self.db}{options}"


def parse_address(url: str, *, cwd: Path | None = None, source: str = "") -> Address:
    """Read a store URL. Raises `InvalidAddress`, which lists the accepted forms and never shows a password.

    `cwd` is the folder that `embedded://` stands for (default: the working folder); `source` says in an error where
    the URL came from.
    """
    try:
        return _parse(url, cwd)
    except ValueError as exc:
        raise InvalidAddress(_without_password(url), str(exc), ACCEPTED_FORMS, source) from None


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
    """Whether a Redis without a password is there; one that is busy or still loads its data will serve in a moment."""
    if reply is None:
        return False
    return reply.startswith(("+PONG", "-LOADING", "-BUSY", "-MISCONF"))


def _parse(url: str, cwd: Path | None) -> Address:
    scheme, separator, _ = url.partition("://")
    kind = _KINDS.get(scheme.lower())
    if kind is None or not separator:
        raise ValueError(f"{scheme}:// is not a known scheme" if separator else "it has no scheme")
    parts = _split(url)
    if parts.fragment:
        raise ValueError("it has a #; write # inside a password as %23")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _OPTIONS[kind]):
        known = ", ".join(sorted(_OPTIONS[kind])) or "none"
        raise ValueError(
            f"option {unknown[0]!r} is not known (known here: {known}; graphflow sets the others itself)"
        )
    if kind == "memory":
        return Address("memory", name=parts.netloc + parts.path)
    if kind == "embedded":
        return Address("embedded", path=_embedded_folder(parts, cwd))
    return _server_address(kind, parts, options)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        # The message of urlsplit may quote the password.
        raise ValueError("it is not a well-formed URL") from None


def _server_address(kind: Kind, parts: SplitResult, options: dict[str, str]) -> Address:
    username = _decoded(parts.username) or options.get("username") or None
    password = _decoded(parts.password) or options.get("password") or None
    if kind == "unix":
        if parts.hostname or not parts.path.strip("/"):
            raise ValueError("a unix socket needs an absolute path: unix:///path/to/redis.sock")
        db = _database(options.get("db", ""))
        return Address("unix", db=db, username=username, password=password, path=_path(parts))
    return Address(
        kind,
        host=unquote(parts.hostname or "localhost"),
        port=_port(parts),
        db=_database(parts.path.strip("/") or options.get("db", "")),
        username=username,
        password=password,
        tls=tuple(sorted((key, value) for key, value in options.items() if key.startswith("ssl_"))),
    )


def _embedded_folder(parts: SplitResult, cwd: Path | None) -> Path:
    if parts.netloc:
        raise ValueError("the folder must be absolute: embedded:///path/to/folder")
    folder = _path(parts) if parts.path.strip("/") else cwd or _working_folder()
    return (folder if folder.name == EMBEDDED_FOLDER else folder / EMBEDDED_FOLDER).absolute()


def _path(parts: SplitResult) -> Path:
    try:
        path = unquote(parts.path, errors="strict")
        path.encode()
    except UnicodeError:
        raise ValueError("its path is not UTF-8") from None
    if "\0" in path:
        raise ValueError("its path holds a NUL")
    return Path(path)


def _working_folder() -> Path:
    try:
        folder = Path.cwd()
    except OSError as exc:
        raise ValueError(
            f"there is no working folder ({exc.strerror}), which it stands for; change to one that is there"
        ) from None
    if not _is_utf8(folder):
        raise ValueError(f"the working folder, {os.fsencode(folder)!r}, has a path that is not UTF-8")
    return folder


def _is_utf8(folder: Path) -> bool:
    try:
        str(folder).encode()
    except UnicodeError:
        return False
    return True


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        raise ValueError("its port is not a number from 1 to 65535") from None
    if port == 0:
        raise ValueError("its port is not a number from 1 to 65535")
    return port or DEFAULT_PORT


def _database(text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"the database {text!r} is not a number")
    return int(text)


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part)


def _login(username: str | None, password: str | None) -> str:
    if username is None and password is None:
        return ""
    secret = "" if password is None else f":{quote(password, safe='*')}"
    return f"{quote(username or '', safe='')}{secret}@"


def _without_password(url: str) -> str:
    """`url` with whatever may be a password starred, although it could not be read."""
    starred = re.sub(r"(password=)[^&]*", r"\1***", url)
    return re.sub(r"(://[^:@]*:).*@", r"\1***@", starred)
