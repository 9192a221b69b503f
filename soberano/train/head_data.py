"""Examples for a head on a frozen encoder: JSON lines, a JSON list, Parquet, or a folder of those.

Three forms are known, by the fields of the first example, and every other example must have the same:

    classes      {"text": ..., "label": "name"}                                          a classifier
    scored       {"query": ..., "document": ..., "score" or "label": from 0 to 1}        relevance
    contrast     {"query": ..., "positive": text or texts, "negatives": [text, ...]}     relevance

An example that is there twice counts once. What is held out shares no text (classes) and no query (the others) with
what is learnt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import InputError
from soberano.models.trained_head import Kind
from soberano.train.data import Example, read_rows

_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "classes": (("text", "label"),),
    "scored": (("query", "document", "score"), ("query", "document", "label")),
    "contrast": (("query", "positive", "negatives"),),
}
FORMS = "text and label; query, document and score (or label); query, positive and negatives"


@dataclass(frozen=True)
class Examples:
    """Examples by number: texts that are embedded once, and what is to be said of them."""

    kind: Kind
    form: str
    texts: list[str]  # each once
    rows: np.ndarray  # (N, 1) of classes the text; (N, 2) of relevance the query and the document: int64 places
    targets: np.ndarray  # (N, C) float32, one 1 a row; (N, 1) of relevance, from 0 to 1
    labels: tuple[str, ...]  # of a classifier, sorted
    twice: int  # examples that were left out because they were there already

    @property
    def groups(self) -> np.ndarray:
        """(N,) what an example shares with those on its side of a split: its text, or its query."""
        return self.rows[:, 0]


def read_head_examples(path: Path) -> Examples:
    """Read every example. Raises FileError or InputError, naming file and line, before anything is embedded."""
    form, first = "", ""
    found, seen = dict[tuple[str, str], float](), 0
    for example in read_rows(path):
        here = _form_of(example)
        if form and here != form:
            raise InputError(
                f"{example.where} has the form {here}, and {first} the form {form}; train on one at a time"
            )
        form, first = here, first or example.where
        for key, value in (_classes if form == "classes" else _judged)(example):
            seen += 1
            if found.get(key, value) != value:
                raise InputError(
                    f"{example.where}: this query and document have the score {value:g} here, and {found[key]:g} "
                    f"before; leave one of them out"
                )
            found[key] = value
    if not form:
        raise InputError(f"{path} holds no example; it must have one a line: {FORMS}")
    return (_as_classes if form == "classes" else _as_relevance)(path, form, found, seen - len(found))


def _form_of(example: Example) -> str:
    for form, ways in _FIELDS.items():
        if any(all(field in example.fields for field in needed) for needed in ways):
            return form
    fields = ", ".join(list(example.fields)[:8]) or "no fields"
    raise InputError(f"{example.where} has the fields {fields}; a head is trained on {FORMS}")


def _text(example: Example, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{example.where}: {field} is {type(value).__name__}, and must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{example.where}: {field} holds lone surrogates, which are no text; mend the file") from None
    return value


def _classes(example: Example) -> Iterator[tuple[tuple[str, str], float]]:
    text, label = (_text(example, field, example.fields[field]) for field in ("text", "label"))
    if not label.strip():
        raise InputError(f"{example.where}: label is empty; name the class")
    yield (text, label), 1.0


def _judged(example: Example) -> Iterator[tuple[tuple[str, str], float]]:
    fields = example.fields
    query = _text(example, "query", fields["query"])
    if "document" in fields:
        name = "score" if "score" in fields else "label"
        score = fields[name]
        if not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise InputError(f"{example.where}: {name} is {score!r:.40}, and must be a number from 0 to 1")
        yield (query, _text(example, "document", fields["document"])), float(score)
        return
    for field, score in (("positive", 1.0), ("negatives", 0.0)):
        texts = [fields[field]] if isinstance(fields[field], str) else fields[field]
        if not isinstance(texts, list) or (not texts and field == "positive"):
            raise InputError(f"{example.where}: {field} must be a text or a list of texts")
        for text in texts:
            yield (query, _text(example, field, text)), score


def _as_classes(path: Path, form: str, found: dict[tuple[str, str], float], twice: int) -> Examples:
    labels = sorted({label for _, label in found})
    if len(labels) < 2:
        raise InputError(f"{path}: every label is {labels[0]!r:.60}; a classifier needs two or more to tell apart")
    places = _places(text for text, _ in found)
    rows = np.array([[places[text]] for text, _ in found], np.int64)
    number = {label: i for i, label in enumerate(labels)}
    targets = np.eye(len(labels), dtype=np.float32)[[number[label] for _, label in found]]
    return Examples("classifier", form, list(places), rows, targets, tuple(labels), twice)


def _as_relevance(path: Path, form: str, found: dict[tuple[str, str], float], twice: int) -> Examples:
    if len(set(found.values())) < 2:
        raise InputError(f"{path}: every score is {next(iter(found.values())):g}; give documents that fit and others")
    places = _places(text for pair in found for text in pair)
    rows = np.array([[places[query], places[document]] for query, document in found], np.int64)
    targets = np.array(list(found.values()), np.float32)[:, None]
    return Examples("relevance", form, list(places), rows, targets, (), twice)


def _places(texts: Iterator[str]) -> dict[str, int]:
    return {text: i for i, text in enumerate(dict.fromkeys(texts))}


def split(examples: Examples, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Examples by number: what is learnt, and a part for each share, all of it whole groups.

    Of a classifier every label gives its share, as far as it has enough texts. Raises InputError where a part with a
    share would be empty.
    """
    if any(not 0 <= share < 1 for share in shares) or sum(shares) >= 1:
        raise InputError(f"the shares {', '.join(f'{s:g}' for s in shares)} must be 0 or more, and below 1 together")
    groups = examples.groups
    order = np.random.default_rng([seed, 1]).permutation(groups.max() + 1)
    parts: list[list[int]] = [[] for _ in shares]
    for stratum in _strata(examples):
        mine, at = [int(group) for group in order if group in stratum], 0
        for part, share in zip(parts, shares, strict=True):
            count = round(share * len(mine))
            part += mine[at : at + count]
            at += count
    if any(share and not part for share, part in zip(shares, parts, strict=True)):
        raise InputError(
            f"{len(set(groups.tolist()))} different {'texts' if examples.kind == 'classifier' else 'queries'} are too "
            f"few for the shares {', '.join(f'{s:g}' for s in shares)}; give more examples, or a share of 0"
        )
    taken = [np.flatnonzero(np.isin(groups, part)) for part in parts]
    rest = np.setdiff1d(np.arange(len(groups)), np.concatenate([*taken, np.zeros(0, np.int64)]))
    return [rest, *taken]


def _strata(examples: Examples) -> list[set[int]]:
    """Groups that are split apart from others: those of a label (the first that a text has); of relevance all."""
    if examples.kind == "relevance":
        return [set(examples.groups.tolist())]
    first = dict[int, int]()
    for group, label in zip(examples.groups.tolist(), examples.targets.argmax(axis=1).tolist(), strict=True):
        first.setdefault(group, label)
    return [{group for group, label in first.items() if label == wanted} for wanted in sorted(set(first.values()))]
