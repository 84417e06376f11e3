"""Three gateways are replaced one after the other, under load, by others that know one path more and one path less.

The new one starts before the old one leaves, as `maxSurge: 1` does it. What is proved: a pod without a path answers 404, to clients and to publishers, and
ignores what is published there; whoever asks another pod gets through; and nobody on any path misses anything, but between its own close and its next
open. PATHCAST_PEER names another build for the old gateways, as tests/ does it; without it they are of the same build with other settings.
"""

import argparse
import collections
import json
import os
import signal
import subprocess
import time

from clients import Crowd, Plan
from cluster import Gateway, installation
from ledger import Ledger, answers
from programs import BINARY, eventually, insist
from publishers import Publisher, publish

PODS = 3
KEPT, ADDED, REMOVED = "/ws", "/ws/added", "/ws/removed"
PEER = os.environ.get("PATHCAST_PEER", BINARY)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=600, help="of each of the three paths")
    parser.add_argument("--window", type=int, default=5, help="seconds")
    parser.add_argument("--publishes", type=float, default=5, help="for each path, a second")
    parser.add_argument("--write", help="a JSON file for the figures")
    return parser.parse_args()


def settles(binary):
    """Whether this build knows the settings of a drain. One that does not is gone before a load balancer knows."""
    schema = subprocess.run([binary, "check", "--schema"], capture_output=True, text=True, check=True).stdout
    return '"settle"' in schema


def settings(options, binary, *paths):
    drain = f'[drain]\nsettle = "2s"\nwindow = "{options.window}s"\n' if settles(binary) else ""
    return drain + "".join(f'[[path]]\npath = "{path}"\n' for path in paths)


class Rollout:
    """Replaces old gateways by new ones, and notes what each of them says to strangers."""

    def __init__(self, options, redis, balancer, stack):
        self.options, self.redis, self.balancer, self.stack = options, redis, balancer, stack
        before = settings(options, PEER, KEPT, REMOVED)
        self.old = [stack.enter_context(Gateway(f"old {number}", redis, before, PEER)) for number in range(PODS)]
        self.new = []
        for pod in self.old:
            balancer.add(pod)

    def add(self):
        after = settings(self.options, BINARY, KEPT, ADDED)
        pod = self.stack.enter_context(Gateway(f"new {len(self.new)}", self.redis, after))
        self.new.append(pod)
        self.balancer.add(pod)
        self.look()

    def look(self):
        """404 where the path is not known, from whatever door; and what others publish there is not even malformed."""
        for pods, unknown in ((self.old, ADDED), (self.new, REMOVED)):
            for pod in pods:
                status = publish(pod.api, unknown, "x 0 0")
                insist(status == 404, f"{pod.name} answers a publisher to {unknown} with {status}")
                status = pod.fetch_client(unknown)
                insist(status == 404, f"{pod.name} answers a client of {unknown} with {status}")
                malformed = pod.counted("pathcast_broker_malformed_total")
                insist(malformed == 0, f"{pod.name} took {malformed:.0f} messages for malformed")

    def remove(self):
        pod = self.old.pop(0)
        pod.signal(signal.SIGTERM)
        eventually(f"{pod.name} has left", lambda: pod.process.poll() is not None)
        insist(pod.process.returncode == 0, f"{pod.name} ended with {pod.process.returncode}:\n{pod.said()[-2000:]}")
        self.balancer.remove(pod)


def main():
    options = arguments()
    with installation(slots=PODS + 1) as (redis, balancer, stack):
        rollout = Rollout(options, redis, balancer, stack)
        crowds = {path: stack.enter_context(Crowd(Plan(balancer.clients, path, options.clients, "hint"))) for path in (KEPT, REMOVED, ADDED)}
        publishers = {path: Publisher(path.rpartition("/")[2], balancer.api, path, options.publishes, tries=PODS * 2) for path in crowds}
        for path in (KEPT, REMOVED):
            eventually(f"all clients of {path} are open", lambda: crowds[path].open() == options.clients)
        insist(crowds[ADDED].open() == 0, f"{ADDED} is open before its time")
        rollout.look()

        for number in range(PODS):
            rollout.add()
            # Not all: the fewer sessions an old one has, the more of those who ask are sent there, and come again.
            eventually(f"some clients of {ADDED} are open", lambda: crowds[ADDED].open() > 0)
            # Whoever publishes through Redis reaches those who know the path, however many do not.
            heard = int(redis.ask("PUBLISH", f"pathcast:out:{ADDED}", json.dumps({"payload": f"redis {number} 0"})))
            insist(1 <= heard <= len(rollout.new), f"{heard} pods heard of {ADDED}, {len(rollout.new)} know it")
            rollout.remove()
            eventually(f"all clients of {KEPT} are back", lambda: crowds[KEPT].open() == options.clients)
        rollout.look()
        eventually(f"all clients of {ADDED} are open", lambda: crowds[ADDED].open() == options.clients)
        eventually(f"nobody is left on {REMOVED}", lambda: crowds[REMOVED].open() == 0)

        for path in (KEPT, ADDED):
            last = publishers[path].stop()
            eventually(f"all of {path} have heard the last message", lambda: crowds[path].behind(publishers[path].name, last) == 0)
        publishers[REMOVED].stop()
        told = {path: crowd.tell() for path, crowd in crowds.items()}

    figures = {}
    for path in crowds:
        refusals = dict(collections.Counter(status for _, status in told[path].refusals))
        figures[path] = {**Ledger(told[path], [publishers[path]]).figures(), **answers([publishers[path]]), "refused handshakes": refusals}
    if options.write:
        with open(options.write, "w") as file:
            json.dump(figures, file)
    print(json.dumps(figures, indent=1))
    # What the load balancer says for a pod that has just gone.
    taken = {202} if settles(PEER) else {202, 502}
    insist(set(figures[KEPT]["answered"]) <= taken, f"{KEPT}: {figures[KEPT]['answered']}")
    for path in (ADDED, REMOVED):
        insist(set(figures[path]["answered"]) <= taken | {404}, f"{path}: {figures[path]['answered']}")
    insist(404 in figures[ADDED]["refused handshakes"] and 404 in figures[REMOVED]["refused handshakes"], "nobody was answered 404")


if __name__ == "__main__":
    main()
