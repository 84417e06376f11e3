#!/usr/bin/env python3
"""Writes helm/pathcast/README.md: what stands in README.md.in, and a table of values.yaml's keys by their comments.

    helm/readme.py           writes it
    helm/readme.py --check   says whether it is as it would be written

Each key is a row, and the comment right above it what it means; a line with `##` begins another table. A key with keys below it
is a row if there is something to say.
"""

import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).parent / "pathcast"
README = CHART / "README.md"
ROW = re.compile(r"^( *)([A-Za-z]\w*):")


def value(values, key):
    """What stands at a key; nothing where it leads into a list."""
    for name in key:
        if not isinstance(values, dict) or name not in values:
            return None, False
        values = values[name]
    return values, True


def default(values):
    if values is None or values == "":
        return ""
    text = json.dumps(values, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 80 else "see values.yaml"


def tables(text):
    """(heading, [(key, default, what)]) for each `##`."""
    values = yaml.safe_load(text)
    found, above, comment = [], [], []
    for line in text.splitlines():
        if line.startswith("## "):
            found.append((line[3:], []))
            comment = []
        elif line.strip().startswith("#"):
            comment.append(line.strip()[1:].strip())
        elif row := ROW.match(line):
            above = above[: len(row[1]) // 2] + [row[2]]
            there, known = value(values, above)
            what = " ".join(comment).replace("|", "\\|")
            if known and isinstance(there, dict) and there:
                if what:
                    found[-1][1].append((".".join(above), "", what))
            elif known:
                found[-1][1].append((".".join(above), default(there), what))
            comment = []
        else:
            comment = []
    return found


def readme():
    text = (CHART / "values.yaml").read_text()
    lines = [(CHART / "README.md.in").read_text().rstrip()]
    for heading, rows in tables(text):
        lines += ["", f"### {heading}", "", "| key | default | what |", "|---|---|---|"]
        lines += [f"| `{key}` | {default} | {what} |" for key, default, what in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if README.read_text() != readme():
            sys.exit(f"{README} is not what values.yaml says: run helm/readme.py")
    else:
        README.write_text(readme())
