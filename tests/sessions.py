"""What the documents show at a prompt, given for real: page by page, in a shell on a terminal.

The convention: a block fenced as ``console`` is run. A line that begins with ``$`` is a command,
one that begins with ``>`` goes on with it, and every other line is what must be shown, in that
order; numbers may differ, and ``…`` stands for anything. All blocks of a page are one session in
one folder. A command ends with 0, unless the next one asks with ``echo $?``. A question is answered
as the page shows it, else with yes. ``^C`` is pressed once all before it is there.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import msgspec

from tests.commands import INTERRUPTS, Stage, Terminal, until

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ENDED = re.compile(r"\x1e(\d+) (\d+)\x1e")
_TYPED = re.compile(r"^(Send up to .*(?:go on:|\[y/N\])) (\S+)$")
_ASKED = re.compile(
    r"Send up to ([\d,]+) changes\? (Type the number of re-syncs to go on:|\[y/N\])"
)
_SIZE = (50, 150)
_PATIENCE_S = 100.0
# A command that takes a port takes a free one: the one that is shown may be somebody else's.
_BEFORE = """
trap : INT
syncshift() {
  if [ "$1" = simulate ]; then shift; set -- simulate --port 0 "$@"; fi
  command syncshift "$@"
}
"""


class Shown(msgspec.Struct, frozen=True):
    """A command as a page shows it, and what the page shows of its output."""

    command: str
    lines: list[str]


def session(page: Path) -> list[Shown]:
    """Return the commands of a page, in order."""
    found: list[Shown] = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Shown(line[2:], []))
            elif line.startswith(">") and not found[-1].lines:
                found[-1] = Shown(f"{found[-1].command}\n{line[2:]}", [])
            elif line.strip():
                found[-1].lines.append(line)
    return found


def play(stage: Stage, shown: list[Shown], *, before: str) -> None:
    """Give every command in a shell of *stage*, and hold what comes against what is shown."""
    script = stage.home / ".session.sh"
    script.write_text(_script(shown, before), encoding="utf-8")
    terminal = _shell(stage, script)
    answered, pressed = 0, -1
    typed = [found[2] for one in shown for line in one.lines if (found := _TYPED.match(line))]

    def there() -> bool:
        nonlocal answered, pressed
        text = terminal.shown
        questions = _ASKED.findall(text)
        if len(questions) > answered:
            most, how = questions[answered]
            terminal.type(f"{_answer(typed, most, how)}\n")
            answered += 1
        at_work = _at_work(text)
        if pressed < at_work < len(shown) and "^C" in shown[at_work].lines:
            lines = shown[at_work].lines
            first = lines[: lines.index("^C")]
            output = _outputs(text)[-1]
            if output.strip() and not _missing(first, output):
                terminal.type("\x03")
                pressed = at_work
        return at_work == len(shown) or terminal.code is not None

    try:
        until(there, "the session has ended", patience_s=_PATIENCE_S)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{_end_of(terminal.shown)}") from None
    finally:
        # What was left in the background goes with its shell, whose group it is in.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(terminal.pid, signal.SIGKILL)
    terminal.wait()
    _compare(shown, terminal.shown)


def _answer(typed: list[str], most: str, how: str) -> str:
    if typed:
        return typed.pop(0)
    return most if how.startswith("Type") else "y"


def _at_work(text: str) -> int:
    """Return how many commands have ended."""
    return len(_ENDED.findall(text)) - 1


def _outputs(text: str) -> list[str]:
    """Return what each command printed; the first part is the preparation's."""
    return re.split(r"\x1e\d+ \d+\x1e", text)


def _script(shown: list[Shown], before: str) -> str:
    lines = [_BEFORE, before, "\nprintf '\\036%s %s\\036' 0 0"]
    for number, one in enumerate(shown, start=1):
        lines.append(one.command)
        lines.append(f"__code=$?; printf '\\036%s %s\\036' {number} $__code")
        if background := re.search(r"> (\S+) &$", one.command):
            lines.append(_until(f'[ "$(grep -c export {background[1]})" = 3 ]'))
        elif background := re.search(r"--run-id (\S+) .*&$", one.command):
            lines.append(_until(f"[ -S runs/{background[1]}/control.sock ]"))
        lines.append("(exit $__code)")
    return "\n".join(lines) + "\n"


def _until(condition: str) -> str:
    """Return shell that waits, as a person would, for what was started in the background."""
    return f"until {condition}; do command -p sleep 0.02; done"


def _shell(stage: Stage, script: Path) -> Terminal:
    keys, screen = pty.openpty()
    termios.tcsetwinsize(screen, _SIZE)
    name = os.ttyname(screen)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{stage.environment['PATH']}"
    process = subprocess.Popen(
        ["/bin/bash", "-c", f"exec <{name} >{name} 2>&1; source {script}"],
        stdin=subprocess.DEVNULL,
        stdout=screen,
        stderr=screen,
        env={**stage.environment, "TERM": "xterm-256color", "PATH": programs},
        cwd=stage.home,
        start_new_session=True,
    )
    os.close(screen)
    nothing = stage.home / ".nothing"
    nothing.touch()
    terminal = Terminal(process, keys, nothing)
    stage.take_in(terminal)
    return terminal


# ----------------------------------------------------------------------------------- what is shown


def _compare(shown: list[Shown], text: str) -> None:
    outputs = _outputs(text)
    codes = [int(code) for _, code in _ENDED.findall(text)]
    assert codes[:1] == [0], f"the preparation failed:\n{_end_of(text)}"
    for number, one in enumerate(shown, start=1):
        assert number < len(codes), f"the shell ended before: {one.command}\n{_end_of(text)}"
        asks = number < len(shown) and shown[number].command == "echo $?"
        cut_short = "^C" in one.lines and codes[number] == INTERRUPTS[signal.SIGINT]
        assert codes[number] == 0 or asks or cut_short, (
            f"{one.command}: exit code {codes[number]}\n{_end_of(outputs[number])}"
        )
        missing = _missing([line for line in one.lines if line != "^C"], outputs[number])
        exact = one.command != "echo $?" or one.lines == outputs[number].split()
        told = f"not shown, or not in this order: {missing}\n{_end_of(outputs[number])}"
        assert (exact, missing) == (True, []), f"{one.command}: {told}"


def _end_of(text: str) -> str:
    return "\n".join(text.splitlines()[-30:])


def _missing(lines: list[str], output: str) -> list[str]:
    """Return those of *lines* that *output* does not show, each behind the one before."""
    rest = iter([_equal(line) for line in re.split(r"[\n\r]+", output)])
    return [line for line in lines if not any(re.search(_pattern(line), there) for there in rest)]


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part.strip()) for part in _equal(line).split("…"))


def _equal(line: str) -> str:
    return " ".join(re.sub(r"\d[\d,.:TZ-]*", "N", line).split())
