"""A chain on the bare socket: one HSET for each step, written and read without any client or event loop."""

from __future__ import annotations

import socket

from benchmarks.occasion import Occasion


async def chain(occasion: Occasion) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(occasion.server.socket)
        _ask(connection, "HSET", "state", "steps", "0")
        with occasion.timed():
            for step in range(occasion.count):
                _ask(connection, "HSET", "state", "steps", str(step + 1))
        return int(_ask(connection, "HGET", "state", "steps").split(b"\r\n")[1])


def _ask(connection: socket.socket, *words: str) -> bytes:
    packed = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    connection.sendall(f"*{len(words)}\r\n{packed}".encode())
    return connection.recv(1_024)
