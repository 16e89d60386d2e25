"""The text of a plan as nested dicts and lists, or why it is none."""

import json
import re
import tomllib
from typing import Any

from lmplay_tui.plan.positions import Form, locate
from lmplay_tui.plan.problems import Report

# A dotted key of 64 KB took tomllib 13 s and 3.9 GB; within both limits the worst file found takes 0.3 s.
MAX_BYTES = 64 * 1024
MAX_LINE = 2_000  # characters

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def decoded(data: bytes, report: Report) -> str | None:
    """A file's bytes as text; None, and reported, where they are not."""
    if len(data) > MAX_BYTES:
        report.add(("file",), f"must have at most {MAX_BYTES} bytes", 1)
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        report.add(("file",), f"is not UTF-8 text: byte {data[error.start]:#04x}", line)
        return None


def parsed(text: str, form: Form, report: Report) -> dict[str, Any] | None:
    """The document of a TOML or JSON text, with the places of its keys in `report`.

    None, and reported, where it is none. Of a key that is there twice the document holds one value, where possible.
    """
    if not _fits(text, report):
        return None
    report.places = locate(text, form)
    return _toml(text, report) if form == "toml" else _json(text, report)


def _fits(text: str, report: Report) -> bool:
    """Whether the text may be given to a parser: checked first, for some texts would take it all memory there is."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:  # half a surrogate pair: no file can hold it
        report.add(("file",), "holds a character that is none", text.count("\n", 0, error.start) + 1)
        return False
    if size > MAX_BYTES:
        report.add(("file",), f"must have at most {MAX_BYTES} bytes, has {size}", 1)
        return False
    if text.startswith("\ufeff"):
        report.add(("file",), "begins with a byte order mark: save it as UTF-8 without one", 1)
        return False
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            report.add(("line",), f"must have at most {MAX_LINE} characters, has {len(line)}", number)
    return report.clean


def _toml(text: str, report: Report) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _after_duplicates(text, error, report)
    except RecursionError:
        report.add(("file",), "is nested too deeply", 1)
    except ValueError:  # an integer of more than 4,300 digits
        report.add(("file",), "holds a number that is too long", 1)
    return None


def _after_duplicates(text: str, error: tomllib.TOMLDecodeError, report: Report) -> dict[str, Any] | None:
    """Report keys that are there twice and read on without the second ones; report any other mistake."""
    lines = text.split("\n")
    message = str(error)
    place = _PLACE.search(message)
    line = int(place[1]) if place and place[1] else len(text.rstrip().split("\n"))
    # A mistake of another kind misleads the scanner from its line on.
    about_keys = message.startswith(("Cannot", "Duplicate"))
    duplicates = [entry for entry in report.places.duplicates if about_keys or entry[1] < line]
    if not duplicates:
        said = message[: place.start()] if place else message
        report.add(report.places.key_in(line) or ("file",), f"is not TOML: {said[:1].lower()}{said[1:]}", line)
        return None
    for path, second, first in duplicates:
        report.add(path, f"is there a second time; first in line {first}", second)
    if any(first == second or lines[second - 1].lstrip().startswith("[") for _, second, first in duplicates):
        return None  # to leave out such a line would leave out more than the second value
    for _, second, _ in duplicates:
        lines[second - 1] = ""
    try:
        return tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):  # a value of several lines, or one more mistake
        return None


def _json(text: str, report: Report) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        said = f"{error.msg[:1].lower()}{error.msg[1:]}"
        report.add(report.places.key_in(error.lineno) or ("file",), f"is not JSON: {said}", error.lineno)
    except RecursionError:
        report.add(("file",), "is nested too deeply", 1)
    except ValueError:  # an integer of more than 4,300 digits
        report.add(("file",), "holds a number that is too long", 1)
    else:
        for path, second, first in report.places.duplicates:
            report.add(path, f"is there a second time; first in line {first}", second)
        if isinstance(document, dict):
            return document
        report.add(("file",), "must hold a JSON object", 1)
    return None
