"""The line of the configuration file that a message is about."""

from __future__ import annotations

import re
import tomllib

_BY_NUMBER = re.compile(r"(?P<keys>[\w.]+) \(in \[\[(?P<table>\w+)\]\] number (?P<number>\d+)\)")
_BY_NAME = re.compile(r": (?P<table>[a-z]+) '(?P<name>[^']*)': (?P<keys>\w+)")
_OF_THE_ONE = re.compile(r": (?P<table>[a-z]+)(?:\.|: )(?P<keys>\w+)(?: =|: unknown| is| needs)")
_THERE = re.compile(r"\(line \d+\)\Z")


def with_line(message: str, text: str) -> str:
    """The message, with a line at its end where it is about a table in `text`, or a key in one.

    Messages name tables by number, `remote.url (in [[remote]] number 2)`, or by name,
    `remote 'cloud': password`, but for those of which there is one, `server.listen`.
    """
    found = _BY_NUMBER.search(message) or _BY_NAME.search(message) or _OF_THE_ONE.search(message)
    if found is None or _THERE.search(message):
        return message
    parts = found.groupdict()
    table, key = parts["table"], parts["keys"].removeprefix(f"{parts['table']}.").partition(".")[0]
    if "number" in parts:
        number = int(parts["number"])
    else:
        number = _number(text, table, parts["name"]) if "name" in parts else 1
    line = _line(text.splitlines(), table, number, key)
    return message if line is None else f"{message} (line {line})"


def _number(text: str, table: str, name: str) -> int:
    """Which of the tables has that name, counted from 1; 0 for none."""
    entries = tomllib.loads(text).get(table)
    if not isinstance(entries, list):
        return 0
    return next((n for n, entry in enumerate(entries, 1) if entry.get("name") == name), 0)


def _line(lines: list[str], table: str, number: int, key: str) -> int | None:
    """The line of a key in the table of that number, or else that of the table."""
    header = re.compile(rf"\s*\[\[?\s*{table}\s*\]")
    other = re.compile(rf"\s*\[+\s*(?!{table}\s*\.)\w")
    begins = [place for place, line in enumerate(lines) if header.match(line)]
    if not 0 < number <= len(begins):
        return None
    begin = begins[number - 1]
    assigned = re.compile(rf"\s*(\[+\s*{table}\s*\.\s*)?{key}\b\s*[\]=]")
    for place, line in enumerate(lines[begin + 1 :], begin + 1):
        if other.match(line):
            break
        if assigned.match(line):
            return place + 1
    return begin + 1
