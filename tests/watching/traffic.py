"""Everything that a panel can show, over and over: clients, a backend, an upstream, Redis, and what they do."""

import base64
import hashlib
import http.client
import http.server
import json
import os
import re
import selectors
import socket
import struct
import threading
import time
import urllib.request

from proofs.programs import DIRECT
from watching.processes import KEY


def frame(opcode, data, is_masked):
    """One WebSocket frame; the mask is zero, which the protocol allows and a test can read."""
    mask = 0x80 if is_masked else 0
    head = struct.pack("!BB", 0x80 | opcode, mask | len(data)) if len(data) < 126 else struct.pack("!BBH", 0x80 | opcode, mask | 126, len(data))
    return head + (bytes(4) if is_masked else b"") + data


def read_head(sock, step):
    """The head of a request or an answer, and what came with it; less where the connection ends."""
    head = b""
    while b"\r\n\r\n" not in head and (part := sock.recv(step)):
        head += part
    return head


class Reader(threading.Thread):
    """Reads what comes on many sockets, and throws it away."""

    def __init__(self):
        super().__init__(daemon=True)
        self.selector = selectors.DefaultSelector()
        self.start()

    def add(self, sock):
        self.selector.register(sock, selectors.EVENT_READ)

    def remove(self, sock):
        try:
            self.selector.unregister(sock)
        except (KeyError, ValueError):
            pass

    def run(self):
        while True:
            for key, _ in self.selector.select(0.1):
                try:
                    ended = not key.fileobj.recv(1 << 16)
                except OSError:
                    ended = True
                if ended:
                    self.remove(key.fileobj)


class Client:
    """A WebSocket client. `status` is what the handshake was answered; it reads on unless it is slow."""

    def __init__(self, gateway, target, is_slow=False, method="GET", **headers):
        self.socket = socket.socket()
        if is_slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(10)
        self.socket.connect(gateway.clients)
        wanted = {
            "Host": "localhost",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in wanted.items() if value is not None)
        self.socket.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode())
        head = read_head(self.socket, 1 if is_slow else 4096)
        self.status = int(head.split()[1]) if head else 0
        if self.status != 101:
            self.socket.close()
        elif not is_slow:
            reader.add(self.socket)

    def send(self, text):
        self.socket.sendall(frame(1, text.encode(), True))

    def close(self, code=1000):
        try:
            self.socket.sendall(frame(8, struct.pack("!H", code), True))
        except OSError:
            pass
        reader.remove(self.socket)
        self.socket.close()


class Backend(http.server.BaseHTTPRequestHandler):
    """Takes most events; one in ten the second time, and some never."""

    protocol_version = "HTTP/1.1"
    count = 0
    may_answer = threading.Event()
    may_answer.set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        Backend.count += 1
        Backend.may_answer.wait()
        if body == b"slowly":
            time.sleep(0.02)
        if b"veto=1" in body:
            return self.answer(403, b"not you")
        if body == b"never":
            return self.answer(400, b"no")
        if Backend.count % 10 == 0:
            return self.answer(500, b"later")
        self.answer(200, b"heard")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def remote_server(listener):
    """What the gateways connect to: speaks five times a second, and breaks the first connection."""
    is_first = True
    while True:
        sock, _ = listener.accept()
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", read_head(sock, 4096))
        if not key:
            sock.close()
            continue
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        if is_first:
            is_first = False
            sock.close()
            continue
        reader.add(sock)
        threading.Thread(target=speak, args=[sock], daemon=True).start()


def speak(sock):
    try:
        while True:
            sock.sendall(frame(1, b"a word from afar", False))
            time.sleep(0.2)
    except OSError:
        pass


