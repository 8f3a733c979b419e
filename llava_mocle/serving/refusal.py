"""What a client is told when its request is not answered: one shape, that of OpenAI's errors."""

from typing import Any

from llava_mocle.errors import ConfigError, DataError, RoutingError, UserError
from llava_mocle.io.text import one_line

# What a client may mend itself; every other error is the server's, and its message may hold paths of the machine.
_CLIENTS = (DataError, RoutingError, ConfigError)
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_LONGEST = 500


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP, 400 to 599.
        message: for people.
        code: for programs, such as "image_too_large".
        param: the field of the request that is wrong; None if it is none.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= _LONGEST else message[:_LONGEST] + "..."
        self.code = code
        self.param = param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def full(retry_after: int = 1) -> Refusal:
    """There is no room for another request at present."""
    message = f"the server has as many requests as it takes; try again in {retry_after} s"
    return Refusal(503, message, code="queue_full", headers={"Retry-After": str(retry_after)})


def failed() -> Refusal:
    """Something is wrong with the server."""
    return Refusal(500, "the server failed to answer; its log says why", code="internal_error")


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told of an error. Of one that is not the client's it learns nothing."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(504, "the answer took longer than this server allows", code="timeout")
    if isinstance(error, UserError) and isinstance(error, _CLIENTS):
        return Refusal(400, one_line(error, _LONGEST), code="invalid_request")
    return failed()
