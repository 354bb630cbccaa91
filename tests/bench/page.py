# SPDX-License-Identifier: GPL-2.0-or-later
"""The results as one HTML file with its plots in it."""

import html

from .goals import goal_of, value_of
from .workloads import WORKLOADS

BAR, GAP, WIDTH, TOTAL = 18, 6, 400, 80
# Of a label's character: an average one of a wide font (DejaVu Sans) at the size below takes 6.3 to 6.8
CHARACTER = 7.2
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 64em; padding: 0 1em; color: #222; }
h2 { margin-top: 2em; } table { border-collapse: collapse; } td, th { padding: .2em .8em .2em 0; text-align: left; }
td.number { text-align: right; } code { font-size: 85%; overflow-wrap: anywhere; }
.stretch { color: #06662a; } .holds { color: #1c7c3c; } .missed { color: #b3261e; }
svg text { font: 12px system-ui, sans-serif; } svg { max-width: 100%; height: auto; } figure { margin: 1em 0; } figcaption { font-weight: 600; }
"""
COLOURS = {"iothread": "#2b6cb0", "main": "#a0aec0", "server": "#dd9b3c"}
ROLES = {"iothread": "IOThread", "main": "rest of QEMU", "server": "server"}


def bars(caption, rows, unit):
    """rows: (label, [(value, colour), ...]): one bar each, of parts beside each other."""
    longest = max((sum(value for value, _ in parts) for _, parts in rows), default=0) or 1
    left = max((len(label) for label, _ in rows), default=0) * CHARACTER
    out, y = [], 0
    for label, parts in rows:
        x, total = left + 8, sum(value for value, _ in parts)
        out.append(f'<text x="{left:.1f}" y="{y + 13}" text-anchor="end">{html.escape(label)}</text>')
        for value, colour in parts:
            width = value / longest * WIDTH
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
            x += width
        out.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{total:,.{0 if total >= 100 else 2}f}</text>')
        y += BAR + GAP
    whole = round(left + 8 + WIDTH + TOTAL)
    size = f'width="{whole}" height="{y}" viewBox="0 0 {whole} {y}"'
    title = html.escape(f"{caption} ({unit})")
    return f'<figure><figcaption>{title}</figcaption><svg {size} role="img">{"".join(out)}</svg></figure>'


def _workload(results, name):
    measured = [(row, results["figures"].get(row, {}).get(name)) for row in results["rows"]]
    measured = [(results["rows"][row]["title"], figures) for row, figures in measured if figures]
    if not measured:
        return ""
    rate, unit = ("mb-per-s", "MB/s") if "128k" in name else ("iops", "IOPS, more is better")

    def plain(figure):
        return [(title, [(figures.get(figure, 0), COLOURS["iothread"])]) for title, figures in measured]

    cpu = [
        (title, [(figures.get(f"{role}-cpu-us", 0), colour) for role, colour in COLOURS.items()])
        for title, figures in measured
    ]
    osd = bars("Processor time of the OSD per I/O", plain("osd-cpu-us"), "us")
    return "".join((
        f"<h2>{html.escape(WORKLOADS[name].title)}</h2>",
        bars("Rate", plain(rate), unit),
        bars("Processor time per I/O", cpu, "us; blue: IOThread or bare client, grey: rest of QEMU, orange: server"),
        osd if any("osd-cpu-us" in figures for _, figures in measured) else "",
        bars("Latency, median", plain("p50-us"), "us"),
        bars("Latency, 99th percentile", plain("p99-us"), "us"),
    ))  # fmt: skip


def _table(names, rows):
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _goals(found):
    def row(line, *cells):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in (line.meaning, *cells))
        return f"<tr><td>{html.escape(line.goal)}</td><td class=number>{value_of(line)}</td>{cells}"

    judged = [
        row(line, goal_of(line)) + f"<td class={line.verdict.split()[0]}>{line.verdict}</td></tr>"
        for line in found
        if line.must is not None
    ]
    reported = [row(line, line.bound) + "</tr>" for line in found if line.must is None]
    goals = f"<h2>Goals</h2>{_table(('figure', 'value', 'of what', 'goal (stretch)', ''), judged)}"
    if not reported:
        return goals
    return (
        f"{goals}<h2>Figures without a goal</h2><p>Two processors cannot decide these.</p>"
        f"{_table(('figure', 'value', 'of what', 'what bounds it'), reported)}"
    )


def _some_calls(counts):
    return ", ".join(f"{name} {count:g}" for name, count in counts.items() if name != "total" and count >= 0.001)


def _all_calls(results):
    """Of every thread that is watched: where librbd runs, the IOThread hands over to others."""
    rows = [
        f"<tr><td>{row}</td><td>{workload}</td><td>{title}</td><td class=number>{roles[role].get('total', 0):g}</td>"
        f"<td>{_some_calls(roles[role])}</td></tr>"
        for row, workloads in results["syscalls"].items()
        for workload, roles in workloads.items()
        for role, title in ROLES.items()
        if role in roles
    ]
    return f"<h2>System calls</h2>{_table(('row', 'workload', 'of what', 'calls per I/O', 'which'), rows)}"


def _calls(results):
    rows = []
    for row, workloads in results["syscalls"].items():
        for workload, roles in workloads.items():
            counts = roles.get("iothread") or roles.get("server") or {}
            total = f"<td class=number>{counts.get('total', 0):g}</td>"
            rows.append(f"<tr><td>{row}</td><td>{workload}</td>{total}<td>{_some_calls(counts)}</td></tr>")
    table = _table(("row", "workload", "calls per I/O", "which"), rows)
    return f"<h2>System calls of the IOThread (vhost-user: of its server)</h2>{table}"


def _instructions(results):
    shares = (("iothread", "total"), ("iothread", "qemu"), ("iothread", "cloudblk"), ("proxy", "total"))
    rows = []
    for row, workloads in results.get("instructions", {}).items():
        for workload, figures in workloads.items():
            counts = (figures.get(process, {}).get(share, 0) for process, share in shares)
            cells = "".join(f"<td class=number>{count:,.0f}</td>" for count in counts)
            rows.append(f"<tr><td>{row}</td><td>{workload}</td>{cells}</tr>")
    if not rows:
        return ""
    names = ("row", "workload", "IOThread", "QEMU's of it", "ours of it", "proxy")
    return f"<h2>User-space instructions per I/O</h2>{_table(names, rows)}"


def _described(results):
    machine = "".join(
        f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in results["machine"].items()
    )
    rows = []
    for name, row in results["rows"].items():
        versions = "; ".join(f"{html.escape(text)}" for text in row["versions"].values())
        options = "<br>".join(f"<code>{html.escape(text)}</code>" for text in row["options"])
        rows.append(f"<h3>{html.escape(row['title'])} ({name})</h3><p>{versions}</p><p>{options}</p>")
    for name, reason in results.get("left out", {}).items():
        rows.append(f"<p>Left out: {name}, {html.escape(reason)}</p>")
    return f"<h2>The machine</h2><table>{machine}</table><h2>Rows, versions and options</h2>{''.join(rows)}"


def page(results, found, every_thread=False):
    """every_thread: whether the system calls of all of QEMU and the server are shown, not only the IOThread's."""
    how = results["settings"]
    iothreads = f"IOThreads have {html.escape(how['iothread'])}. " if how.get("iothread") else ""
    intro = (
        f"Medians of {how['rounds']} interleaved runs of {how['seconds']} s each. {iothreads}The driver is not a guest but a "
        "program that builds the virtqueues in QEMU's memory, notifies only when the device asks for it, and polls "
        "for what comes back; so these are figures of the device, its connection and its server, on one machine over "
        "loopback."
    )
    calls = _all_calls(results) if every_thread else _calls(results)
    plots = "".join(_workload(results, name) for name in WORKLOADS)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>cloudblk: performance</title>"
        f"<style>{STYLE}</style><h1>cloudblk: performance</h1><p>{intro}</p>"
        f"{_goals(found)}{plots}{calls}{_instructions(results)}{_described(results)}</html>\n"
    )
