#!/usr/bin/env python3
"""Compares `qbench load` with its peers: what a request costs, when it is really sent, what is reported.

usage: benches/peers.py [--rounds 5] [--only closed,open,lag,stall,many,fresh,soak] [--json FILE]
       benches/peers.py --install

Every cell runs its clients alternately, in another order each round, the client on one core and the server on
another, and prints medians as a Markdown table. The ratio is the median of the ratios within each round, to
the client that the heading names. A client's CPU time is what the kernel charged its process (wait4): user and
system time. "Seen by the server" is what truth-server's kernel stamps say (see truth_server.rs).

Peers that are not found are left out. They are looked for by name in the environment (WRK2=/path/to/wrk2), in
target/test-tools/NAME/bin, and on PATH. Nothing of them is built here.

Everything is sent to 127.0.0.1, for a bounded time, and every process that is started is ended by its pid.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

REPOSITORY = Path(__file__).resolve().parent.parent
TEST_TOOLS = REPOSITORY / "target" / "test-tools"

# How qbench is asked; its JSON is read in `Qbench.read` and nowhere else.
QBENCH_CLOSED = ["--closed"]
QBENCH_FRESH = ["--connection", "per-request"]
QBENCH_PRECISION = "--precision"

CONNECTIONS = 64
MANY_CONNECTIONS = 10_000
# A client gets this much longer than its load lasts, then it is ended and its run has failed.
GRACE_SECONDS = 30
STALL_AT, STALL_FOR, STALL_RATE, STALL_SECONDS = 4, 1, 1_000, 10


# ---- processes ------------------------------------------------------------------------------------------


class Failure(Exception):
    """A run that gave no figures, and why."""


class Processes:
    """All children, so that none is left behind however this ends."""

    def __init__(self, realtime: bool) -> None:
        self.running: dict[int, subprocess.Popen] = {}
        # Ends a child with us even if we are killed, where util-linux has it.
        setpriv = shutil.which("setpriv")
        self.prefix = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        # Round-robin, since a client with several threads has one core for all of them.
        self.prefix += ["chrt", "-r", "10"] if realtime else []

    def start(self, argv: list[str], core: int, stdout, stderr) -> subprocess.Popen:
        line = [*self.prefix, "taskset", "-c", str(core), *argv]
        # In a session of its own: Ctrl-C comes to us alone, and we end the child.
        child = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )
        self.running[child.pid] = child
        return child

    def reaped(self, child: subprocess.Popen, status: int) -> None:
        child.returncode = os.waitstatus_to_exitcode(status)
        self.running.pop(child.pid, None)

    def end(self, child: subprocess.Popen, patience: float = 30) -> None:
        if child.pid not in self.running:
            return
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self.running.pop(child.pid, None)

    def end_all(self) -> None:
        for child in list(self.running.values()):
            self.end(child, patience=3)


def memory_bytes(pid: int) -> Optional[tuple[int, int]]:
    """Resident memory now and at its peak; nothing once the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = {name: int(kb) * 1024 for name, kb in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.M)}
    return (found["VmRSS"], found["VmHWM"]) if len(found) == 2 else None


@dataclass
class Usage:
    """What the kernel says of a client that has ended."""

    cpu_s: float
    wall_s: float
    peak_rss_bytes: int
    rss: list[tuple[float, int]]
    exit_code: int


def watch(processes: Processes, child: subprocess.Popen, limit_seconds: float) -> Usage:
    """Waits for a client; its memory is read every second."""
    began, rss, peak = time.monotonic(), [], 0
    ended = select.poll()
    descriptor = os.pidfd_open(child.pid)
    ended.register(descriptor, select.POLLIN)
    try:
        pause_ms = 200
        while not ended.poll(pause_ms):
            pause_ms, now = 1000, time.monotonic() - began
            if memory := memory_bytes(child.pid):
                rss.append((round(now, 2), memory[0]))
                peak = max(peak, memory[1])
            if now > limit_seconds:
                processes.end(child)
                raise Failure(f"did not end within {limit_seconds:.0f} s")
    finally:
        os.close(descriptor)
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.monotonic() - began
    processes.reaped(child, status)
    # ru_maxrss is never below what this script had when it forked: only above that it is the child's own.
    own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if usage.ru_maxrss * 1024 > own_peak:
        peak = max(peak, usage.ru_maxrss * 1024)
    return Usage(usage.ru_utime + usage.ru_stime, wall_s, peak, rss, child.returncode)


