"""The supervisor of qbench, over its control socket."""

import json
import pathlib
import signal
import socket
import time

import machine


class Refused(Exception):
    """The supervisor did not do what it was asked; the text is its reason."""


class Ours:
    name = "qbench"

    def __init__(self, program, subcommand, folder, orphanage, node):
        self.program, self.subcommand, self.orphanage, self.node = program, subcommand, orphanage, node
        # Short, since the path of a socket may have 107 bytes only.
        self.folder = pathlib.Path(folder)
        self.dir = self.folder / "s"
        self.child = None
        self.known = {}

    def begin(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "stderr", "ab") as errors:
            self.child = self.orphanage.spawn(
                [self.program, self.subcommand, self.dir], start_new_session=True, stdout=errors, stderr=errors
            )
        machine.until(self.identity, 20, "the supervisor answers")

    def ask(self, request, limit=120):
        """One request on a connection of its own."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(limit)
            connection.connect(str(self.dir / "control.sock"))
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(read_line(connection))["answer"]
        if isinstance(answer, dict) and "failed" in answer:
            raise Refused(answer["failed"])
        return answer

    def identity(self):
        """The brain and the keeper; None while nobody answers."""
        try:
            found = self.ask("identify", 5)["identity"]
        except (OSError, ValueError):
            return None
        self.known = {pid: machine.start_ticks(pid) for pid in (found["brain"], found["keeper"])}
        return found

    def daemons(self):
        found = machine.until(self.identity, 20, "the supervisor answers")
        return [found["keeper"], found["brain"]]

    def parent(self):
        """The process that starts others."""
        return self.daemons()[1]

    def status(self, app=None):
        return [report for report in self.ask("status")["status"] if app in (None, report["app"])]

    def pids(self, app):
        return [report["pid"] for report in self.status(app.name) if report["pid"]]

    def all_online(self, app):
        reports = self.status(app.name)
        return len(reports) == app.instances and all(report["state"] == "online" for report in reports)

    def start(self, app, wait=True):
        """Seconds from the command to all online, or to its answer."""
        begun = time.monotonic()
        self.apply(app)
        self.ask({"start": {"app": app.name}})
        if wait:
            machine.until(lambda: self.all_online(app), 60, f"{app.name} is online")
        return time.monotonic() - begun

    def apply(self, *apps):
        self.ask({"apply": {"apps": [spec(app) for app in apps]}})

    def reload(self, app):
        """Seconds, and the reason why it failed."""
        return self.timed({"reload": {"app": app.name}})

    def restart(self, app):
        return self.timed({"restart": {"app": app.name}})

    def stop(self, app):
        return self.timed({"stop": {"app": app.name}})

    def timed(self, request):
        begun = time.monotonic()
        try:
            self.ask(request)
            return time.monotonic() - begun, None
        except Refused as why:
            return time.monotonic() - begun, str(why)

    def delete_all(self):
        self.ask({"delete": "all"})

    def end(self):
        """Ends it in order, or else by force; returns what was wrong with that."""
        if self.child is None:
            return []
        wrong = []
        try:
            self.ask("shutdown", 30)
            self.await_end()
        except (OSError, ValueError, Refused, TimeoutError) as error:
            wrong.append(f"it did not end in order: {error!r}")
            self.end_by_force()
        self.child = None
        return wrong

    def await_end(self):
        known = dict(self.known)
        gone = lambda: not any(machine.start_ticks(pid) == started and machine.alive(pid)
                               for pid, started in known.items())
        machine.until(gone, 20, "the supervisor has ended")
        self.child.poll()

    def end_by_force(self):
        # Stopped first: whichever were killed first would be started anew by the other.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid, started in self.known.items():
                machine.kill(pid, number, started)
        self.child.poll()


def read_line(connection):
    read = b""
    while not read.endswith(b"\n"):
        more = connection.recv(1 << 20)
        if not more:
            raise ConnectionResetError("closed before the answer")
        read += more
    return read


def spec(app):
    """The complete specification (`AppSpec`)."""
    port = {"variable": "PORT", "first": app.port} if app.port else None
    when = "listening" if app.cluster else "spawned"
    logs = app.cwd / "logs"
    return {
        "name": app.name,
        "namespace": "default",
        "program": app.program,
        "args": app.args,
        "cwd": str(app.cwd),
        "env": app.env,
        "instances": app.instances,
        "mode": "cluster" if app.cluster else "fork",
        "port": port,
        "instance_variable": "NODE_APP_INSTANCE",
        "increment_variable": None,
        "ready": {"when": when, "http": None, "timeout_ms": 8000},
        "liveness": None,
        "stop": {"kill_timeout_ms": app.kill_timeout_ms, "tree": True, "by_message": False},
        "restart": {
            "automatic": app.automatic,
            "delay_ms": 0,
            "backoff_ms": None,
            "min_uptime_ms": 1000,
            "max_unstable": 10_000,
            "stop_exit_codes": [],
            "max_memory_bytes": app.max_memory,
            "cron": None,
        },
        "reload": {"parallel": app.parallel, "hot_spare": False},
        "autostart": True,
        "user": None,
        "max_processes": None,
        "logs": {
            "out": str(app.out_log),
            "err": str(logs / f"{app.name}-err.log"),
            "combined": None,
            "merge": True,
            "date_format": None,
            "json": False,
            "rotate_bytes": app.rotate_bytes,
            "rotate_keep": 100_000,
            "rotate_gzip": True,
        },
    }
