"""Embedding texts end to end: models of ours, and sentence-transformers with one of them."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mux_jax.benchmark.measure import Case
from mux_jax.benchmark.torch_baseline import torch_baseline
from mux_jax.checkpoints import sentence_transformers
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.errors import InputError
from mux_jax.inference.predictor import Predictor


def check(models: tuple[str, ...]) -> list[ModelSource]:
    """The models.

    Raises:
      InputError: none is named, or one does not give embeddings.
    """
    if not models:
        raise InputError("--model=A,B: name the models that embed")
    found = [open_model(model, takes_export=True) for model in models]
    for source in found:
        if source.config.head != "embedding":
            raise InputError(f"--model={source.folder} has the head {source.config.head!r}, and gives no embeddings")
    return found


def embedding(models: tuple[str, ...], texts: list[str], rows: int, dtype: str) -> Iterator[Case]:
    """`Predictor.embed` of each model, tokenisation included, and the same by sentence-transformers, in float32.

    That takes the first folder that is its own. Factors are over it, or over the first model where there is none, or
    it is not installed.
    """
    folders = [source.folder for source in check(models) if sentence_transformers.is_folder(source.folder)]
    peer = None
    with tempfile.TemporaryDirectory() as temporary:
        if folders:
            file = Path(temporary) / "texts.json"
            file.write_text(json.dumps(texts), encoding="utf-8")
            peer = torch_baseline("embedding", {"folder": str(folders[0]), "texts": str(file), "rows": rows})
        name = "sentence-transformers"
        baseline = name if peer else models[0]
        for model in models:
            predictor = Predictor(model, rows=rows, dtype=dtype)

            def run(predictor: Predictor = predictor) -> None:
                predictor.embed(texts)

            yield Case(model, "embedding", "", predictor.config.width, run, len(texts), baseline=baseline)
        if peer:
            yield Case(name, "embedding", "", 1, peer, len(texts), baseline=baseline)
