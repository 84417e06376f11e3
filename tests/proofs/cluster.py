"""What stands around the gateways, and the gateways, as the proofs need them: with HAProxy in front of them.

It learns of a gateway's address through its socket, as an ingress controller learns of a pod's.
"""

import calendar
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import time

import programs
from clients import KEY
from programs import Child, Redis, eventually, insist


class Gateway(programs.Gateway):
    """A pod."""

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


class Prometheus(programs.Prometheus):
    """Scrapes the pods that it is told of."""

    def __init__(self, scrape_pause_ms):
        scrape = f"  scrape_interval: {scrape_pause_ms}ms\n  scrape_timeout: {scrape_pause_ms}ms\n"
        job = "- job_name: pathcast\n  file_sd_configs: [{files: [pods.json], refresh_interval: 1s}]\n"
        super().__init__(f"global:\n{scrape}scrape_configs:\n{job}")
        self.tell([])

    def tell(self, gateways):
        """The pods there are, with the labels that a PodMonitor gives them."""
        groups = [{"targets": [gateway.instance], "labels": {"namespace": "pathcast", "pod": gateway.name}} for gateway in gateways]
        fresh = self.root / "pods.json.new"
        fresh.write_text(json.dumps(groups))
        fresh.rename(self.root / "pods.json")

    def vector(self, query, at):
        """At this Unix time: labels without the name, and value."""
        found = self.ask("query", query=query, time=f"{at:.3f}")["result"]
        return [(row["metric"], float(row["value"][1])) for row in found]


@contextlib.contextmanager
def installation(slots):
    """Redis and HAProxy, and a stack for gateways: all end with it, also when somebody ends this program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(Redis()), stack.enter_context(Balancer(slots)), stack
