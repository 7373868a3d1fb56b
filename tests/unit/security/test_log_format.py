import io
import json
import logging
from uuid import UUID

import pytest

from appliance.domain.secret import Secret
from appliance.security.log_format import HumanFormatter, JsonFormatter, RedactingFilter, make_log_handler
from appliance.security.redaction import Redactor


@pytest.fixture
def log(request):
    """A logger of its own with the real handler; gives the logger and the stream it writes to."""
    logger = logging.Logger(request.node.name, logging.DEBUG)
    stream = io.StringIO()
    logger.addHandler(make_log_handler(stream, as_json=True))
    return logger, stream


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("canary")

    __repr__ = __str__


def test_an_event_is_one_json_line_with_its_facts(log):
    logger, stream = log
    logger.info("notification_accepted", extra={"app_id": UUID(int=1), "count": 2, "is_bulk": True, "none": None})

    line = json.loads(stream.getvalue())

    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "logger": logger.name,
        "event": "notification_accepted",
        "app_id": "00000000-0000-0000-0000-000000000001",
        "count": 2,
        "is_bulk": True,
        "none": None,
    }
    assert stream.getvalue().count("\n") == 1


def test_secrets_in_message_arguments_facts_and_exceptions_are_masked(log):
    logger, stream = log
    try:
        try:
            raise OSError("connect to redis://:canary@cache.example.test")
        except OSError as error:
            raise RuntimeError("Authorization: Bearer canary") from error
    except RuntimeError:
        logger.exception(
            "failed for %s",
            "https://x.example.test/?access_token=canary",
            extra={
                "push_token": "canary",
                "request": {"headers": {"Cookie": "canary"}, "body": ["password=canary"]},
                "wrapped": Secret("canary"),
                "raw": b"canary",
                "problem": ValueError("client_secret=canary"),
            },
            stack_info=True,
        )

    assert "canary" not in stream.getvalue()
    line = json.loads(stream.getvalue())
    assert "RuntimeError" in line["exception"]
    assert line["push_token"] == "[redacted]"
    assert line["raw"] == "[6 bytes]"


def test_the_filter_cleans_a_record_for_every_handler_behind_it(log):
    record = logging.makeLogRecord(
        {"msg": "password=%s", "args": ("canary",), "exc_info": None, "note": "Bearer canary"}
    )
    RedactingFilter().filter(record)

    assert logging.Formatter("%(message)s").format(record) == "password=[redacted]"
    assert "canary" not in repr(vars(record))


def test_an_exception_behind_the_filter_is_there_as_masked_text_only():
    error = ValueError("password=canary")
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, None)})
    RedactingFilter().filter(record)

    assert record.exc_info is None
    assert logging.Formatter("%(message)s").format(record) == "failed\nValueError: password=[redacted]"


def test_a_registered_secret_is_masked_too():
    redactor = Redactor()
    redactor.register(Secret("plain words only"))
    record = logging.makeLogRecord({"msg": "got plain words only here"})

    assert json.loads(JsonFormatter(redactor).format(record))["event"] == "got [redacted] here"


@pytest.mark.parametrize("formatter", [JsonFormatter, HumanFormatter])
def test_a_fact_cannot_forge_a_second_line_or_drive_the_terminal(formatter):
    record = logging.makeLogRecord({"msg": "login\nFAKE line", "user": "a\r\n2026 INFO forged\x1b[2J\u2028"})

    text = formatter().format(record)

    assert "\n" not in text and "\r" not in text and "\x1b" not in text and "\u2028" not in text


@pytest.mark.parametrize("formatter", [JsonFormatter, HumanFormatter])
@pytest.mark.parametrize(
    "changes",
    [
        {"msg": "%d", "args": ("not a number",)},
        {"msg": "%s %s", "args": ("one",)},
        {"msg": Unprintable()},
        {"msg": "x", "fact": Unprintable()},
        {"msg": "x", "fact": {Unprintable(): 1}},
        {"msg": "x", "fact": float("nan")},
        {"msg": "\ud800", "fact": "\udfff"},
        {"msg": "x", "fact": [[[[[[[[["canary"]]]]]]]]]},
        {"msg": "x", "event": "mine", "level": 3, "exception": "mine"},
        {"msg": None},
        {"msg": "x", "exc_info": (None, None, None)},
    ],
)
def test_no_record_makes_the_formatter_raise(formatter, changes):
    record = logging.makeLogRecord(changes)

    text = formatter().format(record)

    assert text
    assert "\n" not in text
    text.encode("utf-8", "backslashreplace")
    if formatter is JsonFormatter:
        assert isinstance(json.loads(text)["event"], str)


def test_an_unreadable_record_shows_nothing_of_itself():
    record = logging.makeLogRecord({"msg": "password=%d", "args": ("canary",), "note": "canary"})

    text = JsonFormatter().format(record)

    assert json.loads(text)["event"] == "log_record_unreadable"
    assert "canary" not in text


def test_people_read_the_event_its_facts_and_the_exception_beneath():
    try:
        raise ValueError("wrong")
    except ValueError as error:
        record = logging.makeLogRecord(
            {"msg": "it_failed", "name": "here", "created": 0.5, "levelname": "ERROR", "why": "two words", "count": 2,
             "exc_info": (ValueError, error, error.__traceback__)}
        )  # fmt: skip

    first, *rest = HumanFormatter().format(record).splitlines()

    assert first == '1970-01-01T00:00:00.500Z ERROR   here: it_failed why="two words" count=2'
    assert rest[-1] == "    ValueError: wrong"
