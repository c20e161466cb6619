"""Bodies hold text, and say each thing once.

JSON can write half of a surrogate pair, which nothing else can hold, and a key twice, of which
Python takes the last without a word.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from tuner.errors import InvalidInput

LARGE_BYTES = 64 * 1024
"""From here on a thread pays: most bodies are far smaller, and read in the time that one takes."""


class SaidOnce(Request):
    """A request whose JSON has no key twice, as no YAML file may."""

    async def json(self) -> Any:
        """What the body says.

        Raises:
            JSONDecodeError: It is no JSON, or says something twice.
        """
        body = await self.body()
        if len(body) < LARGE_BYTES:
            return _read(body)
        # A megabyte takes tens of milliseconds, in which nobody else would be answered.
        return await run_in_threadpool(_read, body)


def _read(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise json.JSONDecodeError(f"the key {twice!r} is there already", "", 0)
    return said


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
