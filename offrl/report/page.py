"""A page as one file that asks nobody for anything.

Its scripts are inline and named in its content-security policy by their digests, so no other script
runs, whatever the names in a run or a dataset hold; nothing can be fetched or sent. Autoescape is
on, and what scripts read is JSON without a character that could end it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from offrl.report.parts import Section

_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)
_ESCAPED = {sign: f"\\u{ord(sign):04x}" for sign in "<>&'\u2028\u2029"}


def render(
    *,
    title: str,
    lead: str,
    foot: str,
    version: str,
    sections: Sequence[Section],
    notes: Sequence[str] = (),
) -> str:
    """Return the page; sections that have nothing in them are left out."""
    shown = [section for section in sections if not section.empty]
    charts = {chart.id: chart.spec for section in shown for chart in section.charts}
    sortable = any(section.tables for section in shown)
    scripts = [_plotly()] if charts else []
    scripts += [_template("page.js")] if charts or sortable else []
    digests = " ".join(f"'{digest(script)}'" for script in scripts) or "'none'"
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            lead=lead,
            foot=foot,
            version=version,
            sections=shown,
            notes=notes,
            policy=_POLICY.format(scripts=digests),
            style=Markup(_template("style.css")),  # noqa: S704  (our own file)
            scripts=[Markup(script) for script in scripts],  # noqa: S704  (our own files)
            data=Markup(embedded(charts)),  # noqa: S704  (escaped below)
        )
    )


def embedded(value: Any) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return "".join(_ESCAPED.get(sign, sign) for sign in text)


def digest(script: str) -> str:
    """Return a script as a content-security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _template(name: str) -> str:
    return files("offrl.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def _environment() -> Environment:
    names = ("parts.html.j2", "report.html.j2")
    return Environment(
        loader=DictLoader({name: _template(name) for name in names}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
