"""What a soak does to a supervisor: a random but replayable sequence of actions, and a log of them."""

import json
import random
import signal
import socket
import threading
import time

import machine
from ours import Refused, spec

# The two halves of the supervisor are never killed within this time: what holds everything would be gone.
HALVES_APART_SECONDS = 2.0
# A client that hangs is let go at last; more than this many at once would only test the limit of clients.
HANGING_MAX = 8
# Every request is answered long before; kill_timeout is 1.6 s.
UNANSWERED_SECONDS = 30
# Reasons for which a reload may fail here: another action came between, or it was meant to fail.
EXPECTED = ("under way", "given up", "supervisor is ending")

WEIGHTS = {
    "reload_web": 10,
    "reload_lines": 3,
    "release": 6,
    "broken": 3,
    "restart_web": 2,
    "restart_lines": 2,
    "kill_web": 6,
    "kill_lines": 4,
    "kill_brain": 6,
    "kill_keeper": 3,
    "scale_web": 5,
    "scale_lines": 3,
    "garbage": 4,
    "hang": 4,
    "subscribe": 1,
    "reopen": 2,
}


class Chaos:
    """Each action begins when it is due and does not wait for slow ones: they overlap."""

    def __init__(self, one, web, lines, options):
        self.one, self.web, self.lines = one, web, lines
        self.random, self.pace = random.Random(options.seed), options.pace
        self.weights = {name: weight for name, weight in WEIGHTS.items() if name not in options.without}
        self.begun = time.monotonic()
        self.events, self.wrong, self.kills = [], [], []
        self.lock = threading.Lock()
        self.hanging = []
        self.threads = []
        self.halves_killed = {}
        self.releases = 0
        # What starts now does not stay: a release that does not start was applied last.
        self.is_broken = False

    def log(self, text):
        with self.lock:
            self.events.append((time.monotonic(), text))

    def blame(self, text):
        self.log(f"WRONG: {text}")
        with self.lock:
            self.wrong.append(text)

    def act(self):
        """Waits for a while, then does one thing. The draws are the same for the same seed, whatever happens."""
        pause = self.random.choice((0.05, 0.2, 0.5, 1.0, 1.5)) * self.random.random() * 2 / self.pace
        name = self.random.choices(list(self.weights), list(self.weights.values()))[0]
        draw = random.Random(self.random.getrandbits(64))
        time.sleep(pause)
        self.log(name)
        try:
            getattr(self, name)(draw)
        except Refused as why:
            if not any(text in str(why) for text in EXPECTED):
                self.blame(f"{name}: {why}")
        except (OSError, ValueError, TimeoutError) as error:
            # The one that was asked may just have been killed.
            if not self.killed_lately():
                self.blame(f"{name}: {error!r}")
            self.log(f"{name}: {error!r}")
        self.threads = [thread for thread in self.threads if thread.is_alive()]

    def killed_lately(self, seconds=5.0):
        now = time.monotonic()
        return any(now - at < seconds for at in self.halves_killed.values())

    def beside(self, what, request, app):
        thread = threading.Thread(target=self.carry_through, args=(what, request, app), daemon=True)
        thread.start()
        self.threads.append(thread)

    def carry_through(self, what, request, app):
        """Asks, and when the one that was asked dies, asks its successor how it went."""
        try:
            self.one.ask(request, UNANSWERED_SECONDS)
            self.log(f"{what}: done")
        except Refused as why:
            self.judge(what, str(why))
        except TimeoutError:
            self.blame(f"{what}: no answer within {UNANSWERED_SECONDS} s; {self.stuck()}")
        except (OSError, ValueError) as error:
            self.log(f"{what}: {error!r}")
            self.ask_successor(what, app)

    def ask_successor(self, what, app):
        for _ in range(20):
            try:
                machine.until(self.one.identity, 20, "somebody answers")
                self.one.ask({"await": {"app": app.name}}, UNANSWERED_SECONDS)
                return self.log(f"{what}: done, says the next")
            except Refused as why:
                # Perhaps it speaks of an earlier one.
                return self.log(f"{what}: {why}, says the next")
            except TimeoutError as error:
                return self.blame(f"{what}: {error!r}")
            except (OSError, ValueError):
                continue
        self.blame(f"{what}: nobody stayed to answer")

    def judge(self, what, why):
        expected = EXPECTED + (("the new process exited",) if self.is_broken else ())
        # It was killed before it had proved itself: for a reload that is a release that does not stay up.
        if any(time.monotonic() - kill["before"] < 3 for kill in list(self.kills)):
            expected += ("the new process was ended by signal 9",)
        if any(text in why for text in expected):
            self.log(f"{what}: {why}")
        else:
            self.blame(f"{what}: {why}")

    # The actions.

    def reload_web(self, _draw):
        self.beside("reload web", {"reload": {"app": "web"}}, self.web)

    def reload_lines(self, _draw):
        self.beside("reload lines", {"reload": {"app": "lines"}}, self.lines)

    def restart_web(self, _draw):
        self.beside("restart web", {"restart": {"app": "web"}}, self.web)

    def restart_lines(self, _draw):
        self.beside("restart lines", {"restart": {"app": "lines"}}, self.lines)

    def release(self, _draw):
        self.releases += 1
        self.change(str(self.releases), f"release {self.releases}")

    def broken(self, _draw):
        self.change("broken", "broken release")

    def change(self, release, what):
        described = spec(self.web)
        described["env"] = {**self.web.env, "RELEASE": release}
        # While it is being asked either may be in force.
        self.is_broken = self.is_broken or release == "broken"
        self.one.ask({"apply": {"apps": [described]}}, 30)
        self.is_broken = release == "broken"
        self.beside(what, {"reload": {"app": "web"}}, self.web)

    def kill_web(self, draw):
        self.kill_one(self.web, draw)

    def kill_lines(self, draw):
        self.kill_one(self.lines, draw)

    def kill_one(self, app, draw):
        reports = [report for report in self.one.status(app.name) if report["pid"]]
        if not reports:
            return
        report = draw.choice(reports)
        pid, before = report["pid"], time.monotonic()
        if machine.kill(pid, signal.SIGKILL, report["start_ticks"]):
            self.kills.append({"pid": pid, "app": app.name, "before": before, "after": time.monotonic()})
            self.log(f"killed {app.name} {pid} ({report['state']})")

    def kill_brain(self, _draw):
        self.kill_half("brain", "keeper")

    def kill_keeper(self, _draw):
        self.kill_half("keeper", "brain")

    def kill_half(self, half, other):
        wait = self.halves_killed.get(other, 0) + HALVES_APART_SECONDS - time.monotonic()
        time.sleep(max(0.0, wait))
        found = machine.until(self.one.identity, 20, "somebody answers")
        self.halves_killed[half] = time.monotonic()
        machine.kill(found[half])
        self.log(f"killed the {half} {found[half]} of {found}")

    def scale_web(self, draw):
        self.scale(self.web, draw.randint(2, 4))

    def scale_lines(self, draw):
        self.scale(self.lines, draw.randint(1, 3))

    def scale(self, app, instances):
        request = {"scale": {"app": app.name, "instances": instances}}
        app.instances = instances
        self.beside(f"scale {app.name} to {instances}", request, app)

    def reopen(self, _draw):
        self.one.ask("reopen_logs", 30)

    def garbage(self, draw):
        """Noise, half a request, and what looks like one."""
        kind = draw.randrange(5)
        noise = {
            0: draw.randbytes(draw.randrange(1, 5000)),
            1: b'{"reload":',
            2: json.dumps({"signal": {"select": {"id": -1}, "signal": 9}}).encode() + b"\n",
            3: b"[" * 100_000 + b"\n",
            4: b"x" * (5 << 20) + b"\n",
        }[kind]
        with self.connected() as connection:
            try:
                connection.sendall(noise)
                if draw.random() < 0.5:
                    connection.recv(100)
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                pass

    def hang(self, draw):
        connection = self.connected()
        if draw.random() < 0.7:
            connection.sendall(b'{"stat')
        self.keep_hanging(connection)

    def subscribe(self, _draw):
        """Asks for all events, and never reads any."""
        connection = self.connected()
        connection.sendall(b'"subscribe"\n')
        self.keep_hanging(connection)

    def keep_hanging(self, connection):
        self.hanging.append(connection)
        while len(self.hanging) > HANGING_MAX:
            self.hanging.pop(0).close()

    def stuck(self):
        """The instances that are not online."""
        reports = [report for report in self.one.status() if report["state"] != "online"]
        keys = ("app", "instance", "state", "pid", "uptime_ms", "last_end")
        return [{**{key: report[key] for key in keys}, "alive": machine.alive(report["pid"])} for report in reports]

    def connected(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(2)
        connection.connect(str(self.one.dir / "control.sock"))
        return connection

    def rest(self, web, lines):
        """Brings everything to a known state: so many instances, all online, nothing under way, nobody connected."""
        end = time.monotonic() + UNANSWERED_SECONDS
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        never = sum(thread.is_alive() for thread in self.threads)
        if never:
            self.blame(f"{never} requests were never answered; {self.stuck()}")
        for connection in self.hanging:
            connection.close()
        self.hanging.clear()
        self.web.instances, self.lines.instances = web, lines
        for app in (self.web, self.lines):
            described = spec(app)
            described["env"] = {**app.env, "RELEASE": "rest"}
            self.one.ask({"apply": {"apps": [described]}}, 30)
            self.one.ask({"scale": {"app": app.name, "instances": app.instances}}, 60)
            self.one.ask({"reload": {"app": app.name}}, 60)
        for app in (self.web, self.lines):
            machine.until(lambda: self.one.all_online(app), 30, f"{app.name} is at rest")
