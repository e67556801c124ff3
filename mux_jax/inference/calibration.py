"""Fits for two models when the cheaper one asks the other: `fit_deferral`."""

from collections.abc import Iterable

from mux_jax.checkpoints.source import open_model
from mux_jax.data.encoding import Text
from mux_jax.errors import InputError
from mux_jax.inference.deferral import Deferral, check_kind, check_labels, parse_aim
from mux_jax.inference.predictor import Predictor

_FEWEST = 100  # texts to fit on


def fit_deferral(model: str, full: str, texts: Iterable[Text], aim: str | float = "agreement=0.99") -> Deferral:
    """Fits which texts a model shall leave to a fuller one, and writes it to the model's folder (see `deferral`).

    `Predictor(model, defer="auto")` defers then. `launch/compress.py` does this for the models that it makes. A full
    model that has a deferral of its own makes use of it.

    Args:
      model: the cheaper one: a run's or a Hugging Face folder, which is written to.
      full: a model with the same labels.
      texts: as `Predictor.predict` takes them, some hundred at least, that neither has learned from; without labels.
      aim: what "auto" is to be: a share of the texts, or "agreement=0.99".

    Returns:
      What was written: the agreement at each share.

    Raises:
      InputError: models with other labels, or that ask each other; too few texts; a number of a model with one text a
        row.
    """
    wanted = parse_aim(aim)
    if wanted.kind not in ("share", "agreement"):
        raise InputError(f"aim={aim} must be a share of the texts or agreement=X")
    found, fuller = (open_model(path, takes_export=True) for path in (model, full))
    check_kind(found.config, f"{found.folder}: ")
    places = check_labels(found.config, fuller.config, full)
    if found.hub:
        raise InputError(f"{model} is of the hub; give a folder, which can be written to")
    asked, onwards = fuller, Deferral.load(fuller.folder)
    while asked.folder != found.folder and (last := Deferral.load(asked.folder)):
        asked = open_model(last.full, takes_export=True)
    if asked.folder == found.folder:
        raise InputError(f"{full} cannot answer for {model}: it is that model, or asks it")
    ours = Predictor(model)
    texts = ours.checked(texts)
    if len(texts) < _FEWEST:
        raise InputError(f"{len(texts)} texts are too few to fit a threshold on; give at least {_FEWEST}")
    logits, sure = ours.sure_logits(texts)
    theirs = Predictor(full, defer="auto" if onwards else "off").logits(texts)
    full_logits = [x[..., places] for x in theirs]
    fitted = Deferral.fit(logits, sure, full_logits, found.config, fuller.address).aimed(wanted)
    fitted.save(found.folder)
    return fitted
