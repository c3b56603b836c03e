#!/usr/bin/env python3
"""How often the verdict of the built program is wrong where the truth is known.

    tests/error_rates.py            every cell, with the release build (`cargo build --release` first)
    SESSIONS=200000 tests/error_rates.py

Each cell plays 20,000 made-up sessions through `qbench verdict --rehearse` and holds how often they passed or failed
against what is promised. A count is held against its promise by its exact upper or lower bound at 99.99%: a true rate
at the promise fails a run of all cells once in some hundred runs, one that is a fifth above it nearly always.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("QBENCH", ROOT / "target/release/qbench"))
SESSIONS = int(os.environ.get("SESSIONS", "20000"))

# What is promised of every cell, as shares of sessions.
FAIL_OF_EQUALS = 0.01
PASS_AT_THE_LIMIT = 0.025
FAIL_AT_THE_LIMIT = 0.01
PASS_BEYOND = 0.01
FAIL_BEYOND = 0.99

KINDS = ["noise", "drift", "shared-spikes", "heavy-tails", "one-sided-spikes"]
# With these spikes the whole deviation of an epoch's change is 2% when the arms' own noise gives 1.8%.
TWO_PERCENT = {"noise": "2%", "drift": "2%", "heavy-tails": "2%", "shared-spikes": "1.8%"}

# Sessions of the baseline and of the candidate, and by how much sessions vary: of both sides, or of each.
STORED = {
    "1x1": ["0%", "1%", "2%", "4%"],
    "3x3": ["0%", "1%", "2%", "4%", "0%:4%"],
    "5x1": ["4%", "0%:4%"],
}


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not there: run `cargo build --release`")
    begun = time.monotonic()
    wrong = []
    print(f"{'cell':<58} {'PASS':>7} {'FAIL':>7} {'neither':>7} {'epochs':>6}")
    for name, arguments, promises in cells():
        counts = play(arguments)
        of = counts["sessions"]
        # Of the median alone, and of the whole: what one metric promises, all of them together promise too.
        for part in (counts["metrics"].get("p50", counts["overall"]), counts["overall"]):
            wrong += [f"{name}: {text}" for text in broken(part, of, promises)]
        show(name, counts)
    print(f"{len(wrong)} promises broken, {time.monotonic() - begun:.0f} s")
    for text in wrong:
        print(f"BROKEN: {text}")
    sys.exit(1 if wrong else 0)


def cells():
    at_the_limit = {"pass at most": PASS_AT_THE_LIMIT, "fail at most": FAIL_AT_THE_LIMIT}
    for kind in KINDS:
        yield f"{kind}, equal", ["--rehearse", kind], {"fail at most": FAIL_OF_EQUALS}
        yield f"{kind}, +5%", ["--rehearse", kind, "--effect", "5%"], at_the_limit
        yield f"{kind}, +7%", ["--rehearse", kind, "--effect", "7%"], {"pass at most": PASS_BEYOND}
    for kind, noise in TWO_PERCENT.items():
        arguments = ["--rehearse", kind, "--effect", "7%", "--noise", noise]
        yield f"{kind}, +7%, epochs vary by 2%", arguments, {"fail at least": FAIL_BEYOND}
    for damage in ["ragged", "truncated", "empty", "nan"]:
        yield f"equal, {damage}", ["--rehearse", "noise", "--damage", damage], {"pass at most": 0.0}
    for sessions, spreads in STORED.items():
        for spread in spreads:
            stored = ["--rehearse", "noise", "--stored", sessions, "--session-spread", spread]
            name = f"stored {sessions}, sessions vary by {spread}"
            yield f"{name}, equal", stored, {"fail at most": FAIL_OF_EQUALS}
            yield f"{name}, +5%", [*stored, "--effect", "5%"], at_the_limit
            if "4%" in spread:
                yield f"{name}, +7%", [*stored, "--effect", "7%"], {"pass at most": PASS_BEYOND}
    for damage in ["truncated", "empty", "nan"]:
        stored = ["--rehearse", "noise", "--stored", "3x3", "--damage", damage]
        yield f"stored 3x3, {damage}", stored, {"pass at most": 0.0}


def play(arguments):
    command = [str(PROGRAM), "verdict", *arguments, "--sessions", str(SESSIONS), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def broken(counts, of, promises):
    for promise, share in promises.items():
        verdict, how = promise.split(" at ")
        seen = counts[verdict]
        if how == "most" and (seen > 0 if share == 0.0 else at_least(seen, of, share) < 1e-4):
            yield f"{seen} of {of} {verdict.upper()}, at most {share:.1%} promised"
        if how == "least" and at_least(of - seen, of, 1 - share) < 1e-4:
            yield f"{seen} of {of} {verdict.upper()}, at least {share:.0%} promised"


def at_least(seen, of, share):
    """The probability of seeing so many or more when each comes with this probability."""
    log = [
        math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        + k * math.log(share) + (of - k) * math.log1p(-share)
        for k in range(seen)
    ]
    return 1 - math.fsum(math.exp(value) for value in log)


def show(name, counts):
    of, part = counts["sessions"], counts["metrics"].get("p50", counts["overall"])
    share = {verdict: f"{part[verdict] / of:.2%}" for verdict in ("pass", "fail", "inconclusive")}
    print(
        f"{name:<58} {share['pass']:>7} {share['fail']:>7} {share['inconclusive']:>7} {counts['mean_epochs']:>6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