# ---- servers --------------------------------------------------------------------------------------------


class Nginx:
    """One nginx process that answers 3 bytes, with a configuration of its own in a temporary folder."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> Nginx:
        self.folder = tempfile.TemporaryDirectory(prefix="qbench-peers-")
        folder = Path(self.folder.name)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        # Without a master process there is one process, which pinning and ending by pid then mean.
        temporary = "\n".join(
            f"  {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(f"""
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile {resource.getrlimit(resource.RLIMIT_NOFILE)[0]};
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
{temporary}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "ok\\n"; }}
  }}
}}
""")
        argv = [self.bench.tool("nginx"), "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        null = subprocess.DEVNULL
        self.child = self.bench.processes.start(argv, self.bench.server_core, null, null)
        for _ in range(250):
            try:
                with urllib.request.urlopen(self.url, timeout=1) as answer:
                    if answer.read() == b"ok\n":
                        return self
            except OSError:
                time.sleep(0.02)
        log = folder / "error.log"
        why = log.read_text().strip() if log.exists() else "nothing in its log"
        self.__exit__()
        raise Failure(f"nginx does not answer: {why}")

    def __exit__(self, *_: object) -> None:
        self.bench.processes.end(self.child)
        self.folder.cleanup()

    def finish(self) -> dict:
        return {}


class Truth:
    """A truth-server of this repository, for one run."""

    def __init__(self, bench: Bench, *options: object) -> None:
        self.bench = bench
        self.options = [str(option) for option in options]

    def __enter__(self) -> Truth:
        self.out = tempfile.TemporaryFile("w+")
        argv = [str(self.bench.truth), *self.options]
        self.child = self.bench.processes.start(argv, self.bench.server_core, self.out, sys.stderr)
        for _ in range(500):
            # The child writes at the offset it shares with us, so reading must not move it.
            text = os.pread(self.out.fileno(), 4096, 0).decode()
            if found := re.match(r"listening on (127\.0\.0\.1:\d+)\n", text):
                self.url = f"http://{found.group(1)}/"
                return self
            if self.child.poll() is not None:
                break
            time.sleep(0.01)
        self.__exit__()
        raise Failure("truth-server does not listen")

    def __exit__(self, *_: object) -> None:
        self.bench.processes.end(self.child)
        self.out.close()

    def finish(self) -> dict:
        """Ends it; what it saw."""
        self.bench.processes.end(self.child)
        self.out.seek(0)
        lines = self.out.read().splitlines()
        if len(lines) != 2:
            raise Failure("truth-server reported nothing")
        return json.loads(lines[1])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# ---- clients --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What is asked of a client. Without a rate it is a closed loop."""

    seconds: int
    connections: int = CONNECTIONS
    rate: Optional[int] = None
    fresh: bool = False


@dataclass
class Reading:
    """What a client says of itself. What it does not say is None."""

    answered: int
    errors: int
    p50_us: Optional[float] = None
    p95_us: Optional[float] = None
    p99_us: Optional[float] = None
    more: dict = field(default_factory=dict)


class Client:
    """A load generator: how it is asked, and how its answer is read."""

    name: str
    open_loop = True
    closed_loop = True

    def __init__(self, path: str) -> None:
        self.path = path
        self.label = self.name

    def fits(self, load: Load) -> bool:
        return self.open_loop if load.rate else self.closed_loop

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        raise NotImplementedError

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        raise NotImplementedError


class Wrk(Client):
    name = "wrk"
    open_loop = False

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        argv = [self.path, "-t1", f"-c{load.connections}", f"-d{load.seconds}s", "--latency"]
        if load.rate:
            argv.append(f"-R{load.rate}")
        if load.fresh:
            argv += ["-H", "Connection: close"]
        return [*argv, url]

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        requests = re.search(r"(\d+) requests in ", text)
        if not requests:
            raise Failure("no count of requests in its output")
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        failed = sum(map(int, errors.groups())) if errors else 0
        failed += int(bad.group(1)) if bad else 0
        units = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}
        shown = re.findall(r"^\s*([\d.]+)%\s+([\d.]+)(us|ms|s|m)$", text, re.M)
        us = {float(percent): float(value) * units[unit] for percent, value, unit in shown}
        # wrk2 alone gives p95, as a row of its spectrum, in milliseconds.
        if row := re.search(r"^\s*([\d.]+)\s+0\.950000\s+\d+\s", text, re.M):
            us[95.0] = float(row.group(1)) * 1e3
        return Reading(int(requests.group(1)), failed, us.get(50.0), us.get(95.0), us.get(99.0))


