"""Compares the supervisor of qbench with PM2, both doing the same in turns.

    python3 benches/supervisor [--only reload,crash] [--rounds 3] [--pm2 PATH] [--program PATH] [--nodes PATH,PATH]

Needs Node and PM2 (found on PATH, or --pm2; `npm install pm2@7.0.4` in any folder); `wrk` for the cell `throughput`.
PM2 gets a PM2_HOME of its own. Everything happens on loopback, in a temporary folder, for a bounded time; what was
started is ended by its pid, also what a supervisor leaves behind.

Each cell is measured in rounds, the two in another order each round. A value of the table is the median over all rounds,
with the least and the greatest; the ratio is PM2's median by ours. PM2 is asked over its socket, which spares it the
start of its command line, except where the table says otherwise. The JSON file has every raw value.

On a machine that does other work, trust ratios and counts, not times.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

import cells_life
import cells_traffic
import machine
from bench import Bench

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ALL = {cell.name: cell for cell in cells_traffic.CELLS + cells_life.CELLS}


def main():
    options = arguments()
    orphanage = machine.Orphanage()
    rows = []
    with tempfile.TemporaryDirectory(prefix="qs") as folder:
        bench = Bench(options, folder, orphanage)
        for name in options.only:
            for node in options.nodes if ALL[name].for_each_node else options.nodes[:1]:
                values = measure(bench, ALL[name], node, options)
                rows.append({"cell": name, "node": node, "values": values})
                print_rows(rows[-1], options, several_nodes=len(options.nodes) > 1)
    for wrong in bench.wrong:
        print(f"wrong: {wrong}", file=sys.stderr)
    document = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "rows": rows, "wrong": bench.wrong}
    options.json.write_text(json.dumps(document, indent=1))
    print(f"\nraw values: {options.json}", file=sys.stderr)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ALL), help=", ".join(ALL))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", default=os.environ.get("QBENCH", str(ROOT / "target/release/qbench")))
    parser.add_argument("--subcommand", default="supervise")
    parser.add_argument("--pm2", default=shutil.which("pm2"))
    parser.add_argument("--nodes", type=lambda text: text.split(","), default=[shutil.which("node")])
    parser.add_argument("--arms", type=lambda text: text.split(","), default=["ours", "pm2"])
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("supervisor.json"))
    parser.add_argument("--reloads", type=int, default=50, help="of ours per round; PM2's at most 20")
    parser.add_argument("--crashes", type=int, default=30)
    parser.add_argument("--kills", type=int, default=30, help="of our brain per round; of PM2's daemon at most 3")
    parser.add_argument("--seconds", type=int, default=4, help="of throughput, and of rest before memory is looked at")
    options = parser.parse_args()
    options.python = sys.executable
    options.nodes = [os.path.realpath(node) for node in options.nodes if node]
    unknown = [name for name in options.only if name not in ALL]
    if unknown:
        parser.error(f"no such cell: {', '.join(unknown)}; there are {', '.join(ALL)}")
    if not options.nodes or ("pm2" in options.arms and not options.pm2):
        parser.error("Node or PM2 is not on PATH: --nodes, --pm2")
    if options.pm2:
        options.pm2 = os.path.realpath(options.pm2)
    return options


def measure(bench, cell, node, options):
    """The values of each arm: a list of what each round found."""
    values = {arm: [] for arm in options.arms}
    for number in range(min(options.rounds, cell.rounds_max)):
        order = options.arms if number % 2 == 0 else options.arms[::-1]
        for arm in order:
            begun = time.monotonic()
            try:
                with bench.supervisor(arm, node) as one:
                    values[arm].append(cell.measure(bench, one))
            except (OSError, RuntimeError, TimeoutError) as error:
                bench.wrong.append(f"{cell.name}, {arm}: {error!r}")
            seconds = time.monotonic() - begun
            print(f"  {cell.name} {arm} round {number + 1}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return values


def print_rows(row, options, several_nodes):
    if not print_rows.begun:
        print(f"| what | {' | '.join(options.arms)} | PM2 / ours |")
        print("|---" * (len(options.arms) + 2) + "|")
        print_rows.begun = True
    cell = ALL[row["cell"]]
    for metric in cell.metrics:
        found = {arm: pooled(row["values"][arm], metric) for arm in options.arms}
        shown = [show(found[arm], metric) for arm in options.arms]
        node = f" (`{row['node']}`)" if several_nodes and cell.for_each_node else ""
        print(f"| {metric.label}{node} | {' | '.join(shown)} | {ratio(found)} |", flush=True)


print_rows.begun = False


def pooled(rounds, metric):
    """All values of a metric: one a round, or several."""
    values = []
    for found in rounds:
        value = found.get(metric.key)
        values.extend(value if isinstance(value, list) else [value] if value is not None else [])
    return [value * metric.scale for value in values]


def show(values, metric):
    if not values:
        return "–"
    least, middle, most = min(values), statistics.median(values), max(values)
    text = f"{middle:,.{metric.digits}f}"
    if least != most:
        text += f" [{least:,.{metric.digits}f}–{most:,.{metric.digits}f}]"
    return f"{text} {metric.unit}".strip()


def ratio(found):
    ours, theirs = found.get("ours"), found.get("pm2")
    if not ours or not theirs or statistics.median(ours) == 0:
        return "–"
    return f"{statistics.median(theirs) / statistics.median(ours):.2f}×"


if __name__ == "__main__":
    main()
