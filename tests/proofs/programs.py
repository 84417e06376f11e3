"""Programs that tests start: Redis, gateways, Prometheus, on loopback, on ports that the kernel chooses.

Each is a context, has a folder of its own, and ends with it. The proofs and tests/watch.py both have them from here; so it imports nothing of either.
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# PATHCAST names another build of the gateway.
BINARY = os.environ.get("PATHCAST", str(TARGET / "debug/pathcast"))

# Whatever the environment says of proxies, this is loopback.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# A machine that is busy with other things gets along with it.
DEADLINE_S = 60


class Failed(Exception):
    """What was to be shown is not so."""


def insist(holds, what):
    if not holds:
        raise Failed(what)


def eventually(what, ask, limit_s=DEADLINE_S, pause_s=0.05):
    """Asks until the answer is something true, and gives it back. `what` is what it waits for, or tells it."""
    until = time.monotonic() + limit_s
    while not (answer := ask()):
        insist(time.monotonic() < until, f"not within {limit_s} s: {what() if callable(what) else what}")
        time.sleep(pause_s)
    return answer


def call(url, body=None, headers={}, method=None):
    """Status and text of the answer."""
    request = urllib.request.Request(url, body and body.encode(), headers, method=method)
    try:
        with DIRECT.open(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def fetch(url):
    """Status and text; (0, "") where nobody answers."""
    try:
        return call(url)
    except OSError:
        return 0, ""


class Child:
    """A program, and what it says, in a folder of its own."""

    def __init__(self, *command, **options):
        self.folder = tempfile.TemporaryDirectory(prefix="pathcast-test-")
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

        return eventually(lambda: f"{self.command[0]} says {pattern}; it said:\n{self.said()[-2000:]}", look)

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
    """`settings` is all but the addresses and the broker."""

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
        # As Prometheus calls it.
        self.instance = "{}:{}".format(*self.api)
        eventually(f"{self.name} is ready", lambda: self.fetch("/readyz")[0] == 200)

    def fetch(self, target):
        """Status and text; (0, "") where nobody answers."""
        return fetch(f"http://{self.instance}{target}")


class Prometheus(Child):
    def __init__(self, config):
        super().__init__("prometheus", "--config.file=prometheus.yml", "--web.listen-address=127.0.0.1:0", "--storage.tsdb.path=data")
        self.config = config

    def start(self):
        (self.root / "prometheus.yml").write_text(self.config)
        self.begin()
        self.url = "http://" + self.says(r'msg="Listening on" address=(\S+)\s')[1]
        eventually("Prometheus is ready", lambda: fetch(f"{self.url}/-/ready")[0] == 200)

    def ask(self, what, **parameters):
        """The data that its API answers with."""
        status, text = call(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}")
        insist(status == 200, f"Prometheus refuses {parameters}: {text}")
        return json.loads(text)["data"]
