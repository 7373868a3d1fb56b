"""What it means for a push that its request got no answer; shared by the channels on the HTTP/2 sender."""

from appliance.channels.http2_messages import Ambiguous, Failure, NotSent
from appliance.domain.outcome import Misconfigured, Outcome, Retry

_OURS = (Failure.BUSY, Failure.CLOSED)


def outcome_without_answer(answer: NotSent | Ambiguous) -> Outcome:
    """Give the outcome of a request without an answer.

    A TLS connection that cannot be made is for an admin to mend (a certificate, the clock, something in between); all
    else is weather. What was never sent for want of room here says nothing about the provider.
    """
    code = answer.reason.value
    match answer:
        case Ambiguous():
            return Retry(f"{answer.detail} It may have been taken; it is repeated under the same id.", code=code)
        case NotSent(reason=Failure.TLS):
            return Misconfigured(answer.detail, code=code)
        case _:
            return Retry(answer.detail, code=code, is_about_device=answer.reason in _OURS)
