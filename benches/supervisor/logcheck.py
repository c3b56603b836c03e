"""Whether numbered lines (see `apps`) are in the logs: each once, whole and in order."""

import gzip
import pathlib
import re

LINE = re.compile(rb"@(\d+-\d+) (\d+) ([xy]*) end")
WIDTH = {b"x": 200, b"y": 300}


class Check:
    def __init__(self):
        self.runs = {}
        self.torn = []
        self.duplicated = self.reordered = self.missing = self.lines = 0

    def of(self, logs, app, counts):
        """Reads all files of an app, those put aside included, and compares them with the counts."""
        names = pathlib.Path(logs).glob(f"{app}-out*")
        # What was put aside first is the oldest; the file being written comes last.
        for path in sorted(names, key=lambda path: (path.name == f"{app}-out.log", path.stat().st_mtime_ns)):
            opened = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")
            with opened as file:
                for line in file:
                    self.line(line)
        for count in pathlib.Path(counts).iterdir():
            self.compare(count.name.encode(), int(count.read_text().strip() or 0))
        return self

    def line(self, line):
        self.lines += 1
        found = LINE.fullmatch(line.rstrip(b"\n")) if line.endswith(b"\n") else None
        if not found or not is_whole(found[3], int(found[2])):
            self.torn.append(line[:300])
            return
        seen = self.runs.setdefault(found[1], bytearray())
        number = int(found[2])
        self.reordered += number < len(seen) and not seen[number]
        seen.extend(bytes(max(0, number + 1 - len(seen))))
        self.duplicated += seen[number]
        seen[number] = 1

    def compare(self, run, written):
        seen = self.runs.pop(run, bytearray())
        self.missing += seen.count(0) + max(0, written - len(seen))

    def summary(self):
        return {
            "lines": self.lines,
            "missing": self.missing,
            "duplicated": self.duplicated,
            "torn": len(self.torn),
            "reordered": self.reordered,
        }


def is_whole(padding, number):
    if not padding:
        return any(number % width == 0 for width in WIDTH.values())
    return len(padding) == number % WIDTH[padding[:1]]
