"""Autoscaling as a loop: real gateways, scraped by a real Prometheus, are as many as the formula of a HorizontalPodAutoscaler makes of the very
queries that the chart brings: the adapter's rule, each pod by itself, and KEDA's trigger, all pods together.

Clients come, stay while some come and go, are gone for a moment, come back, and leave: 1, 3, 1 gateways. What is proved: there is no step back while
they come, none forth while they leave, and none while they stay or are gone for less than the window for steps down; a pod that drains is still scraped, and counted by neither query; both queries always see the same sessions; and no
client misses anything but between its close and its next open.

Times are divided by --faster: Kubernetes looks every 15 s, Prometheus scrapes every 15 s, and the windows and periods are the chart's. Prometheus takes
in new pods every 5 s, however fast all else is.
"""

import argparse
import json
import random
import signal
import string
import subprocess
import sys
import time

from clients import Crowd, Plan
from cluster import Gateway, Prometheus, installation
from hpa import Autoscaler, by_pods, by_total
from ledger import Ledger, answers
from programs import ROOT, TARGET, eventually, insist
from publishers import Publisher

# What tests/chart.sh installs.
HELM = TARGET / "chart/helm4"
sys.path.append(str(TARGET / "chart/python"))

# The period of kube-controller-manager, and the chart's default for Prometheus.
SYNC_S = SCRAPE_S = 15
PODS_MAX = 5
# In how many steps clients come; one takes two looks of the controller.
RAMP = 10
# For how long most of them are gone: less than the ten minutes that the documentation promises before a pod is taken away.
GONE_S = 200
SETTINGS = """
[drain]
settle = "1s"
window = "{window}s"
[[path]]
path = "/ws"
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-pod", type=int, default=300, help="autoscaling.sessionsPerPod")
    parser.add_argument("--faster", type=float, default=15, help="by how much all times are shorter")
    parser.add_argument("--by", default="adapter", choices=["adapter", "keda"], help="whose query decides; the other one's decisions are compared")
    parser.add_argument("--stay", type=int, default=20, help="for how many seconds there are many clients")
    parser.add_argument("--window", type=int, default=3, help="seconds")
    parser.add_argument("--write", help="a JSON file for the figures and the course")
    return parser.parse_args()


class Chart:
    """What the chart says about scaling: both queries, and how fast it may go."""

    def __init__(self, per_pod):
        import yaml

        insist(HELM.exists(), f"{HELM} is missing: run tests/chart.sh, which installs it")
        self.yaml, self.per_pod = yaml, per_pod
        trigger = self.render("keda", "scaledobject")["triggers"][0]
        self.keda = trigger["metadata"]["query"]
        insist(trigger["metricType"] == "AverageValue", "KEDA shares the total out among the pods")
        insist(trigger["metadata"]["threshold"] == str(per_pod), "KEDA's threshold is sessionsPerPod")
        autoscaler = self.render("hpa", "horizontalpodautoscaler")
        metric = autoscaler["metrics"][0]["pods"]
        insist(metric["target"] == {"type": "AverageValue", "averageValue": str(per_pod)}, "the target is sessionsPerPod")
        self.behavior = autoscaler["behavior"]
        rules = yaml.safe_load((ROOT / "deploy/prometheus/adapter-rule.yaml").read_text())["rules"]["custom"]
        self.rule = next(rule["metricsQuery"] for rule in rules if rule["name"]["as"] == metric["metric"]["name"])

    def render(self, by, template):
        chosen = [f"autoscaling.{by}.enabled=true", "broker.url=redis://redis:6379", f"autoscaling.sessionsPerPod={self.per_pod}"]
        chosen += ["autoscaling.keda.serverAddress=http://prometheus:9090"] if by == "keda" else []
        options = [word for value in chosen for word in ("--set", value)]
        command = [HELM, "template", "pathcast", ROOT / "helm/pathcast", "--namespace", "pathcast", "--show-only", f"templates/{template}.yaml"]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        insist(done.returncode == 0, done.stderr)
        return self.yaml.safe_load(done.stdout)["spec"]

    def adapter(self, names):
        """What prometheus-adapter asks when it is asked about these pods."""
        query = self.rule.replace("<<.Series>>", "pathcast_sessions").replace("<<.GroupBy>>", "pod")
        return query.replace("<<.LabelMatchers>>", 'namespace="pathcast",pod=~"{}"'.format("|".join(names)))


class Loop:
    """The pods, and who decides how many they are."""

    def __init__(self, options, redis, balancer, prometheus, stack):
        self.options, self.redis, self.balancer, self.prometheus, self.stack = options, redis, balancer, prometheus, stack
        self.chart = Chart(options.per_pod)
        self.pods, self.leaving, self.course = [], [], []
        self.scalers = {by: Autoscaler(self.chart.behavior, 1, PODS_MAX, options.faster) for by in ("adapter", "keda")}
        # Those that were seen to drain, and with how many sessions.
        self.uncounted, self.unlike, self.counted_twice, self.due = {}, 0, 0, 0.0
        self.begun_at = time.time()
        self.start()
        eventually("Prometheus knows the first pod", lambda: self.ask(time.time())[1] is not None)

    def start(self):
        name = "pathcast-7d9c5b6f4-" + "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
        self.pods.append(self.stack.enter_context(Gateway(name, self.redis, SETTINGS.format(window=self.options.window))))
        self.balancer.add(self.pods[-1])
        self.prometheus.tell(self.pods + self.leaving)

    def stop(self):
        """Whoever has the fewest sessions leaves."""
        held = self.balancer.sessions()
        pod = min(self.pods, key=lambda pod: held[pod.name])
        self.pods.remove(pod)
        self.leaving.append(pod)
        pod.signal(signal.SIGTERM)

    def bury(self):
        for pod in [pod for pod in self.leaving if pod.process.poll() is not None]:
            insist(pod.process.returncode == 0, f"{pod.name} ended with {pod.process.returncode}:\n{pod.said()[-2000:]}")
            self.leaving.remove(pod)
            self.balancer.remove(pod)
            self.prometheus.tell(self.pods + self.leaving)

    def ask(self, at):
        """The sessions of each pod by the adapter's query, and of all by KEDA's."""
        names = [pod.name for pod in self.pods + self.leaving]
        each = {labels["pod"]: value for labels, value in self.prometheus.vector(self.chart.adapter(names), at)}
        total = self.prometheus.vector(self.chart.keda, at)
        return each, (total[0][1] if total else None)

    def look(self, at, each, total):
        """Whoever drains is scraped, but not counted; and both queries see the same."""
        for labels, value in self.prometheus.vector("pathcast_draining == 1", at):
            insist(labels["pod"] not in each, f"{labels['pod']} drains, and is counted")
            raw = self.prometheus.vector(f'sum(pathcast_sessions{{pod="{labels["pod"]}"}})', at)
            self.uncounted[labels["pod"]] = max(self.uncounted.get(labels["pod"], 0), raw[0][1] if raw else 0)
        every = self.prometheus.vector("sum(pathcast_sessions)", at)
        self.counted_twice = max(self.counted_twice, (every[0][1] if every else 0) - (total or 0))
        insist(sum(each.values()) == (total or 0), f"the adapter sees {each}, KEDA {total}")

    def step(self):
        """One look of the controller, if it is time."""
        if time.monotonic() < self.due:
            time.sleep(max(0, min(0.05, self.due - time.monotonic())))
            return
        self.due = time.monotonic() + SYNC_S / self.options.faster
        self.bury()
        now = time.time()
        # All that Prometheus writes of that time is in by now, so all queries see the same: a scrape may take a whole interval, and is written when
        # it is over; of a target that is gone, the end is written a tenth more than an interval after the time that it gets.
        at = now - 2 * SCRAPE_S / self.options.faster
        each, total = self.ask(at)
        self.look(at, each, total)
        names, current = [pod.name for pod in self.pods], len(self.pods)
        asked = {"adapter": by_pods(each, names, self.options.per_pod), "keda": by_total(total, names, self.options.per_pod)}
        decided = {by: scaler.decide(current, asked[by], now) for by, scaler in self.scalers.items()}
        self.unlike += len(set(decided.values())) > 1
        self.course.append({"at s": round(now - self.begun_at, 2), "pods": current, "leaving": len(self.leaving), "sessions": total, "asked": asked})
        change = decided[self.options.by] - current
        if change:
            for scaler in self.scalers.values():
                scaler.changed(change, now)
        for _ in range(change):
            self.start()
        for _ in range(-change):
            self.stop()

    def until(self, what, holds, limit_s=180):
        end = time.monotonic() + limit_s
        while not holds():
            insist(time.monotonic() < end, f"not within {limit_s} s: {what}; {self.course[-3:]}")
            self.step()

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def steps(self):
        """The numbers of pods there were, one after the other."""
        counts = [look["pods"] for look in self.course]
        return [count for index, count in enumerate(counts) if index == 0 or counts[index - 1] != count]


def main():
    options = arguments()
    few, many = int(options.per_pod * 0.6), int(options.per_pod * 2.7)
    with installation(slots=PODS_MAX * 2) as (redis, balancer, stack):
        prometheus = stack.enter_context(Prometheus(int(SCRAPE_S * 1000 / options.faster)))
        loop = Loop(options, redis, balancer, prometheus, stack)
        crowd = stack.enter_context(Crowd(Plan(balancer.clients, "/ws", few)))
        publisher = Publisher("a", balancer.api, "/ws", 5)
        loop.until("some clients", lambda: crowd.open() == few)
        for share in range(1, RAMP + 1):
            crowd.want(few + (many - few) * share // RAMP)
            loop.wait(SYNC_S * 2 / options.faster)
        loop.until("three pods, and all clients", lambda: len(loop.pods) == 3 and crowd.open() == many)
        for _ in range(options.stay):
            # A few come and go, within what three pods are for.
            crowd.want(many + random.randint(-options.per_pod // 10, options.per_pod // 10))
            loop.wait(1)
        crowd.want(few)
        loop.wait(GONE_S / options.faster)
        insist(loop.course[-1]["asked"][options.by] == 1, "one pod was enough for those who were left")
        crowd.want(many)
        loop.until("all clients again", lambda: crowd.open() == many)
        crowd.want(few)
        loop.until("one pod, and the others gone", lambda: len(loop.pods) == 1 and not loop.leaving)
        loop.wait(options.stay / 2)
        eventually("all that stay are open", lambda: crowd.open() == few)
        last = publisher.stop()
        eventually("all have heard the last message", lambda: crowd.behind("a", last) == 0)
        told = crowd.tell()

    figures = {
        "by": options.by,
        "faster": options.faster,
        "steps": loop.steps(),
        "looks": len(loop.course),
        "looks at which the other one decided otherwise": loop.unlike,
        "pods that drained uncounted, with sessions": sorted(loop.uncounted.values()),
        "sessions that would have been counted too many": loop.counted_twice,
        **Ledger(told, [publisher]).figures(),
        **answers([publisher]),
    }
    if options.write:
        with open(options.write, "w") as file:
            json.dump({"figures": figures, "course": loop.course}, file)
    print(json.dumps(figures, indent=1))
    insist(figures["steps"] in ([1, 3, 1], [1, 2, 3, 1], [1, 3, 2, 1], [1, 2, 3, 2, 1]), f"it went {figures['steps']}")
    insist(len(loop.uncounted) == 2 and any(loop.uncounted.values()), f"two drained; Prometheus has seen {loop.uncounted}")


if __name__ == "__main__":
    main()
