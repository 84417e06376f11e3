"""What ledger.py finds, and what it lets pass."""

import types
import unittest

from clients import Heard, Session, Told
from ledger import Ledger
from programs import Failed
from publishers import Receipt


def published(*statuses):
    """One message a second, from second 1; number 0 comes first. Each is answered a tenth later."""
    receipts = [Receipt(1 + number, 1.1 + number, [status]) for number, status in enumerate(statuses)]
    return types.SimpleNamespace(name="a", receipts=receipts)


def session(opened_at, closed_at, first=None, last=None, holes=(), client=0):
    heard = {} if first is None else {b"a": Heard(first, last, list(holes))}
    return Session(client, opened_at - 0.1, opened_at, closed_at, closed_at and 1012, None, heard)


class Found(unittest.TestCase):
    def ledger(self, publisher, *sessions):
        return Ledger(Told(list(sessions), [], []), [publisher])

    def refused(self, publisher, *sessions):
        with self.assertRaises(Failed):
            self.ledger(publisher, *sessions)

    def test_a_client_that_was_always_there_has_all(self):
        ledger = self.ledger(published(202, 202, 202), session(0, None, 0, 2))
        self.assertEqual((ledger.delivered, ledger.missed, ledger.late), (3, 0, 0))

    def test_what_came_between_close_and_open_may_be_missed(self):
        ledger = self.ledger(published(202, 202, 202, 202), session(0, 1.5, 0, 0), session(3.5, None, 3, 3))
        self.assertEqual((ledger.delivered, ledger.missed, ledger.late), (2, 2, 0))
        self.assertEqual(ledger.gaps_s, [2.0])

    def test_a_hole_in_a_session_is_a_loss_unless_it_was_not_taken(self):
        self.refused(published(202, 202, 202), session(0, None, 0, 2, [(1, 1)]))
        self.ledger(published(202, 503, 202), session(0, None, 0, 2, [(1, 1)]))
        self.ledger(published(202, 502, 202), session(0, None, 0, 2, [(1, 1)]))

    def test_the_first_after_open_and_the_last_are_owed(self):
        self.refused(published(202, 202, 202), session(0.5, None, 1, 2))
        self.refused(published(202, 202, 202), session(0, None, 0, 1))
        self.refused(published(202, 202, 202), session(0, None))
        self.refused(published(202, 202, 202), session(0, 1.5, 0, 0), session(1.8, None, 2, 2))
        self.ledger(published(202, 202, 503), session(0, None, 0, 1))

    def test_what_was_taken_just_before_the_close_is_told(self):
        ledger = self.ledger(published(202, 202), session(0, 2.2, 0, 0), session(2.5, None))
        self.assertEqual((ledger.late, round(ledger.late_by_s, 3)), (1, 0.1))
        self.refused(published(202, 202, 202, 202), session(0, 5, 0, 0))

    def test_nobody_hears_twice_or_what_was_refused(self):
        self.refused(published(202, 202), session(0, None, 0, 1, [(2, 1)]))
        self.refused(published(202, 404, 202), session(0, None, 0, 2))

    def test_a_client_has_one_session_at_a_time(self):
        self.refused(published(202), session(0, None, 0, 0), session(0.5, None, 0, 0))


if __name__ == "__main__":
    unittest.main()
