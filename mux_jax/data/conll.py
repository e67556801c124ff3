"""Files of words: CoNLL, a word a line with its tag in the last column, and CoNLL-U. Blank lines separate sentences.

Columns are separated by tabs, or else by spaces. No other white space separates anything: a no-break space may be part
of a word, or a word.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TextIO

from mux_jax.data.encoding import split_words

_SAMPLE = 100_000  # lines that tell how a file is laid out

Line = tuple[int, list[str]]  # its number and columns; none of a line between sentences
Sentence = tuple[int, dict[str, Any], str]  # the number of its first line, `words` and `tags`, or else what is wrong


def universal_sentences(stream: TextIO) -> Iterator[Sentence]:
    """Sentences of CoNLL-U with tags from UPOS, without comments, words in several parts and empty nodes."""
    lines = ((number, _columns(line)) for number, line in enumerate(stream, start=1) if not line.startswith("#"))
    return _sentences(((n, columns) for n, columns in lines if not columns or columns[0].isdigit()), 10, word=1, tag=3)


def sentences(
    stream: TextIO, labels: Collection[str] | None = None, note: Callable[[str], None] = lambda _: None
) -> Iterator[Sentence]:
    """Sentences of CoNLL; they have no `tags` if no line has more than one column.

    Args:
      stream: read twice: its first lines tell how it is laid out.
      labels: of a model that predicts tags, for a file that may have a sentence a line instead. It has, unless most
        lines end in one of the labels, or all have the same number of columns with blank lines in between.
      note: called with what a person should know.
    """
    layout = _find_layout(stream, labels or ())
    stream.seek(0)
    if labels is not None and not layout.word_a_line:
        return (
            (number, {"words": words}, "")
            for number, line in enumerate(stream, start=1)
            if (words := split_words(line))
        )
    if labels is not None:
        note("a word a line, as in CoNLL")
    lines = _without_comments(stream, layout, note)
    return _sentences(lines, 2, word=0, tag=-1) if layout.tags else _sentences(lines, 1, word=0)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the lines are laid out that cannot be comments."""

    by_spaces: bool
    tags: set[str]
    word_a_line: bool


def _find_layout(stream: TextIO, labels: Collection[str]) -> _Layout:
    lines = sentences = by_tabs = labelled = 0
    tags, widths, start = set(), set(), True
    for line in itertools.islice(stream, _SAMPLE):
        if start and _may_be_comment(line):
            continue
        columns = _columns(line)
        if columns:
            lines, sentences = lines + 1, sentences + start
            widths.add(len(columns))
            by_tabs += "\t" in line.strip(" \t\r\n")
            if len(columns) > 1:
                tags.add(columns[-1])
                labelled += columns[-1] in labels
        start = not columns
    alike = len(widths) == 1 and lines > sentences > 1
    return _Layout(2 * by_tabs < lines, tags, alike or 2 * labelled > lines)


def _may_be_comment(line: str) -> bool:
    return line.startswith(("# ", "#\t"))


def _without_comments(stream: TextIO, layout: _Layout, note: Callable[[str], None]) -> Iterator[Line]:
    """The lines without comments before sentences; how many there were is noted at the end.

    `# O` may be a word with its tag: it is, where spaces separate columns and there is such a tag.
    """
    comments, first, start = 0, 0, True
    for number, line in enumerate(stream, start=1):
        columns = _columns(line)
        if start and _may_be_comment(line) and not (layout.by_spaces and columns[-1] in layout.tags):
            comments, first = comments + 1, first or number
            continue
        start = not columns
        yield number, columns
    if comments:
        note(f"{comments:,} lines left out as comments, the first is line {first}")


def _columns(line: str) -> list[str]:
    """The columns of a line; none if it stands between sentences."""
    text = line.rstrip("\r\n")
    # A tab at the end separates nothing where there is no other.
    columns = [c.strip(" ") for c in text.split("\t")] if "\t" in text.rstrip(" \t") else re.findall("[^ \t]+", text)
    return [] if columns[:1] == ["-DOCSTART-"] else columns


def _sentences(lines: Iterable[Line], width: int, word: int, tag: int | None = None) -> Iterator[Sentence]:
    """Sentences of lines that have `width` columns or more, of which one is the word and one the tag."""
    words: list[str] = []
    tags: list[str] = []
    error, first = "", 0
    for number, columns in itertools.chain(lines, [(0, [])]):
        if not columns:
            if first:
                fields = {"words": words} if tag is None else {"words": words, "tags": tags}
                yield first, {} if error else fields, error
            words, tags, error, first = [], [], "", 0
            continue
        first = first or number
        if len(columns) < width:
            error = (
                error or f"line {number} has no word and tag: {len(columns)} columns, and {width} or more are needed"
            )
        elif not columns[word] or tag is not None and not columns[tag]:
            error = error or f"line {number} has an empty {'tag' if columns[word] else 'word'}"
        else:
            words.append(columns[word])
            tags.append("" if tag is None else columns[tag])
