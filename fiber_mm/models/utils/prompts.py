"""Class names and captions to prompts: a text, and for each entity its character spans.

Pure functions; the ones that count tokens take the tokenizer as an argument.
"""

import re
import string
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from .phrases import find_noun_phrases

SEPARATOR = '. '
PROMPT_KEYS = ('prefix', 'name', 'suffix')

Span = tuple[int, int]
Affixes = Mapping[str, Mapping[str, str]]
#: Spans per entity, the same keyed by label, or -1 for "the whole caption" (mmdet's sentinel).
TokensPositive = Sequence[Sequence[Sequence[int]]] | Mapping[int, Sequence] | int


@dataclass(frozen=True)
class Prompt:
    """A text and the entities that it names.

    Attributes:
        text: The prompt as the tokenizer sees it.
        spans: For each entity its half-open character spans ``[start, end)``.
        names: For each entity the name to show to people.
        labels: For each entity its label among all entities (of all chunks), 0-based.
    """

    text: str
    spans: list[list[Span]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def shown(text: str, limit: int = 100) -> str:
    """A text in quotes for a message, cut where it is long."""
    return repr(text) if len(text) <= limit else f'{text[:limit]!r}... ({len(text)} characters)'


def clean_class_name(name: str) -> str:
    """Turn a class name of a dataset into words, exactly as the original does.

    Text from the first "(" to the last ")" is dropped, "_" becomes a blank, double blanks are
    halved once. Nothing is stripped: ``bow_(weapon)`` becomes ``"bow "``, and the separator after
    it another token, as in training.

    Raises:
        ValueError: If nothing but blanks is left.
    """
    if not isinstance(name, str):
        raise TypeError(f'a class name must be a string, got {type(name).__name__}: {name!r}')
    cleaned = re.sub(r'\(.*\)', '', name).replace('_', ' ').replace('  ', ' ')
    if not cleaned.strip():
        raise ValueError(
            f'class name {name!r} is empty once text in parentheses is dropped and "_" is a blank: '
            'give every class a name'
        )
    return cleaned


def split_class_string(text: str) -> list[str]:
    """Split ``"cat. red car. dog"`` into class names; separators at either end are no names.

    Raises:
        ValueError: If there is nothing between two separators.
    """
    inner = text.strip(SEPARATOR)
    if not inner:
        return []
    names = [name.strip() for name in inner.split(SEPARATOR)]
    for index, name in enumerate(names):
        if not name.strip('.'):
            raise ValueError(
                f'class name number {index} of {shown(text)} is empty: give a name before every "."'
            )
    return names


def check_class_names(names: Sequence[str]) -> None:
    """Refuse empty class lists, empty names and duplicates.

    Names that differ only in parentheses (``bow_(weapon)``, ``bow_(decorative_ribbons)``, as LVIS
    has them) are different classes with the same words: the model cannot tell them apart, but
    that is no mistake of the caller.

    Raises:
        ValueError: Naming the offending class and both positions.
    """
    if isinstance(names, str):
        raise TypeError(f'class names must be a list of strings, got the string {names!r}')
    if len(names) == 0:
        raise ValueError('the prompt is empty: give at least one class name')
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        clean_class_name(name)
        key = ' '.join(name.replace('_', ' ').split())
        if key in seen:
            raise ValueError(
                f'class name {name!r} (number {index}) is the same as {names[seen[key]]!r} '
                f'(number {seen[key]}): every class may be given once'
            )
        seen[key] = index


def check_affixes(names: Sequence[str], affixes: Affixes) -> None:
    """Refuse prefixes and suffixes for classes that do not exist, and mistyped keys.

    Raises:
        ValueError: Naming the class or key.
    """
    known = set(names) | {clean_class_name(name) for name in names}
    for name, parts in affixes.items():
        if name not in known:
            raise ValueError(
                f'caption_prompt has an entry for {name!r}, which is no class of the prompt; '
                f'the classes are {sorted(set(names))}'
            )
        unknown = set(parts) - set(PROMPT_KEYS)
        if unknown:
            raise ValueError(
                f'caption_prompt[{name!r}] has unknown keys {sorted(unknown)}; '
                f'known are {list(PROMPT_KEYS)}'
            )
        if not parts.get('name', name).strip():
            raise ValueError(f'caption_prompt[{name!r}] has an empty name: leave the key out')


def join_classes(
    names: Sequence[str], labels: Sequence[int], affixes: Affixes | None = None
) -> Prompt:
    """Join some classes to one prompt, unchecked.

    Args:
        names: Class names as the dataset has them.
        labels: The label of each.
        affixes: As for :func:`class_prompt`.
    """
    affixes = affixes or {}
    text = ''
    spans: list[list[Span]] = []
    cleaned_names = [clean_class_name(name) for name in names]
    for index, (name, cleaned) in enumerate(zip(names, cleaned_names)):
        parts = affixes.get(name, affixes.get(cleaned, {}))
        if index > 0:
            text += SEPARATOR
        text += parts.get('prefix', '')
        start = len(text)
        text += parts.get('name', cleaned)
        spans.append([(start, len(text))])
        text += parts.get('suffix', '')
    return Prompt(text, spans, [name.strip() for name in cleaned_names], list(labels))


def class_prompt(names: Sequence[str], affixes: Affixes | None = None) -> Prompt:
    """Join class names to one prompt: ``"cat. red car. dog"``, without a final period.

    Args:
        names: Class names as the dataset has them; label i is ``names[i]``.
        affixes: ODinW's manual prompts: class name to any of ``prefix``, ``name``,
            ``suffix``. Only the name is the span.

    Raises:
        ValueError: For an empty list, empty or duplicate names, unknown keys in ``affixes``.
    """
    check_class_names(names)
    affixes = affixes or {}
    check_affixes(names, affixes)
    return join_classes(names, range(len(names)), affixes)


def chunk_class_prompts(
    names: Sequence[str],
    count_tokens: Callable[[str], int],
    max_tokens: int = 256,
    chunk_size: int | None = None,
    affixes: Affixes | None = None,
) -> list[Prompt]:
    """Split a class list into prompts that each fit the text encoder, greedily and in order.

    Args:
        names: Class names; labels count over all chunks.
        count_tokens: Number of tokens of a text, special tokens included.
        max_tokens: Most tokens of one prompt, special tokens included.
        chunk_size: Most classes of one prompt (40 in the original's LVIS evaluation).
        affixes: As for :func:`class_prompt`.

    Returns:
        Prompts of consecutive classes; every class is in exactly one.

    Raises:
        ValueError: If a class alone is longer than the limit, and as :func:`class_prompt`.
    """
    whole = class_prompt(names, affixes)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f'chunk_size must be at least 1 or None, got {chunk_size}')
    step = len(names) if chunk_size is None else chunk_size
    if step >= len(names) and count_tokens(whole.text) <= max_tokens:
        return [whole]

    def build(start: int, end: int) -> Prompt:
        return join_classes(names[start:end], range(start, end), affixes)

    chunks: list[Prompt] = []
    start = 0
    guess = min(step, len(names))
    while start < len(names):
        # The longest run of classes that fits: token counts grow with every class, so bisect,
        # starting from the length of the chunk before.
        limit = min(len(names), start + step)
        fits, too_long = start, limit + 1
        end = min(limit, start + guess)
        while too_long - fits > 1:
            if count_tokens(build(start, end).text) <= max_tokens:
                fits = end
            else:
                too_long = end
            end = (fits + too_long) // 2
        if fits == start:
            count = count_tokens(build(start, start + 1).text)
            raise ValueError(
                f'class {shown(names[start])} alone has {count} tokens, the limit is '
                f'{max_tokens}: shorten it'
            )
        chunks.append(build(start, fits))
        guess = fits - start
        start = fits
    return chunks


