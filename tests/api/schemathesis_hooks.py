"""Gives generated requests ids that exist, so that not everything ends at 403 and 404.

Loaded by schemathesis in its own process. Only requests that are meant to be good are touched, and only with what a
schema cannot say: which users and apps there are, and what time it is.
"""

import json
import os
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis

FACTS: dict[str, Any] = json.loads(os.environ["CARILLON_CONFORMANCE_FACTS"])
_chance = random.Random(7)


@schemathesis.hook
def before_call(context: Any, case: Any, **kwargs: Any) -> None:
    """Fill in what exists, in two of three good requests; in all a key of their own (bodies differ) and a near time."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.headers is not None and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if isinstance(case.body, dict):
        _put_in_time(case.body)
    if _chance.random() < 0.33:
        return
    if isinstance(case.body, dict):
        _fill(case.body)
    for name in ("app_id", "id"):
        if case.method == "GET" and name in (case.path_parameters or {}):
            case.path_parameters[name] = FACTS["app_id"]
    if case.method == "PATCH" and "app_id" in (case.path_parameters or {}):
        case.path_parameters["app_id"] = FACTS["spare_app_id"]


def _fill(body: dict[str, Any]) -> None:
    if "app_id" in body:
        body["app_id"] = FACTS["app_id"]
    if "user_id" in body:
        body["user_id"] = FACTS["user_ids"][0]
    if "user_ids" in body:
        body["user_ids"] = FACTS["user_ids"]
    for entry in body.get("notifications", []):
        _fill(entry)


def _put_in_time(body: dict[str, Any]) -> None:
    if body.get("send_at") is not None:
        body["send_at"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for entry in body.get("notifications", []):
        _put_in_time(entry)
