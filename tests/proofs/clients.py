"""A crowd of WebSocket clients in processes of its own, and what each of them saw.

A client opens one path, hears numbered messages (`<publisher> <number> <when it was begun>`), and comes back when it is closed, as its `manner` says.
Times are of the monotonic clock, which all processes of a machine share.
"""

import asyncio
import collections
import dataclasses
import multiprocessing
import random
import resource
import socket
import struct
import time

# Known from RFC 6455, section 1.3: one key, and what a server makes of it.
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"

# A load balancer and a gateway that both have much to do answer sooner than that.
HANDSHAKE_LIMIT_S = 20
# Between two handshakes when a crowd opens for the first time; it is not the crowd that is measured then.
FIRST_OPENS_PER_SECOND = 500


@dataclasses.dataclass
class Plan:
    """What all clients of a crowd do."""

    address: tuple
    path: str
    count: int
    # "hint": after the time that the 1012 names, at once where the connection broke, and ever later after refusals. A number: so many seconds
    # later, whatever happened.
    manner: object = "hint"
    # Whether the latency of each message is kept.
    is_timed: bool = False


@dataclasses.dataclass
class Heard:
    """What a session heard of one publisher: numbers without a hole, but for those in `holes` (first and last missing)."""

    first: int
    last: int
    holes: list


@dataclasses.dataclass
class Session:
    client: int
    asked_at: float
    opened_at: float
    closed_at: float = None
    code: int = None
    retry_after_ms: int = None
    heard: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Told:
    """What the crowd of one process has to tell in the end."""

    sessions: list
    # When, and with what status (0: no answer).
    refusals: list
    # When it came, and how long it took.
    latencies: list


class Client:
    """One client: what it wants and what became of it, over all its connections."""

    def __init__(self, number, crowd):
        self.number, self.crowd = number, crowd
        self.failures, self.is_wanted, self.connection = 0, True, None
        self.ask()

    def ask(self):
        if self.is_wanted and not self.crowd.is_over.is_set():
            self.crowd.keep(asyncio.ensure_future(self.connect()))

    async def connect(self):
        host, port = self.crowd.plan.address
        try:
            await self.crowd.loop.create_connection(lambda: Connection(self), host, port)
        except OSError:
            self.refused(0, None)

    def refused(self, status, retry_after_s):
        self.crowd.told.refusals.append((time.monotonic(), status))
        self.failures += 1
        manner = self.crowd.plan.manner
        if manner == "hint":
            # Whoever was refused was one of many: not all of them at the same instant again.
            pause = (retry_after_s or min(0.25 * 2**self.failures, 5)) * random.uniform(0.5, 1.5)
        else:
            pause = manner
        self.crowd.loop.call_later(pause, self.ask)

    def closed(self, session):
        self.connection = None
        manner = self.crowd.plan.manner
        pause = manner if manner != "hint" else (session.retry_after_ms or 0) / 1000
        self.crowd.loop.call_later(pause, self.ask)

    def leave(self):
        self.is_wanted = False
        if self.connection:
            self.connection.send(CLOSE, struct.pack("!H", 1000))


class Connection(asyncio.Protocol):
    def __init__(self, client):
        self.client, self.crowd = client, client.crowd
        self.session, self.rest, self.is_over = None, b"", False
        self.asked_at = time.monotonic()

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"GET {self.crowd.plan.path} HTTP/1.1\r\nHost: pathcast.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        transport.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode())
        self.limit = self.crowd.loop.call_later(HANDSHAKE_LIMIT_S, transport.abort)

    def data_received(self, data):
        if self.rest:
            data = self.rest + data
        if self.session is None:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return
            if not self.opened(head):
                return
        self.rest = self.frames(data)

    def opened(self, head):
        self.limit.cancel()
        status = int(head.split(b" ", 2)[1])
        if status == 101 and ACCEPT in head:
            self.session = Session(self.client.number, self.asked_at, time.monotonic())
            self.crowd.told.sessions.append(self.session)
            self.crowd.open += 1
            self.client.failures, self.client.connection = 0, self
            if not self.client.is_wanted:
                self.client.leave()
            return True
        self.is_over = True
        self.transport.abort()
        after = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"retry-after:")]
        self.client.refused(status, int(after[0]) if after else None)
        return False

    def frames(self, data):
        """Handles the whole frames in it; gives back the rest. What a server sends is not masked (RFC 6455, section 5.1)."""
        at = 0
        while len(data) - at >= 2:
            opcode, length, start = data[at] & 15, data[at + 1], at + 2
            if length == 126:
                if len(data) < at + 4:
                    break
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if len(data) < start + length:
                break
            payload = data[start : start + length]
            if opcode == TEXT:
                self.message(payload)
            elif opcode == PING:
                self.send(PONG, payload)
            elif opcode == CLOSE:
                self.told_to_go(payload)
            at = start + length
        return data[at:]

    def message(self, payload):
        publisher, number, begun_at = payload.split(b" ", 2)
        number, heard = int(number), self.session.heard.get(publisher)
        if heard is None:
            self.session.heard[publisher] = Heard(number, number, [])
        else:
            if number != heard.last + 1:
                heard.holes.append((heard.last + 1, number - 1))
            heard.last = number
        if self.crowd.plan.is_timed:
            now = time.monotonic()
            self.crowd.told.latencies.append((now, now - float(begun_at)))

    def send(self, opcode, payload):
        masked = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
        self.transport.write(bytes([0x80 | opcode, 0x80 | len(payload)]) + MASK + masked)

    def told_to_go(self, payload):
        code = int.from_bytes(payload[:2], "big") if payload else 1005
        reason = payload[2:].decode()
        if reason.startswith("retry_after_ms="):
            self.session.retry_after_ms = int(reason.removeprefix("retry_after_ms="))
        if self.client.is_wanted:
            self.send(CLOSE, payload[:2])
        self.ended(code)

    def connection_lost(self, _):
        self.limit.cancel()
        if self.session:
            self.ended(1006)
        elif not self.is_over:
            self.client.refused(0, None)

    def ended(self, code):
        if not self.is_over:
            self.is_over = True
            self.session.closed_at, self.session.code = time.monotonic(), code
            self.crowd.open -= 1
            self.client.closed(self.session)


