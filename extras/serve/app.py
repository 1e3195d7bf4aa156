"""The interface: routes, who may use them, and what they answer."""

import asyncio
import hmac
import signal
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.requests import ClientDisconnect

from extras.serve.answers import SHAPES, as_jpeg
from extras.serve.gate import FAILED, Gate
from extras.serve.intake import FORM, JSON, RAW
from extras.serve.service import Service, digest
from utils.general import VERSION

PAGE = Path(__file__).parent / "page"
PAGE_POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'"
ABOUT = "Objects in pictures, found by the models that serve.py was started with. The page docs/serve.md explains it."
BINARY = {"type": "string", "format": "binary"}
BODIES: dict[str, dict] = {  # for the interface's description; extras/serve/intake.py reads them
    FORM: {"type": "object", "properties": {"image": {"type": "array", "items": BINARY}}},
    "image/*": BINARY,
    RAW[0]: BINARY,
    JSON: {"type": "object", "properties": {"urls": {"type": "array", "items": {"type": "string"}}}},
}
BODY = {"required": True, "content": {kind: {"schema": schema} for kind, schema in BODIES.items()}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "image/jpeg": {}}},
    401: {"description": "no token, or another one"},
    413: {"description": "more bytes, pixels or pictures than allowed"},
    422: {"description": "not a picture"},
    429: {"description": "the queue is full; Retry-After says when it may have room"},
    503: {"description": "no time or memory for it, or stopping; Retry-After says when to try again"},
}


def service_of(request: Request) -> Service:
    return request.app.state.service


Shared = Annotated[Service, Depends(service_of)]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
Shape = Literal["coco", "pandas", "yolo", "jpeg"]


def require_token(service: Shared, credentials: Credentials) -> None:
    """Refuse (401) a request without one of the tokens. All are compared, in a time that does not tell how far."""
    given = digest(credentials.credentials if credentials else "")
    found = [hmac.compare_digest(given, token) for token in service.tokens]
    if service.tokens and not any(found):
        raise HTTPException(401, "expected a token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


guarded, pages = APIRouter(dependencies=[Depends(require_token)]), APIRouter()


@guarded.post("/v1/detect", tags=["detection"], openapi_extra={"requestBody": BODY}, responses=ANSWERS)
async def detect(
    request: Request,
    service: Shared,
    model: Annotated[str | None, Query(description="name of a model (default: the first)")] = None,
    format: Annotated[Shape, Query(description="coco, pandas, yolo: JSON; jpeg: the picture with its boxes")] = "coco",
    conf: Annotated[float, Query(ge=0, le=1, description="least confidence, where it is above the server's")] = 0.0,
) -> Response:
    """Detect objects in one or several pictures: the body, files of a form, or addresses."""
    facts, loop = request.scope["facts"], asyncio.get_running_loop()
    service.check_queue(1)
    with service.models.using(known_model(service, model)) as used, service.memory.holding() as held:
        pictures = await service.intake.pictures(request, held)
        facts.update(model=used.name, pictures=len(pictures), bytes=sum(map(len, pictures)))
        draws = format == "jpeg"
        if draws and len(pictures) > 1:
            raise HTTPException(422, f"format=jpeg: expected one picture, found {len(pictures)}")
        results = await unless_gone(request, service.detect(used, pictures, held, keep=draws))
        results = [replace(result, boxes=result.boxes[result.boxes[:, 4] >= conf]) for result in results]
        facts.update(objects=sum(len(result.boxes) for result in results))
        used.batcher.metrics.objects.inc(facts["objects"])
        if draws:
            jpeg = await loop.run_in_executor(service.decoders, as_jpeg, results[0])
            return Response(jpeg, media_type="image/jpeg")
        return JSONResponse(SHAPES[format](results))


async def unless_gone(request: Request, work):
    """Return what the coroutine `work` returns; cancel it when the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def known_model(service: Service, name: str | None) -> str:
    """Return the name of a model, the first one's for None; a refusal (404) if there is none of that name."""
    names = list(service.models.by_name)
    if name not in (None, *names):
        raise HTTPException(404, f"expected a model of {', '.join(names)}, found '{name[:100]}'")
    return name or names[0]


@guarded.get("/v1/models", tags=["models"])
async def list_models(service: Shared) -> list[dict]:
    """Name the models, the default one first."""
    return [
        {"name": name, "image_size_hw": model.detector.imgsz, "classes": list(model.detector.model.names.values())}
        for name, model in service.models.by_name.items()
    ]


@guarded.post("/v1/models/{name}/reload", tags=["models"])
async def reload(service: Shared, name: str) -> dict:
    """Read a model's file anew while requests go on; where it cannot be read, the old one stays (422)."""
    if not service.tokens:
        raise HTTPException(403, "expected a server with --token-file; the signal SIGHUP does it without")
    if not await service.models.reload(known_model(service, name)):
        raise HTTPException(422, "the file cannot be read, the old one stays; the log says why")
    return {"name": name}


@guarded.get("/metrics", tags=["state"])
async def metrics(service: Shared) -> Response:
    """Give the counters as Prometheus reads them."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


@pages.get("/healthz", tags=["state"])
async def healthz() -> dict:
    """Say that the process answers."""
    return {"status": "alive"}


@pages.get("/readyz", tags=["state"])
async def readyz(service: Shared) -> Response:
    """Say whether requests should be sent here; 503 while it stops."""
    if service.is_stopping:
        return JSONResponse({"status": "stopping"}, 503, {"Retry-After": "5"})
    return JSONResponse({"status": "ready"})


@pages.get("/", include_in_schema=False)
async def index() -> Response:
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})


def build_app(service: Service) -> Gate:
    """Return the ASGI application."""

    @asynccontextmanager
    async def lifespan(_):
        service.models.start()
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.models.reload_all)
        yield

    app = FastAPIOffline(title="Detection", version=VERSION, description=ABOUT, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.include_router(guarded)
    app.include_router(pages)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_exception_handler(Exception, lambda *_: Response(FAILED, 500, media_type="application/json"))
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))
    return Gate(app, service)
