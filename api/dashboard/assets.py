"""Styles, scripts and icons, kept in memory and packed once.

One digest over all of them is part of their address: a browser keeps them for a year and asks anew
the moment one changes, and modules that import each other always get the same generation.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import normpath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
PATH = "/assets/{generation}/{name:path}"
FOREVER = "public, max-age=31536000, immutable"
KINDS = {".js": "text/javascript", ".css": "text/css"}
"""Said here, because what ``mimetypes`` knows depends on the machine."""
IMPORT = re.compile(r"""^(?:import|export)\b[^;]*?["'](\.{1,2}/[^"']+)["'];""", re.MULTILINE)


@dataclass(frozen=True)
class Asset:
    """One file, as it is and packed."""

    content: bytes
    packed: bytes
    kind: str


@cache
def files() -> dict[str, Asset]:
    """Every asset by its path in the folder."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            kind = KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0]
            found[path.relative_to(FOLDER).as_posix()] = Asset(
                content, gzip.compress(content, mtime=0), kind or "application/octet-stream"
            )
    return found


@cache
def digest() -> str:
    """What tells this generation of assets from every other."""
    found = hashlib.sha256()
    for name, asset in files().items():
        found.update(name.encode() + b"\0" + asset.content)
    return found.hexdigest()[:16]


@cache
def _imports(name: str) -> tuple[str, ...]:
    """The modules that one module names at its start."""
    folder = PurePosixPath(name).parent
    found = IMPORT.findall(files()[name].content.decode())
    return tuple(normpath(str(folder / target)) for target in found)


def imported(names: Iterable[str]) -> list[str]:
    """The modules that these ones import at their start, directly or through others."""
    waiting = list(names)
    seen = set(waiting)
    found = []
    while waiting:
        fresh = [name for name in _imports(waiting.pop(0)) if name not in seen]
        seen.update(fresh)
        found += fresh
        waiting += fresh
    return found


async def serve(request: Request) -> Response:
    """One asset of this generation, to be kept; 404 for any other."""
    asset = files().get(request.path_params["name"])
    if asset is None or request.path_params["generation"] != digest():
        raise HTTPException(404)
    headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        content = asset.packed
    return Response(content, headers=headers, media_type=asset.kind)
