"""Logging set-up: one handler, one redaction, text or JSON."""

import logging
import sys

from appliance.security.log_format import make_log_handler
from appliance.settings import Settings


def set_up_logging(settings: Settings) -> None:
    """Send all logs to standard error in the chosen form; nothing passes without redaction."""
    root = logging.getLogger()
    root.handlers[:] = [make_log_handler(sys.stderr, as_json=settings.log_format == "json")]
    root.setLevel(settings.log_level.upper())
    # These tell at "info" what Carillon's own events tell better.
    for noisy in ("_granian", "granian", "httpx", "httpcore", "websockets", "asyncio", "piccolo"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # At "debug" it writes every header of HTTP/2 down, and with them the providers' access tokens.
    logging.getLogger("hpack").setLevel(logging.WARNING)
