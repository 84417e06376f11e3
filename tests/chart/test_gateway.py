"""A gateway runs by the settings of the chart, and is what the chart's probes, monitors and test expect."""

import json
import subprocess
import unittest
import urllib.error
import urllib.request

from installation import gateway, one
from pod import Pod

# Whatever the environment says of proxies, this is loopback.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Running(unittest.TestCase):
    """A gateway by the settings of an installation where nothing is said."""

    def setUp(self):
        self.pod = self.enterContext(Pod("defaults"))
        doors = {"PATHCAST__CLIENTS__LISTEN": "127.0.0.1:0", "PATHCAST__API__LISTEN": "127.0.0.1:0"}
        command = [gateway(), "--config", self.pod.file]
        environment = self.pod.environment(**doors)
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        # The chart's form of the log is JSON, and the doors are announced in it.
        said = json.loads(self.process.stdout.readline())
        self.clients, self.api = said["clients"].removeprefix("ws://"), said["api"].removeprefix("http://")

    def status(self, path, key=None):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with DIRECT.open(urllib.request.Request(f"http://{self.api}{path}", headers=headers)) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def test_the_test_of_the_chart_passes(self):
        container = one("defaults", "Pod")["spec"]["containers"][0]
        doors = {"--gateway": self.clients, "--api": self.api}
        arguments = [f"{a.split('=')[0]}={doors[a.split('=')[0]]}" if a.split("=")[0] in doors else a for a in container["args"]]
        key = (self.pod.root / "keys/helm-test").read_text().strip()
        done = subprocess.run([gateway(), *arguments], env=self.pod.environment(PATHCAST_KEY=key), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("lost 0, twice 0, out of order 0", done.stdout)

    def test_probes_are_answered_without_a_key_and_metrics_with_theirs(self):
        container = one("defaults", "Deployment")["spec"]["template"]["spec"]["containers"][0]
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
            self.assertEqual(self.status(container[probe]["httpGet"]["path"]), 200)
        path = one("watched", "PodMonitor")["spec"]["podMetricsEndpoints"][0]["path"]
        self.assertEqual(self.status(path), 401)
        self.assertEqual(self.status(path, "the-long-key-of-publisher"), 403)
        self.assertEqual(self.status(path, "the-long-key-of-metrics"), 200)


if __name__ == "__main__":
    unittest.main()
