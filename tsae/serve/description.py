"""The OpenAPI description as a page for people: no script, nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#21242a;background:#faf9f6}"
    "h2{margin:2rem 0 0;font-size:1.1rem}code{background:#eeece6;padding:.1em .3em;border-radius:3px}"
    "table{border-collapse:collapse;margin:.5rem 0}"
    "td{padding:.2rem 1rem .2rem 0;vertical-align:top;border-top:1px solid #dedbd4}"
    "@media(prefers-color-scheme:dark){body{color:#e4e2dc;background:#1b1c1f}code{background:#2b2d31}td{border-color:#3a3c40}}"
)


def describe_html(openapi: dict[str, Any]) -> str:
    """A whole page."""
    info = openapi["info"]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('summary', ''))}. {_text(info.get('description', ''))}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, operations in openapi["paths"].items():
        parts += [_operation(method, path, operation) for method, operation in operations.items()]
    return "".join(parts) + "</html>"


def _text(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(_parameter(parameter) for parameter in operation.get("parameters", []))
    media_types = list(operation["responses"].get("200", {}).get("content", {}))
    head = f"<h2><code>{method.upper()} {escape(path)}</code> {escape(operation.get('summary', ''))}</h2>"
    answers = f"<p>Answers {', '.join(map(escape, media_types))}; statuses {', '.join(sorted(operation['responses']))}.</p>"
    return f"{head}<p>{_text(operation.get('description', ''))}</p>" + (f"<table>{rows}</table>" if rows else "") + answers


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    kinds = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    kind = kinds[0] if kinds else {}
    facts = [str(kind.get("type", ""))]
    facts += [f"one of {', '.join(kind['enum'])}"] if "enum" in kind else []
    facts += [f"{kind.get('minimum')} to {kind.get('maximum')}"] if "maximum" in kind else []
    facts += [f"default {schema['default']}"] if schema.get("default") not in (None, "") else []
    text = f"{parameter.get('description', '')} ({', '.join(fact for fact in facts if fact)})"
    return f"<tr><td><code>{escape(parameter['name'])}</code><td>{_text(text)}</tr>"
