"""Bodies hold text: JSON can write half of a surrogate pair, which nothing else can hold."""

from __future__ import annotations

import json

from fastapi import Request

from tuner.errors import InvalidInput


async def require_text(request: Request) -> None:
    """Refuses a JSON body with strings that are no text.

    Raises:
        InvalidInput: One holds an unpaired surrogate.
    """
    if "json" not in request.headers.get("content-type", "json"):
        return
    # FastAPI has read it already and keeps it; most bodies hold no such escape at all.
    body = await request.body()
    if b"\\ud" not in body.lower():
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("body", "holds half of a surrogate pair, which is no text") from error
    except ValueError:
        return  # not JSON: whoever reads it says so
