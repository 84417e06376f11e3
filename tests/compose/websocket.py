"""Clients of the story: plain RFC 6455, in one process with the publisher, so that all of it has one clock."""

import asyncio
import base64
import os
import re
import struct
import time
from dataclasses import dataclass, field

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


@dataclass
class Connection:
    """One session, as its client saw it. Times are those of `time.monotonic`."""

    opened: float
    closed: float | None = None
    code: int | None = None
    reason: str = ""
    heard: list[str] = field(default_factory=list)


def frame(opcode, payload):
    """Masked, as a client's have to be."""
    mask = os.urandom(4)
    head = bytes([0x80 | opcode, 0x80 | len(payload)])
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


async def handshake(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    # As a browser has it, from a page that the load balancer serves.
    head = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"
    writer.write(f"{head}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    try:
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        if not answer.startswith("HTTP/1.1 101 "):
            raise ConnectionError(answer.splitlines()[0])
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def read_frame(reader):
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", await reader.readexactly(8))
    return first & 0x0F, await reader.readexactly(length)


class Client:
    """Opens a path, and again after each close: when it was told to, else after a moment."""

    def __init__(self, port, path):
        self.port, self.path = port, path
        self.connections = []
        self.refusals = []
        self.task = asyncio.create_task(self.live())

    @property
    def is_open(self):
        return bool(self.connections) and self.connections[-1].closed is None

    async def live(self):
        while True:
            try:
                reader, writer = await handshake(self.port, self.path)
            except (OSError, EOFError, asyncio.IncompleteReadError) as error:
                self.refusals.append((time.monotonic(), str(error)))
                await asyncio.sleep(0.1)
                continue
            connection = Connection(time.monotonic())
            self.connections.append(connection)
            try:
                await self.listen(reader, writer, connection)
            except (OSError, asyncio.IncompleteReadError):
                connection.code = 1006
            finally:
                writer.close()
            connection.closed = connection.closed or time.monotonic()
            told = re.fullmatch(r"retry_after_ms=(\d+)", connection.reason)
            await asyncio.sleep(int(told[1]) / 1000 if told else 0.1)

    async def listen(self, reader, writer, connection):
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == TEXT:
                connection.heard.append(payload.decode())
            elif opcode == PING:
                writer.write(frame(PONG, payload))
            elif opcode == CLOSE:
                connection.closed = time.monotonic()
                connection.code = struct.unpack(">H", payload[:2])[0]
                connection.reason = payload[2:].decode()
                writer.write(frame(CLOSE, payload[:2]))
                return

    async def leave(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
