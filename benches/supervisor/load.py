#!/usr/bin/env python3
"""An open-loop HTTP client that never retries and counts every way in which a request can fail.

    load.py PORT [--rate 300] [--connections 16] [--fresh]      until its standard input is closed; prints one JSON line

A separate process, so that whoever watches a supervisor with a busy loop does not delay the requests. Requests are due
at fixed times, whether or not answers keep up; with all connections busy they are sent late. What counts:
  - a connection that the server closed, and whose end is seen before a request is sent on it, is replaced: no failure;
  - anything but a whole answer with status 200 after that is one, and `Connection: close` is obeyed;
  - an answer may tell the process that gave it (`X-Pid`), also ahead of the answer proper (an interim 102), so that a
    failure can be laid at the door of a process that was killed.
Times are those of CLOCK_MONOTONIC, which all processes share.
"""

import argparse
import collections
import json
import socket
import sys
import threading
import time

HUNG_SECONDS = 3.0
# Enough to see what went wrong, and no more than memory can hold in an hour.
FAILURES_KEPT = 20_000


class Failure(Exception):
    """A request without its answer; the text is the class under which it is counted."""


class Connection:
    """One place for a connection, which is opened when needed."""

    def __init__(self, port, fresh, timeout):
        self.port, self.timeout = port, timeout
        use = b"close" if fresh else b"keep-alive"
        self.request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: %s\r\n\r\n" % (port, use)
        self.socket = None
        self.pid = None
        self.reused = False
        self.opened = 0

    def get(self):
        """Sends one request and reads its answer; returns the body."""
        self.drop_if_closed()
        self.reused = self.socket is not None
        if not self.reused:
            self.open()
        try:
            self.socket.sendall(self.request)
        except TimeoutError:
            raise Failure("timed out sending") from None
        except OSError as error:
            raise Failure(f"{name_of(error)} while sending") from None
        return self.answer()

    def open(self):
        self.pid = None
        self.socket = socket.socket()
        self.socket.settimeout(self.timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened += 1
        try:
            self.socket.connect(("127.0.0.1", self.port))
        except TimeoutError:
            raise Failure("timed out connecting") from None
        except OSError as error:
            raise Failure("refused" if isinstance(error, ConnectionRefusedError) else name_of(error)) from None

    def drop_if_closed(self):
        """Looks, without waiting, whether the server has closed the connection since its last answer."""
        if self.socket is None:
            return
        try:
            self.socket.setblocking(False)
            self.socket.recv(1, socket.MSG_PEEK)
            # The end of the stream, or bytes that nobody asked for: either way it is of no more use.
            self.close()
        except BlockingIOError:
            self.socket.settimeout(self.timeout)
        except OSError:
            self.close()

    def answer(self):
        head, rest = self.head(b"")
        while head[0].startswith(b"HTTP/1.1 1"):
            self.learn_pid(head)
            head, rest = self.head(rest)
        self.learn_pid(head)
        fields = {name.strip().lower(): value.strip() for name, _, value in (f.partition(b":") for f in head[1:])}
        if b"content-length" not in fields:
            raise Failure("answer without a length")
        length = int(fields[b"content-length"])
        while len(rest) < length:
            rest += self.receive("within the body")
        if fields.get(b"connection", b"").lower() == b"close":
            self.close()
        if head[0].split()[1] != b"200":
            raise Failure(f"status {head[0].split()[1].decode()}")
        return rest[:length]

    def head(self, read):
        while b"\r\n\r\n" not in read:
            read += self.receive("within the head" if read else "before the answer")
        head, _, rest = read.partition(b"\r\n\r\n")
        return head.split(b"\r\n"), rest

    def receive(self, where):
        try:
            read = self.socket.recv(65536)
        except TimeoutError:
            raise Failure(f"timed out {where}") from None
        except OSError as error:
            raise Failure(f"{name_of(error)} {where}") from None
        if not read:
            raise Failure(f"closed {where}")
        return read

    def learn_pid(self, head):
        for field in head[1:]:
            if field.lower().startswith(b"x-pid:"):
                self.pid = int(field[6:])

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None


def name_of(error):
    return "reset" if isinstance(error, (ConnectionResetError, BrokenPipeError)) else type(error).__name__


class Load:
    """Threads that share one schedule."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.begun = time.monotonic()
        self.next = 0
        self.counts = collections.Counter()
        self.failures = []
        self.latencies_ms = collections.Counter()
        self.opened = 0

    def run(self):
        threads = [threading.Thread(target=self.client, daemon=True) for _ in range(self.arguments.connections)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self.over.set()
        for thread in threads:
            thread.join(self.arguments.timeout + 1)
        return self.result()

    def client(self):
        connection = Connection(self.arguments.port, self.arguments.fresh, self.arguments.timeout)
        while True:
            with self.lock:
                due = self.begun + self.next / self.arguments.rate
                self.next += 1
            if self.over.wait(max(0.0, due - time.monotonic())):
                break
            self.once(connection, due)
        connection.close()
        with self.lock:
            self.opened += connection.opened

    def once(self, connection, due):
        sent = time.monotonic()
        failure = None
        try:
            connection.get()
        except Failure as error:
            failure = str(error)
            pid = connection.pid
            connection.close()
        at = time.monotonic()
        with self.lock:
            self.counts["sent"] += 1
            self.counts["hung"] += at - sent >= HUNG_SECONDS
            if failure is None:
                # Rounded to about 2 digits above 10 ms: few different values, also after an hour.
                value = (at - due) * 1000
                self.latencies_ms[round(value, 1) if value < 10 else round(value)] += 1
                return
            self.counts["failed"] += 1
            self.counts[f"failed: {failure}"] += 1
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append(
                    {"sent": sent, "at": at, "why": failure, "pid": pid, "reused": connection.reused}
                )

    def result(self):
        with self.lock:
            why = {k.removeprefix("failed: "): v for k, v in self.counts.items() if k.startswith("failed: ")}
            return {
                "sent": self.counts["sent"],
                "failed": self.counts["failed"],
                "hung": self.counts["hung"],
                "why": why,
                "connections": self.opened,
                "seconds": time.monotonic() - self.begun,
                "latency_ms": percentiles(self.latencies_ms),
                "failures": self.failures,
            }


def percentiles(histogram):
    values, total, found, seen = sorted(histogram), sum(histogram.values()), {}, 0
    for value in values:
        seen += histogram[value]
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
            if name not in found and seen >= share * total:
                found[name] = value
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--fresh", action="store_true", help="a new connection for each request")
    parser.add_argument("--timeout", type=float, default=5)
    print(json.dumps(Load(parser.parse_args()).run()), flush=True)


if __name__ == "__main__":
    main()
