"""The pictures that a request brings: as its body, as a form with files, or as addresses where that is allowed."""

import asyncio
import posixpath
from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

from fastapi import HTTPException, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from extras.serve.deadline import within
from extras.serve.pictures import Held

FORM, JSON = "multipart/form-data", "application/json"
RAW = ("application/octet-stream", "image/")
MAX_FIELDS, MAX_FIELD_BYTES, MAX_JSON_BYTES = 8, 4096, 1 << 16


class Addresses(BaseModel):
    """The JSON body that names pictures in place of bringing them."""

    urls: list[str] = Field(min_length=1)


class Intake:
    """The reader of requests, with the limits of a server."""

    def __init__(self, opt):
        self.max_bytes, self.max_pictures = int(opt.max_mb * 1e6), opt.max_pictures
        self.receive_s, self.allowed = opt.receive_s, [prefix_parts(prefix) for prefix in opt.allow_url]

    async def pictures(self, request: Request, held: Held) -> list[bytes]:
        """Return the bytes of the pictures of a request. They are counted in `held`. A refusal beyond the limits."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes:
            raise self._too_large(f"{int(length):,}")
        try:
            if kind == JSON:
                body = await within(self.receive_s, self._whole(request, held))
                return await self._fetch_all(body, held)
            if kind == FORM:
                return await within(self.receive_s, self._form(request, held))
            if kind.startswith(RAW):
                return [await within(self.receive_s, self._whole(request, held))]
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the request has not come within {self.receive_s:g} s") from None
        raise HTTPException(
            415, f"expected a Content-Type of image/*, {RAW[0]}, {FORM} or {JSON}, found '{kind[:100]}'"
        )

    def _too_large(self, found: str) -> HTTPException:
        return HTTPException(413, f"expected at most {self.max_bytes:,} bytes, found {found}")

    async def _counted(self, chunks: AsyncIterator[bytes], held: Held) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.max_bytes:
                raise self._too_large("more")
            held.take(len(chunk))
            yield chunk

    async def _whole(self, request: Request, held: Held) -> bytes:
        body = b"".join([chunk async for chunk in self._counted(request.stream(), held)])
        if not body:
            raise HTTPException(422, "expected a picture, found an empty body")
        return body

    async def _form(self, request: Request, held: Held) -> list[bytes]:
        """Return the files of a form, which stay in memory."""
        limits = {"max_files": self.max_pictures, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
        parser = MultiPartParser(request.headers, self._counted(request.stream(), held), **limits)
        parser.spool_max_size = self.max_bytes + 1
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, f"the form cannot be read: {error.message}") from None
        try:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(422, "expected a form with a file for each picture, found none")
            return [await file.read() for file in files]
        finally:
            await form.close()

    async def _fetch_all(self, body: bytes, held: Held) -> list[bytes]:
        if not self.allowed:
            raise HTTPException(403, "this server takes no addresses (--allow-url)")
        if len(body) > MAX_JSON_BYTES:
            raise HTTPException(413, f"expected at most {MAX_JSON_BYTES:,} bytes of JSON, found {len(body):,}")
        try:
            urls = Addresses.model_validate_json(body).urls
        except ValidationError:
            raise HTTPException(422, 'expected {"urls": ["https://..."]}') from None
        if len(urls) > self.max_pictures:
            raise HTTPException(413, f"expected at most {self.max_pictures} pictures, found {len(urls)}")
        for number, url in enumerate(urls, 1):
            if not any(is_below(url, allowed) for allowed in self.allowed):
                raise HTTPException(403, f"address {number} is not among those that --allow-url names")
        import httpx  # A third of a second, for those alone who allow addresses.

        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self.receive_s) as client:
            return [await self._fetch(client, url, f"address {number}", held) for number, url in enumerate(urls, 1)]

    async def _fetch(self, client, url: str, name: str, held: Held) -> bytes:
        """Return what an address has. It is not followed elsewhere, which the list could not hold."""

        import httpx

        async def read() -> bytes:
            async with client.stream("GET", url) as response:
                if response.status_code != 200:
                    raise HTTPException(424, f"{name}: its server answers {response.status_code}")
                return b"".join([chunk async for chunk in self._counted(response.aiter_bytes(), held)])

        try:
            return await within(self.receive_s, read())
        except (httpx.HTTPError, asyncio.TimeoutError) as error:
            raise HTTPException(424, f"{name}: cannot be fetched ({type(error).__name__})") from None


def prefix_parts(prefix: str) -> tuple:
    """Return scheme, host, port and path of an address of --allow-url; ValueError for anything else."""
    parts = url_parts(prefix)
    if parts is None:
        raise ValueError(f"--allow-url: expected http(s)://HOST/PATH without user and query, found '{prefix}'")
    return parts


def url_parts(url: str) -> tuple | None:
    """Return (scheme, host, port, path) of a plain http(s) address; None for others, also those with '..'."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    path = unquote(unquote(parts.path)) or "/"
    is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in unquote(unquote(url))
    is_plain = is_plain and "@" not in parts.netloc and not parts.fragment
    is_plain = is_plain and posixpath.normpath(path).rstrip("/") == path.rstrip("/")
    if parts.scheme not in ("http", "https") or not host or not is_plain:
        return None
    return parts.scheme, host, port or {"http": 80, "https": 443}[parts.scheme], path


def is_below(url: str, allowed: tuple) -> bool:
    """Tell whether an address begins with an allowed one; a path of whole folders: /a allows /a and /a/b, not /ab."""
    parts = url_parts(url)
    if parts is None or parts[:3] != allowed[:3]:
        return False
    folder = allowed[3].rstrip("/")
    return parts[3] == allowed[3] or parts[3].startswith(f"{folder}/")
