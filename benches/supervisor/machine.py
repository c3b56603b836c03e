"""Processes, ports and time on this machine, from /proc; nothing here knows of any supervisor."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def free_ports(count):
    """Ports of loopback that are free now, adjacent ones for apps whose instances count upwards."""
    for first in range(20_000 + os.getpid() % 5_000, 60_000, count):
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
            return list(range(first, first + count))
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise RuntimeError("no free ports")


def until(condition, seconds, what, pause=0.01):
    """Waits for a condition and returns its value; an error after `seconds`, so that nothing waits for ever."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(pause)


def stat(pid):
    """The fields of /proc/PID/stat from the state on; None when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def alive(pid):
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def start_ticks(pid):
    fields = stat(pid)
    return int(fields[19]) if fields else None


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        fields = stat(pid)
        total += int(fields[11]) + int(fields[12]) if fields else 0
    return total / TICKS_PER_SECOND


def children(pid):
    """The children of all threads of a process."""
    found = set()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        pass
    return found


def descendants(pid):
    found, todo = set(), [pid]
    while todo:
        new = children(todo.pop()) - found
        found |= new
        todo.extend(new)
    return found


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def memory(pids):
    """Private (USS) and resident (RSS) bytes of processes together."""
    private = resident = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb"):
                private += int(value.split()[0]) * 1024
            if name == "Rss":
                resident += int(value.split()[0]) * 1024
    return {"uss": private, "rss": resident}


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def kill(pid, number=signal.SIGKILL, started=None):
    """Signals a process, if it still is the one that was started then."""
    if started is not None and start_ticks(pid) != started:
        return False
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


class Orphanage:
    """Makes this process the parent of whatever a dead supervisor leaves behind, so that nothing can escape."""

    def __init__(self):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.own = set()
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.reap, daemon=True)
        self.thread.start()

    def spawn(self, command, **options):
        """Starts a child of our own, which is waited for by whoever asked for it, and by nobody else."""
        with self.lock:
            child = subprocess.Popen([str(word) for word in command], **options)
            self.own.add(child.pid)
        return child

    def run(self, command, limit=60, **options):
        """Runs a command to its end: its exit code (None after `limit` seconds) and what it wrote."""
        child = self.spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        try:
            output, _ = child.communicate(timeout=limit)
            return child.returncode, output
        except subprocess.TimeoutExpired:
            child.kill()
            return None, child.communicate()[0]

    def adopted(self):
        return {pid for pid in children(os.getpid()) - self.own if alive(pid)}

    def reap(self):
        # Like init: a zombie that nobody reaps would look like a process that has not ended.
        while not self.over.wait(0.002):
            with self.lock:
                zombies = [pid for pid in children(os.getpid()) - self.own if (stat(pid) or "?")[0] == "Z"]
                for pid in zombies:
                    os.waitpid(pid, os.WNOHANG)

    def end(self):
        """Kills what is left, returning what it was."""
        left = {pid: command_of(pid) for pid in self.adopted()}
        for _ in range(200):
            rest = self.adopted()
            if not rest:
                break
            for pid in rest:
                kill(pid)
            time.sleep(0.02)
        return left
