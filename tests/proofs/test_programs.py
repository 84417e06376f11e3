"""A program whose start fails is ended, and so is one whose start is broken off."""

import unittest

from programs import Child


class Broken(Child):
    """It runs, and then its start goes wrong."""

    def __init__(self, error):
        super().__init__("sleep", 600)
        self.error = error

    def start(self):
        self.begin()
        raise self.error


class Start(unittest.TestCase):
    def check(self, error):
        child = Broken(error)
        with self.assertRaises(type(error)), child:
            self.fail("it has started")
        self.assertIsNotNone(child.process.poll(), "it still runs")
        self.assertFalse(child.root.exists(), "its folder is left")

    def test_a_program_whose_start_fails_is_ended(self):
        self.check(OSError())

    def test_a_program_whose_start_is_broken_off_is_ended(self):
        self.check(SystemExit())


if __name__ == "__main__":
    unittest.main()
