"""Configurations: fields with their types, defaults and meaning; resolving; checking.

A person edits an `ml_collections.ConfigDict`, made by `pretraining` or `finetuning`, in a file of
`configs/` and on the command line (`--config.rows=64`). `resolve` turns it into a `PretrainConfig` or
`FinetuneConfig`, which the code reads. Every field is described where it is defined; the
descriptions of data, models and stages stand with the code that reads them.
"""

from mux_jax.configuration.arguments import parse_arguments
from mux_jax.configuration.check import check, stages
from mux_jax.configuration.conversion import flatten, from_mapping, to_config_dict, to_json
from mux_jax.configuration.finetune import FinetuneConfig, finetuning
from mux_jax.configuration.named import find_config, get_config
from mux_jax.configuration.pretrain import PretrainConfig, pretraining
from mux_jax.configuration.resolve import RunConfig, is_finetuning, read, resolve

__all__ = [
    "FinetuneConfig",
    "PretrainConfig",
    "RunConfig",
    "check",
    "find_config",
    "finetuning",
    "flatten",
    "from_mapping",
    "get_config",
    "is_finetuning",
    "parse_arguments",
    "pretraining",
    "read",
    "resolve",
    "stages",
    "to_config_dict",
    "to_json",
]
