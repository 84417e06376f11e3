"""Draws docs/rolling-restart.svg from what rolling_restart.py wrote: connects in each second, as the load balancer counted them, beside what was planned,
and who has how many clients.

    python3 plot.py HINT.json IGNORED.json > docs/rolling-restart.svg
"""

import json
import sys

WIDTH, LEFT, RIGHT = 760, 56, 20
HEIGHT, GAP, TOP = 150, 56, 34
BLUE, RED = "#0b66c3", "#c3420b"
PODS = ["#0b66c3", "#c3420b", "#2b8a3e"]


class Panel:
    """A plot of something over seconds, at its place on the page."""

    def __init__(self, number, title, seconds, most):
        self.top = TOP + number * (HEIGHT + GAP)
        self.seconds, self.most = seconds, nice(most)
        self.lines = [f'<text x="{LEFT}" y="{self.top - 10}">{title}</text>']
        for part in range(5):
            value = self.most * part / 4
            self.lines.append(f'<line x1="{LEFT}" y1="{self.y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{self.y(value):.1f}" stroke="#ddd"/>')
            self.lines.append(f'<text x="{LEFT - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
        for second in range(0, int(seconds) + 1, 10):
            self.lines.append(f'<text x="{self.x(second):.1f}" y="{self.top + HEIGHT + 16}" text-anchor="middle">{second}</text>')

    def x(self, second):
        return LEFT + (WIDTH - LEFT - RIGHT) * second / self.seconds

    def y(self, value):
        return self.top + HEIGHT * (1 - value / self.most)

    def bars(self, per_second):
        for second, count in sorted(per_second.items()):
            left, right = self.x(second), self.x(second + 1)
            height = self.top + HEIGHT - self.y(count)
            self.lines.append(f'<rect x="{left:.1f}" y="{self.y(count):.1f}" width="{right - left - 0.6:.1f}" height="{height:.1f}" fill="{BLUE}"/>')

    def level(self, since, until, value, colour, dash=""):
        y = self.y(value)
        self.lines.append(f'<line x1="{self.x(since):.1f}" y1="{y:.1f}" x2="{self.x(until):.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="1.5"{dash}/>')

    def curve(self, points, colour):
        path = " ".join(f"{self.x(second):.1f},{self.y(value):.1f}" for second, value in points)
        self.lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')

    def note(self, x, y, text, colour):
        self.lines.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{text}</text>')


def nice(most):
    """The next number that four lines divide well."""
    step = 1
    while most > 40 * step:
        step *= 10
    return next(step * times for times in (4, 8, 12, 20, 40) if step * times >= most)


def connects(number, run, title, seconds):
    begun_at, figures = run["begun at"], run["figures"]
    most = max(max(*drain["connects per s"], drain["planned per s"] * 1.3) for drain in figures["drains"])
    panel = Panel(number, title, seconds, most)
    for drain in figures["drains"]:
        since = drain["first connect"] - begun_at
        until = since + figures["window s"]
        panel.bars({since + second: count for second, count in enumerate(drain["connects per s"])})
        panel.level(since, until, drain["planned per s"], "black")
        panel.level(since, until, drain["planned per s"] * 1.2, RED, ' stroke-dasharray="4 3"')
    first = figures["drains"][0]
    panel.note(panel.x(first["first connect"] - begun_at), panel.y(first["planned per s"] * 1.2) - 4, "planned, and 20 % more", RED)
    return panel


def sessions(number, run, seconds):
    seen = [(at - run["begun at"], by_name) for at, by_name in run["sessions"]]
    panel = Panel(number, "sessions on each of the three (the first of the two runs above)", seconds, max(max(by_name.values()) for _, by_name in seen if by_name))
    for place, colour in enumerate(PODS):
        points = [(at, sum(count for name, count in by_name.items() if name.startswith(f"pod {place + 1}."))) for at, by_name in seen]
        panel.curve(points, colour)
        panel.note(WIDTH - RIGHT - 60 * (3 - place), panel.top - 10, f"pod {place + 1}", colour)
    return panel


def main():
    hint, ignored = [json.load(open(file)) for file in sys.argv[1:3]]
    seconds = max(run["sessions"][-1][0] - run["begun at"] for run in (hint, ignored)) + 1
    panels = [
        connects(0, hint, "connects a second at the load balancer; clients come back when they are told to", seconds),
        connects(1, ignored, f"the same; clients come back after {float(ignored['figures']['manner']):.0f} s, whatever they are told", seconds),
        sessions(2, hint, seconds),
    ]
    height = TOP + len(panels) * (HEIGHT + GAP) - 6
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">')
    print('<rect width="100%" height="100%" fill="white"/>')
    for panel in panels:
        print("\n".join(panel.lines))
    print(f'<text x="{WIDTH - RIGHT}" y="{height - 6}" text-anchor="end">seconds</text>')
    print("</svg>")


if __name__ == "__main__":
    main()
