"""`completion`: the script that lets a shell complete Syncshift's words, and what it asks for."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_args

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.completion import CompletionContext

_NEWEST = 200
"""So many runs are offered: a shell shows no more."""


def _runs(context: CompletionContext) -> list[tuple[str, str]]:
    """Return the newest runs of the present runs folder that begin with what was typed."""
    import msgspec

    from runner.folder import Folder
    from runner.settings import resolve

    runs_dir = context.get("runs_dir")
    flags = {"runs-dir": runs_dir.raw if runs_dir is not None and runs_dir.provided else None}
    resolved = resolve(flags, environment=os.environ, directory=Path.cwd())
    found = []
    for folder in Folder.all(resolved.places.runs_dir):
        if folder.run_id.startswith(context.incomplete):
            created, told = "", "cannot be read"
            # One that is damaged hides no other; a manifest is not looked at closely here.
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                manifest = msgspec.json.decode((folder.path / "run.json").read_bytes())
                told = f"{manifest['job']}, {manifest['state']}"
                created = str(manifest["created"])
            found.append((created, folder.run_id, told))
    return [(run_id, told) for _, run_id, told in sorted(found, reverse=True)[:_NEWEST]]


def _jobs(context: CompletionContext) -> list[tuple[str, str]]:
    """Return the jobs that there are, each with the first line of its help."""
    from runner.job import available, help_text

    return [
        (name, help_text(job).partition("\n")[0].rstrip("."))
        for name, job in sorted(available().items())
        if name.startswith(context.incomplete)
    ]


RunName: TypeAlias = Annotated[str, Parameter(completer=_runs)]
"""The name of a run; a shell offers those that there are."""
JobName: TypeAlias = Annotated[str, Parameter(completer=_jobs)]
"""The name of a job; likewise."""


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that completes commands, flags, jobs and runs in your shell.

    bash: syncshift completion bash > ~/.local/share/bash-completion/completions/syncshift;
    zsh: syncshift completion zsh > _syncshift in a folder of your fpath; fish: syncshift
    completion fish > ~/.config/fish/completions/syncshift.fish

    Example: syncshift completion bash > ~/.local/share/bash-completion/completions/syncshift

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    from runner.cli.commands import app

    script = app.generate_completion(prog_name="syncshift", shell=shell)
    for flag in _switches(app):
        script = _WITHOUT_VALUE[shell](script, flag)
    sys.stdout.write(_WITH_FILES[shell](script))
    return 0


def _switches(app: App) -> set[str]:
    """Return the flags that take no value but may be left to a file of settings.

    The parser takes them alone; the scripts that it makes would wait for a value.
    """
    return {
        name.removeprefix("--")
        for command in app
        if not command.startswith("-")
        for argument in app[command].assemble_argument_collection()
        if bool in get_args(argument.hint)
        for name in argument.names
        if name.startswith("--")
    }


def _switch_in_bash(script: str, flag: str) -> str:
    script = _without_value(script, flag)
    return re.sub(rf"\n +--{flag}\)\n +COMPREPLY=\(\)\n +;;", "", script)


def _switch_in_zsh(script: str, flag: str) -> str:
    return re.sub(rf"'\*--{flag}(\[.*\]):{flag}'", rf"'--{flag}\1'", script)


def _switch_in_fish(script: str, flag: str) -> str:
    return _without_value(script, flag).replace(f" -l {flag} -r ", f" -l {flag} ")


def _without_value(script: str, flag: str) -> str:
    """Take *flag* out of the lists of those behind which a value is passed over."""
    lists = re.compile(r"^.* options_with_values[ =]'.*'$", re.MULTILINE)
    return lists.sub(lambda line: re.sub(rf"--{flag} ?(?=[-'])", "", line[0]), script)


def _files_in_bash(script: str) -> str:
    """Offer files where no word of ours fits: inputs, keys and folders."""
    return script.replace("complete -F ", "complete -o default -F ")


def _files_in_zsh(script: str) -> str:
    """Likewise; and let the script be sourced as well as found in a folder of functions."""
    script = re.sub(r"^( +'\d+:[^:']*)'( \\)?$", r"\1:_files'\2", script, flags=re.MULTILINE)
    script = re.sub(
        r"\]:((?:[\w-]+-)?(?:file|dir|users|output|input|keep))'", r"]:\1:_files'", script
    )
    return script.replace("_cyclopts_syncshift", "_syncshift") + _BEGIN_IN_ZSH


_BEGIN_IN_ZSH = """
if [[ "$funcstack[1]" == _syncshift ]]; then
  _syncshift "$@"
else
  compdef _syncshift syncshift
fi
"""

_WITHOUT_VALUE = {"bash": _switch_in_bash, "zsh": _switch_in_zsh, "fish": _switch_in_fish}
_WITH_FILES: dict[str, Callable[[str], str]] = {
    "bash": _files_in_bash,
    "zsh": _files_in_zsh,
    # fish offers files by itself.
    "fish": lambda script: script,
}
