"""What hpa.py decides."""

import unittest

from hpa import Autoscaler, by_pods, by_total

SLOW_DOWN = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 60}]},
    "scaleDown": {"stabilizationWindowSeconds": 600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]},
}


class Asked(unittest.TestCase):
    def check(self, values, pods, expected):
        self.assertEqual(by_pods(values, pods, 100), expected)

    def test_the_ratio_is_rounded_up_and_a_tenth_is_tolerated(self):
        self.check({"a": 109}, "a", 1)
        self.check({"a": 111}, "a", 2)
        self.check({"a": 250}, "a", 3)
        self.check({"a": 90, "b": 90}, "ab", 2)
        self.check({"a": 10, "b": 20}, "ab", 1)

    def test_an_unknown_pod_counts_so_that_less_is_done(self):
        self.check({"a": 150}, "ab", 2)
        self.check({"a": 300}, "ab", 3)
        self.check({"a": 60}, "ab", 2)
        self.check({}, "ab", 2)

    def test_pods_that_are_not_asked_about_do_not_count(self):
        self.check({"a": 100, "leaving": 900}, "a", 1)

    def test_a_total_is_shared_out(self):
        for total, expected in [(250, 3), (210, 2), (190, 2), (100, 1), (0, 0), (None, 2)]:
            self.assertEqual(by_total(total, "ab", 100), expected, total)


class Done(unittest.TestCase):
    def course(self, scaler, current, looks):
        """When it changed, to what; each look is a time and what is asked for then."""
        seen = []
        for now, asked in looks:
            desired = scaler.decide(current, asked, now)
            if desired != current:
                scaler.changed(desired - current, now)
                current = desired
                seen.append((now, current))
        return seen

    def test_down_goes_after_the_window_one_by_one(self):
        looks = [(now, 1 if now else 4) for now in range(0, 1200, 15)]
        seen = self.course(Autoscaler(SLOW_DOWN, 1, 10), 4, looks)
        self.assertEqual(seen, [(615, 3), (735, 2), (855, 1)])

    def test_up_doubles_at_once_and_waits_for_its_period(self):
        seen = self.course(Autoscaler(SLOW_DOWN, 1, 7), 1, [(now, 9) for now in range(0, 240, 15)])
        self.assertEqual(seen, [(0, 2), (60, 4), (120, 7)])

    def test_a_moment_without_clients_takes_no_pod_away(self):
        looks = [(now, 1 if 300 <= now < 360 else 3) for now in range(0, 1200, 15)]
        self.assertEqual(self.course(Autoscaler(SLOW_DOWN, 1, 10), 3, looks), [])

    def test_time_may_run_faster(self):
        looks = [(quarter / 4, 1 if quarter else 3) for quarter in range(80)]
        seen = self.course(Autoscaler(SLOW_DOWN, 1, 10, faster=60), 3, looks)
        self.assertEqual(seen, [(10.25, 2), (12.25, 1)])


if __name__ == "__main__":
    unittest.main()
