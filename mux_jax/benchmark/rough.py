"""Clients as they are: among good requests there are broken ones, slow ones, and some whose sender goes away."""

import asyncio
import collections
import json
import random

from mux_jax.benchmark.load import HEAD, response

KINDS = ("good", "good", "good", "slow", "gone", "half", "not json", "wrong type", "huge", "empty")
_PATIENCE = 60.0  # seconds for an answer


async def drive(
    port: int, texts: list[str], expected: list[dict[str, float]], clients: int, requests: int, seed: int = 0
) -> collections.Counter[str]:
    """Sends so many requests from so many clients at once, each text in a request of its own.

    Args:
      texts, expected: what is asked, and the probabilities by label that are right.

    Returns:
      How many requests there were of each kind, by what came of them: "good right", "huge 413", and so on. "good wrong"
      and "good none" are faults of the server.
    """
    rng, found, left = random.Random(seed), collections.Counter[str](), iter(range(requests))

    async def client() -> None:
        for _ in left:
            kind, at = rng.choice(KINDS), rng.randrange(len(texts))
            try:
                async with asyncio.timeout(_PATIENCE):
                    outcome = await _one(port, kind, texts[at], expected[at], rng)
            except ConnectionRefusedError:
                outcome = "refused"  # of a server that has ended
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                outcome = "none"
            found[f"{kind} {outcome}"] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


async def _one(port: int, kind: str, text: str, expected: dict[str, float], rng: random.Random) -> str:
    """What came of one request, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = _body(kind, text)
    size = 10**9 if kind == "huge" else len(body)
    try:
        writer.write(HEAD % size)
        if kind == "slow":
            for byte in range(0, len(body), 8):
                writer.write(body[byte : byte + 8])
                await asyncio.sleep(0.005)
        else:
            writer.write(body[: len(body) // 2] if kind == "half" else body)
        await writer.drain()
        if kind in ("gone", "half"):
            await asyncio.sleep(rng.random() * 0.02)
            return "left"
        status, _, answer = await response(reader)
        if status != 200:
            return str(status)
        given = {x["label"]: x["score"] for x in json.loads(answer)}
        right = given.keys() == expected.keys() and all(abs(given[x] - expected[x]) <= 1e-5 for x in given)
        return "right" if right else "wrong"
    finally:
        writer.close()


def _body(kind: str, text: str) -> bytes:
    if kind == "not json":
        return b'{"inputs": "'
    if kind == "wrong type":
        return json.dumps({"inputs": {"text": [1]}}).encode()
    return json.dumps({"inputs": "" if kind == "empty" else text, "truncate": True}).encode()
