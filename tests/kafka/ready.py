"""Exits 0 when the broker at HOST PORT answers a metadata request and counts itself among the brokers. Standard library only.

A listening socket is not enough: the broker accepts connections before the controller has admitted it.
"""

import socket
import struct
import sys

METADATA, VERSION, CLIENT = 3, 1, b"tidemill-ready"


def string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    at += 2
    return ("", at) if size < 0 else (data[at : at + size].decode(), at + size)


def receive(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            sys.exit("the broker closed the connection")
        data += part
    return data


def brokers(host: str, port: int) -> list[tuple[str, int]]:
    header = struct.pack(">hhih", METADATA, VERSION, 1, len(CLIENT)) + CLIENT
    body = header + struct.pack(">i", 0)  # an empty list of topics: none of them
    with socket.create_connection((host, port), timeout=2) as peer:
        peer.sendall(struct.pack(">i", len(body)) + body)
        (size,) = struct.unpack(">i", receive(peer, 4))
        data = receive(peer, size)
    (count,) = struct.unpack_from(">i", data, 4)  # after the correlation id
    at, found = 8, []
    for _ in range(count):
        at += 4  # node id
        name, at = string(data, at)
        (number,) = struct.unpack_from(">i", data, at)
        _rack, at = string(data, at + 4)
        found.append((name, number))
    return found


if __name__ == "__main__":
    host, port = sys.argv[1], int(sys.argv[2])
    try:
        found = brokers(host, port)
    except (OSError, struct.error) as error:
        sys.exit(f"no answer from {host}:{port}: {error}")
    if (host, port) not in found:
        sys.exit(f"the broker at {host}:{port} is not admitted yet: the brokers are {found}")
