"""The story of docker-compose.yml, on a real Docker: it starts by its gates, a message crosses gateways, and one of them leaves while
messages flow.

Grafana and Jaeger come as images only, and no image can be had where this runs; of them the configuration is checked.
"""

import asyncio
import json
import pathlib
import re
import statistics
import subprocess
import tempfile
import time
import unittest
import urllib.parse

import yaml

import installation
from installation import API_PORT, GATEWAYS, PORT, PROMETHEUS_PORT, ROOT, SERVICES, address, call, compose, container, docker, inspect, key
from websocket import Client

CLIENTS = 100
# 50 a second: some 5,000 deliveries, which one Python reads with ease.
PAUSE_S = 0.02

# How long the news of a close may take from the gateway through the load balancer to a client that shares one Python with a
# hundred others, while the answer of a publish overtakes it.
ON_THE_WAY_S = 0.1


def setUpModule():
    compose("up", "--detach", "--wait", "--wait-timeout", "120", *SERVICES)


def tearDownModule():
    compose("down", "--volumes", "--remove-orphans", "--timeout", "1")


async def within(seconds, what, probe):
    """The first answer of `probe` that counts as true."""
    deadline = time.monotonic() + seconds
    while not (found := await probe()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)
    return found


def sessions(gateway, bearer):
    """How many it holds, all paths together."""
    status, text = call(f"http://{address(gateway)}:8081/metrics", bearer)
    assert status == 200, text
    return sum(int(line.split()[-1]) for line in text.splitlines() if line.startswith("pathcast_sessions{"))


class Publisher:
    """Numbers messages, and publishes them through the load balancer, each when the last one was answered."""

    def __init__(self, bearer, path):
        self.bearer, self.path = bearer, path
        self.log = []
        self.done = asyncio.Event()
        self.task = asyncio.create_task(self.work())

    async def work(self):
        number, writer = 0, None
        while not self.done.is_set():
            begun = time.monotonic()
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", API_PORT)
            body = json.dumps({"payload": str(number)})
            head = f"POST /v1/publish{self.path} HTTP/1.1\r\nHost: localhost:{API_PORT}\r\nAuthorization: Bearer {self.bearer}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(int(line.split(":")[1]) for line in answer.splitlines() if line.startswith("content-length:"))
            await reader.readexactly(length)
            self.log.append((begun, time.monotonic(), int(answer.split()[1])))
            if "connection: close" in answer:
                writer.close()
                writer = None
            number += 1
            await asyncio.sleep(PAUSE_S)
        if writer:
            writer.close()

    def reaches(self, count):
        """A probe: whether so many were answered."""

        async def reached():
            # A publisher that has failed says why.
            assert not self.task.done(), self.task.result()
            return len(self.log) >= count

        return reached

    async def finish(self):
        self.done.set()
        await self.task


