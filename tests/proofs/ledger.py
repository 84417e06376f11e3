"""Whether clients got what was published: sequence numbers, and when each session began and ended.

Nothing else counts than this: a message that was taken (202) reaches every client of its path, except those published between a client's own close
and its next open; one that was refused reaches nobody.
"""

import bisect
import collections
import statistics

from programs import Failed, insist

# A client learns of its close a little after the pod has decided it, and what is answered between the two may come too late for it. On a machine
# that does everything at once, clients included, this may take some time; the figures say how long it took.
ANNOUNCED_LATE_S = 2


class Ledger:
    """The sessions of one path, beside the receipts of its publishers."""

    def __init__(self, told, publishers):
        self.publishers = {publisher.name.encode(): publisher for publisher in publishers}
        self.clients = collections.defaultdict(list)
        for session in sorted(told.sessions, key=lambda session: session.opened_at):
            self.clients[session.client].append(session)
        self.delivered = self.missed = self.late = 0
        self.late_by_s = 0.0
        self.gaps_s = []
        for name, publisher in self.publishers.items():
            statuses = [receipt.statuses[-1] for receipt in publisher.receipts]
            self.check(name, publisher.receipts, [status == 202 for status in statuses], [status in (404, 422, 429, 503) for status in statuses])
        for sessions in self.clients.values():
            for before, after in zip(sessions, sessions[1:]):
                insist(before.closed_at is not None and before.closed_at <= after.asked_at, f"{before} was open with {after}")
                self.gaps_s.append(after.opened_at - before.closed_at)

    def check(self, name, receipts, taken, refused):
        begun = [receipt.begun_at for receipt in receipts]
        # How many were taken up to each number: whether a range holds one is a subtraction.
        sums = [0]
        for is_taken in taken:
            sums.append(sums[-1] + is_taken)
        for sessions in self.clients.values():
            for session in sessions:
                # The first that was begun after the client saw its session open.
                owed = bisect.bisect_right(begun, session.opened_at)
                heard = session.heard.get(name)
                if heard is None:
                    self.ends(session, receipts, taken, owed)
                    continue
                insist(sums[max(owed, heard.first)] == sums[owed], f"{session} does not begin with {owed}, its first")
                for first, last in heard.holes:
                    insist(first <= last, f"{session} heard {last + 1} after {first - 1}")
                    insist(sums[last + 1] == sums[first], f"{session} has not heard {first} to {last}")
                silent = sum(last - first + 1 for first, last in heard.holes)
                self.delivered += heard.last - heard.first + 1 - silent
                held = {number for first, last in heard.holes for number in range(first, last + 1)}
                for number in range(heard.first, heard.last + 1):
                    insist(not refused[number] or number in held, f"{session} heard {number}, which was refused")
                self.ends(session, receipts, taken, max(heard.last + 1, owed))
            for before, after in zip(sessions, sessions[1:]):
                last, first = before.heard.get(name), after.heard.get(name)
                if last and first:
                    self.missed += max(0, sums[first.first] - sums[last.last + 1])

    def ends(self, session, receipts, taken, next_number):
        """What came after its last message was answered after its close, or nearly so."""
        for number in range(next_number, len(receipts)):
            receipt = receipts[number]
            if session.closed_at is not None and receipt.answered_at > session.closed_at:
                return
            if not taken[number]:
                continue
            insist(session.closed_at is not None, f"{session} is open, and has not heard {number}, answered at {receipt.answered_at}")
            late_by_s = session.closed_at - receipt.answered_at
            insist(late_by_s <= ANNOUNCED_LATE_S or session.code == 1006, f"{session} was closed {late_by_s:.3f} s after {number} was taken, and has not heard it")
            self.late += 1
            self.late_by_s = max(self.late_by_s, late_by_s)

    def figures(self):
        return {
            "clients": len(self.clients),
            "sessions": sum(map(len, self.clients.values())),
            "delivered": self.delivered,
            "missed between close and open": self.missed,
            "of these taken just before the close": self.late,
            "by at most ms": round(self.late_by_s * 1000, 1),
            "mean hole s": round(statistics.fmean(self.gaps_s), 3) if self.gaps_s else None,
            "longest hole s": round(max(self.gaps_s), 3) if self.gaps_s else None,
        }


def answers(publishers):
    """What the publishes came to: how many, the tries that were refused and made again elsewhere, and the final answers."""
    final, tried_again = collections.Counter(), collections.Counter()
    for publisher in publishers:
        for receipt in publisher.receipts:
            final[receipt.statuses[-1]] += 1
            tried_again.update(receipt.statuses[:-1])
    return {"published": sum(final.values()), "answered": dict(final), "tried again after": dict(tried_again)}


def percentile(values, part):
    """In milliseconds."""
    if not values:
        raise Failed("no message was timed")
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000, 1)
