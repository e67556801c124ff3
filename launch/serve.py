"""Serves a model: requests of many clients share rows."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Answers /predict, /embed, /rerank (as text-embeddings-inference), /v1/embeddings (OpenAI) and "
        "/v2 (KServe); /docs describes them, /metrics is for Prometheus. SIGTERM answers what was accepted, and ends.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="a run, a folder or an id of the hub")
    parser.add_argument("--name", help="what clients call it (the last part of DIR)")
    parser.add_argument("--host", help="the address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, help="0: any that is free (8000)")
    parser.add_argument("--hosts", metavar="A[,B]", help="names that clients may use for this server, beside --host")
    parser.add_argument("--mix", help="whose texts share rows: all, client, request (with keys client, else request)")
    parser.add_argument("--max_wait_ms", type=float, metavar="T", help="that a text waits for others (5)")
    parser.add_argument("--rows", type=int, help="multiplexed rows of a batch, at most (32)")
    parser.add_argument("--defer", metavar="HOW", help="to a full model: auto, a share, agreement=X (off)")
    parser.add_argument(
        "--model_by_load", metavar="FULL", help="the full model, which answers while few texts wait; or auto"
    )
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), help="of products (auto)")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--keys", metavar="FILE", help="API keys, NAME KEY a line; or in MUX_JAX_API_KEYS")
    limits.add_argument("--max_concurrent_requests", type=int, metavar="N", help="more are refused with 429 (512)")
    limits.add_argument("--max_requests_of_key", type=int, metavar="N", help="of these, of one key (all)")
    limits.add_argument("--max_client_batch_size", type=int, metavar="N", help="texts of a request (32)")
    limits.add_argument("--payload_limit", type=int, metavar="BYTES", help="of a request (2,000,000)")
    limits.add_argument("--request_timeout", type=float, metavar="S", help="until a request is given up (30)")
    parser.add_argument("--log_requests", action="store_true", help="a line of JSON for each, without its texts")
    arguments = vars(parser.parse_args())

    from mux_jax.inference.runtimes import require

    require("launch/serve.py", "fastapi", "uvicorn", "prometheus_client", extra="serve")
    from mux_jax.serving.command import Options, serve  # slow to import: after the arguments are checked

    serve(Options(**arguments))


if __name__ == "__main__":
    command_line.guard(main)
