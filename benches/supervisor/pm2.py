"""PM2: started by its command, as its users do; asked over its socket, as its command does.

The socket speaks AMP: a byte 0x10 | arguments, then each argument with its length (u32, big endian) before it. Asking
over it saves PM2 the start of its command, some 0.2 s a call, so no latency below is that of its command line.
"""

import json
import os
import pathlib
import socket
import struct
import time

import machine


class Pm2:
    name = "PM2"

    def __init__(self, node, script, home, orphanage):
        self.node, self.script, self.orphanage = node, script, orphanage
        self.home = pathlib.Path(home)
        self.calls = 0
        self.begun = False

    def environment(self):
        folder = str(pathlib.Path(self.node).parent)
        path = folder + os.pathsep + os.environ.get("PATH", "")
        return {**os.environ, "PM2_HOME": str(self.home), "PM2_DISABLE_VERSION_CHECK": "1", "PATH": path}

    def command(self, *words, limit=120):
        """Runs its command line; returns the exit code and the seconds it took."""
        begun = time.monotonic()
        code, output = self.orphanage.run([self.node, self.script, *words], limit, env=self.environment())
        return code, time.monotonic() - begun, output

    def begin(self):
        self.home.mkdir(parents=True, exist_ok=True)
        self.begun = True
        self.command("ping")
        machine.until(self.daemon, 20, "PM2 answers")

    def daemon(self):
        try:
            pid = int((self.home / "pm2.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if machine.alive(pid) else None

    def daemons(self):
        return [machine.until(self.daemon, 20, "PM2 has a daemon")]

    def parent(self):
        return self.daemons()[0]

    def ask(self, method, *arguments, limit=120):
        self.calls += 1
        call = json.dumps({"type": "call", "method": method, "args": list(arguments)})
        words = [b"j:" + call.encode(), b"s:%d" % self.calls]
        frame = bytes([0x10 | len(words)]) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(limit)
            connection.connect(str(self.home / "rpc.sock"))
            connection.sendall(frame)
            return self.answer(connection)

    def answer(self, connection):
        count = exactly(connection, 1)[0] & 0x0F
        words = [exactly(connection, struct.unpack(">I", exactly(connection, 4))[0]) for _ in range(count)]
        answer = json.loads(words[0].removeprefix(b"j:"))
        if answer.get("error"):
            raise RuntimeError(str(answer["error"]))
        return answer.get("args", [None])[0]

    def processes(self, app=None):
        found = self.ask("getMonitorData", {})
        return [process for process in found if app in (None, process["name"])]

    def pids(self, app):
        return [p["pid"] for p in self.processes(app.name) if p["pid"] and p["pm2_env"]["status"] == "online"]

    def all_online(self, app):
        return len(self.pids(app)) == app.instances

    def start(self, app, wait=True):
        """Seconds from the command to all online, or to the end of the command."""
        file = self.home / f"{app.name}.json"
        file.write_text(json.dumps({"apps": [description(app)]}))
        begun = time.monotonic()
        code, _, output = self.command("start", file)
        if code != 0:
            raise RuntimeError(f"pm2 start ended with {code}: {output[-2000:]}")
        if wait:
            machine.until(lambda: self.all_online(app), 60, f"{app.name} is online")
        return time.monotonic() - begun

    def reload(self, app):
        """Seconds, and the reason why it failed. One instance after the other, as its command does it with two."""
        return self.each(app, lambda pm_id: self.ask("reloadProcessId", {"id": pm_id}))

    def restart(self, app):
        return self.each(app, lambda pm_id: self.ask("restartProcessId", {"id": pm_id}))

    def stop(self, app):
        return self.each(app, lambda pm_id: self.ask("stopProcessId", pm_id))

    def each(self, app, act):
        ids = [process["pm_id"] for process in self.processes(app.name)]
        begun, why = time.monotonic(), None
        for pm_id in ids:
            try:
                act(pm_id)
            except (RuntimeError, OSError) as error:
                why = why or str(error)
        return time.monotonic() - begun, why

    def delete_all(self):
        self.command("delete", "all")

    def end(self):
        if not self.begun:
            return []
        self.begun = False
        daemon = self.daemon()
        started = daemon and machine.start_ticks(daemon)
        self.command("kill", limit=60)
        if not daemon:
            return []
        try:
            machine.until(lambda: not machine.alive(daemon), 5, "its daemon has ended")
            return []
        except TimeoutError as error:
            machine.kill(daemon, started=started)
            return [str(error)]


def exactly(connection, count):
    read = b""
    while len(read) < count:
        more = connection.recv(count - len(read))
        if not more:
            raise ConnectionResetError("PM2 closed the connection")
        read += more
    return read


def description(app):
    """An app of an ecosystem file."""
    is_node = app.args[0].endswith(".js")
    described = {
        "name": app.name,
        "script": app.args[0] if is_node else app.program,
        "args": app.args[1:] if is_node else app.args,
        "cwd": str(app.cwd),
        "instances": app.instances,
        "exec_mode": "cluster" if app.cluster else "fork",
        "env": {**app.env, **({"PORT": str(app.port)} if app.port else {})},
        "autorestart": app.automatic,
        "max_restarts": 10_000,
        "listen_timeout": 8000,
        "kill_timeout": app.kill_timeout_ms,
        "merge_logs": True,
        "out_file": str(app.out_log),
        "error_file": str(app.cwd / "logs" / f"{app.name}-err.log"),
    }
    if not is_node:
        described["interpreter"] = "none"
    if app.max_memory:
        described["max_memory_restart"] = app.max_memory
    return described
