"""What a boto3 client hands out where SageMaker's control plane would have answered: an answer, or its error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

__all__ = ["Handler", "RefusedError", "answer_calls"]

# From a call's arguments to its answer, or None: then the service answers.
Handler = Callable[[Dict[str, Any]], Optional[Dict[str, Any]]]


class RefusedError(Exception):
    """A call that SageMaker would refuse; the caller sees boto3's ClientError.

    Parameters
    ----------
    message
        What is wrong, and what is allowed.
    code
        Of SageMaker's.
    status
        Of HTTP's.
    """

    def __init__(self, message: str, code: str = "ValidationException", status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def answer_calls(
    client: Any, handlers: Mapping[str, Handler], followers: Optional[Mapping[str, Callable[..., None]]] = None
) -> None:
    """Have some of a client's operations answered here.

    Parameters
    ----------
    client
        boto3's.
    handlers
        An operation's name, such as ``CreateTrainingJob``, to what answers it in place of the client's service.
    followers
        An operation's name to what is called after the service has answered, with arguments and answer; it may change
        the answer.
    """
    events, service = client.meta.events, client.meta.service_model.service_name

    def note(params: Dict[str, Any], context: Dict[str, Any], **_: Any) -> None:
        context["arguments"] = params

    for operation, handler in handlers.items():
        events.register(f"provide-client-params.{service}.{operation}", note)
        events.register(f"before-call.{service}.{operation}", _make_answer(handler))
    for operation, follower in (followers or {}).items():
        events.register(f"provide-client-params.{service}.{operation}", note)
        events.register(f"after-call.{service}.{operation}", _make_follower(follower))


def _make_answer(handler: Handler) -> Callable[..., Optional[Tuple[Any, Dict[str, Any]]]]:
    def answer(context: Dict[str, Any], **_: Any) -> Optional[Tuple[Any, Dict[str, Any]]]:
        try:
            parsed, status = handler(context["arguments"]), 200
            if parsed is None:
                return None
        except RefusedError as error:
            parsed, status = _describe(error), error.status
        parsed.setdefault("ResponseMetadata", {"HTTPStatusCode": status})
        return SimpleNamespace(status_code=status, headers={}), parsed

    return answer


def _make_follower(follower: Callable[..., None]) -> Callable[..., None]:
    def follow(http_response: Any, parsed: Dict[str, Any], context: Dict[str, Any], **_: Any) -> None:
        if http_response.status_code >= 300:
            return
        try:
            follower(context["arguments"], parsed)
        except RefusedError as error:
            http_response.status_code = error.status
            parsed.clear()
            parsed.update(_describe(error))

    return follow


def _describe(error: RefusedError) -> Dict[str, Any]:
    return {
        "Error": {"Code": error.code, "Message": str(error)},
        "ResponseMetadata": {"HTTPStatusCode": error.status},
    }
