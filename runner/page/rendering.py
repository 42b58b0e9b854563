"""Makes HTML of what a page shows, with nothing in it that could act but our own script.

Every value is escaped, what cannot be seen is written out, and a policy inside the page forbids
whatever is not one of our own scripts and styles, which it knows by their hashes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.page.words import plain

_HERE = Path(__file__).resolve().parent
_LICENSE = "uplot/LICENSE"
_SCRIPTS = ("uplot/uPlot.iife.min.js", "page.js")
_STYLES = ("uplot/uPlot.min.css", "page.css")
_ICON = "data:,"
# Inside of a script element only these could end it, or begin something else.
_IN_SCRIPT = str.maketrans(
    {c: f"\\u{ord(c):04x}" for c in ("<", ">", "&", "\u2028", "\u2029", "\x7f")}
)


def render(template: str, view: dict[str, Any]) -> bytes:
    """Return the page that *template* makes of *view*, in UTF-8.

    The key ``data`` of *view* is what the script works with; it is put in as JSON.
    """
    style, script = _sources(_STYLES), _script()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    text = (
        _environment()
        .get_template(template)
        .render(
            {
                **view,
                "policy": policy,
                "icon": _ICON,
                "style": Markup(style),  # noqa: S704  # our own file
                "script": Markup(script),  # noqa: S704  # our own files
                "data": _data(view["data"]),
            }
        )
    )
    # Half a character has no place in UTF-8; plain() has written out all that came from outside.
    return text.encode("utf-8", "backslashreplace")


def _data(value: Any) -> Markup:
    text = msgspec.json.encode(value).decode()
    return Markup(text.translate(_IN_SCRIPT))  # noqa: S704  # nothing is left in it that ends it


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


def _script() -> str:
    license_text = (_HERE / _LICENSE).read_text(encoding="utf-8").strip()
    return f"/*!\n{license_text}\n*/\n{_sources(_SCRIPTS)}"


def _sources(names: tuple[str, ...]) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8").strip() for name in names)


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
