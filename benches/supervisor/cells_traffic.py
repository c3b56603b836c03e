"""Cells under load: what clients notice."""

import random
import re
import shutil
import signal
import threading
import time

import apps
import machine
from bench import Cell, Metric, await_service, settle
from logcheck import Check
from ours import Refused


def reload(bench, one):
    """Reloads of an app without any signal handler, with each kind of client."""
    found = {}
    reloads = bench.options.reloads if one.name == "qbench" else min(20, bench.options.reloads)
    app = apps.node_app(one.place / "app", "web", apps.WEB, one.node, instances=2, cluster=True, port=bench.port())
    one.start(app)
    await_service(app.port)
    for fresh in (False, True):
        kind = "fresh" if fresh else "keep"
        load = bench.load(app.port, fresh)
        settle(1)
        results = [one.reload(app) for _ in range(reloads)]
        settle(0.5)
        heard = load.end()
        found[f"{kind}_seconds"] = [seconds for seconds, _ in results]
        found[f"{kind}_failed"] = heard["failed"] / reloads
        found[f"{kind}_hung"] = heard["hung"] / reloads
        found[f"{kind}_raw"] = {"reloads": reloads, "refused": sum(bool(why) for _, why in results), **short(heard)}
    return found


def short(heard):
    return {key: value for key, value in heard.items() if key != "failures"}


def broken(bench, one):
    """A reload onto a release that ends at once."""
    app = apps.node_app(one.place / "app", "web", apps.WEB, one.node, instances=2, cluster=True, port=bench.port())
    one.start(app)
    await_service(app.port)
    before = set(one.pids(app))
    script = app.cwd / "web.js"
    load = bench.load(app.port, True)
    settle(1)
    script.write_text(apps.BROKEN)
    seconds, why = one.reload(app)
    settle(max(0.0, 4 - seconds))
    heard = load.end()
    serving = before & set(one.pids(app))
    return {
        "failed": heard["failed"],
        "told": float(why is not None),
        "serving": len(serving),
        "raw": {"why": why, **short(heard)},
    }


def throughput(bench, one):
    """As fast as it goes: connections used again, and a new one for each request."""
    app = apps.node_app(one.place / "app", "fast", apps.FAST, one.node, instances=2, cluster=True, port=bench.port())
    one.start(app)
    await_service(app.port)
    found = {}
    pids = one.pids(app)
    for kind in ("keep", "fresh"):
        drive(bench, app.port, kind, 1)
        workers, daemons = machine.cpu_seconds(pids), machine.cpu_seconds(one.daemons())
        rate, requests = drive(bench, app.port, kind, bench.options.seconds)
        workers = machine.cpu_seconds(pids) - workers
        daemons = machine.cpu_seconds(one.daemons()) - daemons
        found[f"{kind}_rate"] = rate
        found[f"{kind}_workers_us"] = workers / requests * 1e6
        found[f"{kind}_daemons_us"] = daemons / requests * 1e6
        found[f"{kind}_us"] = (workers + daemons) / requests * 1e6
    return found


