"""Families of encoders. What a family is, in the model and at Hugging Face, is said in its class and nowhere else.

A new one is a class here with a line in `FAMILIES`, under the name that it has as `model_type`.
"""

from mux_jax.models.families.bert import Bert, Electra
from mux_jax.models.families.distilbert import DistilBert
from mux_jax.models.families.family import Family
from mux_jax.models.families.modernbert import ModernBert
from mux_jax.models.families.mpnet import MPNet
from mux_jax.models.families.roberta import Camembert, Roberta, XlmRoberta

FAMILIES: dict[str, type[Family]] = {
    "bert": Bert,
    "electra": Electra,
    "distilbert": DistilBert,
    "roberta": Roberta,
    "xlm-roberta": XlmRoberta,
    "camembert": Camembert,
    "mpnet": MPNet,
    "modernbert": ModernBert,
}