class Wrk2(Wrk):
    name = "wrk2"
    open_loop, closed_loop = True, False


class Oha(Client):
    name = "oha"

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        argv = [self.path, "--no-tui", "--output-format", "json", "-z", f"{load.seconds}s", "-c", str(load.connections)]
        if load.rate:
            argv += ["-q", str(load.rate), "--latency-correction"]
        if load.fresh:
            argv.append("--disable-keepalive")
        return [*argv, url]

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        said = json.loads(text)
        answered = sum(count for code, count in said["statusCodeDistribution"].items() if code.startswith("2"))
        other = sum(said["statusCodeDistribution"].values()) - answered
        # What was under way at the end is not an error.
        broken = sum(n for why, n in said["errorDistribution"].items() if "deadline" not in why)
        us = {name: value * 1e6 for name, value in said["latencyPercentiles"].items() if value is not None}
        return Reading(answered, other + broken, us.get("p50"), us.get("p95"), us.get("p99"))


class Hey(Client):
    """Its rate is a limit on each worker's closed loop, and its percentiles are in tenths of a millisecond."""

    name = "hey"

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        argv = [self.path, "-z", f"{load.seconds}s", "-c", str(load.connections)]
        if load.rate:
            argv += ["-q", f"{load.rate / load.connections:g}"]
        if load.fresh:
            argv.append("-disable-keepalive")
        return [*argv, url]

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        codes = {code: int(count) for code, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", text)}
        answered = sum(count for code, count in codes.items() if code.startswith("2"))
        after = text.partition("Error distribution:")[2]
        broken = sum(int(count) for count in re.findall(r"^\s*\[(\d+)\]", after, re.M))
        us = {percent: float(value) * 1e6 for percent, value in re.findall(r"(\d+)% in ([\d.]+) secs", text)}
        errors = sum(codes.values()) - answered + broken
        return Reading(answered, errors, us.get("50"), us.get("95"), us.get("99"))


class Vegeta(Client):
    """Its workers are not limited: with a limit it hides what a stalled server did."""

    name = "vegeta"
    closed_loop = False

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        targets = scratch / "targets"
        targets.write_text(f"GET {url}\n")
        argv = [self.path, "attack", f"-targets={targets}", f"-rate={load.rate}/1s", f"-duration={load.seconds}s"]
        argv += [f"-connections={load.connections}", f"-output={scratch / 'results'}"]
        return [*argv, "-keepalive=false"] if load.fresh else argv

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        report = [self.path, "report", "-type=json", str(scratch / "results")]
        said = json.loads(subprocess.run(report, capture_output=True, check=True, timeout=120).stdout)
        answered = sum(count for code, count in said["status_codes"].items() if code.startswith("2"))
        us = {name: said["latencies"].get(name, 0) / 1e3 or None for name in ("50th", "95th", "99th")}
        return Reading(answered, said["requests"] - answered, us["50th"], us["95th"], us["99th"])


class K6(Client):
    name = "k6"
    closed_loop = False

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        scenario = {
            "executor": "constant-arrival-rate", "rate": load.rate, "timeUnit": "1s",
            "duration": f"{load.seconds}s", "preAllocatedVUs": load.connections, "maxVUs": load.connections,
        }
        options = {
            "scenarios": {"load": scenario}, "noConnectionReuse": load.fresh,
            "summaryTrendStats": ["p(50)", "p(95)", "p(99)"],
        }
        script = scratch / "load.js"
        script.write_text(
            f"import http from 'k6/http';\nexport const options = {json.dumps(options)};\n"
            f"export default function () {{ http.get({json.dumps(url)}); }}\n"
        )
        summary = f"--summary-export={scratch / 'summary.json'}"
        return [self.path, "run", "--quiet", "--no-usage-report", summary, str(script)]

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        metrics = json.loads((scratch / "summary.json").read_text())["metrics"]
        sent = metrics["http_reqs"]["count"]
        # Of a rate that counts failures, those that "passed" are the failures.
        failed = metrics.get("http_req_failed", {}).get("passes", 0)
        dropped = metrics.get("dropped_iterations", {}).get("count", 0)
        us = {name: metrics["http_req_duration"][f"p({name})"] * 1e3 for name in (50, 95, 99)}
        return Reading(sent - failed, failed + dropped, us[50], us[95], us[99])


class Fortio(Client):
    name = "fortio"

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        argv = [self.path, "load", "-quiet", "-qps", str(load.rate or 0), "-c", str(load.connections)]
        argv += ["-t", f"{load.seconds}s", "-p", "50,95,99", "-json", str(scratch / "result.json")]
        if load.rate:
            argv.append("-uniform")
        if load.fresh:
            argv.append("-keepalive=false")
        return [*argv, url]

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        said = json.loads((scratch / "result.json").read_text())
        answered = sum(count for code, count in said["RetCodes"].items() if code.startswith("2"))
        errors = sum(said["RetCodes"].values()) - answered
        us = {row["Percentile"]: row["Value"] * 1e6 for row in said["DurationHistogram"]["Percentiles"]}
        return Reading(answered, errors, us.get(50), us.get(95), us.get(99))


class Qbench(Client):
    name = "qbench"

    def __init__(self, path: str, precision: Optional[str] = None, fresh: bool = False, connections: int = 0) -> None:
        super().__init__(path)
        self.precision, self.fresh, self.connections = precision, fresh, connections
        count = f"{connections} connection{'s' if connections > 1 else ''}" if connections else None
        self.label = " ".join(filter(None, ["qbench", precision, "per-request" if fresh else None, count]))

    def argv(self, url: str, load: Load, scratch: Path) -> list[str]:
        connections = self.connections or load.connections
        argv = [self.path, "load", url, "--duration", f"{load.seconds}s", "--connections", str(connections)]
        argv += ["--rate", str(load.rate)] if load.rate else QBENCH_CLOSED
        if self.precision:
            argv += [QBENCH_PRECISION, self.precision]
        if self.fresh or load.fresh:
            argv += QBENCH_FRESH
        return [*argv, "--format", "json"]

    def read(self, text: str, load: Load, scratch: Path) -> Reading:
        said = json.loads(text)
        requests, latency = said["requests"], said["latency_from_intended_send"]
        # Also what was due and never answered.
        errors = max(requests["offered"] - requests["succeeded"], said.get("failures", 0))
        p50, p95, p99 = (None if (s := latency.get(name)) is None else s * 1e6 for name in ("p50_s", "p95_s", "p99_s"))
        more = {name: slim(said[name]) for name in ("client", "send_lag", "service_time") if name in said}
        return Reading(requests["succeeded"], errors, p50, p95, p99, more)


def slim(figures: object) -> object:
    """Without the encoded histograms, which are most of the text."""
    if not isinstance(figures, dict):
        return figures
    return {name: slim(value) for name, value in figures.items() if name != "hdr_v2_ns"}


PEERS = [Wrk, Wrk2, Oha, Hey, Vegeta, K6, Fortio]


# ---- runs and tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    heading: str
    value: Callable[[dict], Optional[float]]
    digits: int = 1


def dig(run: dict, *path: object) -> Optional[float]:
    """A figure deep in a run, or None where any step is missing."""
    value: object = run
    for step in path:
        try:
            value = value[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return value  # type: ignore[return-value]


def scaled(factor: float, *path: object) -> Callable[[dict], Optional[float]]:
    def value(run: dict) -> Optional[float]:
        found = dig(run, *path)
        return None if found is None else found * factor

    return value


def cpu_us_per_request(run: dict) -> Optional[float]:
    return run["cpu_s"] / run["answered"] * 1e6 if run["answered"] else None


def p50_less_service_us(run: dict) -> Optional[float]:
    service = dig(run, "server", "service_us", "p50")
    return None if service is None or run["p50_us"] is None else run["p50_us"] - service


def of_the_rate_percent(run: dict) -> float:
    return run["answered"] / (run["load"]["rate"] * run["load"]["seconds"]) * 100


def connections_per_cpu_second(run: dict) -> Optional[float]:
    """As the server counted them: a client that secretly keeps connections gains nothing."""
    accepted = dig(run, "server", "connections")
    return accepted / run["cpu_s"] if accepted and run["cpu_s"] else None


def tenth_of_rss_mb(last: bool) -> Callable[[dict], Optional[float]]:
    """The median of the first or the last tenth of the memory samples."""

    def value(run: dict) -> Optional[float]:
        rss = [size for _, size in run["rss"]]
        count = max(1, len(rss) // 10)
        part = rss[-count:] if last else rss[:count]
        return statistics.median(part) / 1e6 if part else None

    return value


CPU = Column("CPU µs/request", cpu_us_per_request, 2)
CORE = Column("core %", lambda run: run["cpu_s"] / run["wall_s"] * 100, 0)
P50 = Column("reported p50 µs", lambda run: run["p50_us"], 0)
ERRORS = Column("errors", lambda run: run["errors"], 0)
OF_THE_RATE = Column("of the rate %", of_the_rate_percent, 1)
PEAK = Column("peak RSS MB", scaled(1e-6, "peak_rss_bytes"), 1)
RSS_FIRST = Column("RSS first tenth MB", tenth_of_rss_mb(last=False), 1)
RSS_LAST = Column("RSS last tenth MB", tenth_of_rss_mb(last=True), 1)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """The options, the tools that are there, and all runs so far."""

    def __init__(self, args: argparse.Namespace, processes: Processes) -> None:
        self.args = args
        self.processes = processes
        self.qbench_path = str(Path(args.qbench).resolve())
        self.truth = Path(args.truth).resolve()
        self.client_core, self.server_core = args.client_core, args.server_core
        self.runs: list[dict] = []
        wanted = args.peers.split(",") if args.peers else None
        found = [(peer, find(peer.name)) for peer in PEERS if wanted is None or peer.name in wanted]
        self.peers = [peer(path) for peer, path in found if path]
        absent = [peer.name for peer, path in found if not path]
        if absent:
            progress(f"not found, left out: {', '.join(absent)}")

    def tool(self, name: str) -> str:
        path = find(name)
        if not path:
            raise Failure(f"{name} is not found (see --install)")
        return path

    def qbench(self, *variants: dict) -> list[Client]:
        return [Qbench(self.qbench_path, **variant) for variant in variants or [{}]]

    def fitting(self, load: Load) -> list[Client]:
        return [peer for peer in self.peers if peer.fits(load)]

    def one(self, cell: str, number: int, client: Client, server, load: Load) -> dict:
        """Runs one client once against a server that is listening."""
        run = {"cell": cell, "round": number, "client": client.label}
        run |= {"load": vars(load), "load_average": os.getloadavg()[0]}
        with tempfile.TemporaryDirectory(prefix="qbench-peers-") as folder:
            scratch = Path(folder)
            argv = client.argv(server.url, load, scratch)
            with open(scratch / "out", "w+b") as out, open(scratch / "err", "w+b") as err:
                child = self.processes.start(argv, self.client_core, out, err)
                usage = watch(self.processes, child, load.seconds + GRACE_SECONDS)
                out.seek(0)
                text = out.read().decode(errors="replace")
                err.seek(0)
                complaint = err.read().decode(errors="replace").strip().splitlines()
            try:
                reading = client.read(text, load, scratch)
            except (ValueError, KeyError, OSError, Failure, subprocess.SubprocessError) as error:
                why = complaint[0] if complaint else str(error)
                raise Failure(f"exit code {usage.exit_code}: {why}") from error
        return run | vars(usage) | vars(reading) | {"server": server.finish()}

    def rounds(self, cell: str, clients: list[Client], load: Load, server, count: Optional[int] = None) -> list[dict]:
        """Every client once a round, in an order that turns; `server()` makes a server for each run."""
        runs = []
        count = count or self.args.rounds
        for number in range(count):
            turn = number // 2 % len(clients)
            order = clients[turn:] + clients[:turn]
            for client in order if number % 2 == 0 else reversed(order):
                said = f"{cell} {number + 1}/{count} {client.label}"
                try:
                    with server() as listening:
                        run = self.one(cell, number, client, listening, load)
                    progress(f"{said}: {run['answered']} answered, {run['errors']} errors, {run['cpu_s']:.2f} s of CPU")
                except Failure as failure:
                    run = {"cell": cell, "round": number, "client": client.label, "failure": str(failure)}
                    progress(f"{said}: {failure}")
                runs.append(run)
        self.runs += runs
        if self.args.json:
            save(self, Path(self.args.json))
        return runs


def table(title: str, runs: list[dict], columns: list[Column], reference: Optional[str] = None) -> None:
    """One row a client, in the order of their first run in the first round; the ratio is that of the first column."""
    good = [run for run in runs if "failure" not in run]
    labels = list(dict.fromkeys(run["client"] for run in runs))
    if reference not in {run["client"] for run in good}:
        reference = None
    headings = ["client", "n", *(column.heading for column in columns)]
    if reference:
        headings.insert(3, f"× {reference}")
    print(f"\n### {title}\n\n| {' | '.join(headings)} |\n|---|{'---:|' * (len(headings) - 1)}")
    for label in labels:
        of_label = [run for run in good if run["client"] == label]
        cells = [label, str(len(of_label))]
        cells += [median_text(of_label, column, spread=column is columns[0]) for column in columns]
        if reference:
            cells.insert(3, ratio_text(of_label, [run for run in good if run["client"] == reference], columns[0]))
        print(f"| {' | '.join(cells)} |")
    failures = dict.fromkeys(f"{run['client']}: {run['failure']}" for run in runs if "failure" in run)
    for failure in failures:
        print(f"\nfailed: {failure}")
    sys.stdout.flush()


def median_text(runs: list[dict], column: Column, spread: bool) -> str:
    """The median; of the leading column also the least and the greatest."""
    values = [value for run in runs if (value := column.value(run)) is not None]
    if not values:
        return "–"
    text = f"{statistics.median(values):.{column.digits}f}"
    if spread and len(values) > 1:
        text += f" ({min(values):.{column.digits}f}–{max(values):.{column.digits}f})"
    return text


def ratio_text(runs: list[dict], reference: list[dict], column: Column) -> str:
    base = {run["round"]: column.value(run) for run in reference}
    pairs = [(column.value(run), base.get(run["round"])) for run in runs]
    ratios = [value / other for value, other in pairs if value is not None and other]
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def save(bench: Bench, path: Path) -> None:
    """Whole or not at all."""
    content = {"format": {"name": "qbench-peers", "major": 1, "minor": 0}, "host": host(), "runs": bench.runs}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def host() -> dict:
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {"kernel": os.uname().release, "cpu": model.group(1) if model else None, "cores": os.cpu_count()}


# ---- the cells ------------------------------------------------------------------------------------------


def closed(bench: Bench) -> None:
    load = Load(seconds=5)
    clients = bench.fitting(load) + bench.qbench()
    with Nginx(bench) as nginx:
        runs = bench.rounds("closed", clients, load, lambda: contextlib.nullcontext(nginx))
    per_second = Column("requests/s", lambda run: run["answered"] / run["load"]["seconds"], 0)
    title = f"Closed loop: {CONNECTIONS} kept connections, 5 s, nginx answering 3 bytes"
    table(title, runs, [CPU, per_second, P50, ERRORS, PEAK], "wrk")


def open_loop(bench: Bench) -> None:
    load = Load(seconds=5, rate=20_000)
    clients = bench.fitting(load) + bench.qbench({"precision": "eco"}, {"precision": "balanced"})
    runs = bench.rounds("open", clients, load, lambda: Truth(bench, "--rate", load.rate))
    service = Column("service p50 µs", scaled(1, "server", "service_us", "p50"), 0)
    excess = Column("reported p50 − service p50 µs", p50_less_service_us, 0)
    columns = [CPU, excess, P50, service, OF_THE_RATE, ERRORS, PEAK]
    names = {client.label for client in clients}
    table(f"Open loop: 20,000/s, {CONNECTIONS} connections, 5 s", runs, columns, "wrk2" if "wrk2" in names else "oha")


def lag(bench: Bench) -> None:
    columns = [
        # Without the first second, in which some clients open their connections one by one.
        Column("lag p99 µs", scaled(1, "server", "schedules", 0, "settled_lag_us", "p99"), 0),
        Column("lag p50 µs", scaled(1, "server", "schedules", 0, "settled_lag_us", "p50"), 0),
        Column("with the first second: lag p99 µs", scaled(1, "server", "schedules", 0, "lag_us", "p99"), 0),
        Column("gap error p99 µs", scaled(1, "server", "schedules", 0, "interarrival_error_us", "p99"), 0),
        Column("own send lag p99 µs", scaled(1e6, "more", "send_lag", "p99_s"), 0),
        CORE, P50, OF_THE_RATE,
    ]
    for rate in (1_000, 5_000):
        load = Load(seconds=5, rate=rate)
        precisions = [{"precision": precision} for precision in ("eco", "balanced", "exact")]
        clients = bench.fitting(load) + bench.qbench(*precisions)
        runs = bench.rounds(f"lag {rate}", clients, load, lambda: Truth(bench, "--rate", rate))
        table(f"When requests arrive: {rate:,}/s for 5 s, lag seen by the server", runs, columns, "oha")


def stall(bench: Bench) -> None:
    load = Load(seconds=STALL_SECONDS, rate=STALL_RATE)
    clients = bench.fitting(load) + bench.qbench(
        {"precision": "eco"}, {"precision": "balanced"}, {"precision": "exact"}, {"connections": 1}, {"fresh": True}
    )
    options = ["--rate", STALL_RATE, "--stall-at", STALL_AT, "--stall-for", STALL_FOR]
    runs = bench.rounds("stall", clients, load, lambda: Truth(bench, *options))
    columns = [
        Column("reported p99 ms", scaled(1e-3, "p99_us"), 0),
        Column("reported p95 ms", scaled(1e-3, "p95_us"), 0),
        Column("true p99 ms", scaled(1, "server", "schedules", 0, "latency_ms", "p99"), 0),
        Column("true p95 ms", scaled(1, "server", "schedules", 0, "latency_ms", "p95"), 0),
        OF_THE_RATE, ERRORS,
    ]
    # The share s of all requests meets the stall, each waiting for the rest of it: evenly 0 to its length.
    share = STALL_FOR / STALL_SECONDS
    p95, p99 = (STALL_FOR * 1000 * (1 - (1 - q) / share) for q in (0.95, 0.99))
    title = f"A server that stalls for {STALL_FOR} s at {STALL_AT} s of {STALL_SECONDS} s at {STALL_RATE:,}/s"
    table(f"{title}; by theory p95 {p95:.0f} ms, p99 {p99:.0f} ms", runs, columns)


def many(bench: Bench) -> None:
    load = Load(seconds=30, rate=5_000, connections=MANY_CONNECTIONS)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft < MANY_CONNECTIONS + 100:
        print(f"\n### Many connections\n\nnot run: only {soft} files may be open (see ulimit -Hn)")
        return
    runs = bench.rounds("many", bench.fitting(load) + bench.qbench(), load, lambda: Truth(bench))
    accepted = Column("connections seen", scaled(1, "server", "connections"), 0)
    columns = [PEAK, RSS_FIRST, RSS_LAST, ERRORS, OF_THE_RATE, accepted, CPU]
    table(f"{MANY_CONNECTIONS:,} connections, 5,000/s for 30 s", runs, columns, "oha")


def fresh(bench: Bench) -> None:
    # Short, and every run has a port of its own to connect to: what the last one left in TIME_WAIT is not in the way.
    load = Load(seconds=2, fresh=True)
    runs = bench.rounds("fresh", bench.fitting(load) + bench.qbench(), load, lambda: Truth(bench))
    per_second = Column("connections/s", scaled(1 / load.seconds, "server", "connections"), 0)
    columns = [Column("connections/CPU-second", connections_per_cpu_second, 0), per_second, P50, ERRORS]
    table(f"A new connection for each request: closed loop, {CONNECTIONS} at a time, 2 s", runs, columns, "wrk")


def soak(bench: Bench) -> None:
    load = Load(seconds=round(bench.args.soak_minutes * 60), rate=5_000)
    runs = bench.rounds("soak", bench.qbench(), load, lambda: Truth(bench, "--max", 100_000), count=1)
    columns = [RSS_LAST, RSS_FIRST, PEAK, ERRORS, OF_THE_RATE, CPU]
    table(f"Soak: 5,000/s for {bench.args.soak_minutes:g} min", runs, columns)


CELLS = {
    "closed": closed, "open": open_loop, "lag": lag, "stall": stall, "many": many, "fresh": fresh, "soak": soak,
}


# ---- the command line -----------------------------------------------------------------------------------


def find(name: str) -> Optional[str]:
    """By the environment variable of its name, among this repository's test tools, or on PATH."""
    named = os.environ.get(name.upper())
    if named and shutil.which(named):
        return str(Path(named).resolve())
    local = TEST_TOOLS / name / "bin" / name
    if local.exists():
        return str(local)
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")


def install() -> int:
    """Installs what Debian and crates.io have by name, and says how to get the rest."""
    debian = {"wrk": "wrk", "nginx": "nginx-light", "hey": "hey"}
    packages = [package for name, package in debian.items() if not find(name)]
    if packages:
        line = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        if os.geteuid() == 0:
            subprocess.run(line, check=True, stdout=sys.stderr)
        else:
            progress(f"as root: {' '.join(line)}")
        if "nginx-light" in packages:
            progress("Debian may have started nginx on port 80: systemctl disable --now nginx")
    if not find("oha"):
        root = TEST_TOOLS / "oha"
        line = ["nice", "cargo", "install", "oha", "--locked", "--root", str(root)]
        subprocess.run(line, check=True, stdout=sys.stderr)
    elsewhere = {
        "wrk2": "no registry has it: set WRK2 to a binary of https://github.com/giltene/wrk2",
        "vegeta": "go install github.com/tsenart/vegeta/v12@latest",
        "k6": "see https://grafana.com/docs/k6/latest/set-up/install-k6/ (npm and PyPI hold other things by this name)",
        "fortio": "go install fortio.org/fortio@latest (PyPI holds another thing by this name)",
    }
    for name in ["wrk", "nginx", "oha", "hey", *elsewhere]:
        print(f"{name:<8}{find(name) or elsewhere.get(name, 'missing')}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="compare `qbench load` with its peers, paired and alternating")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of every client (default 5)")
    parser.add_argument("--only", default="closed,open,lag,stall,many,fresh", metavar="CELLS",
                        help=f"of {','.join(CELLS)} (default: all but soak)")
    names = ",".join(peer.name for peer in PEERS)
    parser.add_argument("--peers", metavar="NAMES", help=f"of {names} (default: all found)")
    parser.add_argument("--qbench", default=REPOSITORY / "target/release/qbench", metavar="PATH")
    parser.add_argument("--truth", default=REPOSITORY / "target/release/examples/truth-server", metavar="PATH")
    parser.add_argument("--client-core", type=int, default=0, metavar="N")
    parser.add_argument("--server-core", type=int, default=1, metavar="N")
    parser.add_argument("--realtime", action="store_true",
                        help="clients and servers before all other work (as root), on a machine that is not idle")
    parser.add_argument("--soak-minutes", type=float, default=60, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="where every run is kept")
    parser.add_argument("--install", action="store_true", help="install peers by name and end")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(CELLS):
        parser.error(f"no such cell: {', '.join(sorted(unknown))}")
    if args.rounds < 1:
        parser.error("--rounds is at least 1")
    if args.install:
        return args
    if args.realtime and (busy := {"closed", "fresh"} & set(args.only)):
        # A core that real-time work fills is taken from it for a part of each second.
        parser.error(f"--realtime is for cells that leave the cores idle most of the time, not {', '.join(busy)}")
    for path, made_by in [(args.qbench, ""), (args.truth, " --example truth-server")]:
        if not os.access(path, os.X_OK):
            parser.error(f"{path} is not there: cargo build --release{made_by}")
    cores = {args.client_core, args.server_core}
    if len(cores) < 2 or not cores <= os.sched_getaffinity(0):
        parser.error("--client-core and --server-core are two cores that this process may use")
    return args


def raise_file_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    args = arguments()
    if args.install:
        return install()
    signal.signal(signal.SIGTERM, stop)
    raise_file_limit()
    # With the server: the client's core is its own.
    os.sched_setaffinity(0, {args.server_core})
    processes = Processes(args.realtime)
    try:
        bench = Bench(args, processes)
        facts = host()
        how = ", real-time priority" if args.realtime else ""
        print(f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}{how}; medians (least–greatest)")
        for cell in args.only:
            try:
                CELLS[cell](bench)
            except Failure as failure:
                progress(f"{cell}: {failure}")
                print(f"\n### {cell}\n\nnot run: {failure}")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        processes.end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
