"""What a HorizontalPodAutoscaler decides, as the documentation of Kubernetes describes it for autoscaling/v2. Values and the time go in; nothing is asked.

Times are in seconds; those of `behavior` are divided by `faster`, so that a day's work fits into a minute.
"""

import math

# How far the ratio may be from 1 before anything is done: the default of kube-controller-manager.
TOLERANCE = 0.1


def by_pods(values, pods, target):
    """How many replicas the values of single pods ask for (`type: Pods`). `pods` are those that do not leave, `values` what is known of each."""
    known = {pod: values[pod] for pod in pods if pod in values}
    if not known:
        return len(pods)
    ratio = sum(known.values()) / (len(known) * target)
    unknown = [pod for pod in pods if pod not in known]
    if unknown:
        # Whoever is not known yet counts so that less is done: as idle on the way up, as just right on the way down.
        assumed = 0 if ratio > 1 else target
        total = sum(known.values()) + assumed * len(unknown)
        revised = total / (len(pods) * target)
        if (ratio > 1) != (revised > 1):
            return len(pods)
        ratio = revised
    if abs(ratio - 1) <= TOLERANCE:
        return len(pods)
    return math.ceil(ratio * len(pods))


def by_total(total, pods, target):
    """How many replicas a value for all pods together asks for (`type: External`, `AverageValue`), as KEDA's trigger gives it."""
    if total is None or abs(total / (len(pods) * target) - 1) <= TOLERANCE:
        return len(pods)
    return math.ceil(total / target)


class Autoscaler:
    """Turns what is asked for into what is done: windows, policies, least and most."""

    def __init__(self, behavior, least, most, faster=1):
        self.behavior, self.least, self.most, self.faster = behavior, least, most, faster
        # When and what was asked for; when and by how many pods it was changed.
        self.asked, self.changes = [], []

    def seconds(self, direction):
        return self.behavior[direction].get("stabilizationWindowSeconds", 0) / self.faster

    def decide(self, current, asked, now):
        """The number of replicas there should be. `current` is what there are."""
        self.asked.append((now, asked))
        desired = self.stabilized(current, now)
        if desired > current:
            desired = min(desired, max(self.limit("scaleUp", current, now), current))
        elif desired < current:
            desired = max(desired, min(self.limit("scaleDown", current, now), current))
        return min(max(desired, self.least), self.most)

    def changed(self, by, now):
        """So many pods more, or less: policies count what was done, not what was wished."""
        self.changes.append((now, by))

    def stabilized(self, current, now):
        """Up to the least that was asked for in the window for it, down to the most that was in the other."""

        def within(direction):
            return [asked for at, asked in self.asked if at >= now - self.seconds(direction)]

        up, down = min(within("scaleUp")), max(within("scaleDown"))
        return min(max(current, up), down)

    def limit(self, direction, current, now):
        """As far as the policies go, counted from what there was when their period began."""
        rules, limits = self.behavior[direction], []
        sign = 1 if direction == "scaleUp" else -1
        for policy in rules["policies"]:
            since = now - policy["periodSeconds"] / self.faster
            began_with = current - sum(change for at, change in self.changes if at > since)
            if policy["type"] == "Pods":
                limits.append(began_with + sign * policy["value"])
            else:
                share = began_with * (1 + sign * policy["value"] / 100)
                limits.append(math.ceil(share) if sign > 0 else math.floor(share))
        # "Max" is the most change, whichever way.
        widest = rules.get("selectPolicy", "Max") == "Max"
        return max(limits) if widest == (sign > 0) else min(limits)
