"""HTML of the page of results: Markdown tables, plots, and the frame around them.

All of it is also XML, so that a parser can tell whether it is whole. Nothing is loaded from anywhere.
"""

import html
import re

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d1f21; --faint: #5f6368; --rule: #d9d9d4;
  --band: #f3f3ee; --met: #1b7a3d; --missed: #b3261e;
  --c0: #0b62b0; --c1: #c2510a; --c2: #15803d; --c3: #a2378f; --c4: #8a6d00; --c5: #0e7490;
  --c6: #7a4a2b; --c7: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e6e1; --faint: #a2a7ad;
  --rule: #3a3e43; --band: #1f2226; --met: #5fce85; --missed: #ff8a80;
  --c0: #6cb2f5; --c1: #f59a58; --c2: #5fce85; --c3: #e58fd5; --c4: #dfc04b; --c5: #58c4d8;
  --c6: #c99a76; --c7: #9aa1ab; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 68rem;
  padding: 1.5rem 1rem 4rem; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { margin: 2.6rem 0 .4rem; font-size: 1.3rem;
  border-top: 1px solid var(--rule); padding-top: 1rem; } h3 { margin: 1.6rem 0 .3rem; font-size: 1.05rem; }
p { max-width: 46rem; } a { color: var(--c0); } nav a { margin-right: 1rem; white-space: nowrap; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; display: block; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: "DejaVu Sans", Verdana, sans-serif !important; }
.wide { overflow-x: auto; } details { margin: .6rem 0; } summary { cursor: pointer; color: var(--c0); }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
caption { text-align: left; color: var(--faint); padding: .2rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { background: var(--band); font-weight: 600; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
tbody th { background: none; font-weight: 400; }
.met { color: var(--met); } .missed { color: var(--missed); font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--band); border: 1px solid var(--rule); border-radius: .5rem; padding: .6rem .9rem;
  min-width: 11rem; } .tiles b { display: block; font-size: 1.5rem; }
pre, code { font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--band); border: 1px solid var(--rule); padding: .6rem .8rem; overflow-x: auto; }
"""

WORDS = {"met": "met", "NOT": "missed", "missed": "missed", "B WORSE": "missed", "B better": "met"}


def text(words):
    return html.escape(str(words), quote=True)


def inline(words):
    """Escaped, with `code` and **strong** of Markdown."""
    out = re.sub(r"`([^`]+)`", r"<code>\1</code>", text(words))
    return re.sub(r"\*\*([^*]+)\*\*", r"\1", out)


def table(heads, lines, caption=None, words=False):
    """A table; the first cell of a line heads it."""
    def cell(value):
        plain = re.sub(r"\*\*", "", str(value)).strip()
        kind = f' class="{WORDS[plain]}"' if plain in WORDS else ""
        return f"<td{kind}>{inline(value)}</td>"
    out = [f'<div class="wide"><table{" class=" + chr(34) + "words" + chr(34) if words else ""}>']
    if caption:
        out.append(f"<caption>{inline(caption)}</caption>")
    out.append("<thead><tr>" + "".join(f'<th scope="col">{inline(head)}</th>' for head in heads) +
               "</tr></thead><tbody>")
    for line in lines:
        out.append(f'<tr><th scope="row">{inline(line[0])}</th>' +
                   "".join(cell(value) for value in line[1:]) + "</tr>")
    out.append("</tbody></table></div>")
    return "".join(out)


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def from_markdown(markdown, level=3):
    """Headings, tables, lists and paragraphs of what the benchmarks print."""
    out, lines, at = [], markdown.splitlines(), 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("#"):
            out.append(f"<h{level}>{inline(line.lstrip('# '))}</h{level}>")
            at += 1
        elif line.startswith("|") and at + 1 < len(lines) and re.match(r"\|[-:| ]+$", lines[at + 1]):
            heads, at = cells(line), at + 2
            rows = []
            while at < len(lines) and lines[at].startswith("|"):
                rows.append(cells(lines[at]))
                at += 1
            out.append(table(heads, rows))
        elif line.startswith("- "):
            out.append("<ul>")
            while at < len(lines) and lines[at].startswith("- "):
                out.append(f"<li>{inline(lines[at][2:])}</li>")
                at += 1
            out.append("</ul>")
        else:
            if line.strip():
                out.append(f"<p>{inline(line)}</p>")
            at += 1
    return "\n".join(out)


def figure(svg, caption):
    return f"<figure>{svg}<figcaption>{inline(caption)}</figcaption></figure>"


def folded(summary, content, is_open=False):
    return (f"<details{' open=' + chr(34) + 'open' + chr(34) if is_open else ''}>"
            f"<summary>{inline(summary)}</summary>{content}</details>")


def tiles(pairs):
    return ('<ul class="tiles">' + "".join(f"<li><b>{text(value)}</b>{inline(name)}</li>"
                                           for name, value in pairs) + "</ul>")


def frame(title, lead, sections):
    """sections: (anchor, heading, content)."""
    links = "".join(f'<a href="#{anchor}">{text(heading)}</a> ' for anchor, heading, _ in sections)
    body = "\n".join(f'<section id="{anchor}"><h2>{text(heading)}</h2>\n{content}\n</section>'
                     for anchor, heading, content in sections)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
            f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>\n<h1>{text(title)}</h1>\n"
            f"{lead}\n<nav aria-label=\"sections\">{links}</nav>\n{body}\n</body></html>\n")
