"""What a user would pick instead: BERT of Hugging Face `transformers` in PyTorch, in a process of its own."""

import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any

from mux_jax.benchmark import processes


def torch_baseline(kind: str, settings: dict[str, Any]) -> Callable[[], float] | None:
    """A function that runs `kind` (inference, training, pipeline, embedding) once; None if PyTorch is not installed."""
    needed = ("sentence_transformers",) if kind == "embedding" else ("torch", "transformers")
    if not all(importlib.util.find_spec(name) for name in needed):
        return None
    return processes.start("mux_jax.benchmark.torch_baseline", kind, settings)


def _main(kind: str, settings: dict[str, Any]) -> None:
    import os

    import torch
    import transformers

    from mux_jax.allocator import keep_freed_memory

    keep_freed_memory()  # as our own process does
    transformers.logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    if kind == "embedding":
        processes.serve(_embedding(settings, device))
        return
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings["dtype"]]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    dimensions = {name: settings["model"][name] for name in names}
    config = transformers.BertConfig(vocab_size=30522, num_labels=2, attn_implementation="sdpa", **dimensions)
    make: Any = {
        ("inference", "sequence"): transformers.BertForSequenceClassification,
        ("inference", "token"): transformers.BertForTokenClassification,
        ("pipeline", "sequence"): transformers.BertForSequenceClassification,
    }.get((kind, settings.get("task", "")), transformers.BertForMaskedLM)
    model = make(config).to(device)
    if kind != "training":
        model = model.eval().to(dtype)
    run = {"inference": _inference, "training": _training, "pipeline": _pipeline}[kind](model, settings, device, dtype)

    def run_to_the_end() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    processes.serve(run_to_the_end)


def _inference(model: Any, settings: dict[str, Any], device: str, dtype: Any) -> Callable[[], None]:
    import torch

    if device == "cuda":
        model = torch.compile(model)
    tokens = torch.randint(1000, 30522, (settings["rows"], settings["length"]), device=device)

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.cpu()

    return run


def _training(model: Any, settings: dict[str, Any], device: str, dtype: Any) -> Callable[[], None]:
    import torch

    if device == "cuda":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(1000, 30522, (settings["rows"], settings["length"]), device=device)
    chosen = torch.rand(tokens.shape, device=device) < 0.15
    labels = torch.where(chosen, tokens, -100)

    def run() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return run


def _pipeline(model: Any, settings: dict[str, Any], device: str, dtype: Any) -> Callable[[], None]:
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=settings["tokenizer"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=device)
    with open(settings["texts"], encoding="utf-8") as f:
        texts = json.load(f)

    def run() -> None:
        classify(texts, batch_size=settings["rows"], truncation=True, max_length=settings["length"])

    return run


def _embedding(settings: dict[str, Any], device: str) -> Callable[[], None]:
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(settings["folder"], device=device)
    with open(settings["texts"], encoding="utf-8") as f:
        texts = json.load(f)

    def run() -> None:
        model.encode(texts, batch_size=settings["rows"], show_progress_bar=False)

    return run


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
