"""The programs that are supervised, and how each is described to either supervisor."""

import dataclasses
import pathlib

# Answers after 5 ms, so that there always are requests in flight; has no signal handler, like most programs.
WEB = """
const http = require('http');
http.createServer((request, response) => {
  setTimeout(() => {
    response.setHeader('X-Pid', process.pid);
    response.end('ok\\n');
  }, 5);
}).listen(+process.env.PORT, '127.0.0.1');
"""

# Answers at once: for throughput.
FAST = """
const http = require('http');
http.createServer((request, response) => response.end('ok\\n')).listen(+process.env.PORT, '127.0.0.1');
"""

BROKEN = "process.exit(1);\n"

# Says when it passed its limit, by its own measure, grows on for a while, and then waits.
GROWING = """
const fs = require('fs');
const kept = [];
const limit = +process.env.LIMIT_BYTES;
const note = `${process.env.PASSED}.${process.pid}`;
const timer = setInterval(() => {
  kept.push(Buffer.alloc(4 << 20, 1));
  const { rss } = process.memoryUsage();
  if (rss > limit && !fs.existsSync(note)) fs.writeFileSync(note, String(Date.now() / 1000));
  // Well beyond, so that no collection of garbage brings it back below.
  if (rss < 1.5 * limit) return;
  clearInterval(timer);
  setInterval(() => {}, 1000);
}, 20);
"""

EXIT_LOG = """
for (let n = 0; n < 3000; n++) console.log(`line ${n} ${'x'.repeat(60)}`);
process.exit(0);
"""

# Each line has a number, and after each the count is noted elsewhere: a line that was written but is in no log is then
# known to be lost, also the last ones. The interim answer tells the client whose request it is before anything fails.
NUMBERED_WEB = """
const http = require('http');
const fs = require('fs');
if (process.env.RELEASE === 'broken') process.exit(1);
const run = `${process.pid}-${Date.now()}`;
const counter = fs.openSync(`${process.env.COUNTS}/${run}`, 'w');
let lines = 0;
function log() {
  process.stdout.write(`@${run} ${lines} ${'x'.repeat(lines % 200)} end\\n`);
  lines += 1;
  fs.writeSync(counter, String(lines).padEnd(12), 0);
}
http.createServer((request, response) => {
  response.socket.write(`HTTP/1.1 102 Processing\\r\\nX-Pid: ${process.pid}\\r\\n\\r\\n`);
  setTimeout(() => {
    log();
    response.setHeader('X-Pid', process.pid);
    response.setHeader('X-Release', process.env.RELEASE || '');
    response.end('ok\\n');
  }, 5);
}).listen(+process.env.PORT, '127.0.0.1');
"""

NUMBERED_PYTHON = """
import os, time
run = f"{os.getpid()}-{int(time.time() * 1000)}"
counter = os.open(os.environ["COUNTS"] + "/" + run, os.O_CREAT | os.O_WRONLY)
pause = float(os.environ.get("PAUSE", "0.002"))
lines = 0
while True:
    os.write(1, f"@{run} {lines} {'y' * (lines % 300)} end\\n".encode())
    lines += 1
    os.pwrite(counter, str(lines).ljust(12).encode(), 0)
    time.sleep(pause)
"""


@dataclasses.dataclass
class App:
    """A program and how it is to run; each supervisor translates it."""

    name: str
    program: str
    args: list
    cwd: pathlib.Path
    instances: int = 1
    cluster: bool = False
    port: int | None = None
    env: dict = dataclasses.field(default_factory=dict)
    max_memory: int | None = None
    automatic: bool = True
    rotate_bytes: int = 1 << 40
    kill_timeout_ms: int = 1600
    parallel: int = 2

    @property
    def out_log(self):
        return self.cwd / "logs" / f"{self.name}-out.log"


def node_app(folder, name, source, node, **options):
    """A Node program in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    path = folder / f"{name}.js"
    path.write_text(source)
    return App(name, node, [str(path)], folder, **options)


def sleeper(folder, instances, name="sleeper"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    return App(name, "/bin/sleep", ["100000"], folder, instances=instances)
