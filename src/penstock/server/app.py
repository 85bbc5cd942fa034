"""The ASGI application: vLLM's endpoints over a live cluster."""

from __future__ import annotations

import time
import uuid
from array import array
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from penstock import __version__
from penstock.server.errors import ApiError, unreadable
from penstock.server.formats import AnswerFormat, ChatFormat, CompletionFormat
from penstock.server.generation import Generation, GenerationResponse
from penstock.server.http import Endpoint, Handler, http_error, parse_body, read_body, unexpected
from penstock.server.lateness import Lateness
from penstock.server.live import LiveCluster
from penstock.server.protocol import RECEIVED
from penstock.server.schema import (
    MAX_ANSWER_TOKENS,
    MAX_SEQUENCES,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Sampling,
    TokenizeBody,
)
from penstock.server.served_model import ServedModel


class Api:
    """The endpoints. ``max_queue`` requests may wait, 0 means any number; beyond that 503 is the answer."""

    def __init__(
        self, cluster: LiveCluster, models: Sequence[ServedModel], lateness: Lateness, *, max_queue: int = 0
    ) -> None:
        self.cluster = cluster
        self.models = models
        self.lateness = lateness
        self.max_queue = max_queue
        self._by_alias = {alias: model for model in models for alias in model.aliases}
        self._created_s = int(time.time())
        self._has_priorities = any(
            instance.scheduler.scheduling_policy == "priority"
            for instance in cluster.simulation.cluster.instances
        )

    def app(self, more: Sequence[Route] = ()) -> Starlette:
        """The application, with ``more`` routes."""
        posts: dict[str, Handler] = {
            "/v1/completions": self.completions,
            "/v1/chat/completions": self.chat_completions,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
        }
        gets: dict[str, Handler] = {
            "/v1/models": self.list_models,
            "/health": self.health,
            "/load": self.load,
            "/version": self.version,
        }
        routes = [Route(path, Endpoint(handler), methods=["POST"]) for path, handler in posts.items()]
        routes += [Route(path, Endpoint(handler), methods=["GET"]) for path, handler in gets.items()]
        routes.append(Route("/ping", Endpoint(self.health), methods=["GET", "POST"]))
        return Starlette(
            routes=[*routes, *more], exception_handlers={HTTPException: http_error, Exception: unexpected}
        )

    # --- answers ------------------------------------------------------------------------------------------------

    async def completions(self, request: Request) -> ASGIApp:
        """``POST /v1/completions``."""
        raw = await read_body(request)
        received_ns = self._received_ns(request)
        body = parse_body(raw, CompletionBody)
        body.check(body.max_tokens)
        model = self._model(body.model)
        prompts = [
            model.encode(prompt, add_special_tokens=body.add_special_tokens) for prompt in body.prompts()
        ]
        style = CompletionFormat(
            body.request_id or uuid.uuid4().hex, int(time.time()), self._name(body, model)
        )
        return self._generate(
            body, model, prompts, body.max_tokens, style, received_ns, echoes=bool(body.echo)
        )

    async def chat_completions(self, request: Request) -> ASGIApp:
        """``POST /v1/chat/completions``."""
        raw = await read_body(request)
        received_ns = self._received_ns(request)
        body = parse_body(raw, ChatBody)
        body.check(body.most_tokens)
        model = self._model(body.model)
        text = model.render(body.messages, add_generation_prompt=body.add_generation_prompt)
        prompt = model.encode(text, add_special_tokens=False)
        style = ChatFormat(body.request_id or uuid.uuid4().hex, int(time.time()), self._name(body, model))
        return self._generate(body, model, [prompt], body.most_tokens, style, received_ns)

    def _generate(
        self,
        body: Sampling,
        model: ServedModel,
        prompts: Sequence[array[int]],
        max_tokens: int | None,
        style: AnswerFormat,
        received_ns: int,
        *,
        echoes: bool = False,
    ) -> GenerationResponse:
        if body.priority and not self._has_priorities:
            raise ApiError(f"Got priority {body.priority} but Priority scheduling is not enabled.")
        if self.cluster.failure is not None:
            raise ApiError(
                self.cluster.failure, status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="InternalServerError"
            )
        if self.max_queue and self.cluster.num_waiting >= self.max_queue:
            raise ApiError(
                f"{self.cluster.num_waiting} requests are waiting, as many as may.",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                kind="ServiceUnavailableError",
            )
        n = body.n or 1
        if len(prompts) * n > MAX_SEQUENCES:
            raise ApiError(
                f"At most {MAX_SEQUENCES:,} answers to a request, not {len(prompts) * n:,}.", param="n"
            )
        most = [
            min(max_tokens or model.max_model_len, model.max_model_len - len(prompt)) for prompt in prompts
        ]
        if sum(most) * n > MAX_ANSWER_TOKENS:
            raise ApiError(
                f"The answers to a request may have {MAX_ANSWER_TOKENS:,} tokens in all, not {sum(most) * n:,}: "
                "ask for fewer with n, prompt or max_tokens.",
                param="max_tokens",
            )
        answers = [
            model.answerer.answer(
                prompt,
                max_tokens=tokens,
                min_tokens=body.min_tokens,
                ignore_eos=body.ignore_eos,
                seed=body.seed,
                number=number,
            )
            for prompt, tokens in zip(prompts, most, strict=True)
            for number in range(n)
        ]
        options = body.stream_options
        generation = Generation(
            prompts=prompts,
            answers=answers,
            n=n,
            max_tokens=max_tokens or 0,
            priority=body.priority,
            model=model.name,
            received_ns=received_ns,
            streams=bool(body.stream),
            echoes=echoes,
            usage=options is not None and bool(options.include_usage),
            running_usage=options is not None
            and bool(options.include_usage and options.continuous_usage_stats),
        )
        return GenerationResponse(generation, style, self.cluster, model.pieces, self.lateness)

    # --- the others ---------------------------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        cards = [
            {
                "id": alias,
                "object": "model",
                "created": self._created_s,
                "owned_by": "vllm",
                "root": model.name,
                "parent": None,
                "max_model_len": model.max_model_len,
                "permission": [_permission(self._created_s)],
            }
            for model in self.models
            for alias in model.aliases
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def health(self, request: Request) -> Response:
        """``GET /health`` and ``/ping``: 503 once the simulation cannot go on."""
        return Response(status_code=200 if self.cluster.failure is None else 503)

    async def load(self, request: Request) -> Response:
        """``GET /load``: requests being served."""
        return JSONResponse({"server_load": self.cluster.num_open})

    async def version(self, request: Request) -> Response:
        """``GET /version``."""
        return JSONResponse({"version": f"penstock {__version__}"})

    async def tokenize(self, request: Request) -> Response:
        """``POST /tokenize``."""
        body = parse_body(await read_body(request), TokenizeBody)
        model = self._model(body.model)
        if body.messages is not None:
            text = model.render(body.messages, add_generation_prompt=body.add_generation_prompt)
        elif body.prompt is not None:
            text = body.prompt
        else:
            raise unreadable("1 validation error:\n  prompt or messages is required", "prompt")
        ids = model.tokenizer.encode(
            text, add_special_tokens=body.add_special_tokens and body.messages is None
        )
        strings = [model.tokenizer.piece(one) for one in ids] if body.return_token_strs else None
        answer = {
            "count": len(ids),
            "max_model_len": model.max_model_len,
            "tokens": ids.tolist(),
            "token_strs": strings,
        }
        return JSONResponse(answer)

    async def detokenize(self, request: Request) -> Response:
        """``POST /detokenize``."""
        body = parse_body(await read_body(request), DetokenizeBody)
        return JSONResponse({"prompt": self._model(body.model).tokenizer.decode(body.tokens)})

    # --- parts of them ------------------------------------------------------------------------------------------

    def _model(self, name: str | None) -> ServedModel:
        """The model that a request names, the first where it names none.

        Raises:
            ApiError: there is no such model.
        """
        if not name:
            return self.models[0]
        model = self._by_alias.get(name)
        if model is None:
            raise ApiError(
                f"The model `{name}` does not exist. Valid aliases: {', '.join(self._by_alias)}.",
                status=HTTPStatus.NOT_FOUND,
                kind="NotFoundError",
                param="model",
            )
        return model

    def _received_ns(self, request: Request) -> int:
        """When a request had come in whole, in simulated time."""
        clock = self.cluster.clock
        machine_ns = request.scope.get(RECEIVED)
        return clock.now_ns() if machine_ns is None else clock.at_ns(machine_ns)

    @staticmethod
    def _name(body: Sampling, model: ServedModel) -> str:
        return body.model or model.aliases[0]


def _permission(created_s: int) -> dict[str, Any]:
    allowed = {"create_engine": False, "sampling": True, "logprobs": True, "search_indices": False}
    allowed |= {"view": True, "fine_tuning": False}
    return {
        "id": f"modelperm-{created_s:x}",
        "object": "model_permission",
        "created": created_s,
        **{f"allow_{what}": is_allowed for what, is_allowed in allowed.items()},
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
