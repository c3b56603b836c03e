"""Cells without load: how fast things happen, and what they cost."""

import os
import statistics
import time

import apps
import machine
from bench import Cell, Metric, answers, await_service, settle

# What has restarted itself must have lived for this long to count as stable with either supervisor.
STABLE_SECONDS = 1.2


def crash(bench, one):
    """kill -9 of a process until its supervisor has another, seen in /proc, and until that one answers."""
    sleeper = apps.sleeper(one.place / "sleep", 1)
    web = apps.node_app(one.place / "app", "web", apps.WEB, one.node, cluster=True, port=bench.port())
    one.start(sleeper)
    one.start(web)
    await_service(web.port)
    found = {"sleep_s": [], "node_s": [], "serves_s": []}
    parent = one.parent()
    for _ in range(bench.options.crashes):
        settle(STABLE_SECONDS)
        found["sleep_s"].append(replaced(parent, one.pids(sleeper)[0]))
        settle(0.3)
        old = one.pids(web)[0]
        spawned, serves = replaced_and_serving(parent, old, web.port)
        found["node_s"].append(spawned)
        found["serves_s"].append(serves)
        await_service(web.port)
    return found


def replaced(parent, pid):
    """Seconds from the kill to the first child that was not there before."""
    before = machine.children(parent)
    begun = time.perf_counter()
    os.kill(pid, 9)
    while not machine.children(parent) - before:
        if time.perf_counter() - begun > 20:
            raise TimeoutError("the process was not replaced")
    return time.perf_counter() - begun


def replaced_and_serving(parent, pid, port):
    spawned = replaced(parent, pid)
    begun = time.perf_counter() - spawned
    # A connection may wait for the new worker, or be refused: then the next one follows at once.
    while time.perf_counter() - begun < 20:
        if answers(port, 2) not in (None, pid):
            return spawned, time.perf_counter() - begun
        time.sleep(0.001)
    raise TimeoutError("the new process does not answer")


def start100(_bench, one):
    """From the command to all 100 online: PM2's command line, and our socket."""
    return {"seconds": one.start(apps.sleeper(one.place / "sleep", 100))}


def memory(bench, one):
    """With another Node running: its file's pages are then shared, and not private to PM2's daemon. Where nothing else
    of Node runs they are, which triples the daemon's USS; beside Node apps, the usual case, they are not."""
    beside = bench.orphanage.spawn([one.node, "-e", "setInterval(() => {}, 1e6)"])
    try:
        return memory_beside(bench, one)
    finally:
        beside.kill()
        beside.wait()


def memory_beside(bench, one):
    found = {}
    for count in (0, 3, 100):
        if count:
            one.start(apps.sleeper(one.place / "sleep", count, f"sleeper{count}"))
        # Whatever it does once in a while, it has done by then.
        settle(bench.options.seconds)
        samples = []
        for _ in range(5):
            samples.append(machine.memory(one.daemons()))
            settle(0.2)
        found[f"uss_{count}"] = statistics.median(sample["uss"] for sample in samples)
        found[f"rss_{count}"] = statistics.median(sample["rss"] for sample in samples)
        if count:
            one.delete_all()
    return found


def memlimit(_bench, one):
    """Seconds from when a process passed its limit until it has been replaced."""
    limit, passed = 150 << 20, one.place / "passed"
    environment = {"LIMIT_BYTES": str(limit), "PASSED": str(passed)}
    app = apps.node_app(one.place / "app", "growing", apps.GROWING, one.node, max_memory=limit, env=environment)
    one.start(app)
    pid = one.pids(app)[0]
    note = passed.with_name(f"passed.{pid}")
    machine.until(note.exists, 30, "it passes its limit")
    machine.until(lambda: one.pids(app) not in ([], [pid]), 90, "it is replaced", 0.05)
    return {"seconds": time.time() - float(note.read_text())}


def exitlogs(_bench, one):
    """What is kept of 3000 lines that are followed by process.exit."""
    app = apps.node_app(one.place / "app", "lines", apps.EXIT_LOG, one.node, cluster=True, automatic=False)
    # It is never online for longer than it takes to write them.
    one.start(app, wait=False)
    settle(3)
    try:
        kept = sum(line.startswith("line ") for line in app.out_log.read_text().splitlines())
    except FileNotFoundError:
        kept = 0
    return {"kept": kept}


def latency(bench, one):
    """Stop and restart of a Node server, and of a program that ends at once. The two answer a restart at different
    points, so it is timed to a point that is the same: another process answers, or is reported online."""
    web = apps.node_app(one.place / "app", "web", apps.WEB, one.node, cluster=True, port=bench.port())
    sleeper = apps.sleeper(one.place / "sleep", 1)
    found = {"web_restart_s": [], "web_stop_s": [], "sleep_restart_s": [], "sleep_stop_s": []}
    for _ in range(5):
        for name, app in (("web", web), ("sleep", sleeper)):
            one.start(app)
            if app.port:
                await_service(app.port)
            settle(STABLE_SECONDS)
            found[f"{name}_restart_s"].append(restart(one, app))
            settle(STABLE_SECONDS)
            found[f"{name}_stop_s"].append(one.stop(app)[0])
    return found


def restart(one, app):
    old = one.pids(app)[0]
    begun = time.monotonic()
    one.restart(app)
    if app.port:
        machine.until(lambda: answers(app.port) not in (None, old), 20, "another process answers", 0.001)
    else:
        machine.until(lambda: one.pids(app) not in ([], [old]), 20, "another process is online", 0.001)
    return time.monotonic() - begun


CELLS = (
    Cell(
        "crash",
        crash,
        (
            Metric("sleep_s", "kill -9 → new process, `sleep`", "ms", 1e3, 2),
            Metric("node_s", "kill -9 → new process, Node cluster", "ms", 1e3, 2),
            Metric("serves_s", "kill -9 → answers again, Node cluster ×1", "ms", 1e3, 0),
        ),
        rounds_max=3,
    ),
    Cell("start100", start100, (Metric("seconds", "start of 100 `sleep` until all are online (PM2 by its command line, ours by its socket)", "ms", 1e3, 0),)),
    Cell(
        "memory",
        memory,
        tuple(
            Metric(f"{kind}_{count}", f"{kind.upper()} of the supervisor with {count} processes", "MiB", 2**-20, 2)
            for kind in ("uss", "rss")
            for count in (0, 3, 100)
        ),
    ),
    Cell("memlimit", memlimit, (Metric("seconds", "memory limit passed → replaced", "s", 1, 2),)),
    Cell("exitlogs", exitlogs, (Metric("kept", "3000 lines, then process.exit: lines kept", "", 1, 0),)),
    Cell(
        "latency",
        latency,
        (
            Metric("web_restart_s", "restart of a Node cluster worker until it answers", "ms", 1e3, 1),
            Metric("web_stop_s", "stop of a Node cluster worker until that is reported", "ms", 1e3, 1),
            Metric("sleep_restart_s", "restart of `sleep` until it is online", "ms", 1e3, 1),
            Metric("sleep_stop_s", "stop of `sleep` until that is reported", "ms", 1e3, 1),
        ),
        rounds_max=2,
    ),
)
