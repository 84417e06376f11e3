"""The chart, rendered by Helm 3 and Helm 4 with each of the values in values/."""

import functools
import os
import pathlib
import re
import subprocess

import yaml

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CHART = ROOT / "helm/pathcast"
TOOLS = pathlib.Path(os.environ["CHART_TOOLS"])
HELMS = [TOOLS / "helm3", TOOLS / "helm4"]

# What there is to render: the name of each, and its values.
MATRIX = {file.stem: file for file in sorted((HERE / "values").glob("*.yaml"))}
MATRIX["deploy"] = ROOT / "deploy/values.yaml"
# Release and namespace: those of most, and odd ones.
USUAL = ("pathcast", "pathcast")
CALLED = {"numbers": ("2024", "12345"), "words": ("true", "null")}


class Refused(Exception):
    """Helm would not render it; the text is what it said."""


class Loader(yaml.SafeLoader):
    """Takes 1e3 for a number, as Kubernetes does and PyYAML does not."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def render(helm, *options, chart=CHART, called=USUAL, **environment):
    release, namespace = called
    command = [helm, "template", release, chart, "--namespace", namespace, *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


@functools.cache
def text(name, helm=HELMS[0]):
    return render(helm, "--values", MATRIX[name], called=CALLED.get(name, USUAL))


@functools.cache
def manifests(name, helm=HELMS[0]):
    return [manifest for manifest in yaml.load_all(text(name, helm), Loader) if manifest]


def one(name, kind, suffix=""):
    """The one of its kind, or the one whose name ends so."""
    found = [m for m in manifests(name) if m["kind"] == kind and m["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, f"{name}: {len(found)} of {kind}"
    return found[0]


def settings(name):
    files = [m["data"].get("pathcast.toml") for m in manifests(name) if m["kind"] == "ConfigMap"]
    return next(filter(None, files))


def values(name):
    """Those of the file alone."""
    return yaml.safe_load(MATRIX[name].read_text()) or {}


def gateway():
    """The program, as the suite has built it."""
    return pathlib.Path(os.environ["PATHCAST"])
