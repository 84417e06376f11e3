"""What cannot work is refused before anything is installed, with a message that says what to do."""

import json
import unittest

import yaml

from installation import HELMS, ROOT, TOOLS, Refused, render

REDIS = {"broker": {"secret": {"name": "redis"}}}
KEY = {"name": "sensors", "scopes": ["publish"]}
REFUSALS = [
    ({"replicaCount": 2}, "replicaCount: 2 pods need Redis"),
    ({"autoscaling": {"hpa": {"enabled": True}}}, "autoscaling needs Redis"),
    ({"autoscaling": {"keda": {"enabled": True, "serverAddress": "http://p:9090"}}}, "autoscaling needs Redis"),
    ({"broker": {"url": "redis://redis", "secret": {"name": "redis"}}}, "both say where Redis is"),
    ({"broker": {"url": "http://redis"}}, "broker"),
    (
        {**REDIS, "autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True, "serverAddress": "http://p:9090"}}},
        "enable one of them",
    ),
    ({**REDIS, "autoscaling": {"keda": {"enabled": True}}}, "say where Prometheus is"),
    ({**REDIS, "autoscaling": {"hpa": {"enabled": True}, "minReplicas": 5, "maxReplicas": 3}}, "5 is more than maxReplicas, 3"),
    (
        {**REDIS, "autoscaling": {"hpa": {"enabled": True}}, "config": {"limits": {"sessions_soft_max": 5000}}},
        "stay below config.limits.sessions_soft_max, 5000",
    ),
    (
        {**REDIS, "autoscaling": {"hpa": {"enabled": True}}, "config": {"limits": {"sessions_max": 4000}}},
        "stay below config.limits.sessions_max, 4000",
    ),
    ({"config": {"limits": {"sessions_soft_max": 5000}}}, "one pod alone has nobody to leave clients to"),
    ({"terminationGracePeriodSeconds": 30}, "30 is too short, pods would be killed while they drain: config.drain adds up to 80"),
    ({"terminationGracePeriodSeconds": 79}, "79 is too short"),
    ({"config": {"drain": {"window": "10m"}}, "terminationGracePeriodSeconds": 600}, "config.drain adds up to 650"),
    ({"config": {"drain": {"window": "30"}}}, "window"),
    ({"config": {"drain": {"settle": 5}}}, "settle"),
    ({"config": {"broker": {"url": "redis://:secret@redis"}}}, "would put Redis' password into a ConfigMap"),
    ({"config": {"api": {"listen": "0.0.0.0:80"}}}, "config.api is the chart's"),
    ({"config": {"clients": {"listen": "0.0.0.0:80"}}}, "config.clients.listen is the chart's"),
    ({"config": {"webhook": {"secret": [{"key": "whsec_x"}]}}}, "would put the secret into a ConfigMap"),
    ({"config": {"clients": {"tls": {"cert": "c", "key": "k"}}}}, "set test.enabled to false"),
    ({"config": {"clients": {"tls": {"cert": "c", "key": "k"}}}, "test": {"enabled": False}}, "set service.appProtocol to kubernetes.io/wss"),
    ({"service": {"externalTrafficPolicy": "Local"}}, "NodePort or LoadBalancer"),
    ({"api": {"keys": [KEY, KEY]}}, 'the name "sensors" is taken'),
    ({"api": {"keys": [{**KEY, "name": "metrics"}]}}, 'the name "metrics" is taken'),
    ({"api": {"keys": [{**KEY, "sha256": "0" * 64, "secret": {"name": "a", "key": "b"}}]}}, "both sha256 and secret"),
    ({"api": {"keys": [{**KEY, "scopes": ["write"]}]}}, "scopes"),
    ({"api": {"keys": [{**KEY, "sha256": "secret"}]}}, "sha256"),
    ({"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "would count every session twice"),
    ({"ingress": {"enabled": True}}, "name at least one host"),
    ({"httpRoute": {"enabled": True}}, "name at least one Gateway"),
    ({"config": {"kubernetes": {"deletion_cost": True}}, "serviceAccount": {"create": False}}, "an account that may write to pods"),
    ({"config": {"path": []}}, "path"),
    ({"config": {"paths": [{"path": "/ws"}]}}, "paths"),
    ({"config": {"path": [{"path": "/ws", "hart_beat": "5s"}]}}, "hart_beat"),
    ({"config": {"path": [{"path": "/ws", "slow": "drop"}]}}, "slow"),
    ({"config": {"path": [{"path": "/ws", "heartbeat": False}]}}, "heartbeat"),
    ({"config": {"path": [{"path": "/ws", "backend": {"webhok": "http://api"}}]}}, "webhok"),
    ({"config": {"limits": {"sesions_max": 5}}}, "sesions_max"),
    ({"config": {"limits": {"sessions_max": 0}}}, "sessions_max"),
    ({"config": {"upstream": [{"name": "a", "url": "wss://a", "headers": ["authorization: Bearer x"]}]}}, "would put the token into a ConfigMap"),
    ({"fullnameOverride": "ws.example.com"}, "ws.example.com cannot be the name of a Service"),
    ({"fullnameOverride": "2nd"}, "2nd cannot be the name of a Service"),
    ({"nameOverride": "Gateway"}, "pathcast-Gateway cannot be the name of a Service"),
    ({"replicas": 3}, "replicas"),
    ({"ingress": None}, "values don't meet the specifications"),
    ({"autoscaling": {"keda": None}}, "values don't meet the specifications"),
    ({"service": {"port": "http"}}, "port"),
]


class Refusals(unittest.TestCase):
    def test_what_cannot_work_is_refused_with_what_to_do(self):
        for values, message in REFUSALS:
            for helm in HELMS:
                with self.subTest(json.dumps(values), helm=helm.name):
                    file = TOOLS / "refused.yaml"
                    file.write_text(yaml.safe_dump(values))
                    with self.assertRaises(Refused) as refused:
                        render(helm, "--values", file)
                    self.assertIn(message, str(refused.exception))

    def test_a_section_of_the_settings_may_be_left_empty(self):
        schema = json.loads((ROOT / "docs/config.schema.json").read_text())
        file = TOOLS / "empty.yaml"
        # `api` is the chart's, and somewhere clients have to go.
        file.write_text(yaml.safe_dump({"config": {section: None for section in schema["properties"] if section not in ("api", "path")}}))
        for helm in HELMS:
            self.assertIn("[[path]]", render(helm, "--values", file))

    def test_numbers_may_come_from_the_command_line(self):
        for helm in HELMS:
            text = render(helm, "--set", "config.limits.sessions_max=20000,terminationGracePeriodSeconds=90,replicaCount=1")
            self.assertIn("sessions_max = 20000\n", text)
            self.assertIn("terminationGracePeriodSeconds: 90\n", text)


if __name__ == "__main__":
    unittest.main()
