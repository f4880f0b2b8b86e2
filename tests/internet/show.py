"""The demonstration's report for people: headings, one section per message, then hints and what arrived."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deliver.cli.output import duration, printable, size as octets
from tests.internet.report import Report, Seen, Story

WIDTH = 118  # columns at most, and where there is no terminal
MAX_SAID = 160  # characters of what an event says

_OUTCOMES = {"delivered": "bold green", "deferred": "bold yellow", "failed": "bold red"}
_VERDICTS = {"ok": "green", "refused": "bold red"}


def console() -> Console:
    """Standard output: colours on a terminal, plain text of a fixed width elsewhere."""
    out = Console(highlight=False)
    out.width = min(out.width, WIDTH) if out.is_terminal else WIDTH
    return out


def show(report: Report, out: Console) -> None:
    """Print everything but the verdict."""
    for number, story in enumerate(report.messages, 1):
        _show_story(number, story, out)
    _show_received(report, out)
    out.print()
    out.rule(Text("What an SQL action in the settings wrote: SELECT * FROM ledger", "bold"), align="left")
    _print_table(
        out,
        ("time", "domain", "event", "host", "verified_by"),
        [[row[name] for name in ("time", "domain", "event", "host", "verified_by")] for row in report.ledger],
    )
    out.print()
    out.rule(Text("What the relay remembers: outrider hints list", "bold"), align="left")
    _print_table(out, ("kind", "key", "what"), [(h["kind"], h["key"], _hint(h)) for h in report.hints])


def show_verdict(problems: Sequence[str], seconds: float, out: Console) -> None:
    """Print whether everything went as it had to."""
    out.rule(style="dim")
    if not problems:
        wording = "Two messages were delivered over DANE, the third waits: as it had to be"
        out.print(Text(f"{wording} ({seconds:.1f} s).", "bold green"))
        return
    out.print(Text("Not as it had to be:", "bold red"))
    for problem in problems:
        out.print(Text(f"  {printable(problem)}", "red"))


def _show_story(number: int, story: Story, out: Console) -> None:
    out.print()
    out.rule(Text(f"{number}  {story.recipient}", "bold"), align="left")
    domain = story.recipient.rpartition("@")[2]
    out.print(Text(f"   {domain} {story.case.situation}."))
    outcome = Text(story.outcome.upper(), _OUTCOMES.get(story.outcome, "bold red"))
    out.print(_indented(Text.assemble(outcome, " ", printable(_outcome(story)))))
    out.print(Text("\n   Decisions", "bold"))
    out.print(_indented(_decisions(story.decisions)))
    out.print(Text(f"\n   SQL rows: SELECT * FROM event_log WHERE message_id = '{story.id}'", "bold"))
    out.print(_indented(_events(story.events)))


def _outcome(story: Story) -> str:
    if story.outcome == "delivered":
        tls = story.tls or {}
        how = (
            f"over {tls.get('version')}, server authenticated by {story.verified_by}"
            if tls
            else "in clear text"
        )
        return f"to {story.server} {how}: {story.why}"
    again = f"; next attempt in {duration(story.next_attempt_in)}" if story.next_attempt_in else ""
    return f"{story.status or ''} {story.why}{again}".strip()


def _decisions(findings: Iterable[dict[str, Any]]) -> Table:
    drawn = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column(style="cyan", no_wrap=True)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    drawn.add_column(style="dim", no_wrap=True)
    for finding in findings:
        verdict = str(finding["verdict"])
        drawn.add_row(
            Text(str(finding["stage"])),
            Text("" if verdict == "note" else verdict, _VERDICTS.get(verdict, "")),
            Text(printable(str(finding["text"])), "bold red" if verdict == "refused" else ""),
            Text(finding["rfc"] or ""),
        )
        if verdict == "refused":
            for name, value in finding["evidence"].items():
                drawn.add_row("", "", Text(printable(f"{name.replace('_', ' ')}: {value}"), "red"), "")
    return drawn


def _events(events: Sequence[dict[str, Any]]) -> Table:
    drawn = _table(("name", "at", "tls_version", "tls_verified_by", "enhanced_code", "event_data"))
    start = events[0]["at"] if events else 0.0
    for event in events:
        fields = event["fields"]
        said = printable(" ".join(str(fields.get("event_data") or "").split()))[:MAX_SAID]
        drawn.add_row(
            Text(event["name"], "cyan"),
            Text(f"+{1000 * (event['at'] - start):.0f} ms"),
            *(
                Text(str(fields.get(name) or ""))
                for name in ("tls_version", "tls_verified_by", "enhanced_code")
            ),
            Text(said),
        )
    return drawn


def _show_received(report: Report, out: Console) -> None:
    out.print()
    out.rule(Text("What the mail servers saw", "bold"), align="left")
    for seen in report.connections:
        out.print(Text("   ").append(seen.server, "cyan").append(f"  {_dialogue(seen)}"))
        taken = [one for one in report.received if one.server == seen.server]
        if not taken:
            out.print(Text("     received nothing", "bold"))
        for one in taken:
            length = octets(len(one.content))
            out.print(Text(f"     received {length} for {', '.join(one.recipients)}:", "bold"))
            for line in one.content.rstrip("\r\n").split("\r\n"):
                out.print(Text(f"     | {printable(line)}", "dim"))


def _dialogue(seen: Seen) -> str:
    parts = [" ".join(seen.clear) + " (clear)"] if seen.clear else []
    if seen.inside_tls:
        parts.append(" ".join(seen.inside_tls) + " (inside TLS)")
    if seen.ended != "quit":
        parts.append("then the relay hung up" if seen.ended in ("closed", "broken") else str(seen.ended))
    return ", ".join(parts)


def _hint(hint: dict[str, Any]) -> str:
    values = hint["values"]
    if hint["kind"] == "ehlo":
        return f"{values['greeted_as']}: {', '.join(str(line).split(' ')[0] for line in values['keywords'])}"
    if hint["kind"] == "level":
        return f"last reached {values['level']}"
    if hint["kind"] == "session":
        return f"a session of {values['version']}, sealed"
    if hint["kind"] == "reachability":
        return "reachable" if not values["failures"] else f"{values['failures']} failures"
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _print_table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    drawn = _table(columns)
    for row in rows:
        drawn.add_row(*(Text(printable("" if value is None else str(value))) for value in row))
    out.print(_indented(drawn))


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 3), expand=False)


def _table(columns: Sequence[str]) -> Table:
    drawn = Table(
        box=box.SIMPLE_HEAD, show_edge=False, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for title in columns:
        drawn.add_column(Text(title), overflow="fold")
    return drawn
