"""Makes HTML of what a page shows, with nothing in it that could act but our own script.

Every value is escaped, what cannot be seen is written out, and a policy inside the page forbids
whatever is not one of our own scripts and styles, which it knows by their hashes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.page.words import plain

_HERE = Path(__file__).resolve().parent
_LICENSE = "uplot/LICENSE"
_UPLOT = "uplot/uPlot.iife.min.js"
_SCRIPTS = {"report": (_UPLOT, "page.js"), "live": (_UPLOT, "page.js", "live.js"), "list": ()}
"""The scripts of each kind of page."""
_STYLES = ("uplot/uPlot.min.css", "page.css")
_ICON = "data:,"
# Inside of a script element only `<` and `&` could end it or begin something else. What cannot be
# seen is written out for whoever reads the source.
_IN_SCRIPT = re.compile(
    "[<>&\x7f-\x9f\xad\u0600-\u0605\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


Kind = Literal["report", "live", "list"]


def render(template: str, view: dict[str, Any], kind: Kind = "report") -> bytes:
    """Return the page that *template* makes of *view*, in UTF-8.

    The key ``data`` of *view* is what the script works with; it is put in as JSON.
    """
    style, script = _style(), _script(kind)
    text = (
        _environment()
        .get_template(template)
        .render(
            {
                **view,
                "policy": policy_of(kind),
                "icon": _ICON,
                "style": Markup(style),  # noqa: S704  # our own file
                "script": Markup(script),  # noqa: S704  # our own files
                "data": _data(view["data"]),
            }
        )
    )
    # Half a character has no place in UTF-8; plain() has written out all that came from outside.
    return text.encode("utf-8", "backslashreplace")


@functools.cache
def policy_of(kind: Kind) -> str:
    """Return what a page of this kind may do: run our own scripts, and if live ask its server."""
    script = _script(kind)
    rules = [
        "default-src 'none'",
        f"script-src {_hash(script)}" if script else "",
        f"style-src {_hash(_style())}",
        "img-src data:",
        "connect-src 'self'" if kind == "live" else "",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(filter(None, rules))


def _data(value: Any) -> Markup:
    text = msgspec.json.encode(value).decode()
    escaped = _IN_SCRIPT.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    return Markup(escaped)  # noqa: S704  # nothing is left in it that ends the element


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["number"] = "{:,}".format
    return environment


def _visible(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _style() -> str:
    return _sources(_STYLES)


@functools.cache
def _script(kind: Kind) -> str:
    if not _SCRIPTS[kind]:
        return ""
    license_text = (_HERE / _LICENSE).read_text(encoding="utf-8").strip()
    return f"/*!\n{license_text}\n*/\n{_sources(_SCRIPTS[kind])}"


def _sources(names: tuple[str, ...]) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8").strip() for name in names)


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
