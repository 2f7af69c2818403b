"""The shell of all pages that the program writes: one file, which loads nothing and runs nothing.

A page is a Jinja2 template that says `{% extends "shell" %}` and fills the blocks `title`, `css`
and `body`. Colours are variables of the style sheet, so that every page follows the reader's choice
of light or dark.
"""

from __future__ import annotations

import base64
from typing import Any

# The policy holds whatever a path, a class name or an error text says. Colours: Okabe and Ito's
# palette, which colour-blind readers can tell apart; lighter where the page is dark.
_SHELL = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %}</title>
<style>
  :root { color-scheme: light dark; --ink: #222; --dim: #5c5c5c; --paper: #fff; --line: #e2e2e2;
    --rule: #999; --blue: #0072b2; --orange: #d55e00; --green: #009e73; --purple: #b0568a;
    --red: #c0392b; --blue-wash: #f0f6fb; --amber-wash: #fdf6e3; --amber: #e69f00;
    --red-wash: #fbeeee; --green-wash: #eef7f0; --orange-wash: #fdf0e6; }
  @media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --dim: #a2a2a2; --paper: #17191c;
    --line: #33363b; --rule: #6b6f76; --blue: #56b4e9; --orange: #f0883e; --green: #2fc49a;
    --purple: #d98cb8; --red: #ec7465; --blue-wash: #1a2733; --amber-wash: #2b2617;
    --red-wash: #321f1f; --green-wash: #182a22; --orange-wash: #33251a; } }
  body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 70rem; color: var(--ink);
    background: var(--paper); font: 15px/1.5 system-ui, "Segoe UI", Arial, sans-serif; }
  @media (max-width: 40rem) { body { padding: 1.2rem .9rem 3rem; } }
  h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
  h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
  a { color: var(--blue); }
  .facts { color: var(--dim); }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .86rem; }
  th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
  thead th { border-bottom: 2px solid var(--rule); vertical-align: bottom; }
  td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  img { display: block; max-width: 100%; }
  svg { display: block; max-width: 100%; height: auto; }
{% block css %}{% endblock %}
</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""


def render(template: str, **values: Any) -> str:
    """A page, with every value escaped.

    Args:
        template: Extends `shell`.
        values: What it names; one that is missing is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"shell": _SHELL, "page": template}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page").render(**values)


def data_uri(content: bytes, kind: str) -> str:
    """What an img or a link may carry in place of a file's address.

    Args:
        content: Of the file.
        kind: Its media type, such as image/png.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
