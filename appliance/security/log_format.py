"""The log as people and machines read it: one event a line, without secrets.

A message is the event's stable name; facts stand in `extra`. Whatever a library logs passes through the same redaction.
Nothing here raises: a record that cannot be rendered becomes the event `log_record_unreadable`.
"""

import json
import logging
import re
import traceback
from datetime import UTC, datetime
from typing import Final, TextIO

from appliance.security.redaction import Fact, Redactor, process_redactor

_OWN_ATTRIBUTES: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_FLAG: Final = "_is_redacted"
_UNREADABLE: Final = "log_record_unreadable"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RedactingFilter(logging.Filter):
    """Takes the secrets out of every record that passes, for good: message, arguments, facts, exception and stack.

    Put it on handlers, not on loggers; a logger's filters do not see what its children log.
    """

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._redactor = redactor or process_redactor()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.__dict__.get(_FLAG):
            try:
                _redact_record(record, self._redactor)
            except Exception:
                # Fail closed: what could not be redacted is not shown at all.
                _blank(record)
            record.__dict__[_FLAG] = True
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at, level, logger, event`, then the facts, then `exception` where there is one."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._filter = RedactingFilter(redactor)

    def format(self, record: logging.LogRecord) -> str:
        self._filter.filter(record)
        line: dict[str, Fact] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": str(record.msg),
        }
        for name, value in _facts(record).items():
            line[f"{name}_" if name in line or name == "exception" else name] = value
        if record.exc_text:
            line["exception"] = record.exc_text
        # `allow_nan` off would raise; a NaN fact is shown as Python writes it, quoted.
        return json.dumps(_finite(line), ensure_ascii=True, separators=(",", ":"))


class HumanFormatter(logging.Formatter):
    """One line to read: time, level, logger, event, then `name=value` facts; an exception follows indented."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._filter = RedactingFilter(redactor)

    def format(self, record: logging.LogRecord) -> str:
        self._filter.filter(record)
        facts = "".join(f" {_on_one_line(name)}={_shown(value)}" for name, value in _facts(record).items())
        line = f"{_instant(record)} {record.levelname:<7} {record.name}: {_on_one_line(str(record.msg))}{facts}"
        if record.exc_text:
            line += "".join(f"\n    {_on_one_line(part)}" for part in record.exc_text.splitlines())
        return line


def make_log_handler(stream: TextIO, *, as_json: bool) -> logging.Handler:
    """Make the handler for the root logger: redacts, then writes JSON lines or lines for people to the stream."""
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter())
    handler.setFormatter(JsonFormatter() if as_json else HumanFormatter())
    return handler


def _redact_record(record: logging.LogRecord, redactor: Redactor) -> None:
    record.msg, record.args = redactor.redact(record.getMessage()), ()
    for name in [name for name in record.__dict__ if _is_fact(name)]:
        record.__dict__[name] = redactor.redact_fact(name, record.__dict__[name])
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = "".join(traceback.format_exception(*record.exc_info))
    if record.exc_text:
        record.exc_text = redactor.redact(record.exc_text.rstrip())
    if record.stack_info:
        record.stack_info = redactor.redact(record.stack_info)
    # The live exception still holds what was masked in its text.
    record.exc_info = None


def _blank(record: logging.LogRecord) -> None:
    record.msg, record.args, record.exc_info, record.exc_text, record.stack_info = _UNREADABLE, (), None, None, None
    for name in [name for name in record.__dict__ if _is_fact(name)]:
        del record.__dict__[name]


def _is_fact(name: str) -> bool:
    return name not in _OWN_ATTRIBUTES and name != _FLAG


def _facts(record: logging.LogRecord) -> dict[str, Fact]:
    return {name: value for name, value in record.__dict__.items() if _is_fact(name)}


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _finite(value: Fact) -> Fact:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _shown(value: Fact) -> str:
    if isinstance(value, str) and value and not re.search(r"[\s\"=]", value):
        return _on_one_line(value)
    return _on_one_line(json.dumps(value, ensure_ascii=False))


def _on_one_line(text: str) -> str:
    # A line break in a fact must not look like a log line of ours, nor an escape sequence drive the terminal.
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
