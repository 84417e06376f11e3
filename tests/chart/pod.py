"""What a pod would find: the settings of an installation, and the files that they name."""

import base64
import json
import os
import subprocess
import tempfile
import tomllib
from pathlib import Path

from installation import gateway, one, settings

def known():
    """What the gateway has for settings, by section."""
    done = subprocess.run([gateway(), "check", "--schema"], capture_output=True, text=True, check=True)
    schema = json.loads(done.stdout)
    sections = {}
    for name, section in schema["properties"].items():
        while "$ref" in section or "anyOf" in section:
            section = section["anyOf"][0] if "anyOf" in section else schema["$defs"][section["$ref"].rpartition("/")[2]]
        sections[name] = set(section.get("properties", {}))
    return sections


class Pod:
    """What a pod would have: the settings, with the files that they name, in a folder that is removed."""

    def __init__(self, name):
        self.name, self.folder = name, tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)

    def __enter__(self):
        text = settings(self.name)
        (self.root / "keys").mkdir()
        for key in tomllib.loads(text)["api"]["key"]:
            (self.root / "keys" / key["name"]).write_text(f"the-long-key-of-{key['name']}\n")
        if "/etc/certificates" in text:
            self.certify()
        text = text.replace("/run/secrets/pathcast", f"{self.root}/keys").replace("/etc/certificates", str(self.root))
        self.file = self.root / "pathcast.toml"
        self.file.write_text(text)
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def certify(self):
        (self.root / "webhook").write_text("whsec_" + base64.b64encode(bytes(32)).decode())
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=pathcast"
        files = ["-keyout", self.root / "tls.key", "-out", self.root / "tls.crt"]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)

    def environment(self, **more):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PATHCAST")}
        container = one(self.name, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        if any(variable["name"] == "PATHCAST__BROKER__URL" for variable in container.get("env", [])):
            url = "rediss://redis:6380" if self.name == "certificates" else "redis://redis:6379"
            clean["PATHCAST__BROKER__URL"] = url
        # What Kubernetes gives every pod, and the chart those that tell what their end would cost.
        clean |= {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        clean |= {variable["name"]: "x" for variable in container.get("env", []) if variable["name"].startswith("POD_")}
        return {**clean, **more}
