"""An upgrade keeps the keys that an installation has made up."""

import base64
import http.server
import json
import tempfile
import threading
import unittest
from pathlib import Path

import yaml

from installation import HELMS, render

KEPT = {"publisher": base64.b64encode(b"made-up-at-the-first-install").decode()}
# Helm 4 looks up what it would install, too.
KINDS = {
    "v1": ["ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment"],
    "policy/v1": ["PodDisruptionBudget"],
}


def resources(version):
    common = {"namespaced": True, "verbs": ["get"]}
    named = [{"name": f"{kind.lower()}s", "singularName": kind.lower(), "kind": kind, **common} for kind in KINDS[version]]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": named}


def group(version):
    preferred = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [preferred], "preferredVersion": preferred}


ANSWERS = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": resources("v1"),
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group("apps/v1"), group("policy/v1")]},
    "/apis/apps/v1": resources("apps/v1"),
    "/apis/policy/v1": resources("policy/v1"),
    "/api/v1/namespaces/pathcast/secrets/pathcast-keys": {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "pathcast-keys",
            "namespace": "pathcast",
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": "pathcast", "meta.helm.sh/release-namespace": "pathcast"},
        },
        "data": KEPT,
    },
}


class Cluster(http.server.BaseHTTPRequestHandler):
    """As much of Kubernetes' API as Helm needs to look for one Secret."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = ANSWERS.get(self.path.partition("?")[0])
        body = json.dumps(answer or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Upgrades(unittest.TestCase):
    def test_an_upgrade_keeps_made_up_keys_and_makes_up_those_that_are_new(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever).start()
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        address = f"http://127.0.0.1:{server.server_port}"
        config = {
            "clusters": [{"name": "it", "cluster": {"server": address}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "users": [{"name": "it", "user": {}}],
            "current-context": "it",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        # Where it keeps what it has found out.
        cache = {"HOME": str(folder)}
        for helm in HELMS:
            with self.subTest(helm.name):
                options = ["--dry-run=server", "--disable-openapi-validation", "--kubeconfig", folder / "kubeconfig"]
                options += ["--show-only", "templates/secret.yaml"]
                secret = yaml.safe_load(render(helm, *options, **cache))
                self.assertEqual(secret["data"]["publisher"], KEPT["publisher"])
                self.assertEqual(len(base64.b64decode(secret["data"]["metrics"])), 48)


if __name__ == "__main__":
    unittest.main()
