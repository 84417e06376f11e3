"""Publishes every five seconds how busy this machine is: processor and memory, in percent."""

import time

from dashboard import publish

PERIOD_S = 5


def cpu_times():
    """Idle and whole processor time so far."""
    with open("/proc/stat") as stat:
        times = [int(text) for text in stat.readline().split()[1:9]]
    # The fourth and fifth are idle and waiting for disks (proc(5)).
    return times[3] + times[4], sum(times)


def memory_percent():
    with open("/proc/meminfo") as meminfo:
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in meminfo)}
    return 100 * (1 - kib["MemAvailable"] / kib["MemTotal"])


idle_before, all_before = cpu_times()
# The first one soon: a page that waits for five seconds looks broken.
time.sleep(0.5)
while True:
    idle, all_now = cpu_times()
    busy = 1 - (idle - idle_before) / max(all_now - all_before, 1)
    idle_before, all_before = idle, all_now
    publish("system", cpu=round(100 * busy, 1), memory=round(memory_percent(), 1))
    time.sleep(PERIOD_S)
