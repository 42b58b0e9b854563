"""Write the parts of the reference that the code itself knows: commands, flags, settings.

A part stands in its page between ``<!-- made: NAME -->`` and ``<!-- end -->``. It is checked in, to
be read without building anything; `tests/test_reference.py` says when it is out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from runner.cli.commands import app
from runner.cli.doctoring import Setting, _shown
from runner.knobs import KNOBS
from runner.settings import Settings

DOCS = Path(__file__).resolve().parents[1]
COMMANDS = tuple(name for name in app if not name.startswith("-"))
_MADE = re.compile(r"(<!-- made: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write() -> list[str]:
    """Bring every made part up to date, and return the names of the pages that were not."""
    stale = []
    for path in sorted(DOCS.glob("*.md")):
        told = path.read_text(encoding="utf-8")
        made = renewed(told)
        if made != told:
            path.write_text(made, encoding="utf-8")
            stale.append(path.name)
    return stale


def renewed(page: str) -> str:
    """Return *page* with its made parts as they have to be now."""
    return _MADE.sub(lambda found: f"{found[1]}\n{_PARTS[found[2]]()}\n{found[3]}", page)


# ---------------------------------------------------------------------------------- commands


def commands() -> str:
    """Return a section for each command: what it does, how it is called, what it takes."""
    return "\n".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    arguments = _arguments(name)
    words = [a for a in arguments if not _flags(a)]
    flags = [a for a in arguments if _flags(a)]
    what, example = _promise(name)
    usage = " ".join(["syncshift", name, *(_word(word) for word in words)])
    needed = "".join(f" {_flags(a)[0]} {_kind(a)}" for a in flags if a.required)
    lines = [f"## {name}\n", f"```text\n{usage}{needed} [flags]\n```\n", f"{what}\n"]
    if words:
        lines.append(
            _table(("Word", "Is"), [(f"`{_word(a)}`".replace("|", "\\|"), _help(a)) for a in words])
        )
    for group, members in _by_group(flags).items():
        rows = [(_spelled(a), _help(a)) for a in members]
        lines.append(_table((group, ""), rows))
    if example:
        lines.append(f"Example: `{example}`\n")
    return "\n".join(lines)


def _arguments(name: str) -> list[Any]:
    """Return what a command takes, less the groups that only hold flags together."""
    found = app[name].assemble_argument_collection(parse_docstring=True)
    return [argument for argument in found if not str(argument.names[0]).startswith("*")]


def _promise(name: str) -> tuple[str, str]:
    """Return what a command's help says of it, and its example."""
    told = inspect.cleandoc(app[name].default_command.__doc__ or "")
    text = re.split(r"\n\s*Parameters\n\s*-+\n", told)[0]
    before, _, example = text.partition("\nExample: ")
    return _marked(before.strip()), " ".join(example.split())


def _flags(argument: Any) -> list[str]:
    return [name for name in argument.names if name.startswith("-")]


def _word(argument: Any) -> str:
    choices = _choices(argument.hint)
    return "|".join(choices) if choices else str(argument.names[0]).upper()


def _spelled(argument: Any) -> str:
    kind = _kind(argument)
    return ", ".join(f"`{name}{' ' + kind if kind else ''}`" for name in _flags(argument))


def _kind(argument: Any) -> str:
    """Return what stands for the value of a flag; nothing for one that takes none."""
    hint = str(argument.hint)
    if bool in _alternatives(argument.hint):
        return ""
    if choices := _choices(argument.hint):
        return "\\|".join(choices)
    if "float" in hint or "int" in hint:
        return "N"
    return "TEXT ..." if get_origin(argument.hint) is tuple or "tuple" in hint else "TEXT"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) or (hint,)


def _choices(hint: Any) -> tuple[str, ...]:
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return tuple(map(str, get_args(part)))
    return ()


def _help(argument: Any) -> str:
    text = _marked(" ".join((argument.parameter.help or "").split()))
    default = argument.field_info.default
    shown = argument.parameter.show_default is not False and not argument.required
    if shown and not any(default is none for none in (None, (), False, inspect.Parameter.empty)):
        text = f"{text.rstrip('.')} ({default})."
    return text + (" Required." if argument.required and _flags(argument) else "")


def _marked(text: str) -> str:
    """Return *text* with flags, variables and names of files set as code."""
    names = r"(?<![\w`/.-])(--[a-z][a-z-]*|[A-Z]+(?:_[A-Z]+)+|[\w-]+\.(?:csv|toml))(?![\w`])"
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(p if p.startswith("`") else re.sub(names, r"`\1`", p) for p in parts)


def _by_group(arguments: list[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    order: dict[str, Any] = {}
    for argument in arguments:
        group = argument.parameter.group[0] if argument.parameter.group else None
        name = str(getattr(group, "name", "") or "Flag")
        name = "Flag" if name == "Parameters" else name
        order[name] = str(getattr(group, "sort_key", None) or 9)
        groups.setdefault(name, []).append(argument)
    return {name: groups[name] for name in sorted(groups, key=lambda n: order[n])}


# ---------------------------------------------------------------------------------- settings


def settings() -> str:
    """Return the table of settings: what each is called, and what holds when nobody says."""
    helps = _helps()
    rows = []
    for name, knob in KNOBS.items():
        variable = f"`{knob.variable}`" if knob.variable else ""
        if name == "signing-key-file":
            variable += ", or the key itself in `PARAGON_SIGNING_KEY`"
        rows.append((f"`--{name}`", variable or "-", _default(knob.field) or "-", helps[name]))
    return _table(("Flag", "Variable", "Default", "Is"), rows)


def _helps() -> dict[str, str]:
    """Return what the help says of each setting, without what other columns tell."""
    found = {}
    for argument in _arguments("run"):
        for flag in _flags(argument):
            text = " ".join((argument.parameter.help or "").split())
            found[flag.removeprefix("--")] = _marked(re.sub(r" \([^()]*\)(?=\.|$)", "", text))
    return found


def _default(field: str) -> str:
    if field == "runs_dir":
        return "`./runs`"
    if field not in Settings.__struct_fields__:
        return ""
    value = getattr(Settings(), field)
    unit = "s" if field.endswith("_s") else None
    told = _shown(Setting(field, value, "default", unit))
    by_hand = {
        "audience": "`useparagon.com/PROJECT-ID`",
        "until": "`resynced` for rows that start a re-sync, `accepted` for others",
        "max_resyncs": "`50` where rows are followed to `resynced`, else `none`",
        "gates": "`errored=0`",
    }
    return by_hand.get(field) or {"-": "", "no": "off", "yes": "on"}.get(told, f"`{told}`")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(cells)} |".replace("|  ", "| ")

    ruled = line(tuple("---" for _ in head))
    return "\n".join([line(head), ruled, *map(line, rows)]) + "\n"


_PARTS: dict[str, Callable[[], str]] = {"commands": commands, "settings": settings}
