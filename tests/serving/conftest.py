"""The server's tests need the extra `serve`, and a client."""

import importlib.util

_NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpx")
collect_ignore = [] if all(map(importlib.util.find_spec, _NEEDED)) else ["test_server.py"]
