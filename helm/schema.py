#!/usr/bin/env python3
"""Prints helm/pathcast/values.schema.json: what stands in values.schema.json.in, and for `config` what the gateway says of its own settings.

What is misspelt in `config` is so refused before it is installed. A pod would refuse it, too; but paths are reloaded by pods that keep the old
ones when the new ones are not good, and an upgrade would look well until a pod is restarted.
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
VALUES = HERE / "pathcast/values.schema.json.in"
GATEWAY = HERE.parent / "docs/config.schema.json"
MARK = '"see docs/config.schema.json"'
# What limits values; the rest of the gateway's schema explains them.
LIMITS = ("pattern", "enum", "minimum", "maximum", "required")


def limits(schema, required=True):
    """What a value may be; null, too, where it may be left out."""
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    bare = {"type": kind if required else [kind, "null"]}
    bare |= {word: schema[word] for word in LIMITS if word in schema}
    if "enum" in bare and not required:
        bare["enum"] = [*bare["enum"], None]
    if "items" in schema:
        bare["items"] = limits(schema["items"])
    if "properties" in schema:
        needed = schema.get("required", [])
        bare["additionalProperties"] = False
        bare["properties"] = {name: limits(value, name in needed) for name, value in schema["properties"].items()}
    return bare


def lines(schema, indent):
    """A section is a block, and what is in it a line each."""
    inner = " " * (indent + 2)
    text = [f"{inner}{json.dumps(name)}: {json.dumps(value)}" for name, value in schema.items()]
    return "{\n" + ",\n".join(text) + "\n" + " " * indent + "}"


sections = {name: limits(section, False) for name, section in json.loads(GATEWAY.read_text())["properties"].items()}
# The chart's own, which has something to say about it.
sections["api"] = {"type": ["object", "null"]}
# The only section that has to be there.
sections["path"] |= {"type": "array", "minItems": 1}
sections["path"]["items"]["properties"]["path"]["pattern"] = "^/"
print(VALUES.read_text().replace(MARK, lines(sections, 6)), end="")
