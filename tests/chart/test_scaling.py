"""Both autoscalers ask for the same figure, which is that of this installation."""

import re
import unittest

import yaml

from installation import ROOT, one


class Scaling(unittest.TestCase):
    def test_the_adapter_and_keda_ask_the_same(self):
        rule = yaml.safe_load((ROOT / "deploy/prometheus/adapter-rule.yaml").read_text())["rules"]["custom"][0]
        asked = one("keda", "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
        matchers = re.search(r"pathcast_sessions\{(.*?)\}", asked)[1]
        query = rule["metricsQuery"].replace("<<.Series>>", "pathcast_sessions").replace("<<.LabelMatchers>>", matchers)
        self.assertEqual(asked, f"sum({query.replace('<<.GroupBy>>', 'pod')})")
        pods = re.search(r'pod=~"(.*?)"', matchers)[1]
        self.assertRegex("pathcast-7d9c5b6f4-x2x9z", f"^{pods}$")
        self.assertNotRegex("pathcast-canary-7d9c5b6f4-x2x9z", f"^{pods}$")

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
