"""What docker-compose.yml starts, as the story sees it: through the ports of the host, the addresses of containers, and what
Docker tells of them."""

import json
import os
import pathlib
import socket
import subprocess
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = "pathcast-story"

# Whatever the environment says of proxies, all of this is on the host.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# Those that Debian has. Grafana and Jaeger are looked at, and not started.
SERVICES = ["redis", "gateway-1", "gateway-2", "haproxy", "prometheus", "demo"]
GATEWAYS = ["gateway-1", "gateway-2"]


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


PORT, API_PORT, PROMETHEUS_PORT = free_port(), free_port(), free_port()
ENVIRONMENT = {"PORT": str(PORT), "API_PORT": str(API_PORT), "PROMETHEUS_PORT": str(PROMETHEUS_PORT)}


def docker(*words, check=True, env=None):
    """What it says; with `check=False` the finished process."""
    done = subprocess.run(["docker", *words], cwd=ROOT, env={**os.environ, **ENVIRONMENT, **(env or {})}, capture_output=True, text=True)
    if not check:
        return done
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr[-4000:]}"
    return done.stdout


def compose(*words, **options):
    return docker("compose", "--project-name", PROJECT, *words, **options)


def container(service):
    return compose("ps", "--all", "--quiet", service).strip()


def inspect(service):
    return json.loads(docker("inspect", container(service)))[0]


def address(service):
    networks = inspect(service)["NetworkSettings"]["Networks"]
    return networks[f"{PROJECT}_outside"]["IPAddress"]


def key(name, volume):
    """As it was made for one service."""
    return docker("run", "--rm", "--network", "none", "--volume", f"{PROJECT}_{volume}:/secrets:ro", "python:3.11-slim-bookworm", "cat", f"/secrets/{name}")


def call(url, bearer=None, body=None):
    """Status and text of the answer."""
    headers = {"Content-Type": "application/json"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with DIRECT.open(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
