"""What stands around the gateways, and the gateways: Redis, HAProxy, Prometheus. Real programs on loopback, on ports that the kernel chooses.

Each is a context, and ends with it. HAProxy learns of a gateway's address through its socket, as an ingress controller learns of a pod's.
"""

import calendar
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from clients import KEY

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# PATHCAST names another build of the gateway.
BINARY = os.environ.get("PATHCAST", str(TARGET / "debug/pathcast"))

# Whatever the environment says of proxies, this is loopback.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# A machine that is busy with other things gets along with it.
DEADLINE_S = 60


class Failed(Exception):
    """What was to be proved is not so."""


def insist(holds, what):
    if not holds:
        raise Failed(what)


def eventually(what, ask, limit_s=DEADLINE_S, pause_s=0.05):
    """Asks until the answer is neither None nor False, and gives it back."""
    until = time.monotonic() + limit_s
    while (answer := ask()) in (None, False):
        insist(time.monotonic() < until, f"not within {limit_s} s: {what}")
        time.sleep(pause_s)
    return answer


class Child:
    """A program, and what it says, in a folder of its own."""

    def __init__(self, *command, **options):
        self.folder = tempfile.TemporaryDirectory(prefix="pathcast-proof-")
        self.root = pathlib.Path(self.folder.name)
        self.said_file = self.root / "said"
        self.command, self.options = command, options
        self.process = None

    def begin(self):
        with self.said_file.open("wb") as said:
            self.process = subprocess.Popen(
                [str(word) for word in self.command], stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.root, **self.options
            )

    def said(self):
        return self.said_file.read_text(errors="replace")

    def says(self, pattern):
        """Waits until it says that; the match."""

        def look():
            insist(self.process.poll() is None or re.search(pattern, self.said()), f"it ended, and said:\n{self.said()[-2000:]}")
            return re.search(pattern, self.said())

        return eventually(f"{self.command[0]} says {pattern}", look)

    def signal(self, which):
        self.process.send_signal(which)

    def wait(self, limit_s=DEADLINE_S):
        return self.process.wait(limit_s)

    def start(self):
        """Begins it, and waits until it is of use."""
        raise NotImplementedError

    def __enter__(self):
        # Nobody ends what was not entered; so a start that fails, or is broken off, does it itself.
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