_WANTED_SPANS = (
    'tokens_positive must hold, for each entity, a list of pairs [start, end) of whole numbers, '
    'such as [[[0, 12]], [[19, 28]]] for two entities'
)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_pair(span: Any) -> bool:
    return (
        _is_list(span)
        and len(span) == 2
        and all(isinstance(end, Integral) and not isinstance(end, bool) for end in span)
    )


def _span_fault(caption: str, span: Sequence[int]) -> str | None:
    start, end = span
    if start >= end:
        return 'is reversed or empty'
    if start < 0 or end > len(caption):
        return f'lies outside the caption of {len(caption)} characters'
    return None


def caption_prompt(
    caption: str, tokens_positive: TokensPositive | None = None, strict: bool = True
) -> Prompt:
    """A caption with the phrases to be grounded.

    Args:
        caption: Any text; used as it is.
        tokens_positive: Character spans ``[start, end)`` per entity, as a list or keyed by label;
            -1 for the whole caption as one entity; None to look for noun phrases (the whole
            caption if there are none).
        strict: Whether a faulty span is an error. If not, it is dropped with a warning, and an
            entity without spans scores 0.

    Raises:
        ValueError: For an empty caption, or (``strict``) a faulty span.
        TypeError: For a caption that is no string, spans that are no lists of pairs for each
            entity, labels that are no whole numbers.
    """
    if not isinstance(caption, str):
        raise TypeError(f'a caption must be a string, got {type(caption).__name__}')
    if not caption.strip(string.punctuation + string.whitespace + '\0'):
        raise ValueError(f'the prompt is empty: {caption!r}; give a caption or class names')
    whole = (0, len(caption))

    if tokens_positive is None:
        found = find_noun_phrases(caption) or [whole]
        entities = {index: [span] for index, span in enumerate(found)}
    elif isinstance(tokens_positive, int):
        if tokens_positive != -1:
            raise ValueError(
                f'tokens_positive must be a list of spans per entity, or -1 for the whole '
                f'caption, got {tokens_positive}'
            )
        entities = {0: [whole]}
    elif isinstance(tokens_positive, Mapping):
        wrong = [label for label in tokens_positive if not str(label).isdecimal()]
        if wrong:
            raise TypeError(
                'the keys of tokens_positive are labels, whole numbers from 0; got '
                f'{", ".join(map(repr, wrong[:4]))}'
            )
        entities = {int(label): spans for label, spans in sorted(tokens_positive.items())}
    elif _is_list(tokens_positive):
        entities = dict(enumerate(tokens_positive))
    else:
        raise TypeError(f'{_WANTED_SPANS}; got {tokens_positive!r}')

    spans, names = [], []
    for label, entity_spans in entities.items():
        kept = []
        if not _is_list(entity_spans):
            raise TypeError(f'{_WANTED_SPANS}; got {entity_spans!r} for phrase {label}')
        for span in entity_spans:
            if not _is_pair(span):
                raise TypeError(
                    f'{_WANTED_SPANS}; got {span!r} in {entity_spans!r} of phrase {label}'
                )
            fault = _span_fault(caption, span)
            if fault is None:
                kept.append((int(span[0]), int(span[1])))
                continue
            message = (
                f'span {span!r} of phrase {label} {fault}; the caption is {shown(caption)}, '
                'spans count its characters from 0'
            )
            if strict:
                raise ValueError(message)
            warnings.warn(f'{message}. The span is left out.', stacklevel=2)
        spans.append(kept)
        names.append(' / '.join(caption[start:end] for start, end in kept))
    return Prompt(caption, spans, names, list(entities))


