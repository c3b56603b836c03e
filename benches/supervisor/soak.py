#!/usr/bin/env python3
"""Disturbs the supervisor at random, under load, and counts whatever is lost.

    python3 benches/supervisor/soak.py [--seconds 60] [--seed N] [--without kill_keeper,broken] [--program PATH]

A Node cluster of 2 to 4 workers serves clients that never retry; its workers and some Python processes write numbered
lines. Meanwhile there are reloads (also onto a release that does not start), restarts, changes of scale and of the
environment; kill -9 of processes, of the brain and of the keeper; garbage and clients that hang at the control socket.
At the end nothing may be missing: every request answered, but for those a killed worker had in hand; every line in the
logs once and whole; the right number of instances, no process left behind, no more descriptors or memory than at first.

The same seed does the same things at the same times, as far as the machine lets it. Exit code 1: something is wrong;
then what happened is printed, with the seed.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time

import apps
import machine
from bench import Load, await_service
from chaos import Chaos
from logcheck import Check
from ours import Ours

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# How long after the kill of a worker its clients may learn of it.
LEARNS_SECONDS = 0.5
# Growth at rest that counts as none.
DESCRIPTORS_MORE = 3
MEMORY_MORE_BYTES = 512 << 10
# After so much has gone wrong, more of it tells nothing.
WRONG_MAX = 20
ROTATE_BYTES = 2 << 20


def main():
    options = arguments()
    print(f"seed {options.seed}", flush=True)
    orphanage = machine.Orphanage()
    folder = tempfile.mkdtemp(prefix="qk")
    soak = Soak(options, pathlib.Path(folder), orphanage)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    try:
        soak.run()
    finally:
        soak.end()
    soak.report()
    if soak.wrong and options.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if soak.wrong else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help="actions to leave out")
    parser.add_argument("--pace", type=float, default=1, help="how many times as fast as usual")
    parser.add_argument("--program", default=os.environ.get("QBENCH", str(ROOT / "target/release/qbench")))
    parser.add_argument("--subcommand", default="supervise")
    parser.add_argument("--node", default=shutil.which("node"))
    parser.add_argument("--rate", type=float, default=150, help="requests per second of each of two clients")
    parser.add_argument("--keep", action="store_true", help="keep the folder when something is wrong")
    options = parser.parse_args()
    options.node = os.path.realpath(options.node)
    return options


class Soak:
    def __init__(self, options, folder, orphanage):
        self.options, self.folder, self.orphanage = options, folder, orphanage
        self.wrong, self.samples, self.rests = [], [], []
        self.heard, self.loads = [], []
        self.counts = {name: folder / f"counts-{name}" for name in ("web", "lines")}
        for path in self.counts.values():
            path.mkdir()
        self.one = Ours(options.program, options.subcommand, folder / "o", orphanage, options.node)
        self.web = self.web_app()
        self.lines = self.lines_app()
        self.chaos = Chaos(self.one, self.web, self.lines, options)
        self.summary = {}

    def web_app(self):
        return apps.node_app(
            self.folder / "app",
            "web",
            apps.NUMBERED_WEB,
            self.options.node,
            instances=2,
            cluster=True,
            port=machine.free_ports(1)[0],
            env={"COUNTS": str(self.counts["web"])},
            rotate_bytes=ROTATE_BYTES,
        )

    def lines_app(self):
        script = self.folder / "app/lines.py"
        script.write_text(apps.NUMBERED_PYTHON)
        environment = {"COUNTS": str(self.counts["lines"]), "PAUSE": "0.005"}
        return apps.App(
            "lines",
            sys.executable,
            [str(script)],
            self.folder / "app",
            env=environment,
            rotate_bytes=ROTATE_BYTES,
        )

    def run(self):
        self.one.begin()
        for app in (self.web, self.lines):
            self.one.start(app)
        await_service(self.web.port)
        self.chaos.rest(2, 1)
        for fresh, rate, connections in ((False, 1, 8), (True, 1, 8), (False, 0.1, 6)):
            options = {"rate": self.options.rate * rate, "connections": connections, "timeout": 10}
            self.loads.append(Load(self.orphanage, self.web.port, fresh, **options))
        self.rest()
        end = time.monotonic() + self.options.seconds
        while time.monotonic() < end and len(self.chaos.wrong) < WRONG_MAX:
            self.chaos.act()
            self.sample()
        self.rest()
        time.sleep(0.5)

    def rest(self):
        """The descriptors and the memory in a state that is the same each time."""
        try:
            self.chaos.rest(2, 1)
        except (OSError, ValueError, TimeoutError) as error:
            self.blame(f"no rest: {error!r}, {self.one.status()}")
        # Sockets out of use are closed, and what was put aside is compressed, within a few seconds.
        time.sleep(4)
        self.rests.append(self.look())

    def look(self):
        found = machine.until(self.one.identity, 20, "somebody answers")
        return {
            half: {"fds": machine.descriptors(found[half]), **machine.memory([found[half]])}
            for half in ("keeper", "brain")
        }

    def sample(self):
        try:
            self.samples.append(self.look())
        except (OSError, TimeoutError):
            # It has just been killed.
            pass

    def blame(self, text):
        self.chaos.blame(text)

    def end(self):
        self.heard = [load.end() for load in self.loads]
        try:
            self.one.ask({"delete": "all"}, 20)
            time.sleep(1)
        except Exception as error:
            self.blame(f"delete all: {error!r}")
        for wrong in self.one.end():
            self.blame(wrong)
        for pid, command in self.orphanage.end().items():
            self.blame(f"left behind: {pid} {command}")
        self.judge_requests()
        self.judge_logs()
        self.judge_growth()
        self.wrong = self.chaos.wrong

    def judge_requests(self):
        excused = {"known": 0, "by time": 0}
        for load in self.heard:
            for failure in load["failures"]:
                kind = excuse(failure, self.chaos.kills)
                if kind:
                    excused[kind] += 1
                else:
                    self.blame(f"request failed: {failure} at {failure['at'] - self.chaos.begun:.3f}")
        self.summary["requests"] = sum(load["sent"] for load in self.heard)
        self.summary["in flight on a killed worker"] = excused
        self.summary["latency_ms"] = [load["latency_ms"] for load in self.heard]

    def judge_logs(self):
        for name, counts in self.counts.items():
            check = Check().of(self.folder / "app/logs", name, counts)
            found = self.summary[f"lines of {name}"] = check.summary()
            if any(found[what] for what in ("missing", "duplicated", "torn", "reordered")):
                self.blame(f"logs of {name}: {found} {check.torn[:3]}")

    def judge_growth(self):
        if len(self.rests) == 2:
            for half, first in self.rests[0].items():
                last = self.rests[1][half]
                if last["fds"] > first["fds"] + DESCRIPTORS_MORE:
                    self.blame(f"{half}: {first['fds']} descriptors at first, {last['fds']} at last")
                if last["uss"] > first["uss"] * 1.25 + MEMORY_MORE_BYTES:
                    self.blame(f"{half}: {first['uss']} private bytes at first, {last['uss']} at last")
        tenth = max(1, len(self.samples) // 10)
        for half in ("keeper", "brain"):
            for what in ("fds", "uss"):
                ends = [[s[half][what] or 0 for s in part] for part in (self.samples[:tenth], self.samples[-tenth:])]
                if all(ends):
                    self.summary[f"{half} {what}, first and last tenth"] = [statistics.median(end) for end in ends]
        self.summary["at rest"] = self.rests

    def report(self):
        counts = {}
        for _, text in self.chaos.events:
            if text in self.chaos.weights:
                counts[text] = counts.get(text, 0) + 1
        print(json.dumps({"actions": counts, **self.summary}, indent=1))
        if not self.wrong:
            print("nothing wrong")
            return
        for at, text in self.chaos.events:
            print(f"{at - self.chaos.begun:9.3f}  {text}")
        errors = self.folder / "o/stderr"
        if errors.exists():
            print(errors.read_text()[-5000:])
        print(f"{len(self.wrong)} wrong; seed {self.options.seed}")


def excuse(failure, kills):
    """Whether a killed worker explains a failed request: it had it in hand, or the connection was just accepted."""
    for kill in kills:
        learned = -0.001 <= failure["at"] - kill["before"] <= LEARNS_SECONDS
        if not learned or failure["sent"] > kill["after"] + 0.05:
            continue
        if failure["pid"] == kill["pid"]:
            return "known"
        cut = failure["why"].startswith(("reset", "closed"))
        if failure["pid"] is None and cut and failure["sent"] <= kill["after"] and kill["app"] == "web":
            return "by time"
    return None


if __name__ == "__main__":
    main()