def drive(bench, port, kind, seconds):
    """Requests per second and requests, by wrk: a closed loop of 16 connections."""
    wrk = shutil.which("wrk")
    if not wrk:
        raise RuntimeError("wrk is needed for this cell")
    command = [wrk, "-t1", "-c16", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    if kind == "fresh":
        command += ["-H", "Connection: close"]
    _, output = bench.orphanage.run(command)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    return rate, int(re.search(r"(\d+) requests in", output)[1])


def death(bench, one):
    """The supervisor itself is killed, each second time in the middle of a reload; apps write numbered lines."""
    counts = {name: one.place / f"counts-{name}" for name in ("web", "lines")}
    for folder in counts.values():
        folder.mkdir()
    folder, port = one.place / "app", bench.port()
    environment = {name: {"COUNTS": str(path)} for name, path in counts.items()}
    web = apps.node_app(
        folder, "web", apps.NUMBERED_WEB, one.node, instances=2, cluster=True, port=port, env=environment["web"]
    )
    (folder / "lines.py").write_text(apps.NUMBERED_PYTHON)
    lines = apps.App("lines", bench.options.python, [str(folder / "lines.py")], folder, env=environment["lines"])
    kill = kill_brain if one.name == "qbench" else kill_daemon
    kills = bench.options.kills if one.name == "qbench" else min(3, bench.options.kills)
    results, heard = [], []
    start(one, web, lines)
    for fresh in (False, True):
        load = bench.load(port, fresh)
        settle(1)
        for n in range((kills + 1) // 2):
            # A supervisor that dies again at once may well wait before it is started again.
            settle(1.1)
            results.append(kill(bench, one, web, lines, n % 2 == 1))
        settle(1)
        heard.append(load.end())
    one.delete_all()
    settle(1)
    checks = [Check().of(folder / "logs", app.name, counts[app.name]).summary() for app in (web, lines)]
    total = {key: sum(check[key] for check in checks) for key in checks[0]}
    return {
        "failed": sum(load["failed"] for load in heard) / len(results),
        "adopted_s": [result["seconds"] for result in results if result["seconds"] is not None],
        "survived": [result["survived"] for result in results],
        "reloads_failed": sum(bool(result["why"]) for result in results),
        "lost": total["missing"] / len(results),
        "spoilt": (total["duplicated"] + total["torn"] + total["reordered"]) / len(results),
        "raw": {
            "kills": results,
            "load": [short(load) for load in heard],
            "failures": [failure for load in heard for failure in load["failures"][:50]],
            "logs": checks,
        },
    }


def start(one, *all_apps):
    for app in all_apps:
        one.start(app)
    await_service(all_apps[0].port)


def kill_brain(_bench, one, web, lines, reloading):
    before = {pid for app in (web, lines) for pid in one.pids(app)}
    outcome = {}
    brain = one.daemons()[1]
    if reloading:
        thread = threading.Thread(target=reload_through_death, args=(one, web, outcome))
        thread.start()
        time.sleep(random.uniform(0, 0.35))
    begun = time.monotonic()
    machine.kill(brain)
    reports = machine.until(lambda: status_of_another(one, brain), 20, "a new brain answers", 0)
    seconds = time.monotonic() - begun
    after = {report["pid"] for report in reports}
    if reloading:
        thread.join(60)
        machine.until(lambda: one.all_online(web), 20, "all are online again")
    survived = None if reloading else len(before & after) / len(before)
    return {
        "at": begun,
        "reloading": reloading,
        "seconds": seconds,
        "survived": 1 if reloading else survived,
        "why": outcome.get("why"),
    }


def status_of_another(one, brain):
    """The status, from a brain that is not this one."""
    found = one.identity()
    return one.status() if found and found["brain"] != brain else None


def reload_through_death(one, app, outcome):
    try:
        outcome["why"] = one.reload(app)[1]
        return
    except (OSError, ValueError):
        pass
    # The one that was asked is gone; its successor carries on with the reload.
    try:
        machine.until(lambda: one.identity(), 20, "a new brain answers")
        one.ask({"await": {"app": app.name}})
    except (OSError, ValueError, Refused, TimeoutError) as error:
        outcome["why"] = repr(error)


def kill_daemon(bench, one, web, lines, _reloading):
    """PM2's daemon; nothing comes back without help, so after 3 s everything is started again. How many requests fail
    is a matter of those 3 s; that they do is not."""
    before = {pid for app in (web, lines) for pid in one.pids(app)}
    machine.kill(one.parent(), signal.SIGKILL)
    settle(3)
    survived = sum(machine.alive(pid) for pid in before) / len(before)
    bench.orphanage.end()
    start(one, web, lines)
    return {"seconds": None, "survived": survived, "why": None}


CELLS = (
    Cell(
        "reload",
        reload,
        (
            Metric("keep_failed", "failed requests per reload, keep-alive", "", digits=2),
            Metric("keep_hung", "hung ≥ 3 s per reload, keep-alive", "", digits=2),
            Metric("keep_seconds", "a reload of 2 workers until that is reported, keep-alive", "ms", 1e3, 0),
            Metric("fresh_failed", "failed requests per reload, connection per request", "", digits=2),
            Metric("fresh_hung", "hung ≥ 3 s per reload, connection per request", "", digits=2),
            Metric("fresh_seconds", "a reload of 2 workers until that is reported, connection per request", "ms", 1e3, 0),
        ),
        rounds_max=3,
        for_each_node=True,
    ),
    Cell(
        "broken",
        broken,
        (
            Metric("failed", "reload onto a broken release: failed requests in 5 s", "", digits=0),
            Metric("told", "it was reported (1 = yes)", "", digits=0),
            Metric("serving", "old workers serving on, of 2", "", digits=0),
        ),
        rounds_max=3,
    ),
    Cell(
        "throughput",
        throughput,
        (
            Metric("keep_rate", "requests per second, keep-alive", "", digits=0),
            Metric("keep_us", "CPU per request, keep-alive, workers + supervisor", "µs"),
            Metric("fresh_rate", "requests per second, connection per request", "", digits=0),
            Metric("fresh_us", "CPU per connection, workers + supervisor", "µs"),
            Metric("fresh_daemons_us", "of which the supervisor", "µs"),
        ),
    ),
    Cell(
        "death",
        death,
        (
            Metric("failed", "kill -9 of the supervisor: failed requests per kill (PM2: started by hand after 3 s)", "", digits=2),
            Metric("adopted_s", "until all is in its hands again", "ms", 1e3),
            Metric("survived", "processes that survived", "%", 100, 0),
            Metric("reloads_failed", "reloads under way that did not complete", "", digits=0),
            Metric("lost", "log lines lost per kill", "", digits=2),
            Metric("spoilt", "log lines doubled, torn or out of order per kill", "", digits=2),
        ),
        rounds_max=2,
    ),
)
