"""The file that the chart writes is the one that its values mean, and the gateway takes it."""

import json
import re
import subprocess
import tomllib
import unittest

import yaml

from installation import HELMS, MATRIX, ROOT, gateway, one, render, settings, values
from pod import Pod, known


class Settings(unittest.TestCase):
    maxDiff = None

    def test_the_gateway_takes_the_settings_of_every_installation(self):
        for name in MATRIX:
            with self.subTest(name), Pod(name) as pod:
                command = [gateway(), "--config", pod.file, "check"]
                done = subprocess.run(command, env=pod.environment(), capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_section_that_the_gateway_knows_can_be_set(self):
        schema = json.loads((ROOT / "helm/pathcast/values.schema.json").read_text())
        self.assertLessEqual(set(known()), set(schema["properties"]["config"]["properties"]))

    def test_what_is_written_is_what_was_said(self):
        written, said = tomllib.loads(settings("settings")), values("settings")["config"]
        del written["api"]
        # What is null is not there, and the chart adds where to listen and the path of its test.
        del said["log"], said["path"][1]["heartbeat"]
        said["path"].append({"path": "/helm-test"})
        said["clients"]["listen"] = "0.0.0.0:8080"
        self.assertEqual(written, said)
        self.assertIsInstance(written["limits"]["sessions_max"], int)

    def test_a_change_of_paths_or_upstreams_restarts_nothing_and_any_other_does(self):
        def checksum(*options):
            found = re.search(r'checksum/config: "(\w+)"', render(HELMS[0], *options))
            return found[1]

        before = checksum()
        self.assertEqual(checksum("--set", "config.path[0].path=/other"), before)
        self.assertEqual(checksum("--set", "config.upstream[0].name=feed,config.upstream[0].url=wss://feed.example"), before)
        self.assertEqual(checksum("--set", "image.tag=v2"), before)
        for change in ["config.limits.sessions_max=5", "config.drain.settle=6s", "broker.url=redis://a", "api.keys=null"]:
            self.assertNotEqual(checksum("--set", change), before, change)

    def test_pods_get_the_time_that_they_need_to_leave(self):
        def seconds(name):
            spec = one(name, "Deployment")["spec"]
            return spec["template"]["spec"]["terminationGracePeriodSeconds"], spec["minReadySeconds"]

        # settle 5 s, window 30 s, flush 30 s, and 15 s in reserve.
        self.assertEqual(seconds("defaults"), (80, 35))
        # What is given may be more; 10 s and 60 s.
        self.assertEqual(seconds("settings"), (600, 70))
        text = render(HELMS[0], "--set", "config.drain.settle=10s,config.drain.window=1m,config.drain.timeout=2500ms")
        self.assertIn("terminationGracePeriodSeconds: 88\n", text)

    def test_an_update_is_not_given_up_while_a_pod_has_still_to_show_that_it_is_well(self):
        # The API server refuses a Deployment whose deadline is not beyond minReadySeconds; what it takes by default is 600.
        for window in ["1s", "10m", "1h"]:
            text = render(HELMS[0], "--set", f"config.drain.window={window}", "--show-only", "templates/deployment.yaml")
            spec = yaml.safe_load(text)["spec"]
            self.assertEqual(spec["progressDeadlineSeconds"] - spec["minReadySeconds"], 600, window)

    def test_what_is_not_said_of_the_drain_lasts_as_long_as_the_gateway_has_it(self):
        done = subprocess.run([gateway(), "check", "--schema"], capture_output=True, text=True, check=True)
        phases = json.loads(done.stdout)["properties"]["drain"]["properties"]
        lasting = sum(int(phases[phase]["default"].removesuffix("s")) for phase in ["settle", "window", "timeout"])
        self.assertIn(f"terminationGracePeriodSeconds: {lasting + 15}\n", render(HELMS[0], "--set", "config.drain=null"))

    def test_phases_of_a_drain_may_be_off(self):
        options = ["--set", "config.drain.settle=off,config.drain.window=off,config.drain.timeout=30 s"]
        text = render(HELMS[0], *options)
        self.assertIn("terminationGracePeriodSeconds: 45\n", text)
        self.assertIn("minReadySeconds: 0\n", text)
        self.assertIn('window = "off"\n', text)


if __name__ == "__main__":
    unittest.main()
