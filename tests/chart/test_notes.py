"""What Helm prints after an installation is the next step that works."""

import shutil
import tempfile
import unittest
from pathlib import Path

import yaml

from installation import CHART, HELMS, render

# `helm template` prints no notes, so they are made a manifest.
AS_MANIFEST = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data: {text: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}}
"""


class Notes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.chart = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "pathcast"
        shutil.copytree(CHART, cls.chart)
        (cls.chart / "templates/NOTES.txt").rename(cls.chart / "NOTES.txt")
        (cls.chart / "templates/notes.yaml").write_text(AS_MANIFEST)

    def notes(self, *options):
        texts = {yaml.safe_load(render(helm, "--show-only", "templates/notes.yaml", *options, chart=self.chart))["data"]["text"] for helm in HELMS}
        self.assertEqual(len(texts), 1)
        return texts.pop()

    def test_clients_are_told_an_address_for_each_sort_of_way_in(self):
        tls = "config.clients.tls.cert=c,config.clients.tls.key=k,test.enabled=false,service.appProtocol=kubernetes.io/wss"
        gateway = "httpRoute.enabled=true,httpRoute.parentRefs[0].name=g"
        for options, said in [
            ("replicaCount=1", "ws://pathcast.pathcast:8080/ws from inside"),
            (tls, "wss://pathcast.pathcast:8080/ws from inside"),
            ("service.type=NodePort", "ws://NODE:PORT/ws"),
            ("service.type=LoadBalancer,service.port=80", "ws://ADDRESS:80/ws"),
            (f"service.type=LoadBalancer,{tls}", "wss://ADDRESS:8080/ws"),
            ("ingress.enabled=true,ingress.hosts[0]=a.example", "ws://a.example/ws"),
            ("ingress.enabled=true,ingress.hosts[0]=a.example,ingress.tls[0].secretName=s", "wss://a.example/ws"),
            (gateway, "the hosts of the Gateway"),
            (f"{gateway},httpRoute.hostnames[0]=b.example", "ws://b.example/ws"),
        ]:
            with self.subTest(options):
                notes = self.notes("--set", options)
                self.assertIn(f" {said}", notes)
                self.assertEqual("port-forward --namespace pathcast service/pathcast " in notes, "from inside" in notes)

    def test_publishers_are_told_a_key_that_may_publish(self):
        listener = "api.keys[0].name=listener,api.keys[0].scopes[0]=events"
        publisher = "api.keys[1].name=sensors,api.keys[1].scopes[0]=publish"
        self.assertIn("index .data \"sensors\"", self.notes("--set", f"{listener},{publisher}"))
        self.assertIn("Nobody may publish over HTTP: no key in api.keys has the scope publish", self.notes("--set", listener))
        self.assertIn("Nobody may publish over HTTP: no key in api.keys", self.notes("--set-json", "api.keys=[]"))
        # Of a key of one's own Helm knows no more than where it is.
        own = f"{publisher.replace('[1]', '[0]')},api.keys[0].secret.name=s,api.keys[0].secret.key=k"
        self.assertIn("secret s -o", self.notes("--set", own))


if __name__ == "__main__":
    unittest.main()
