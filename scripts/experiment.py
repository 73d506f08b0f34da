"""What the experiments of scripts/ablation.py and scripts/networks.py share: running a stage, and keeping results as they come."""

import json
import subprocess
import sys


class Results:
    """Lines of JSON, a result each: what is there is not done again."""

    def __init__(self, path):
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, key):
        return any(all(line[name] == value for name, value in key.items()) for line in self.lines)

    def add(self, line):
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def call(command):
    """Runs a stage; what it told is shown where it failed, and its exit code is ours."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(command)}\n{done.stderr[done.stderr.find('error: '):]}", file=sys.stderr)
        sys.exit(done.returncode)
