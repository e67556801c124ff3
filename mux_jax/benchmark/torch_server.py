"""What people write by hand: FastAPI around a BERT of `transformers`, a forward pass a request."""

import json
import os
import sys
import threading
from typing import Any


def _main(settings: dict[str, Any]) -> None:
    import fastapi
    import torch
    import transformers
    import uvicorn

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    config = transformers.BertConfig(num_labels=2, attn_implementation="sdpa", **settings["sizes"])
    model = transformers.BertForSequenceClassification(config).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=settings["tokenizer"], pad_token=settings["pad"])
    app, lock = fastapi.FastAPI(), threading.Lock()

    @app.post("/predict")
    def predict(body: dict[str, Any]) -> list[Any]:
        texts = [text for (text,) in body["inputs"]]
        given = tokenizer(texts, padding=True, truncation=True, max_length=settings["length"], return_tensors="pt")
        with lock, torch.inference_mode():
            p = model(given["input_ids"], attention_mask=given["attention_mask"]).logits.softmax(-1)
        return [[{"label": str(i), "score": float(x)} for i, x in enumerate(row)] for row in p]

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, port=settings["port"], log_level="error")


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
