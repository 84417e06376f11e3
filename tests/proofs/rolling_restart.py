"""Three gateways behind HAProxy are restarted one after the other, while clients hold their sessions and messages flow.

What is proved: every client is back; every publish is answered; every message is received, except by those who are between their own close and their
next open; and the load balancer sees a stream of connects as wide as planned (the pod's sessions over the window), not a herd.
"""

import argparse
import collections
import json
import math
import signal
import time

from clients import Crowd, Plan, Told
from cluster import Gateway, installation
from ledger import Ledger, answers, percentile
from programs import eventually, insist
from publishers import Publisher

PODS = 3
SETTINGS = """
[drain]
settle = "{settle}s"
window = "{window}s"
[[path]]
path = "/ws"
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=2, help="of the clients")
    parser.add_argument("--witnesses", type=int, default=50, help="clients among them, in a process that has nothing else to do: they time messages")
    parser.add_argument("--settle", type=int, default=3, help="seconds")
    parser.add_argument("--window", type=int, default=20, help="seconds")
    parser.add_argument("--manner", default="hint", help="'hint', or after how many seconds clients come back that know none")
    parser.add_argument("--publishes", type=float, default=2, help="of each of two publishers, a second")
    parser.add_argument("--excess", type=float, default=0.2, help="by how much a second may have more connects than planned")
    parser.add_argument("--write", help="a JSON file for the figures, and for what plot.py draws")
    return parser.parse_args()


class Watch:
    """How many clients each pod has, as the load balancer sees it, from time to time."""

    def __init__(self, balancer):
        self.balancer, self.seen, self.last = balancer, [], 0.0

    def look(self):
        if time.time() - self.last >= 0.5:
            self.last = time.time()
            self.seen.append((self.last, self.balancer.sessions()))


class Crowds:
    """The many, and the witnesses."""

    def __init__(self, options, address, manner, stack):
        many = Plan(address, "/ws", options.clients - options.witnesses, manner)
        few = Plan(address, "/ws", options.witnesses, manner, is_timed=True)
        self.each = [stack.enter_context(Crowd(many, options.processes)), stack.enter_context(Crowd(few))]

    def open(self):
        return sum(crowd.open() for crowd in self.each)

    def behind(self, publisher, number):
        return sum(crowd.behind(publisher, number) for crowd in self.each)

    def tell(self):
        many, few = [crowd.tell() for crowd in self.each]
        for session in few.sessions:
            session.client = ("witness", *session.client)
        return Told(many.sessions + few.sessions, many.refusals + few.refusals, few.latencies)


def restart(options, place, pods, redis, balancer, stack, crowd, watch):
    """One pod leaves, and another takes its place; what became of its clients."""
    leaving = pods[place]
    leaving.signal(signal.SIGTERM)
    asked_at = time.time()

    def gone():
        watch.look()
        return leaving.process.poll() is not None

    eventually(f"{leaving.name} has left", gone, options.settle + options.window + 60)
    left_after_s = time.time() - asked_at
    insist(leaving.process.returncode == 0, f"{leaving.name} ended with {leaving.process.returncode}:\n{leaving.said()[-2000:]}")
    balancer.remove(leaving)
    generation = int(leaving.name.split(".")[1]) + 1
    pods[place] = stack.enter_context(Gateway(f"pod {place + 1}.{generation}", redis, settings(options)))
    balancer.add(pods[place])

    def all_back():
        watch.look()
        return crowd.open() == options.clients

    eventually("every client is back", all_back)
    closing = next(leaving.logged("leaving: closing the sessions"))
    return {"pod": leaving.name, "closing at": closing["unix"], "sessions": closing["sessions"], "left after s": round(left_after_s, 1)}


def settings(options):
    return SETTINGS.format(settle=options.settle, window=options.window)


def buckets(connects, since, until):
    """When the first of these connects came, and how many in each second from then."""
    came = [at for at, _ in connects if since <= at < until]
    insist(came, "nobody came back")
    counts = collections.Counter(int(at - min(came)) for at in came)
    return min(came), [counts[second] for second in range(max(counts) + 1)]


def main():
    options = arguments()
    manner = options.manner if options.manner == "hint" else float(options.manner)
    with installation(slots=PODS) as (redis, balancer, stack):
        pods = [stack.enter_context(Gateway(f"pod {place + 1}.0", redis, settings(options))) for place in range(PODS)]
        for pod in pods:
            balancer.add(pod)
        crowd = Crowds(options, balancer.clients, manner, stack)
        eventually("all clients are open", lambda: crowd.open() == options.clients, 120)
        begun_at = time.time()
        publishers = [Publisher(name, balancer.api, "/ws", options.publishes) for name in ("a", "b")]
        watch, drains = Watch(balancer), []
        for place in range(PODS):
            drains.append(restart(options, place, pods, redis, balancer, stack, crowd, watch))
        for publisher in publishers:
            last = publisher.stop()
            eventually("all have heard the last message", lambda: crowd.behind(publisher.name, last) == 0)
        connects = [(at, status) for at, status in balancer.connects() if at >= begun_at]
        told = crowd.tell()

    figures = {
        "clients": options.clients,
        "window s": options.window,
        "manner": options.manner,
        **Ledger(told, publishers).figures(),
        **answers(publishers),
        "refused handshakes": dict(collections.Counter(status for _, status in told.refusals)),
        "connects answered": dict(collections.Counter(status for _, status in connects)),
        "closed with": dict(collections.Counter(session.code for session in told.sessions if session.closed_at)),
        "message p50 ms": percentile([took for _, took in told.latencies], 0.5),
        "message p99 ms": percentile([took for _, took in told.latencies], 0.99),
        "drains": drains,
    }
    ends = [drain["closing at"] for drain in drains[1:]] + [math.inf]
    for drain, until in zip(drains, ends):
        drain["planned per s"] = drain["sessions"] / options.window
        drain["first connect"], drain["connects per s"] = buckets(connects, drain["closing at"], until)
        # The first second as well, or a herd would hide in it.
        drain["most"] = max(drain["connects per s"])
        drain["most by planned"] = round(drain["most"] / drain["planned per s"], 2) if drain["planned per s"] else None
    if options.write:
        with open(options.write, "w") as file:
            json.dump({"figures": figures, "begun at": begun_at, "connects": [at for at, _ in connects], "sessions": watch.seen}, file)
    print(json.dumps(figures, indent=1))
    unanswered = {status for status in figures["answered"] if status != 202}
    insist(not unanswered, f"publishes that no pod took: {figures['answered']}")
    insist(set(figures["closed with"]) == {1012}, f"not all were told to come back: {figures['closed with']}")
    for drain in drains:
        bar = drain["planned per s"] * (1 + options.excess)
        insist(drain["most"] <= bar, f"{drain['pod']}: {drain['most']} connects in a second, {drain['planned per s']:.0f} planned")


if __name__ == "__main__":
    main()