def split_caption(
    prompt: Prompt, count_tokens: Callable[[str], int], max_tokens: int
) -> list[Prompt]:
    """A caption of more tokens than a prompt may have, in consecutive pieces.

    No phrase is cut, and each is in one piece, with as much of the text around it as fits. A
    caption that fits, or whose phrases all lie in its first ``max_tokens``, is one piece.

    Args:
        prompt: From :func:`caption_prompt`.
        count_tokens: Number of tokens of a text, special tokens included.
        max_tokens: Most tokens of a piece.

    Returns:
        Prompts whose labels are those of ``prompt``.

    Raises:
        ValueError: If a phrase is longer than a prompt may be.
    """

    def fits(start: int, end: int) -> bool:
        return count_tokens(prompt.text[start:end].strip()) <= max_tokens

    rows = sorted(
        (min(a for a, _ in spans), max(b for _, b in spans), row)
        for row, spans in enumerate(prompt.spans)
        if spans
    )
    if not rows or fits(0, len(prompt.text)) or fits(0, max(end for _, end, _ in rows)):
        return [prompt]
    words = [match.span() for match in re.finditer(r'\S+', prompt.text)]
    pieces, before = [], 0
    while rows:
        begin, end, row = rows[0]
        if not fits(begin, end):
            count = count_tokens(prompt.text[begin:end])
            raise ValueError(
                f'phrase {shown(prompt.names[row])} reaches over {count} tokens of the caption, '
                f'the limit is {max_tokens}: shorten it'
            )
        members = [row]
        for _, other_end, other in rows[1:]:
            if not fits(begin, max(end, other_end)):
                break
            end = max(end, other_end)
            members.append(other)
        rows = rows[len(members) :]
        # The text around, word by word: what comes before is read first.
        for start, _ in reversed([word for word in words if before <= word[0] < begin]):
            if not fits(start, end):
                break
            begin = start
        limit = rows[0][0] if rows else len(prompt.text)
        for _, stop in [word for word in words if end < word[1] <= limit]:
            if not fits(begin, stop):
                break
            end = stop
        pieces.append(_piece(prompt, begin, end, members))
        before = end
    # Phrases without spans score 0, wherever they are.
    nowhere = [row for row, spans in enumerate(prompt.spans) if not spans]
    lost = _piece(prompt, 0, 0, nowhere)
    first = pieces[0]
    pieces[0] = Prompt(
        first.text, first.spans + lost.spans, first.names + lost.names, first.labels + lost.labels
    )
    return pieces


def _piece(prompt: Prompt, begin: int, end: int, rows: Sequence[int]) -> Prompt:
    """Characters ``begin`` to ``end`` of a caption, without blanks around, and some phrases."""
    text = prompt.text[begin:end]
    begin += len(text) - len(text.lstrip())
    return Prompt(
        text.strip(),
        [[(a - begin, b - begin) for a, b in prompt.spans[row]] for row in rows],
        [prompt.names[row] for row in rows],
        [prompt.labels[row] for row in rows],
    )
