"""A vocabulary of our own: WordPiece, trained on text."""

import collections
from collections.abc import Iterable

from tokenizers import trainers

from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.data.tokenizer_backends import put_ends, wordpiece
from mux_jax.data.tokenizer_config import CLASSES


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> ModelTokenizer:
    """Trains a lower-cased WordPiece vocabulary of at most `vocab_size` tokens on `texts`.

    The same texts give the same vocabulary. `tokenizers` alone does not see to that: it numbers the
    continuing letters (##a) in the order of a hash table, and breaks ties between merges by number.
    Here they are numbered first, in alphabetical order.
    """
    texts, names = list(texts), CLASSES["BertTokenizer"]
    backend = wordpiece({"[UNK]": 0}, "[UNK]", {})
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(text)
    letters: collections.Counter[str] = collections.Counter()
    for character, count in counts.items():
        for letter in backend.normalizer.normalize_str(character).strip():
            letters[letter] += count
    common = sorted(letters, key=lambda c: (-letters[c], c))[: min(1000, vocab_size // 4)]
    alphabet = sorted(common)
    inner = [c for c in alphabet if len(backend.pre_tokenizer.pre_tokenize_str(f"a{c}")) == 1]  # all but punctuation
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*names.values(), *(f"##{c}" for c in inner)],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend = wordpiece(backend.get_vocab(), "[UNK]", {})
    backend.add_special_tokens(list(names.values()))
    put_ends(backend, names["cls"], names["sep"])
    return ModelTokenizer(backend, names, token_types=True)
