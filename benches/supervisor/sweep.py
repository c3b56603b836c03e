#!/usr/bin/env python3
"""Kills the brain at every step of an operation: its first system call that changes something, its second, and so on.

    python3 benches/supervisor/sweep.py [--only reload,stop] [--victim brain|keeper] [--program PATH]

Where the soak kills at random times, this kills between any two steps, so that a step noted too late or not at all is
found for certain. Needs strace, which has the kernel kill the brain as it enters the call. After each kill everything
must be as it should be after the operation: the instances running, no process besides, no request failed, no line lost.
Exit code 1: it was not; each such step is printed.
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import apps
import machine
from bench import Load, await_service
from logcheck import Check
from ours import Ours, Refused
from soak import ROOT

# The calls by which either changes anything outside itself.
CALLS = {
    "brain": "sendmsg,sendto,clone3,pidfd_open,pidfd_send_signal,kill,bind,listen,connect",
    # What it hears and tells; it does nothing else.
    "keeper": "recvmsg,sendmsg,wait4,waitid",
}
STEPS_MAX = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(OPERATIONS))
    parser.add_argument("--victim", choices=list(CALLS), default="brain")
    parser.add_argument("--program", default=os.environ.get("QBENCH", str(ROOT / "target/release/qbench")))
    parser.add_argument("--subcommand", default="supervise")
    parser.add_argument("--node", default=shutil.which("node"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    orphanage = machine.Orphanage()
    wrong = []
    for name in options.only:
        step = 1
        while step is not None:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="qw"))
            sweep = Sweep(options, folder, orphanage)
            try:
                sweep.begin()
                step = sweep.over(name, step)
            finally:
                sweep.end()
            wrong += sweep.wrong
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if wrong else 0)


# What is asked, the app, and how many instances of it run afterwards.
OPERATIONS = {
    "reload": ({"reload": {"app": "web"}}, "web", 2),
    "restart": ({"restart": {"app": "web"}}, "web", 2),
    "scale": ({"scale": {"app": "web", "instances": 3}}, "web", 3),
    "unscale": ({"scale": {"app": "web", "instances": 1}}, "web", 1),
    "reload-fork": ({"reload": {"app": "lines"}}, "lines", 1),
    "scale-fork": ({"scale": {"app": "lines", "instances": 3}}, "lines", 3),
    "stop": ({"stop": {"app": "lines"}}, "lines", 0),
    "delete": ({"delete": {"app": "lines"}}, "lines", 0),
    "start": (None, "lines", 1),
}


class Sweep:
    def __init__(self, options, folder, orphanage):
        self.options, self.folder, self.orphanage = options, folder, orphanage
        self.wrong, self.steps = [], []
        self.one = Ours(options.program, options.subcommand, folder / "o", orphanage, options.node)
        counts = folder / "counts"
        environment = {"COUNTS": str(counts / "web"), "PAUSE": "0.005"}
        for name in ("web", "lines"):
            (counts / name).mkdir(parents=True)
        port = machine.free_ports(1)[0]
        node = os.path.realpath(options.node)
        self.web = apps.node_app(
            folder / "app", "web", apps.NUMBERED_WEB, node, instances=2, cluster=True, port=port, env=environment
        )
        script = folder / "app/lines.py"
        script.write_text(apps.NUMBERED_PYTHON)
        environment = {**environment, "COUNTS": str(counts / "lines")}
        self.lines = apps.App("lines", sys.executable, [str(script)], folder / "app", env=environment)
        self.load = None

    def begin(self):
        self.one.begin()
        for app in (self.web, self.lines):
            self.one.start(app)
        await_service(self.web.port)
        self.load = Load(self.orphanage, self.web.port, False, rate=200, connections=8)

    def over(self, name, first):
        """One operation, killed at each of its steps, until it ends without having come to the one. Returns the step to
        go on from with another supervisor, when this one is beyond help."""
        request, app, instances = OPERATIONS[name]
        app = {"web": self.web, "lines": self.lines}[app]
        for step in range(first, STEPS_MAX):
            begun = time.monotonic()
            try:
                self.reset(name)
                killed, call = self.kill_at(step, request or {"start": {"app": app.name}})
                self.steps.append((begun, f"{name}, killed at step {step}, {call}"))
                if not killed:
                    print(f"{name}: {step - 1} steps", flush=True)
                    return None
                self.judge(self.steps[-1][1], app, instances)
            except (OSError, Refused, TimeoutError) as error:
                self.blame(f"{self.steps[-1][1] if self.steps else name}: then {error!r}")
                return step + 1
        return None

    def reset(self, name):
        """The state that the operation starts from."""
        # Brains that die at once are started again after a pause only; that is not what is looked at here.
        time.sleep(1.0)
        self.one.apply(self.web, self.lines)
        if name != "start":
            self.one.ask({"start": "all"}, 20)
            # A Python that is told to end while it starts ends in another way.
            time.sleep(0.3)
        elif self.one.status("lines"):
            self.one.ask({"delete": {"app": "lines"}}, 20)
            self.one.apply(self.lines)
        self.one.ask({"scale": {"app": "web", "instances": 2}}, 20)
        self.one.ask({"scale": {"app": "lines", "instances": 1}}, 20)
        apps_running = (self.web, self.lines) if name != "start" else (self.web,)
        for app in apps_running:
            machine.until(lambda: self.one.all_online(app), 20, f"{app.name} is online")

    def kill_at(self, step, request):
        victim, calls = self.options.victim, CALLS[self.options.victim]
        pid = self.one.identity()[victim]
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        command = ["strace", "-o", trace, "-e", f"trace={calls}", "-e"]
        command += [f"inject={calls}:signal=SIGKILL:when={step}", "-p", pid]
        tracer = self.orphanage.spawn(command, stderr=subprocess.PIPE)
        # It says that it has attached.
        tracer.stderr.readline()
        try:
            self.one.ask(request, 20)
        except (OSError, ValueError, Refused):
            pass
        found = machine.until(self.one.identity, 20, "somebody answers")
        killed = found[victim] != pid
        tracer.terminate()
        tracer.communicate()
        lines = [line for line in trace.read_text().splitlines() if not line.startswith("+++")]
        last = lines[-2:] if killed else []
        return killed, " after ".join(line[:110] for line in reversed(last))

    def judge(self, what, app, instances):
        """Either it was done or, where the request was lost with the brain, it was not begun; nothing in between."""
        before = {"web": 2, "lines": 1 if "start," not in what else 0}[app.name]
        wanted = {instances, before}

        def settled():
            reports = self.one.status()
            running = {name: [r for r in reports if r["app"] == name and r["pid"]] for name in ("web", "lines")}
            all_well = all(r["state"] in ("online", "stopped") for r in reports)
            alive = all(machine.alive(r["pid"]) for rs in running.values() for r in rs)
            return all_well and alive and len(running[app.name]) in wanted and not self.strays(reports)

        try:
            self.one.ask({"await": "all"}, 20)
        except Refused as why:
            self.blame(f"{what}: {why}")
        except OSError as error:
            self.blame(f"{what}: await: {error!r}")
        try:
            machine.until(settled, 6, "settled", 0.05)
        except TimeoutError:
            reports = [{k: r[k] for k in ("app", "instance", "state", "pid", "last_end")} for r in self.one.status()]
            self.blame(f"{what}: {reports}, strays {self.strays(self.one.status())}")
        # What becomes of a program whose output is cut off.
        ended = [r for r in self.one.status() if r["state"] == "online" and "status 1" in (r["last_end"] or "")]
        if ended:
            self.blame(f"{what}: {[(r['app'], r['instance'], r['last_end']) for r in ended]}")
            self.one.ask({"restart": "all"}, 20)

    def strays(self, reports):
        """Processes of the supervisor that belong to no instance."""
        known = {report["pid"] for report in reports}
        found = self.one.daemons()
        return [pid for half in found for pid in machine.children(half) - known - set(found) if machine.alive(pid)]

    def blame(self, text):
        self.wrong.append(text)
        print(f"WRONG: {text}", flush=True)

    def end(self):
        heard = self.load.end() if self.load else {"failures": []}
        for failure in heard["failures"][:20]:
            before = [(at, step) for at, step in self.steps if at < failure["at"]]
            at, step = before[-1] if before else (0, "at first")
            self.blame(f"request failed {failure['at'] - at:.3f} s into: {step}: {failure}")
        try:
            self.one.ask({"delete": "all"}, 20)
            time.sleep(1)
        except (OSError, ValueError, Refused) as error:
            self.blame(f"delete all: {error!r}")
        for text in self.one.end():
            self.blame(text)
        for pid, command in self.orphanage.end().items():
            self.blame(f"left behind: {pid} {command}")
        for name in ("web", "lines"):
            found = Check().of(self.folder / "app/logs", name, self.folder / "counts" / name).summary()
            if any(found[key] for key in ("missing", "duplicated", "torn", "reordered")):
                self.blame(f"logs of {name}: {found}")


if __name__ == "__main__":
    main()