class Redis:
    """One connection, one command at a time, whose answer is read only as far as it is an error."""

    def __init__(self, file):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(file))

    def call(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        answer = self.socket.recv(1 << 16)
        if not answer or answer.startswith(b"-"):
            raise RuntimeError(f"Redis: {answer.decode() or 'no answer'}")


class Traffic(threading.Thread):
    def __init__(self, gateways, redis):
        super().__init__(daemon=True)
        self.gateways, self.redis = gateways, redis
        self.stopped = threading.Event()
        self.failure = None

    def run(self):
        try:
            self.drive()
        except Exception as error:  # told by whoever waits for what this makes, and in the end
            self.failure = error

    def stop(self):
        self.stopped.set()
        self.join()
        if self.failure:
            raise self.failure

    def drive(self):
        one, two = self.gateways
        for number in range(8):
            self.redis.call("XGROUP", "CREATE", f"pathcast:in:/ws/work:{number}", "readers", "0", "MKSTREAM")
        for gateway in self.gateways:
            for _ in range(10):
                Client(gateway, "/ws/sensors")
                Client(gateway, "/ws/sensors", Sec_WebSocket_Extensions="permessage-deflate")
                Client(gateway, "/ws/rooms/7")
            threading.Thread(target=listen, args=[gateway], daemon=True).start()
        asking, eager, working = Client(one, "/ws/api"), Client(one, "/ws/api"), Client(two, "/ws/work")
        session = json.loads(two.call("GET", "/v1/sessions?path=/ws/rooms/7&limit=1")[1])["sessions"][0]["id"]
        long = "a reading that repeats itself, " * 200
        slow, turn = [], 0
        while not self.stopped.wait(0.05):
            turn += 1
            for gateway in self.gateways:
                gateway.publish("/ws/sensors", long)
                gateway.publish("/ws/rooms/7", turn)
                gateway.publish("/ws/latest", long * 10)
            one.publish("/ws/rooms/7", "for you", f"?session={session}")
            one.publish("/ws/rooms/7", "for nobody", "?session=nobody")
            for name in ("feed", "away"):
                one.call("POST", f"/v1/upstreams/{name}", '{"payload":"hello"}')
            self.redis.call("PUBLISH", "pathcast:out:/ws/sensors", '{"payload":1}')
            self.redis.call("PUBLISH", "pathcast:out:/ws/sensors", "nonsense")
            asking.send("never" if turn % 20 == 0 else "what is new?")
            working.send("something to do")
            # More than may wait of one session: it is held until the backend has caught up.
            if turn % 20 == 5:
                for _ in range(200):
                    eager.send("slowly")
            # Slow clients now and then: they are closed when their outbox is full, or when they took nothing for too long, and others come. They
            # are kept, as no reader keeps them: what nobody holds is closed at once.
            if turn % 10 == 1:
                slow.append(Client(one, "/ws/slow", is_slow=True))
                slow += [Client(gateway, "/ws/latest", is_slow=True) for gateway in self.gateways]
            for _ in range(4):
                one.publish("/ws/slow", long * 10)
            if turn % 5 == 0:
                come_and_go(two)
            if turn % 30 == 0:
                self.redis.call("CLIENT", "KILL", "TYPE", "pubsub")


def come_and_go(gateway):
    """Clients that leave, and those that are not let in, for each reason that a client can give."""
    Client(gateway, "/ws/sensors").close()
    Client(gateway, "/ws/sensors").close(4321)
    Client(gateway, "/ws/api?veto=1")
    Client(gateway, "/nowhere")
    Client(gateway, "/ws/sensors", Origin="https://elsewhere.example")
    Client(gateway, "/ws/sensors", method="POST")
    Client(gateway, "/ws/sensors", Upgrade=None, Connection=None)
    Client(gateway, "/ws/sensors", Sec_WebSocket_Version="8")
    Client(gateway, "/ws/sensors", Sec_WebSocket_Key="short")


def listen(gateway):
    request = urllib.request.Request(f"http://{gateway.instance}/v1/events/ws/sensors", headers={"Authorization": f"Bearer {KEY}"})
    try:
        with DIRECT.open(request) as answer:
            while answer.read1(1 << 16):
                pass
    except (OSError, http.client.HTTPException):
        pass


reader = Reader()
