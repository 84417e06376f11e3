"""Somebody else's server: prices come out of a WebSocket, and `{"watch":"TEA"}` adds one.

It stands for a server that knows nothing of pathcast, so it speaks WebSocket with nothing but Python's own
library: what this example needs of RFC 6455, and no more. Do not build on it.
"""

import asyncio
import base64
import hashlib
import json
import random
import sys

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8783
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
SYMBOLS_MAX = 8

prices = {"COFFEE": 180.0, "SUGAR": 21.0}


def frame(opcode, payload):
    if len(payload) < 126:
        return bytes([0x80 | opcode, len(payload)]) + payload
    return bytes([0x80 | opcode, 126]) + len(payload).to_bytes(2, "big") + payload


async def read_frame(reader):
    """(opcode, payload); what is longer than 64 KiB, or in fragments, ends the connection."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    if not first & 0x80 or size == 127:
        raise ValueError("fragments and large frames are not for this example")
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))


async def quote(writer):
    """All prices, half a second apart, until the connection ends."""
    while True:
        for symbol in prices:
            prices[symbol] = max(1.0, prices[symbol] + random.gauss(0, prices[symbol] / 200))
            quoted = {"symbol": symbol, "price": round(prices[symbol], 2)}
            writer.write(frame(TEXT, json.dumps(quoted).encode()))
        await writer.drain()
        await asyncio.sleep(0.5)


def hear(text):
    try:
        symbol = json.loads(text)["watch"]
    except (ValueError, TypeError, KeyError):
        return print("did not understand", text, flush=True)
    if isinstance(symbol, str) and symbol not in prices and len(prices) < SYMBOLS_MAX:
        prices[symbol] = random.uniform(10, 200)
        print("now quotes", symbol, flush=True)


async def serve(reader, writer):
    quoting = None
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        # The key's own case counts.
        key = next(line for line in head if line.lower().startswith("sec-websocket-key")).split(": ")[1]
        accept = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        writer.write("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode())
        print("a client came, epoch", headers.get("pathcast-upstream-epoch"), flush=True)
        quoting = asyncio.create_task(quote(writer))
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == TEXT:
                hear(payload.decode())
            elif opcode == PING:
                writer.write(frame(PONG, payload))
            elif opcode == CLOSE:
                writer.write(frame(CLOSE, payload))
                break
    except (OSError, EOFError, ValueError, StopIteration) as error:
        # start.sh knocks to see whether this listens, and leaves without a word.
        if quoting:
            print("a client left:", type(error).__name__, flush=True)
    finally:
        if quoting:
            quoting.cancel()
        writer.close()


async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", PORT) as server:
        await server.serve_forever()


asyncio.run(main())
