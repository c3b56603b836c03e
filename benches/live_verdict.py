#!/usr/bin/env python3
"""How often the verdict is right on this machine, where the truth is known: whole sessions of `scenarios/spin`.

    benches/live_verdict.py [--equal 20] [--slower 10] [--stored 10] [--between COMMAND]

Needs the release build (`cargo build --release`). Three kinds of sessions, everything restarted in each:
  equal    `validate bare same`: the same thing twice; a FAIL is wrong
  slower   `validate bare slower`: 10% slower; a PASS is wrong
  stored   `collect` again and again, each record compared with the one before; a FAIL is wrong. Between two of them
           COMMAND is run (by default a second of work on every processor), as other work would come between.
Prints a line per session and the table, in Markdown.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("QBENCH", ROOT / "target/release/qbench"))
BUSY = "for _ in $(seq $(nproc)); do timeout 1 sh -c 'while :; do :; done' & done; wait"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal", type=int, default=20)
    parser.add_argument("--slower", type=int, default=10)
    parser.add_argument("--stored", type=int, default=10)
    parser.add_argument("--between", default=BUSY)
    parser.add_argument("--window", default="2s")
    arguments = parser.parse_args()
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not there: run `cargo build --release`")
    with tempfile.TemporaryDirectory(prefix="qbl") as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(ROOT / "scenarios/spin", folder / "spin")
        run = Runner(folder / "spin", arguments.window)
        rows = [
            ("equal", [run.validate("same") for _ in range(arguments.equal)]),
            ("10% slower", [run.validate("slower") for _ in range(arguments.slower)]),
            ("stored, equal", run.stored(arguments.stored, arguments.between)),
        ]
    table(rows)


class Runner:
    def __init__(self, folder, window):
        self.folder, self.window = folder, window

    def qbench(self, *arguments):
        command = [str(PROGRAM), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1, 4, 5):
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        return done

    def validate(self, candidate):
        begun = time.monotonic()
        done = self.qbench("validate", "bare", candidate, "--window", self.window, "--format", "json")
        return outcome(candidate, json.loads(done.stdout), time.monotonic() - begun)

    def stored(self, comparisons, between):
        outcomes, before = [], None
        for _ in range(comparisons + 1 if comparisons else 0):
            begun = time.monotonic()
            done = self.qbench("collect", "bare", "--window", self.window, "--format", "json")
            identifier = json.loads(done.stdout)["session"]["id"]
            path = self.folder / f"baselines/bare/spin-{identifier}.json"
            if before:
                compared = self.qbench("compare", str(before), str(path), "--format", "json")
                outcomes.append(outcome("stored", json.loads(compared.stdout), time.monotonic() - begun))
            before = path
            subprocess.run(["sh", "-c", between], check=False)
        return outcomes


Outcome = collections.namedtuple("Outcome", "verdict epochs dropped change interval seconds")


def outcome(name, document, seconds):
    comparison = document["comparison"]
    p50 = next((metric for metric in comparison["metrics"] if metric["metric"] == "p50"), {"evidence": {}})
    evidence = p50["evidence"]
    change, interval = evidence.get("estimate"), (evidence.get("low"), evidence.get("high"))
    epochs, dropped = comparison["epochs"]["measured"], comparison["epochs"]["dropped"]
    found = Outcome(comparison["verdict"], epochs, dropped, change, interval, seconds)
    shown = f"{change:+.2%} [{interval[0]:+.2%}, {interval[1]:+.2%}]" if change is not None else "no interval"
    print(f"{name}: {found.verdict}, p50 {shown}, {epochs} epochs ({dropped} dropped), {seconds:.0f} s", flush=True)
    if found.verdict in ("INVALID", "INCOMPARABLE"):
        print("  " + "; ".join(comparison["reasons"]), flush=True)
    return found


def table(rows):
    print("\n| truth | sessions | PASS | FAIL | INCONCLUSIVE | INVALID | p50, median and range | epochs | minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, outcomes in rows:
        if not outcomes:
            continue
        verdicts = collections.Counter(one.verdict for one in outcomes)
        counts = [str(verdicts[name]) for name in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")]
        changes = sorted(one.change for one in outcomes if one.change is not None)
        middle = f"{changes[len(changes) // 2]:+.2%} ({changes[0]:+.2%} to {changes[-1]:+.2%})" if changes else "–"
        epochs = sorted(one.epochs for one in outcomes)
        minutes = sum(one.seconds for one in outcomes) / 60
        span = f"{epochs[len(epochs) // 2]} ({epochs[0]}–{epochs[-1]})"
        print(f"| {name} | {len(outcomes)} | {' | '.join(counts)} | {middle} | {span} | {minutes:.1f} |")


if __name__ == "__main__":
    main()