class Story(unittest.IsolatedAsyncioTestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.publisher_key = key("publisher_key", "publisher-secrets")
        cls.metrics_key = key("metrics_key", "prometheus-secrets")

    async def asyncSetUp(self):
        # It would tell of every call of Docker that took long.
        asyncio.get_running_loop().set_debug(False)

    def test_all_that_was_started_is_healthy(self):
        for service in SERVICES:
            self.assertEqual(inspect(service)["State"]["Health"]["Status"], "healthy", service)

    def test_without_redis_no_gateway_starts_and_nothing_behind_it(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as deaf:
            deaf.write("services: {redis: {command: [sleep, '600'], healthcheck: {interval: 100ms, retries: 2}}}\n")
            deaf.flush()
            project = ("compose", "--project-name", "pathcast-gates", "--file", str(ROOT / "docker-compose.yml"), "--file", deaf.name)
            ports = {"PORT": str(installation.free_port()), "API_PORT": str(installation.free_port())}
            try:
                started = docker(*project, "up", "--detach", "haproxy", check=False, env=ports)
                self.assertNotEqual(started.returncode, 0)
                self.assertIn("unhealthy", started.stderr)
                states = docker(*project, "ps", "--all", "--format", "{{.Service}} {{.State}}", env=ports).split("\n")
                running = {line.split()[0] for line in states if line.endswith(" running")}
                self.assertEqual(running, {"redis"}, states)
            finally:
                docker(*project, "down", "--volumes", "--timeout", "0", env=ports)

    def test_every_container_is_confined(self):
        for service in [*SERVICES, "secrets"]:
            with self.subTest(service):
                host = inspect(service)["HostConfig"]
                self.assertTrue(host["ReadonlyRootfs"])
                self.assertEqual((host["CapDrop"], host["CapAdd"]), (["ALL"], None))
                self.assertIn("no-new-privileges:true", host["SecurityOpt"])
                self.assertFalse(host["Privileged"])
                self.assertGreater(host["Memory"], 0)
                self.assertGreater(host["NanoCpus"], 0)
                self.assertGreater(host["PidsLimit"], 0)

    def test_no_service_runs_as_root(self):
        users = {"redis": {"999"}, "gateway-1": {"65532"}, "gateway-2": {"65532"}, "haproxy": {"99"}, "prometheus": {"65534"}, "demo": {"65532"}}
        for service, expected in users.items():
            rows = docker("top", container(service), "-o", "pid,uid").splitlines()[1:]
            self.assertEqual({row.split()[1] for row in rows}, expected, service)

    def test_the_image_has_no_shell_and_says_what_it_is(self):
        image = json.loads(docker("image", "inspect", "pathcast:local"))[0]
        config = image["Config"]
        self.assertEqual((config["User"], config["StopSignal"]), ("65532:65532", "SIGTERM"))
        self.assertEqual(sorted(config["ExposedPorts"]), ["8080/tcp", "8081/tcp"])
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/usr/local/bin/pathcast", "check", "--ready"])
        labels = {name.removeprefix("org.opencontainers.image.") for name in config["Labels"]}
        self.assertLessEqual({"title", "description", "licenses", "version", "revision", "source"}, labels)
        self.assertIn(f'\nversion = "{config["Labels"]["org.opencontainers.image.version"]}"\n', (ROOT / "Cargo.toml").read_text())
        for shell in ["/bin/sh", "/bin/bash", "/busybox/sh"]:
            self.assertNotEqual(docker("run", "--rm", "--entrypoint", shell, "pathcast:local", "-c", "true", check=False).returncode, 0)
        base = json.loads(docker("image", "inspect", "gcr.io/distroless/cc-debian12:nonroot"))[0]
        print(f"\nthe image without its base: {(image['Size'] - base['Size']) / 1e6:.1f} MB")

    async def test_without_settings_it_serves_clients_and_is_healthy(self):
        name = f"{installation.PROJECT}-plain"
        docker("run", "--detach", "--rm", "--read-only", "--cap-drop", "ALL", "--name", name, "pathcast:local")
        try:

            async def healthy():
                return json.loads(docker("inspect", name))[0]["State"]["Health"]["Status"] == "healthy"

            await within(30, "the image is healthy", healthy)
        finally:
            docker("kill", name)

    async def test_a_message_that_is_published_at_the_other_gateway_reaches_a_client_of_the_load_balancer(self):
        before = {gateway: sessions(gateway, self.metrics_key) for gateway in GATEWAYS}
        client = Client(PORT, "/ws/rooms/crossing")
        try:

            async def is_open():
                return client.is_open

            await within(5, "a client that is open", is_open)
            (holder,) = [gateway for gateway in GATEWAYS if sessions(gateway, self.metrics_key) > before[gateway]]
            (other,) = set(GATEWAYS) - {holder}
            url = f"http://{address(other)}:8081/v1/publish/ws/rooms/crossing"
            status, text = call(url, self.publisher_key, {"payload": f"from {other} to {holder}"})
            self.assertEqual((status, json.loads(text)["receivers"]), (202, 1), text)

            async def heard():
                return client.connections[0].heard

            self.assertEqual(await within(5, "the message", heard), [f"from {other} to {holder}"])
        finally:
            await client.leave()

    def test_the_page_is_served_and_readings_flow(self):
        status, text = call(f"http://127.0.0.1:{PORT}/")
        self.assertEqual(status, 200)
        self.assertIn("<title>Sensor broadcast</title>", text)
        self.assertIn(f"Open http://localhost:{PORT}/", compose("logs", "--no-log-prefix", "demo"))

    async def test_readings_come_from_both_gateways(self):
        client = Client(PORT, "/ws/sensors")
        try:

            async def heard():
                return client.connections and len(client.connections[0].heard) >= 3

            await within(15, "three readings", heard)
        finally:
            await client.leave()
        published = [call(f"http://{address(gateway)}:8081/metrics", self.metrics_key)[1] for gateway in GATEWAYS]
        for text in published:
            self.assertRegex(text, r'pathcast_published_total\{path="/ws/sensors",source="http"\} [1-9]')

    def test_who_has_no_key_may_not_publish_or_look(self):
        self.assertEqual(call(f"http://127.0.0.1:{API_PORT}/v1/publish/ws/sensors", None, {"payload": "x"})[0], 401)
        self.assertEqual(call(f"http://127.0.0.1:{API_PORT}/v1/publish/ws/sensors", self.metrics_key, {"payload": "x"})[0], 403)
        self.assertEqual(call(f"http://127.0.0.1:{API_PORT}/metrics", self.publisher_key)[0], 403)

    async def test_prometheus_scrapes_both_gateways_and_knows_the_alerts(self):
        query = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query=" + urllib.parse.quote('pathcast_broker_up{job="pathcast"}')

        async def both():
            found = json.loads(call(query)[1])["data"]["result"]
            return {one["metric"]["instance"] for one in found if one["value"][1] == "1"} == {"gateway-1:8081", "gateway-2:8081"}

        await within(30, "two gateways in Prometheus", both)
        groups = json.loads(call(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/rules")[1])["data"]["groups"]
        known = {rule["name"] for group in groups for rule in group["rules"]}
        written = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"]
        self.assertEqual(known, {rule["alert"] for group in written for rule in group["rules"]})

    def test_what_was_not_started_would_find_its_files(self):
        services = json.loads(compose("config", "--format", "json"))["services"]
        self.assertEqual(set(services), {*SERVICES, "secrets", "grafana", "jaeger"})
        for name, service in services.items():
            for volume in service.get("volumes", []):
                if volume["type"] == "bind":
                    self.assertTrue(pathlib.Path(volume["source"]).exists(), f"{name}: {volume['source']}")
                    self.assertTrue(volume["read_only"], f"{name}: {volume['source']}")
            self.assertNotRegex(service["image"], r":latest$|^[^:]+$")
        # Builds of one compose file run side by side, and what two of them give the same name collides.
        self.assertEqual([name for name, service in services.items() if "build" in service], ["gateway-1"])
        mounted = {volume["target"] for volume in services["grafana"]["volumes"]}
        provisioning = ROOT / "deploy/grafana/provisioning"
        (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
        self.assertEqual(source["url"], "http://prometheus:9090")
        (provider,) = yaml.safe_load((provisioning / "dashboards/pathcast.yaml").read_text())["providers"]
        self.assertIn(f"{provider['options']['path']}/pathcast.json", mounted)
        self.assertTrue(json.loads((ROOT / "deploy/grafana/pathcast.json").read_text())["panels"])

    def test_secrets_are_made_once_and_stand_in_no_settings(self):
        compose("up", "--detach", "--no-deps", "secrets")
        docker("wait", container("secrets"))
        self.assertEqual(key("publisher_key", "publisher-secrets"), self.publisher_key)
        for service in SERVICES:
            told = json.dumps(inspect(service)["Config"])
            for secret in (self.publisher_key, self.metrics_key, key("redis_password", "redis-secrets")):
                self.assertNotIn(secret, told, service)

    def test_the_user_in_redis_has_the_rights_that_the_documentation_names(self):
        (documented,) = re.findall(r"^ACL SETUSER pathcast on >\S+ (.*)$", (ROOT / "docs/redis.md").read_text(), re.MULTILINE)
        (made,) = re.findall(r"^user pathcast on >\S+ (.*)$", key("redis.conf", "redis-secrets"), re.MULTILINE)
        self.assertEqual(made.split(), documented.split())
        self.assertNotIn("NOPERM", compose("logs", *GATEWAYS))

    async def test_docker_stop_of_a_gateway_loses_nothing_but_what_falls_between_a_close_and_the_next_open(self):
        path = "/ws/rooms/moving"
        clients = [Client(PORT, path) for _ in range(CLIENTS)]
        publisher = Publisher(self.publisher_key, path)
        try:

            async def all_open():
                return all(client.is_open for client in clients)

            await within(20, "all clients open", all_open)
            held = {gateway: sessions(gateway, self.metrics_key) for gateway in GATEWAYS}
            self.assertGreater(min(held.values()), CLIENTS // 3, held)
            await within(10, "a stream before", publisher.reaches(len(publisher.log) + 50))

            begun = time.monotonic()
            stop = ["docker", "stop", container("gateway-1")]
            await asyncio.to_thread(subprocess.run, stop, check=True, capture_output=True)
            stopped_s = time.monotonic() - begun
            await within(10, "all clients back", all_open)
            await within(10, "a stream after", publisher.reaches(len(publisher.log) + 50))
            await publisher.finish()
            last = str(len(publisher.log) - 1)

            async def all_heard():
                return all(last in client.connections[-1].heard[-1:] for client in clients)

            await within(10, "the last message at every client", all_heard)
        finally:
            publisher.done.set()
            await asyncio.gather(*(client.leave() for client in clients))
        state = inspect("gateway-1")["State"]
        self.assertEqual((state["ExitCode"], state["OOMKilled"]), (0, False))
        self.assertEqual({status for _, _, status in publisher.log}, {202})
        self.judge(clients, publisher.log, held["gateway-1"], stopped_s)

        docker("start", container("gateway-1"))

        async def healthy():
            return inspect("gateway-1")["State"]["Health"]["Status"] == "healthy"

        await within(30, "the gateway is back", healthy)
        newcomers = [Client(PORT, path) for _ in range(4)]
        try:

            async def taken_back():
                return sessions("gateway-1", self.metrics_key) >= 1

            await within(10, "clients at the gateway that came back", taken_back)
        finally:
            await asyncio.gather(*(client.leave() for client in newcomers))

    def judge(self, clients, log, moved, stopped_s):
        """From what publisher and clients wrote down."""
        holes, missed_each, overtaken = [], [], 0.0
        for at, client in enumerate(clients):
            heard = [int(text) for connection in client.connections for text in connection.heard]
            self.assertEqual(heard, sorted(set(heard)), f"client {at}: out of order, or twice")
            gaps = [(before.closed, after.opened) for before, after in zip(client.connections, client.connections[1:])]
            for before in client.connections[:-1]:
                self.assertEqual((before.code, before.reason), (1012, "retry_after_ms=100"), f"client {at}")
            holes += [opened - closed for closed, opened in gaps]
            missed = set(range(heard[0], len(log))) - set(heard)
            # What was begun after it saw its first `open` is none of these.
            self.assertTrue(all(log[number][0] < client.connections[0].opened for number in range(heard[0])), f"client {at}")
            for number in missed:
                begun, answered, _ = log[number]
                within_a_gap = [closed for closed, opened in gaps if begun < opened and answered > closed - ON_THE_WAY_S]
                self.assertTrue(within_a_gap, f"client {at} did not get {number}, published at {begun}–{answered}; its gaps: {gaps}")
                overtaken = max(overtaken, min(closed - answered for closed in within_a_gap))
            if gaps:
                missed_each.append(len(missed))
        refusals = [refusal for client in clients for refusal in client.refusals]
        closes = sorted(connection.closed for client in clients for connection in client.connections[:-1])
        self.assertEqual(len(holes), moved, "each client of that gateway moved once, and nobody else")
        print(
            f"\ndocker stop took {stopped_s:.1f} s, exit code 0; {len(log)} messages, all answered 202"
            f"\n{moved} of {len(clients)} clients moved, their closes spread over {closes[-1] - closes[0]:.1f} s; {len(refusals)} attempts refused"
            f"\nhole: mean {statistics.mean(holes) * 1000:.0f} ms, longest {max(holes) * 1000:.0f} ms"
            f"\nmissed in it, at {1 / PAUSE_S:.0f} messages a second: mean {statistics.mean(missed_each):.1f}, at most {max(missed_each)}; outside of it: none"
            f"\na publish's answer overtook a close by {max(overtaken, 0) * 1000:.0f} ms at most"
        )


if __name__ == "__main__":
    unittest.main(verbosity=2)
