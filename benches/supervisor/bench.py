"""What the cells have in common: folders, ports, load, and the two supervisors, each begun anew for each measurement."""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import machine
from load import Connection, Failure
from ours import Ours
from pm2 import Pm2

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of the table; `scale` turns the raw value into the unit."""

    key: str
    label: str
    unit: str
    scale: float = 1
    digits: int = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    measure: object
    metrics: tuple
    # Cells that are counts of rare events, or take long, need not be done in each round.
    rounds_max: int = 100
    for_each_node: bool = False


class Load:
    """The load generator, running beside."""

    def __init__(self, orphanage, port, fresh, rate=300, connections=16, timeout=5):
        command = [sys.executable, HERE / "load.py", port, "--rate", rate, "--connections", connections]
        command += ["--timeout", timeout] + (["--fresh"] if fresh else [])
        self.child = orphanage.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self):
        output, _ = self.child.communicate("", timeout=60)
        return json.loads(output)


class Bench:
    def __init__(self, options, folder, orphanage):
        self.options, self.folder, self.orphanage = options, pathlib.Path(folder), orphanage
        self.count = 0
        self.wrong = []

    @contextlib.contextmanager
    def supervisor(self, kind, node):
        """A supervisor of that kind, with a folder of its own, ended with everything it started."""
        self.count += 1
        folder = self.folder / str(self.count)
        options = self.options
        if kind == "ours":
            one = Ours(options.program, options.subcommand, folder / "o", self.orphanage, node)
        else:
            one = Pm2(node, options.pm2, folder / "p", self.orphanage)
        one.place = folder
        folder.mkdir(parents=True)
        try:
            one.begin()
            yield one
        finally:
            self.wrong += [f"{one.name}: {what}" for what in one.end()]
            for pid, command in self.orphanage.end().items():
                self.wrong.append(f"{one.name} left behind: {pid} {command}")

    def load(self, port, fresh, **options):
        return Load(self.orphanage, port, fresh, **options)

    def port(self):
        return machine.free_ports(1)[0]


def answers(port, timeout=1.0):
    """The pid that answers at a port, or True where it does not tell; None when nobody does."""
    connection = Connection(port, True, timeout)
    try:
        connection.get()
        return connection.pid or True
    except Failure:
        return None
    finally:
        connection.close()


def await_service(port, seconds=20):
    machine.until(lambda: answers(port), seconds, f"port {port} is served")


def settle(seconds=0.5):
    """Lets what was begun come to rest."""
    time.sleep(seconds)
