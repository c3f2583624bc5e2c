"""Pieces of a report in one file: style, tables, figures as embedded pictures."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["STYLE", "html_image", "html_table", "write_html"]

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1040px;margin:2em auto;padding:0 1em}
h1{margin-bottom:0}h2{margin-top:2em;border-bottom:1px solid #ddd}.muted{color:#666}
table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}
th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th:first-child,td:first-child{text-align:left}tr.headline{font-weight:600;background:#f3f8fc}
.doubt{background:#fff6e5;border-left:4px solid #E69F00;padding:.5em 1em;margin:.4em 0}
.fine{background:#eef8f3;border-left:4px solid #009E73;padding:.5em 1em}
img{max-width:100%}td.off{color:#b33}pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:12px}
"""


def html_image(figure: Figure | None, caption: str) -> str:
    """A figure inside the page; nothing for None."""
    if figure is None:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f'<figcaption class="muted">{escape(caption)}</figcaption></figure>'
    )


def html_table(header: Sequence[str], lines: Sequence[Sequence[str]], headline: str | None = None) -> str:
    """A table; cells that end with an exclamation mark stand out."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = ""
    for line in lines:
        kind = ' class="headline"' if line[0] == headline else ""
        cells = "".join(
            f'<td class="off">{escape(c)}</td>' if c.endswith("!") else f"<td>{escape(c)}</td>"
            for c in line
        )
        body += f"<tr{kind}>{cells}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def write_html(path: Path, body: str) -> Path:
    """Write a page at once: a kill leaves the old one or the new one."""
    path = Path(path)
    partial = path.with_suffix(".partial")
    partial.write_text(body, encoding="utf-8")
    partial.replace(path)
    return path
