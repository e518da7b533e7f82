"""Serves the page and its answers to this machine alone, one question at a time."""

import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from transformer_jax.errors import UserError, one_line
from transformer_jax.inside import assets
from transformer_jax.inside.answers import Answers, Question, Refused

ADDRESS = "127.0.0.1"
MAX_BODY = 16 * 1024  # bytes of a question
_PORTS = 100  # how many are tried
_HEADERS = {
    # A page elsewhere may neither frame this one nor read its answers; nothing leaves the machine.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def app(answers: Answers) -> Starlette:
    """The page's application."""
    files, alone = assets.files(), anyio.CapacityLimiter(1)

    async def answer(asked: Callable[..., Any], *arguments: Any) -> Response:
        try:
            return JSONResponse(await anyio.to_thread.run_sync(asked, *arguments, limiter=alone))
        except UserError as e:
            return _refusal(e)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", assets.INDEX)
        if name not in files:
            return Response(status_code=404)
        return Response(files[name], media_type=assets.media_type(name))

    async def model(_: Request) -> Response:
        return JSONResponse(await anyio.to_thread.run_sync(answers.facts))

    async def inside(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refusal(Refused("malformed", "the question must be application/json"), 415)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                most = f"the most are {MAX_BODY}"
                return _refusal(Refused("too_large", f"the question has more bytes; {most}"), 413)
        return await answer(lambda: answers.inside(Question.of(_parsed(body))))

    async def layer(request: Request) -> Response:
        record, name = (request.query_params.get(key, "") for key in ("record", "name"))
        return await answer(answers.layer, record, name)

    async def parameters(request: Request) -> Response:
        part, step = (request.query_params.get(name, "") for name in ("part", "checkpoint"))
        if step and not (step.isascii() and step.isdigit() and len(step) < 16):
            return _refusal(Refused("malformed", "checkpoint is no number"))
        return await answer(answers.parameters, part, int(step) if step else None)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/page/{name}", page),
            Route("/api/model", model),
            Route("/api/layer", layer),
            Route("/api/parameters", parameters),
            Route("/api/inside", inside, methods=["POST"]),
        ],
        middleware=[
            # A name that a stranger's server lets point here is no name of this page.
            Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"]),
            Middleware(BaseHTTPMiddleware, dispatch=_protect),
        ],
    )


def bind(port: int) -> socket.socket:
    """A socket of this machine alone, at `port` or the next free one.

    Raises:
      UserError: if none of the ports after it is free.
    """
    last = min(port + _PORTS, 65_536)
    for candidate in range(port, last):
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((ADDRESS, candidate))
            found.listen()  # from now on a browser waits for the server
            return found
        except OSError:
            found.close()
    raise UserError(f"none of the ports {port} to {last - 1} is free: give another --port")


def serve(answers: Answers, listening: socket.socket) -> None:
    """Answers until it is interrupted."""
    options = uvicorn.Config(
        app(answers), log_level="warning", limit_concurrency=32, server_header=False
    )
    uvicorn.Server(options).run(sockets=[listening])


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("malformed", "the question is not JSON") from None


def _refusal(error: UserError, status: int = 400) -> Response:
    facts = error.facts if isinstance(error, Refused) else {"message": one_line(error, 300)}
    gone = facts.get("code") == "gone"
    return JSONResponse({"error": facts}, status_code=410 if gone else status)


async def _protect(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(_HEADERS)
    return response
