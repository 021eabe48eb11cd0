"""Walk through a fresh clone as a new user would, and print what was typed, how long it took and what was seen.

    git clone URL walk && python scripts/first_hours.py walk            # make setup first, then every step; Markdown
    python scripts/first_hours.py walk --no-setup --only "wrong inputs"  # an installed clone; the steps of one part

Steps are in first_hours_steps.py. Each is a line of a shell; it fails where its exit code or what it says is other than
expected, a traceback appears, or it uses a command, an option or a key that no page of the documentation names. Exit 1
where one fails. Seconds of the CPU are those of all its processes: what they would take on an idle core.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from first_hours_steps import FILES, PARTS, VARIABLES, Step

LIMIT_S = 1200
_WORD = re.compile(r"^(?:\+?([a-z][\w.]*)=|(--?[a-z][\w-]*))")


@dataclass(frozen=True)
class Outcome:
    """What came of a step."""

    step: Step
    seconds: float
    cpu: float
    printed: str
    faults: list[str]

    def line(self) -> str:
        """Return a row of the table."""
        seen = (
            self.step.seen
            + (f": {self.printed.strip()}" if self.step.prints else "")
            + "".join(f" **{fault}**" for fault in self.faults)
        )
        return f"| `{self.step.command.replace('|', chr(92) + '|')}` | {self.seconds:.1f} | {self.cpu:.1f} | {seen} |"


def main() -> int:
    """Walk and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("--no-setup", action="store_true", help="the clone is installed already")
    parser.add_argument("--only", action="append", help="a part by its name; several: several times")
    given = parser.parse_args()
    clone = given.clone.resolve()
    pages = [clone / "README.md", clone / "data" / "README.md", *sorted((clone / "docs").glob("*.md"))]
    known = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.name != "first_hours.md")
    failed = total = 0
    print("\n".join(["With", "", "```bash", *(f'{name}="{words}"' for name, words in VARIABLES.items()), "```"]))
    for part, steps in PARTS.items():
        if (given.only and part not in given.only) or (given.no_setup and part == "install"):
            continue
        for name, text in FILES.get(part, {}).items():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_text(text, encoding="utf-8")
        print(
            f"\n**{part[0].upper()}{part[1:]}**\n\n| typed | seconds | of the CPU | seen |\n|---|---|---|---|",
            flush=True,
        )
        for step in steps:
            outcome = walk(step, clone, known)
            failed, total = failed + bool(outcome.faults), total + 1
            print(outcome.line(), flush=True)
    print(f"\n{total} steps, {failed} went wrong.")
    return 1 if failed else 0


def walk(step: Step, clone: Path, known: str) -> Outcome:
    """Run one step in the clone."""
    environment = {**os.environ, "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", **VARIABLES}
    began, used = time.monotonic(), _cpu_seconds()
    if step.tab:
        code, out, err = 0, press_tab(step.command, environment, clone), ""
    else:
        code, out, err = run(step, environment, clone)
    seconds, cpu = time.monotonic() - began, _cpu_seconds() - used
    faults = [] if code == step.code else [f"exit code {code} instead of {step.code}: {(err or out)[-300:]!r}"]
    if "Traceback" in out + err:
        faults.append("a traceback")
    where = err if step.code and not step.out else out if step.out else out + err
    if step.says and not re.search(step.says, where):
        faults.append(f"not said: {step.says!r} in {where[-300:]!r}")
    if step.code == 2 and "hint:" not in err:
        faults.append("no hint")
    if not step.is_wrong and (words := undocumented(step.command, known)):
        faults.append(f"undocumented: {', '.join(words)}")
    return Outcome(step, seconds, cpu, out, faults)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(step: Step, environment: dict[str, str], clone: Path) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a line of bash; Ctrl-C is pressed once a log file grows."""
    child = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {'exec ' if step.interrupt else ''}{step.command}"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = clone / step.interrupt if step.interrupt else None
    size = log.stat().st_size if log is not None and log.is_file() else 0
    end = time.monotonic() + LIMIT_S
    while log is not None and child.poll() is None and time.monotonic() < end:
        if log.is_file() and log.stat().st_size > size:
            child.send_signal(signal.SIGINT)
            break
        time.sleep(0.05)
    try:
        out, err = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        err += f"\nno end in {LIMIT_S} s"
    return child.returncode, out, err


def press_tab(line: str, environment: dict[str, str], clone: Path) -> str:
    """Return what a shell makes of a line and Tab: `SHELL: LINE<Tab>`."""
    shell, _, typed = line.partition(": ")
    argv = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(clone)
        os.execvpe(argv[0], argv, {**environment, "PS1": "$ "})

    def until(marker: str) -> str:
        text, end = "", time.monotonic() + 30
        while marker not in text and time.monotonic() < end:
            if select.select([fd], [], [], 0.2)[0]:
                text += os.read(fd, 65536).decode(errors="replace")
        return text

    os.write(fd, f'eval "$(vsgrpo completion {shell})"; echo READY-$((1+1))\n'.encode())
    until("READY-2")
    os.write(fd, f"{typed.removesuffix('<Tab>')}\t\x01printf '<%s %s %s %s>\\n' \n".encode())
    shown = until("\n<")
    shown += "" if ">" in shown.rpartition("\n<")[2] else until(">")
    os.close(fd)
    os.waitpid(pid, 0)
    return " ".join(shown.rpartition("\n<")[2].partition(">")[0].split())


def undocumented(command: str, known: str) -> list[str]:
    """Return commands, options and keys of a line that no page names."""
    for name, words in VARIABLES.items():
        command = command.replace(f"${name}", words)
    found = []
    for name, rest in re.findall(r"\bvsgrpo (?:-q |-v )?([a-z-]+)?((?:(?![|;&]).)*)", command):
        words = [f"vsgrpo {name}"] if name and not name.startswith("-") else []
        for word in rest.split():
            if match := _WORD.match(word.strip("'\"")):
                words.append(match[2] or f"{match[1]}=")
        found += [word for word in words if not _is_named(word, known)]
    return list(dict.fromkeys(found))


def _is_named(word: str, known: str) -> bool:
    """Return whether the documentation names a word: `KEY=` also as a row of docs/configuration.md."""
    key = word.removesuffix("=")
    return word in known or (word.endswith("=") and (f"`{key}`" in known or f"| {key} " in known))


if __name__ == "__main__":
    sys.exit(main())
