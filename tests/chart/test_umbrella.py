"""The chart can be a part of another one."""

import shutil
import tempfile
import unittest
from pathlib import Path

import yaml

from installation import CHART, HELMS, render

PARENT = {
    "apiVersion": "v2",
    "name": "platform",
    "version": "1.0.0",
    "dependencies": [{"name": "pathcast", "version": "*", "condition": "pathcast.enabled"}],
}


class Umbrella(unittest.TestCase):
    def test_a_chart_that_has_it_as_a_part_may_turn_it_off_and_on(self):
        parent = Path(self.enterContext(tempfile.TemporaryDirectory()))
        shutil.copytree(CHART, parent / "charts/pathcast")
        (parent / "Chart.yaml").write_text(yaml.safe_dump(PARENT))
        for helm in HELMS:
            for enabled in [True, False]:
                # `global` is for all parts.
                (parent / "values.yaml").write_text(yaml.safe_dump({"pathcast": {"enabled": enabled}, "global": {"team": "edge"}}))
                self.assertEqual("kind: Deployment" in render(helm, chart=parent), enabled)


if __name__ == "__main__":
    unittest.main()
