"""A load of requests from a process of its own: so many clients at once, each with so many texts a request.

Its HTTP is as little as that takes: on few cores a real client would take most of the server's.
"""

import asyncio
import json
import sys
import time
from typing import Any

HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def _drive(port: int, texts: list[str], clients: int, per_request: int, seconds: float) -> dict[str, Any]:
    """What came of requests for some seconds: statuses, seconds of those that were answered, texts answered."""
    statuses: dict[int, int] = {}
    took: dict[bool, list[float]] = {True: [], False: []}
    answered, end = 0, time.monotonic() + seconds

    async def client(number: int) -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = number * per_request
        while time.monotonic() < end:
            part = [[texts[(at + i) % len(texts)]] for i in range(per_request)]
            at += clients * per_request
            body = json.dumps({"inputs": part, "truncate": True}).encode()
            begun = time.monotonic()
            writer.write(HEAD % len(body) + body)
            status, closed, _ = await response(reader)
            took[status == 200].append(time.monotonic() - begun)
            statuses[status] = statuses.get(status, 0) + 1
            answered += per_request * (status == 200)
            if status == 429:
                await asyncio.sleep(0.05)
            if closed:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    begun = time.monotonic()
    await asyncio.gather(*(client(i) for i in range(clients)))
    spent = time.monotonic() - begun
    return {
        "texts_per_second": answered / spent,
        "statuses": {str(status): count for status, count in statuses.items()},
        "seconds": {name: _percentiles(took[ok]) for name, ok in (("answered", True), ("refused", False))},
    }


async def response(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """The status of a response, whether the connection ends with it, and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    size = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), "connection: close" in lines, await reader.readexactly(size)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 99)} if ordered else {}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with open(given.pop("texts"), encoding="utf-8") as f:
        read = json.load(f)
    print(json.dumps(asyncio.run(_drive(texts=read, **given))))
