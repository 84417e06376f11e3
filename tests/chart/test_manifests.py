"""What the chart makes is valid, fits together, and is the same from both Helms."""

import base64
import functools
import json
import re
import subprocess
import unittest

import kubernetes_validate
import kubernetes_validate.utils
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

from installation import HELMS, HERE, MATRIX, ROOT, TOOLS, manifests, one, values

KUBERNETES = ["1.29", "1.30", "1.31", "1.32", "1.33"]
MODELS = {model.__name__: model for model in [PodMonitor, PrometheusRule, ScaledObject, ServiceMonitor]}

# Each schema is read once, not once for each manifest.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def everything():
    """(where, manifest), each text once: of the chart, and those for readers without Helm."""
    known = set()
    for name in MATRIX:
        for manifest in manifests(name):
            yield from once(known, name, manifest)
    for file in sorted((ROOT / "deploy/kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            yield from once(known, file.name, manifest)


def once(known, where, manifest):
    text = json.dumps(manifest, sort_keys=True)
    if text not in known:
        known.add(text)
        yield f"{where}: {manifest['kind']} {manifest['metadata']['name']}", manifest


def is_built_in(manifest):
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or group in ("networking.k8s.io", "rbac.authorization.k8s.io")


def without_made_up(manifest):
    """Keys that are made up differ each time."""
    return {**manifest, "data": sorted(manifest["data"])} if manifest["kind"] == "Secret" else manifest


class Manifests(unittest.TestCase):
    maxDiff = None

    def test_everything_built_in_is_valid_for_each_release_of_kubernetes(self):
        count = 0
        for where, manifest in everything():
            if is_built_in(manifest):
                for release in KUBERNETES:
                    with self.subTest(where, release=release):
                        kubernetes_validate.validate(manifest, release, strict=True)
                        count += 1
        self.assertGreater(count, 400)

    def test_what_the_operators_bring_is_valid_and_says_nothing_they_do_not_know(self):
        seen = set()
        for where, manifest in everything():
            if model := MODELS.get(manifest["kind"]):
                with self.subTest(where):
                    read = model.model_validate(manifest)
                    # The models drop what they do not know.
                    self.assertEqual(read.model_dump(by_alias=True, exclude_unset=True, mode="json"), manifest)
                    seen.add(manifest["kind"])
        self.assertEqual(seen, set(MODELS))

    def test_routes_are_valid_and_say_nothing_that_gateway_api_does_not_know(self):
        routes = [(where, manifest) for where, manifest in everything() if manifest["kind"] == "HTTPRoute"]
        self.assertGreaterEqual(len(routes), 2)
        for where, manifest in routes:
            with self.subTest(where):
                self.assertEqual(flaws(manifest), "")
        wrong = json.loads(json.dumps(routes[0][1]))
        wrong["spec"]["rules"][0]["timeouts"]["requests"] = "0s"
        self.assertIn("spec.rules.0.timeouts.requests", flaws(wrong))

    def test_nothing_is_of_a_kind_that_nobody_checks(self):
        for where, manifest in everything():
            self.assertTrue(is_built_in(manifest) or manifest["kind"] in [*MODELS, "HTTPRoute"], where)

    def test_nothing_of_the_chart_is_left_out_of_the_manifests_without_helm(self):
        words = set((ROOT / "deploy/render.sh").read_text().split())
        # Secrets are made by hand there, or they would be in a file.
        templates = {file.stem for file in (ROOT / "helm/pathcast/templates").glob("*.yaml")} - {"secret"}
        self.assertEqual(templates - words, set())

    def test_every_name_is_text_whatever_it_looks_like(self):
        for name in MATRIX:
            for manifest in manifests(name):
                where = f"{name}: {manifest['kind']} {manifest['metadata']['name']}"
                for key, value in pairs(manifest):
                    with self.subTest(where, key=key):
                        self.assertIsInstance(key, str)
                        # The schemas take null for what is left out.
                        self.assertIsNotNone(value)

    def test_helm_3_and_helm_4_make_the_same(self):
        for name in MATRIX:
            with self.subTest(name):
                third, fourth = [sorted(map(json.dumps, map(without_made_up, manifests(name, helm)))) for helm in HELMS]
                self.assertEqual(third, fourth)

    def test_every_selector_finds_the_gateways_and_nothing_else(self):
        for name in MATRIX:
            gateways = one(name, "Deployment")["spec"]["template"]["metadata"]["labels"]
            others = [m["metadata"]["labels"] for m in manifests(name) if m["kind"] == "Pod"]
            for where, selector in selectors(name):
                with self.subTest(f"{name}: {where}"):
                    self.assertLessEqual(selector.items(), gateways.items())
                    for labels in others:
                        self.assertFalse(selector.items() <= labels.items())

    def test_every_name_leads_to_something(self):
        for name in MATRIX:
            with self.subTest(name):
                there = {(m["kind"], m["metadata"]["name"]) for m in manifests(name)}
                given = json.dumps(values(name))
                for kind, to in references(name):
                    if f'"{to}"' not in given:
                        self.assertIn((kind, to), there)

    def test_names_leave_room_for_what_kubernetes_appends(self):
        pods = one("long-names", "Deployment")["metadata"]["name"]
        # Its ReplicaSet's hash, and five more characters, with a dash each. generateName keeps 58.
        self.assertLessEqual(len(pods) + 11, 58 - 1)
        for manifest in manifests("long-names"):
            self.assertLessEqual(len(manifest["metadata"]["name"]), 63)

    def test_no_secret_is_outside_of_a_secret(self):
        secrets = ["a-long-password"]
        secrets += [base64.b64decode(text).decode() for text in one("defaults", "Secret")["data"].values()]
        for name in ["defaults", "redis-url"]:
            rest = json.dumps([m for m in manifests(name) if m["kind"] != "Secret"])
            for secret in secrets:
                self.assertNotIn(secret, rest)

    def test_a_cluster_may_choose_the_user_and_otherwise_it_is_that_of_the_image(self):
        image = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)
        user, group = int(image[1]), int(image[2])
        for name, chosen in [("defaults", {"runAsUser": user, "runAsGroup": group, "fsGroup": group}), ("openshift", {})]:
            for pod in [one(name, "Deployment")["spec"]["template"]["spec"], one(name, "Pod")["spec"]]:
                rest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
                self.assertEqual(pod["securityContext"], {**chosen, **rest})

    def test_pods_that_are_not_ready_leave_by_the_budget_too_for_they_have_sessions(self):
        self.assertEqual(one("defaults", "PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"], "IfHealthyBudget")
        self.assertEqual(one("placed", "PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow")

    def test_the_pod_of_the_test_runs_where_the_image_does(self):
        gateways, test = one("placed", "Deployment")["spec"]["template"]["spec"], one("placed", "Pod")["spec"]
        for where in ["nodeSelector", "tolerations", "imagePullSecrets"]:
            self.assertEqual(test[where], gateways[where])

    def test_only_pods_that_write_to_pods_have_a_token(self):
        for name in MATRIX:
            writes = name in ("deletion-cost", "words")
            pod = one(name, "Deployment")["spec"]["template"]["spec"]
            kinds = {manifest["kind"] for manifest in manifests(name)}
            self.assertEqual(pod["automountServiceAccountToken"], writes)
            self.assertEqual("Role" in kinds and "RoleBinding" in kinds, writes)

    def test_checkov_finds_nothing_that_is_not_explained(self):
        folder = TOOLS / "rendered"
        folder.mkdir(exist_ok=True)
        for name in MATRIX:
            (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(manifests(name)))
        self.check(folder, "checkov.yaml")
        # What may be left out by default is not left out here.
        strict = TOOLS / "hardened"
        strict.mkdir(exist_ok=True)
        (strict / "hardened.yaml").write_text(yaml.safe_dump_all(manifests("hardened")))
        self.check(strict, "checkov-hardened.yaml")

    def check(self, folder, exceptions):
        command = [TOOLS / "python/bin/checkov", "--config-file", HERE / exceptions, "--directory", folder]
        done = subprocess.run(["python3", *command, "--output", "json"], capture_output=True, text=True)
        report = json.loads(done.stdout)
        failed = [f"{f['check_id']} {f['check_name']}: {f['file_path']} {f['resource']}" for f in report["results"]["failed_checks"]]
        self.assertEqual(failed, [], done.stderr)
        self.assertGreater(report["summary"]["passed"], 50)


def flaws(route):
    """What is wrong with an HTTPRoute; empty when it is good."""
    done = subprocess.run(
        ["node", HERE / "httproute.mjs", TOOLS / "node"], input=json.dumps(route), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def pairs(node):
    """(key, value) of every map, whatever it is in."""
    if isinstance(node, dict):
        yield from node.items()
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from pairs(inner)


def selectors(name):
    for manifest in manifests(name):
        kind, spec = manifest["kind"], manifest.get("spec", {})
        if kind == "Service":
            yield kind, spec["selector"]
        elif kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
            yield kind, spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            yield kind, spec["podSelector"]["matchLabels"]
        if kind == "Deployment":
            for spread in spec["template"]["spec"].get("topologySpreadConstraints", []):
                yield "spread", spread["labelSelector"]["matchLabels"]


def references(name):
    """(kind, name) of everything that a manifest leans on."""
    for manifest in manifests(name):
        kind, spec = manifest["kind"], manifest.get("spec", {})
        pod = spec["template"]["spec"] if kind == "Deployment" else spec if kind == "Pod" else {}
        for container in pod.get("containers", []):
            for variable in container.get("env", []):
                if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                    yield "Secret", secret["name"]
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"]
            for source in volume.get("projected", {}).get("sources", []):
                yield "Secret", source["secret"]["name"]
        if account := pod.get("serviceAccountName"):
            yield "ServiceAccount", account
        if kind == "RoleBinding":
            yield "Role", manifest["roleRef"]["name"]
            yield "ServiceAccount", manifest["subjects"][0]["name"]
        if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            yield "Deployment", spec["scaleTargetRef"]["name"]
        if kind in ("PodMonitor", "ServiceMonitor"):
            for endpoint in spec.get("podMetricsEndpoints", []) + spec.get("endpoints", []):
                yield "Secret", endpoint["authorization"]["credentials"]["name"]
        if kind == "HTTPRoute":
            yield "Service", spec["rules"][0]["backendRefs"][0]["name"]
        for rule in spec.get("rules", []) if kind == "Ingress" else []:
            for path in rule["http"]["paths"]:
                yield "Service", path["backend"]["service"]["name"]


if __name__ == "__main__":
    unittest.main()
