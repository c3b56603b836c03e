#!/usr/bin/env python3
"""HdrHistogram's own tools read what `qbench load` writes.

    tests/hdr_tools.py [--jar HdrHistogram.jar] [QBENCH]

Runs a load against a server of its own on 127.0.0.1, with --hdr-log, --hgrm and --format json, and reads the files
with the Python package `hdrhistogram`, which `tests/run --install` puts into target/test-tools/hdr. With --jar, Java's
HistogramLogProcessor has to print the same .hgrm from the log, to the letter. QBENCH is target/debug/qbench unless
given. Exit code: 0 all agree, 1 something does not.
"""

import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target" / "test-tools" / "hdr"
PACKAGE = "hdrhistogram==0.10.8"


def main(arguments):
    jar = None
    if arguments[:1] == ["--jar"]:
        jar, arguments = arguments[1], arguments[2:]
    qbench = pathlib.Path(arguments[0]) if arguments else ROOT / "target" / "debug" / "qbench"
    use_own_packages()
    with tempfile.TemporaryDirectory() as folder:
        log, hgrm = pathlib.Path(folder, "load.hlog"), pathlib.Path(folder, "load.hgrm")
        measured = load(qbench, log, hgrm)
        whole = read_log(log)
        same_figures(whole, measured["latency_from_intended_send"])
        same_distribution(whole, hgrm.read_text())
        if jar:
            same_as_java(jar, log, hgrm)
    print("HdrHistogram's tools agree")


def use_own_packages():
    """Looks for the package where tests/run puts it, and then where Python does."""
    sys.path.insert(0, str(TOOLS))
    try:
        import hdrh.log  # noqa: F401
    except ImportError:
        sys.exit(f"hdrhistogram is missing: python3 -m pip install --target {TOOLS} {PACKAGE}")


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


def load(qbench, log, hgrm):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    line = [qbench, "load", url, "--rate", "200", "--duration", "2500ms", "--format", "json"]
    done = subprocess.run([*line, "--hdr-log", log, "--hgrm", hgrm], capture_output=True, text=True, check=False)
    server.shutdown()
    expect(done.returncode == 0, f"qbench ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def read_log(path):
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    whole = HdrHistogram(100, 600_000_000_000, 3)
    reader = HistogramLogReader(str(path), whole)
    seconds = []
    while (interval := reader.get_next_interval_histogram()) is not None:
        seconds.append((interval.get_start_time_stamp(), interval.get_end_time_stamp()))
        whole.add(interval)
    reader.close()
    expect(len(seconds) >= 3, f"an interval for each second: {seconds}")
    start = reader.get_start_time_sec() * 1000
    expect(abs(seconds[0][0] - start) < 150, f"the first begins with the load: {seconds[0][0]} and {start}")
    for (_, end), (begin, _) in zip(seconds, seconds[1:]):
        expect(abs(begin - end) < 150, f"each begins where the last ended: {seconds}")
    return whole


def same_figures(whole, expected):
    expect(whole.get_total_count() == expected["count"], f"{whole.get_total_count()} of {expected['count']} requests")
    for percentile, name in [(50, "p50_s"), (90, "p90_s"), (99, "p99_s"), (100, "max_s")]:
        read, written = whole.get_value_at_percentile(percentile) / 1e9, expected[name]
        expect(abs(read - written) <= written * 0.001, f"{name}: read {read}, written {written}")


def same_distribution(whole, text):
    """Every row against the counts of the log: Python's own rows are at other percentiles than Java's."""
    recorded = [(item.value_iterated_to / 1e6, item.total_count_to_this_value) for item in whole.get_recorded_iterator()]
    total = whole.get_total_count()
    rows = [line.split() for line in text.splitlines()[2:] if not line.startswith("#")]
    expect(len(rows) > 10 and float(rows[-1][1]) == 1.0, f"rows up to 100%: {rows}")
    before = 0
    for value, quantile, count, *_ in rows:
        value, quantile, count = float(value), float(quantile), int(count)
        expect(any(count == at and abs(value - ms) < 0.001 for ms, at in recorded), f"{count} are up to {value} ms")
        smaller = max((at for _, at in recorded if at < count), default=0)
        expect(smaller / total <= quantile + 1e-9 and count / total >= quantile - 1e-9, f"{value} ms is at {quantile}")
        expect(count >= before, "counts rise")
        before = count
    expect(f"Total count    = {total:12}]" in text, "the footer has the number of requests")


def same_as_java(jar, log, hgrm):
    out = log.with_suffix(".java")
    line = ["java", "-cp", jar, "org.HdrHistogram.HistogramLogProcessor", "-i", log, "-o", out]
    subprocess.run(line, check=True, capture_output=True)
    # Java puts two remarks before the distribution: the range of the log, and when it began.
    java = "".join(out.with_name(out.name + ".hgrm").read_text().splitlines(keepends=True)[2:])
    expect(java == hgrm.read_text(), f"the .hgrm is another than Java's\n{java}\n{hgrm.read_text()}")


def expect(holds, message):
    if not holds:
        print(f"FAILED: {message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
