"""A herd: one gateway of three is gone at once, its clients come back all together, and the sessions on the other two are not to notice.

Two ways to make one: the gateway is hurried (no window) and its clients are like Node-RED's, which come back three seconds later whatever they are
told; or it is killed, and its clients come back in the same instant. Each with the admission of handshakes bounded, and, to compare, not.

What is proved: all are back in the end; with admission bounded, some are refused first and come again, else nobody is; witnesses, whose sessions are on
the other two and on a lively path, get every message, and none of these much later than in the quiet seconds before.
"""

import argparse
import collections
import json
import signal
import time

from clients import Crowd, Plan
from cluster import Gateway, installation
from ledger import Ledger, answers, percentile
from programs import eventually, insist
from publishers import Publisher

PODS = 3
SETTINGS = """
[drain]
settle = "1s"
window = "off"
[limits]
{limits}
[[path]]
path = "/ws"
[[path]]
path = "/ws/live"
"""
QUIET_S = 5
# What a busy machine may add to the latency of messages by itself.
BUSY_MS = 250


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=3000, help="on all three together; a third of them is the herd")
    parser.add_argument("--witnesses", type=int, default=50, help="on each of the two gateways that stay")
    parser.add_argument("--rate", type=int, default=100, help="limits.handshakes_per_second")
    parser.add_argument("--publishes", type=float, default=50, help="for the witnesses, a second; the others get two")
    parser.add_argument("--cases", nargs="*", default=["hurried", "killed"], choices=["hurried", "killed"])
    parser.add_argument("--limits", nargs="*", default=["bounded", "unbounded"], choices=["bounded", "unbounded"])
    parser.add_argument("--write", help="a JSON file for the figures, and for what plot.py draws")
    return parser.parse_args()


def herd(options, case, limit):
    settings = SETTINGS.format(limits=f"handshakes_per_second = {options.rate}" if limit == "bounded" else "")
    with installation(slots=PODS) as (redis, balancer, stack):
        pods = [stack.enter_context(Gateway(f"pod {place + 1}", redis, settings)) for place in range(PODS)]
        for pod in pods:
            balancer.add(pod)
        # Those who are refused at first come again, so this ends with all of them, whatever the rate.
        crowd = stack.enter_context(Crowd(Plan(balancer.clients, "/ws", options.clients, 3.0 if case == "hurried" else "hint"), 2))
        witnesses = [stack.enter_context(Crowd(Plan(pod.clients, "/ws/live", options.witnesses, is_timed=True))) for pod in pods[1:]]
        eventually("all clients are open", lambda: crowd.open() == options.clients, 120)
        for witness in witnesses:
            eventually("all witnesses are open", lambda: witness.open() == options.witnesses)
        live, common = Publisher("live", balancer.api, "/ws/live", options.publishes), Publisher("common", balancer.api, "/ws", 2)
        eventually("what a quiet time is like", lambda: len(live.receipts) > QUIET_S * options.publishes, QUIET_S * 4)

        gone_at, gone_unix = time.monotonic(), time.time()
        size = int(pods[0].counted("pathcast_sessions"))
        pods[0].signal(signal.SIGTERM if case == "hurried" else signal.SIGKILL)
        pods[0].wait()
        eventually("every client is back", lambda: crowd.opened() >= options.clients + size and crowd.open() == options.clients, 300)
        back_at = time.monotonic()
        for publisher, crowds in ((live, witnesses), (common, [crowd])):
            last = publisher.stop()
            for each in crowds:
                eventually("all have heard the last message", lambda: each.behind(publisher.name, last) == 0)
        connects = [(at, status) for at, status in balancer.connects() if at >= gone_unix]
        told, seen = crowd.tell(), [witness.tell() for witness in witnesses]

    insist(all(session.closed_at is None for each in seen for session in each.sessions), "a witness was closed")
    for each in seen:
        ledger = Ledger(each, [live])
        insist(ledger.missed == ledger.late == 0, f"witnesses missed messages: {ledger.figures()}")
    latencies = [row for each in seen for row in each.latencies]
    # From when the first of the herd came until the last was in.
    returned = [session.opened_at for session in told.sessions if session.opened_at > gone_at]
    storm = (min(returned), max(returned))
    per_second = collections.Counter(int(at - gone_unix) for at, _ in connects)
    figures = {
        "case": case,
        "admission": limit,
        "herd": size,
        "all back after s": round(back_at - gone_at, 1),
        "refused handshakes": dict(collections.Counter(status for at, status in told.refusals if at > gone_at)),
        "most connects in a second": max(per_second.values()),
        "most let in within a second": max(collections.Counter(int(at - gone_at) for at in returned).values()),
        "quiet p50 ms": percentile([took for at, took in latencies if at < gone_at], 0.5),
        "quiet p99 ms": percentile([took for at, took in latencies if at < gone_at], 0.99),
        "storm p50 ms": percentile([took for at, took in latencies if storm[0] <= at <= storm[1] + 0.5], 0.5),
        "storm p99 ms": percentile([took for at, took in latencies if storm[0] <= at <= storm[1] + 0.5], 0.99),
        "storm worst ms": percentile([took for at, took in latencies if storm[0] <= at <= storm[1] + 0.5], 1),
        **Ledger(told, [common]).figures(),
        **answers([live, common]),
    }
    print(json.dumps(figures, indent=1), flush=True)
    unanswered = {status for status in figures["answered"] if status != 202}
    # A gateway that is killed takes what it was about to answer with it.
    insist(case == "killed" or not unanswered, f"publishes that no pod took: {figures['answered']}")
    are_refused = 429 in figures["refused handshakes"]
    insist(are_refused == (limit == "bounded"), f"admission is {limit}, and refused were {figures['refused handshakes']}")
    insist(figures["storm p99 ms"] <= 2 * figures["quiet p99 ms"] + BUSY_MS, f"the herd delays messages: {figures['storm p99 ms']} ms")
    return {"figures": figures, "connects": [at - gone_unix for at, _ in connects], "latencies": [(at - gone_at, took) for at, took in latencies]}


def main():
    options = arguments()
    runs = [herd(options, case, limit) for case in options.cases for limit in options.limits]
    if options.write:
        with open(options.write, "w") as file:
            json.dump(runs, file)


if __name__ == "__main__":
    main()