class Redis(Child):
    """On a socket file, so that it needs no port."""

    def start(self):
        self.socket = self.root / "redis.sock"
        self.command = ("redis-server", "--port", 0, "--unixsocket", self.socket, "--save", "", "--appendonly", "no", "--dir", self.root)
        self.begin()
        self.says("eady to accept connections")
        self.url = f"redis+unix://{self.socket}"

    def ask(self, *words):
        done = subprocess.run(["redis-cli", "-s", self.socket, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()


class Gateway(Child):
    """A pod. `settings` is all but the addresses and the broker."""

    def __init__(self, name, redis, settings, binary=None):
        super().__init__(binary or BINARY, "--config", "pathcast.toml")
        self.name = name
        self.settings = f'[clients]\nlisten = "127.0.0.1:0"\n[api]\nlisten = "127.0.0.1:0"\n[broker]\nurl = "{redis.url}"\n{settings}'
        self.options["env"] = {key: value for key, value in os.environ.items() if not key.startswith("PATHCAST")}
        # Alone: a line is then an object, whatever the build.
        self.options["env"]["PATHCAST__LOG__FORMAT"] = "json"

    def start(self):
        (self.root / "pathcast.toml").write_text(self.settings)
        self.begin()
        # In the form of the log, or, as older builds have it, for people.
        ports = [int(self.says(rf"\b{door}\W+\w+://127\.0\.0\.1:(\d+)\D")[1]) for door in ("clients", "api")]
        self.clients, self.api = [("127.0.0.1", port) for port in ports]
        eventually(f"{self.name} is ready", lambda: self.fetch("/readyz")[0] == 200)

    def fetch(self, target):
        """Status and text; (0, "") where nobody answers."""
        return fetch("http://{}:{}{}".format(*self.api, target))

    def fetch_client(self, path):
        """What a client that asks for a WebSocket is answered; the connection ends with that."""
        with socket.create_connection(self.clients, timeout=10) as asked:
            head = f"GET {path} HTTP/1.1\r\nHost: pathcast.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            asked.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode())
            return int(asked.recv(1000).split(b" ")[1])

    def counted(self, family):
        """The sum of its series, as /metrics has it."""
        lines = re.findall(rf"^{family}(?:{{.*}})? (\S+)$", self.fetch("/metrics")[1], re.MULTILINE)
        insist(lines, f"{self.name} has no {family}")
        return sum(float(value) for value in lines)

    def logged(self, message):
        """Each line of the log with this message, as an object with its `unix` time."""
        for line in self.said().splitlines():
            if line.startswith("{") and f'"{message}"' in line:
                entry = json.loads(line)
                entry["unix"] = unix(entry["timestamp"])
                yield entry


def unix(timestamp):
    """Seconds, of a time as RFC 3339 has it, in UTC."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def fetch(url):
    try:
        with DIRECT.open(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()
    except OSError:
        return 0, ""


BALANCER = """
global
  nbthread 1
  maxconn 9000
  log stdout format raw local0
  stats socket {socket} level admin
defaults
  mode http
  log global
  option logasap
  option redispatch 1
  retries 3
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout http-request 30s
  timeout tunnel 1h
  timeout queue 10s
frontend clients
  bind fd@{clients}
  log-format "client %Ts.%ms %ST"
  default_backend clients
frontend api
  bind fd@{api}
  log-format "api %Ts.%ms %ST"
  default_backend api
backend clients
  balance leastconn
  option httpchk GET /readyz
  default-server {checks}
{slots}
backend api
  balance roundrobin
  http-reuse never
  option httpchk GET /readyz
  default-server {checks}
{slots}
"""
# A pod that leaves is out of service half a second later, long before it has settled.
CHECKS = "inter 250ms fastinter 250ms downinter 250ms fall 2 rise 1"


class Balancer(Child):
    """HAProxy in front of as many gateways as it has slots: for each its clients' door, for publishers the API's."""

    def __init__(self, slots):
        # Debian has it where only root looks.
        super().__init__(shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or "haproxy", "-db", "-f", "haproxy.cfg")
        self.slots = {f"s{number}": None for number in range(slots)}

    def start(self):
        doors = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
        self.clients, self.api = [door.getsockname() for door in doors]
        self.socket = self.root / "admin.sock"
        slots = "\n".join(f"  server {slot} 127.0.0.1:1 check port 1 disabled" for slot in self.slots)
        clients, api = [door.fileno() for door in doors]
        (self.root / "haproxy.cfg").write_text(BALANCER.format(socket=self.socket, clients=clients, api=api, checks=CHECKS, slots=slots))
        self.options["pass_fds"] = (clients, api)
        self.begin()
        for door in doors:
            door.close()
        eventually("HAProxy answers", lambda: self.socket.exists() and self.stats())

    def command_line(self, line):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(10)
            admin.connect(str(self.socket))
            admin.sendall(f"{line}\n".encode())
            answer = b""
            while piece := admin.recv(65536):
                answer += piece
        return answer.decode()

    def stats(self):
        """The rows of its servers: by backend and slot."""
        try:
            rows = self.command_line("show stat -1 4 -1").lstrip("# ").splitlines()
        except OSError:
            return None
        names = rows[0].split(",")
        found = [dict(zip(names, row.split(","))) for row in rows[1:] if row]
        return {(row["pxname"], row["svname"]): row for row in found}

    def add(self, gateway):
        """Puts a gateway into a free slot, and waits until it is in service."""
        slot = next(slot for slot, held in self.slots.items() if held is None)
        self.slots[slot] = gateway
        for backend, (host, port) in (("clients", gateway.clients), ("api", gateway.api)):
            self.command_line(f"set server {backend}/{slot} addr {host} port {port}")
            self.command_line(f"set server {backend}/{slot} check-port {gateway.api[1]}")
            self.command_line(f"set server {backend}/{slot} state ready")
        eventually(f"{gateway.name} is in service", lambda: self.is_up(slot))

    def is_up(self, slot):
        stats = self.stats()
        return all(stats[backend, slot]["status"].startswith("UP") for backend in ("clients", "api"))

    def remove(self, gateway):
        """Its slot is free; what is still open through it stays open."""
        slot = next(slot for slot, held in self.slots.items() if held is gateway)
        for backend in ("clients", "api"):
            self.command_line(f"set server {backend}/{slot} state maint")
        self.slots[slot] = None

    def sessions(self):
        """Open connections of clients, by the name of the gateway."""
        stats = self.stats()
        return {held.name: int(stats["clients", slot]["scur"]) for slot, held in self.slots.items() if held}

    def connects(self):
        """Of each client's connection: when it was accepted (Unix time), and what it was answered."""
        lines = re.findall(r"^client (\d+\.\d+) (-?\d+)$", self.said(), re.MULTILINE)
        return [(float(at), int(status)) for at, status in lines]


class Prometheus(Child):
    """Scrapes the pods that it is told of."""

    def __init__(self, scrape_pause_ms):
        super().__init__("prometheus", "--config.file=prometheus.yml", "--web.listen-address=127.0.0.1:0", "--storage.tsdb.path=data")
        self.scrape_pause_ms = scrape_pause_ms

    def start(self):
        self.tell([])
        pause = f"{self.scrape_pause_ms}ms"
        scrape = f"  scrape_interval: {pause}\n  scrape_timeout: {pause}\n"
        job = "- job_name: pathcast\n  file_sd_configs: [{files: [pods.json], refresh_interval: 1s}]\n"
        (self.root / "prometheus.yml").write_text(f"global:\n{scrape}scrape_configs:\n{job}")
        self.begin()
        port = self.says(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')[1]
        self.url = f"http://127.0.0.1:{port}"
        eventually("Prometheus answers", lambda: fetch(f"{self.url}/-/ready")[0] == 200)

    def tell(self, gateways):
        """The pods there are, with the labels that a PodMonitor gives them."""
        groups = [
            {"targets": ["{}:{}".format(*gateway.api)], "labels": {"namespace": "pathcast", "pod": gateway.name}} for gateway in gateways
        ]
        fresh = self.root / "pods.json.new"
        fresh.write_text(json.dumps(groups))
        fresh.rename(self.root / "pods.json")

    def ask(self, query, at):
        """The vector at this Unix time: labels without the name, and value."""
        asked = urllib.parse.urlencode({"query": query, "time": f"{at:.3f}"})
        status, text = fetch(f"{self.url}/api/v1/query?{asked}")
        insist(status == 200, f"Prometheus refuses {query}: {text}")
        return [(row["metric"], float(row["value"][1])) for row in json.loads(text)["data"]["result"]]


@contextlib.contextmanager
def installation(slots):
    """Redis and HAProxy, and a stack for gateways: all end with it, also when somebody ends this program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(Redis()), stack.enter_context(Balancer(slots)), stack
