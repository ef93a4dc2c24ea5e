import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor
from torch_geometric.data import HeteroData

import mrdib_pyg
from mrdib_pyg.datasets import IdMap
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.serving.export import require
from mrdib_pyg.serving.service import Id, Service, Unavailable, UnknownId

PAGES = Path(__file__).parent / 'pages'
# Pages load nothing from other hosts and cannot be framed by them.
PAGE_HEADERS = {
    'Content-Security-Policy': "default-src 'none'; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
}


def make_app(
    model: Recommender,
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
    *,
    data: HeteroData | None = None,
    exclude: Tensor | None = None,
    approximate: bool = False,
    max_k: int = 100,
    max_ids: int = 1000,
    max_results: int = 100_000,
    max_body: int = 1 << 18,
    num_threads: int | None = None,
    hosts: Sequence[str] | None = None,
) -> Any:
    r"""Returns a :class:`fastapi.FastAPI` application (extra ``[serve]``) that answers for a model:

    * :obj:`/recommend`: the best items of one user (GET) or several (POST), optionally with the
      score by each modality alone, and with an allow list and a deny list,
    * :obj:`/similar`: the items nearest to one item (GET) or several (POST), by cosine,
    * :obj:`/explain`: the score of a user and an item in parts (501 if the model has none),
    * :obj:`/health`, :obj:`/openapi.json`, :obj:`/docs`, and a page to try it at :obj:`/`.

    Pages load nothing from other hosts. Wrong input gets 400 (the body is not UTF-8), 404 (no such
    user or item), 405 (wrong method), 413 (the body is too large) or 422, with the reason under
    ``"detail"``. A header :obj:`Host` outside :obj:`hosts` gets 400 in plain text. A busy service
    answers 503 with the header :obj:`Retry-After`. Short answers never wait for long ones. If a
    client disconnects, its work is dropped.

    Args:
        model (Recommender): A trained model. Later changes of it are not served.
        user_ids (IdMap, optional): The raw ids of the users. (default: :obj:`None`)
        item_ids (IdMap, optional): The raw ids of the items. (default: :obj:`None`)
        data (HeteroData, optional): The data of the model, whose validation edges
            :obj:`/explain` needs. (default: :obj:`None`)
        exclude (torch.Tensor, optional): Pairs of a user and an item that count as seen like the
            training edges, ``[2, n]``. :func:`known_pairs` gives those of all splits.
            (default: :obj:`None`)
        approximate (bool, optional): Searches an approximate :class:`ItemIndex`.
            (default: :obj:`False`)
        max_k (int, optional): The most items for a user. (default: :obj:`100`)
        max_ids (int, optional): The most ids in any list of a request. (default: :obj:`1000`)
        max_results (int, optional): The most scores of an answer: the ids of a request times its
            :obj:`k`, and again for each modality with :obj:`parts`. All long answers under way
            hold at most twice as many. (default: :obj:`100000`)
        max_body (int, optional): The most bytes of a request's body. (default: 256 KiB)
        num_threads (int, optional): The threads for short answers. Long ones share another.
            (default: :obj:`None`, the number of cores)
        hosts (Sequence[str], optional): The accepted values of the header :obj:`Host`. On the
            loopback they keep out web pages that point a host name of theirs at it.
            (default: :obj:`None`, any)

    Raises:
        ImportError: If FastAPI is missing.
    """
    require('fastapi', 'the service')
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from mrdib_pyg.serving.admission import Admission, Overloaded

    default_k = min(20, max_k)
    service = Service(
        model, user_ids, item_ids, approximate=approximate, data=data, exclude=exclude
    )

    admission = Admission(2 * max_results, num_threads)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        admission.close()

    app = FastAPI(
        title='mrdib_pyg',
        version=mrdib_pyg.__version__,
        description=f'Recommendations by {type(model).__name__}.',
        docs_url=None,  # both would load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, max_body=max_body)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Any, error: RequestValidationError) -> JSONResponse:
        # The input is not repeated: it may be long.
        detail = [{key: e[key] for key in ('type', 'loc', 'msg')} for e in error.errors()]
        return JSONResponse({'detail': detail}, 422)

    maps = [ids.ids for ids in (user_ids, item_ids) if ids is not None]
    longest = max((len(name) for names in maps for name in names), default=0)
    Name = Annotated[str, Query(max_length=max(200, longest), description='An id.')]
    K = Annotated[int, Query(ge=1, le=max_k, description='The number of items.')]
    # Strict: otherwise true would be the id 1, and a misspelled key would be ignored.
    Ids = Annotated[
        list[StrictStr | StrictInt],
        Field(min_length=1, max_length=max_ids, description='Ids.'),
    ]
    Some = Annotated[list[StrictStr | StrictInt] | None, Field(max_length=max_ids)]
    Number = Annotated[StrictInt, Field(ge=1, le=max_k, description='The number of items.')]

    class Users(BaseModel):
        model_config = ConfigDict(extra='forbid')
        users: Ids
        k: Number = default_k
        exclude_seen: StrictBool = True
        parts: StrictBool = False
        allow: Some = None
        deny: Some = None

    class Items(BaseModel):
        model_config = ConfigDict(extra='forbid')
        items: Ids
        k: Number = default_k

    errors: dict[int | str, dict[str, Any]] = {
        404: {'description': 'No such user or item'},
        503: {'description': 'Busy; try again after the seconds in Retry-After'},
    }

    async def reply(request: Request, size: int, answer: Callable[[], Iterator[bytes]]) -> Response:
        try:
            return await admission.respond(answer, size, request.receive)
        except UnknownId as e:
            raise HTTPException(404, str(e)) from None
        except Unavailable as e:
            raise HTTPException(501, str(e)) from None
        except Overloaded as e:
            raise HTTPException(503, str(e), {'Retry-After': '1'}) from None
        except ValueError as e:
            raise HTTPException(422, str(e)) from None

    def size_of(name: str, ids: Sequence[Id], k: int, parts: bool = False) -> int:
        num_scores = 1 + parts * len(service.modalities)
        size = len(ids) * k * num_scores
        if size > max_results:
            times = f' times {num_scores} scores' if parts else ''
            reason = f"'{name}' times 'k' must be at most {max_results} (got {len(ids)} times {k}"
            raise HTTPException(422, f'{reason}{times}); send fewer at a time')
        return size

    def listed(rows: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
        def answer() -> Iterator[bytes]:
            yield b'{"results":['
            yield from rows()
            yield b']}'

        return answer

    @app.get('/recommend', responses=errors, summary='The best items of a user')
    async def recommend(
        request: Request, user: Name, k: K = default_k, exclude_seen: bool = True,
        parts: bool = False,
    ) -> Response:  # fmt: skip
        size = size_of('users', [user], k, parts)
        return await reply(
            request,
            size,
            lambda: service.recommend_json([user], k, exclude_seen=exclude_seen, parts=parts),
        )

    @app.post('/recommend', responses=errors, summary='The best items of several users')
    async def recommend_all(request: Request, body: Users) -> Response:
        size = size_of('users', body.users, body.k, body.parts)
        settings = body.model_dump(exclude={'users', 'k'})
        rows = listed(lambda: service.recommend_json(body.users, body.k, **settings))
        return await reply(request, size, rows)

    @app.get('/similar', responses=errors, summary='The items nearest to an item')
    async def similar(request: Request, item: Name, k: K = default_k) -> Response:
        size = size_of('items', [item], k)
        return await reply(request, size, lambda: service.similar_json([item], k))

    @app.post('/similar', responses=errors, summary='The items nearest to several items')
    async def similar_all(request: Request, body: Items) -> Response:
        size = size_of('items', body.items, body.k)
        rows = listed(lambda: service.similar_json(body.items, body.k))
        return await reply(request, size, rows)

    unavailable: dict[int | str, dict[str, Any]] = {501: {'description': 'This model has no parts'}}

    @app.get('/explain', responses=errors | unavailable, summary='The score of an item in parts')
    async def explain(request: Request, user: Name, item: Name) -> Response:
        def answer() -> Iterator[bytes]:
            yield json.dumps(service.explain(user, item), ensure_ascii=False).encode()

        return await reply(request, 1, answer)

    @app.get('/health', summary='The status of the service and its model')
    async def health() -> dict[str, Any]:
        return {**service.describe(), 'max_k': max_k, 'version': mrdib_pyg.__version__}

    pages = {path: (PAGES / f'{name}.html').read_text('utf-8') for path, name in ROUTES.items()}

    @app.get('/', include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(pages['/'], headers=PAGE_HEADERS)

    @app.get('/docs', include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(pages['/docs'], headers=PAGE_HEADERS)

    return app


#: The pages and their files.
ROUTES = {'/': 'index', '/docs': 'docs'}


class BodyLimit:
    r"""ASGI middleware that answers 413 to a body of more than ``max_body`` bytes, whatever its
    header claims, and reads no more than that.
    """

    def __init__(self, app: Any, max_body: int) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        length = dict(scope['headers']).get(b'content-length', b'0')
        too_large = not length.isdigit() or int(length) > self.max_body
        messages, size, more = [], 0, not too_large
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get('body', b''))
            too_large = size > self.max_body
            more = message.get('more_body', False) and not too_large
        if too_large:
            from starlette.responses import JSONResponse

            reason = f'the body of a request must have at most {self.max_body} bytes'
            response = JSONResponse({'detail': reason}, 413, headers={'Connection': 'close'})
            await response(scope, receive, send)
            return

        async def replay() -> Any:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)
