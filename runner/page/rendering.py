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
# Inside of a script element only `<` and `&` could end it or begin something else. What cannot be
# seen is written out for whoever reads the source.
_IN_SCRIPT = re.compile(
    "[<>&\x7f-\x9f\xad\u0600-\u0605\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
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


def _script() -> str:
    license_text = (_HERE / _LICENSE).read_text(encoding="utf-8").strip()
    return f"/*!\n{license_text}\n*/\n{_sources(_SCRIPTS)}"


def _sources(names: tuple[str, ...]) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8").strip() for name in names)


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