class Part:
    """The clients of one process. Asked through a pipe: how many are open, how many there shall be, and at last for what there is to tell."""

    def __init__(self, plan, pipe):
        self.plan, self.pipe = plan, pipe
        self.told, self.open, self.clients = Told([], [], []), 0, []
        self.wanted, self.made, self.tasks = plan.count, 0, set()

    def keep(self, task):
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self):
        self.loop, self.is_over = asyncio.get_running_loop(), asyncio.Event()
        self.loop.add_reader(self.pipe.fileno(), self.asked)
        self.keep(asyncio.ensure_future(self.make()))
        await self.is_over.wait()

    async def make(self):
        while True:
            while len(self.clients) < self.wanted:
                self.clients.append(Client(self.made, self))
                self.made += 1
                await asyncio.sleep(1 / FIRST_OPENS_PER_SECOND)
            while len(self.clients) > self.wanted:
                self.clients.pop(random.randrange(len(self.clients))).leave()
            await asyncio.sleep(0.02)

    def asked(self):
        try:
            what, value = self.pipe.recv()
        except EOFError:
            self.is_over.set()
            return
        if what == "want":
            self.wanted = value
        elif what == "open":
            self.pipe.send((self.open, len(self.told.sessions)))
        elif what == "heard":
            last = collections.Counter()
            for client in self.clients:
                heard = client.connection.session.heard.get(value[0]) if client.connection else None
                last[bool(heard and heard.last >= value[1])] += 1
            self.pipe.send(last[False])
        elif what == "tell":
            self.pipe.send(self.told)
            self.is_over.set()


def serve(plan, pipe):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(Part(plan, pipe).run())


class Crowd:
    """The clients of a plan, shared by some processes. A context: whatever happens, the processes end with it."""

    def __init__(self, plan, processes=1):
        self.plan, self.parts = plan, []
        spawn = multiprocessing.get_context("spawn")
        for part in shares(plan.count, processes):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(dataclasses.replace(plan, count=part), theirs), daemon=True)
            process.start()
            theirs.close()
            self.parts.append((process, ours))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, pipe in self.parts:
            pipe.close()
            process.terminate()
            process.join()

    def ask(self, what, value=None):
        """Asks all processes, and then hears all answers."""
        for _, pipe in self.parts:
            pipe.send((what, value))
        return [pipe.recv() for _, pipe in self.parts]

    def open(self):
        return sum(now for now, _ in self.ask("open"))

    def opened(self):
        """How many sessions there have been, those that are open included."""
        return sum(ever for _, ever in self.ask("open"))

    def want(self, count):
        """So many clients from now on; those that are too many leave, whichever they are."""
        for (_, pipe), part in zip(self.parts, shares(count, len(self.parts))):
            pipe.send(("want", part))

    def behind(self, publisher, number):
        """How many clients have not heard this number of this publisher, or a later one."""
        return sum(self.ask("heard", (publisher.encode(), number)))

    def tell(self):
        """Ends the crowd; what all of them saw. A client is known by its process and its number."""
        whole = Told([], [], [])
        for part, told in enumerate(self.ask("tell")):
            for session in told.sessions:
                session.client = (part, session.client)
            whole.sessions += told.sessions
            whole.refusals += told.refusals
            whole.latencies += told.latencies
        return whole


def shares(count, parts):
    return [count // parts + (part < count % parts) for part in range(parts)]
