#!/usr/bin/env python3
"""tests/programs/console.py: run a page of documentation word for word.

    console.py PAGE

It runs in the current directory, with the programs that are in PATH.

In blocks fenced as ```console a line that begins with "$ " is a command, "> " continues it, and the
lines up to the next command are what it prints, standard error with it. All commands run in one bash,
each must end with status 0. In what is expected "..." stands for anything in a line; alone in a line
it stands for any number of lines. What runs still is ended at the end, by its process group.

CONSOLE_SECONDS (300) is how long all of it may take.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

BEGIN, END = "\x01begin ", "\x02end "


@dataclass
class Command:
    line: int
    words: str
    expected: list = field(default_factory=list)


def read_page(text):
    """The commands of a page."""
    commands, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
            continue
        if not inside:
            continue
        if line.startswith("$ "):
            commands.append(Command(number, line[2:]))
        elif not commands:
            raise ValueError(f"line {number}: output before any command")
        elif line.startswith("> ") and not commands[-1].expected:
            commands[-1].words += "\n" + line[2:]
        else:
            commands[-1].expected.append(line)
    return commands


def line_matches(expected, found):
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, found, re.DOTALL) is not None


def matches(expected, found):
    """Lines against lines; both lists are short."""
    if not expected:
        return not found
    if expected[0] == "...":
        return any(matches(expected[1:], found[skip:]) for skip in range(len(found) + 1))
    return bool(found) and line_matches(expected[0], found[0]) and matches(expected[1:], found[1:])


def make_script(commands):
    lines = []
    for number, command in enumerate(commands):
        lines += [f"printf '\\001begin {number}\\n'", command.words,
                  f"printf '\\n\\002end {number} %d\\n' $?"]
    return "\n".join(lines) + "\n"


def run(commands, seconds):
    """What bash prints, and whether it came to an end."""
    with tempfile.NamedTemporaryFile("w", prefix="console.", suffix=".sh") as script, \
            tempfile.TemporaryFile() as out:
        script.write(make_script(commands))
        script.flush()
        bash = subprocess.Popen(["bash", script.name], stdin=subprocess.DEVNULL, stdout=out,
                                stderr=subprocess.STDOUT, start_new_session=True)
        try:
            bash.wait(seconds)
            in_time = True
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            try:
                os.killpg(bash.pid, signal.SIGTERM)  # a session of ours, with what it started
            except ProcessLookupError:
                pass
            bash.wait()
        out.seek(0)
        return out.read().decode(errors="replace"), in_time


def judge(commands, text):
    """Complaints about the commands, in order."""
    complaints = []
    for number, command in enumerate(commands):
        begin = text.find(f"{BEGIN}{number}\n")
        end = re.search(f"\n{END}{number} (\\d+)\n", text)
        place = f"line {command.line}: $ {command.words.splitlines()[0]}"
        if begin < 0 or not end:
            complaints.append(f"{place}\n  it did not come to an end: "
                              f"{text[max(begin, 0):][:2000]}")
            break
        found = text[begin + len(f"{BEGIN}{number}\n"):end.start()]
        lines = found.split("\n")
        if lines[-1] == "":  # the end of the last line, not a line
            lines.pop()
        if int(end.group(1)) != 0:
            complaints.append(f"{place}\n  status {end.group(1)}")
        if not matches(command.expected, lines):
            complaints.append(f"{place}\n  expected:\n" +
                              "".join(f"    {line}\n" for line in command.expected) +
                              "  printed:\n" + "".join(f"    {line}\n" for line in lines))
    return complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("page")
    options = parser.parse_args()
    commands = read_page(pathlib.Path(options.page).read_text(encoding="utf-8"))
    text, in_time = run(commands, float(os.environ.get("CONSOLE_SECONDS", "300")))
    complaints = judge(commands, text)
    for complaint in complaints:
        print(f"FAIL: {options.page}, {complaint}", file=sys.stderr)
    if not in_time:
        print("FAIL: not done in time", file=sys.stderr)
    print(f"{len(commands)} commands, {len(complaints)} not as the page says")
    return 1 if complaints or not in_time else 0


if __name__ == "__main__":
    sys.exit(main())
