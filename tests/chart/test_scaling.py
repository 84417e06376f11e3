"""Both autoscalers ask for the same figure, and Prometheus gives it."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

from installation import ROOT, one

PODS = "pathcast-7d9c5b6f4-2m8kx pathcast-7d9c5b6f4-x2x9z pathcast-5f6b8d9c7-q4w7t".split()


def keda():
    return one("keda", "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]


def adapter(matchers):
    """What prometheus-adapter asks for these pods."""
    rule = yaml.safe_load((ROOT / "deploy/prometheus/adapter-rule.yaml").read_text())["rules"]["custom"][0]
    query = rule["metricsQuery"].replace("<<.Series>>", "pathcast_sessions").replace("<<.LabelMatchers>>", matchers)
    return query.replace("<<.GroupBy>>", "pod")


def series(pod, sessions, draining, namespace="pathcast"):
    """Those that one pod has: sessions on two paths."""
    labels = f'namespace="{namespace}",pod="{pod}",instance="{pod}:8081"'
    yield {"series": f'pathcast_sessions{{{labels},path="/ws"}}', "values": f"{sessions}"}
    yield {"series": f'pathcast_sessions{{{labels},path="/other"}}', "values": "1"}
    yield {"series": f"pathcast_draining{{{labels}}}", "values": f"{draining}"}


class Scaling(unittest.TestCase):
    def test_the_adapter_and_keda_ask_the_same(self):
        matchers = re.search(r"pathcast_sessions\{(.*?)\}", keda())[1]
        self.assertEqual(keda(), f"sum({adapter(matchers)})")

    def test_pods_that_drain_and_other_installations_are_not_counted(self):
        asked = f'namespace="pathcast",pod=~"{"|".join(PODS)}"'
        each = [{"labels": f'{{pod="{PODS[0]}"}}', "value": 101}, {"labels": f'{{pod="{PODS[1]}"}}', "value": 201}]
        stated = [
            *series(PODS[0], 100, draining=0),
            *series(PODS[1], 200, draining=0),
            *series(PODS[2], 400, draining=1),
            *series("pathcast-canary-7d9c5b6f4-2m8kx", 800, draining=0),
            *series(PODS[0], 1600, draining=0, namespace="another"),
        ]
        cases = [
            {"expr": keda(), "eval_time": "0m", "exp_samples": [{"labels": "{}", "value": 302}]},
            {"expr": adapter(asked), "eval_time": "0m", "exp_samples": each},
        ]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sessions.yaml"
            file.write_text(yaml.safe_dump({"tests": [{"interval": "15s", "input_series": stated, "promql_expr_test": cases}]}))
            done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_keda_is_told_how_prometheus_asks_who_is_there(self):
        trigger = one("keda", "ScaledObject")["spec"]["triggers"][0]
        self.assertEqual(trigger["authenticationRef"], {"name": "prometheus"})
        # Without it KEDA takes nothing from the reference.
        self.assertEqual(trigger["metadata"]["authModes"], "bearer")

    def test_both_scale_down_slowly_and_alike(self):
        keda = one("keda", "ScaledObject")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        self.assertEqual(one("hpa", "HorizontalPodAutoscaler")["spec"]["behavior"], keda)
        down = keda["scaleDown"]
        self.assertEqual(down["stabilizationWindowSeconds"], 600)
        self.assertEqual(down["policies"], [{"type": "Pods", "value": 1, "periodSeconds": 120}])

    def test_who_scales_decides_how_many_there_are(self):
        for name in ["hpa", "keda"]:
            self.assertNotIn("replicas", one(name, "Deployment")["spec"])


if __name__ == "__main__":
    unittest.main()
