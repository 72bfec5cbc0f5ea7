"""Noun phrases of an English caption by rules: no download, no model, deterministic.

Good enough to ask a detector for the things that a caption names. Where more is wanted, give the
character spans oneself (``tokens_positive``).
"""

import re
from typing import NamedTuple

Span = tuple[int, int]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    'a an the this that these those some any each every all both another other no his her its '
    'their my your our one two three four five six seven eight nine ten eleven twelve several '
    'many few more most multiple numerous various'
)

# Words that no phrase contains: they end the phrase before them.
BREAKERS = _words(
    # prepositions, conjunctions, question words
    'of in on at by with without from to into onto over under above below beneath underneath '
    'behind beside besides between among amongst against along alongside across around through '
    'near inside outside off out up down toward towards upon within beyond past during before '
    'after about atop amid next close ahead apart away together as like than per via while when '
    'where which who whom whose what why how because since until if so but or and nor yet for '
    'not '
    # pronouns and dummies
    'i me you he him she it we us they them himself herself itself themselves there here '
    'something anything nothing everything '
    # adverbs
    'very too also just only still already almost quite rather really again now then'
)

# Finite verbs that captions use. After an article they are things: "a can", "the stand".
VERBS = _words(
    "is are was were be been am isn't aren't has have had having do does did doing done can could "
    'will would shall should may might must being '
    'sits sit stands stand holds hold wears wear eats eat rides ride looks look lies lie lays '
    'plays walks runs jumps carries carry pulls pushes throws throw catches hits rests stares '
    'smiles talks reads poses waits flies hangs shows show contains contain makes make takes take '
    'gets get goes go comes come sees see gives give sat stood held wore ate rode ran seen shown '
    'made taken'
)

COLOURS = _words(
    'red green blue yellow orange purple violet pink brown black white gray grey cyan magenta '
    'teal golden gold silver beige maroon navy turquoise'
)
# Adjectives that are no thing when they stand last: "the sky is blue", "the woman left".
ADJECTIVES = COLOURS | _words(
    'dark light bright pale colorful colourful '
    'small little tiny big large huge giant tall short long wide narrow thick thin high low '
    'young old new elderly middle-aged round square circular rectangular triangular '
    'left right top bottom upper lower middle front back rear central second third last '
    'wooden metal metallic plastic striped spotted dotted plain checkered textured '
    'beautiful pretty nice good bad clean dirty empty full open closed wet dry hot cold busy '
    'same different similar single double whole furry fluffy happy sad male female '
    'leftmost rightmost topmost bottommost biggest smallest largest closest farthest nearest '
    'bigger smaller larger taller shorter darker lighter closer'
)
# The ones that are a thing after an article or another adjective: "the small blue square".
NOUN_TOO = _words('square orange light male female round')

# Things that look like participles or adverbs.
NOUNS_ING = _words(
    'building ceiling wing ring king string swing thing clothing painting railing earring wedding '
    'evening morning awning spring sling icing frosting pudding dumpling duckling seedling siding '
    'lighting parking landing stocking legging lightning crossing'
)
NOUNS_ED = _words('shed seed sled weed reed feed speed breed moped bobsled flatbed')
NOUNS_LY = _words('butterfly dragonfly family jelly belly lily bully assembly ally')

# "to the left of", "in front of", "left of": relations, not things.
RELATION = re.compile(
    r'\b(?:(?:to|on|at|in|from)\s+)?(?:the\s+)?'
    r'(?:(?:far\s+)?(?:left|right)(?:-hand)?(?:\s+side)?'
    r'|top|bottom|front|back|middle|center|centre|side|edge|outside|inside)\s+of\b'
)
WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


class Word(NamedTuple):
    """A word of the caption, lower-cased, with its place in characters."""

    text: str
    start: int
    end: int


def _is_determiner(word: str) -> bool:
    return word in DETERMINERS or word.isdigit()


def _is_participle(word: str) -> bool:
    return (len(word) > 4 and word.endswith('ing') and word not in NOUNS_ING) or (
        len(word) > 3 and word.endswith('ed') and word not in NOUNS_ED
    )


def _is_breaker(word: str) -> bool:
    return word in BREAKERS or (len(word) > 4 and word.endswith('ly') and word not in NOUNS_LY)


def _has_head(words: list[Word]) -> bool:
    """Whether the words end in something that can be a thing."""
    if not words or _is_determiner(words[-1].text):
        return False
    last = words[-1].text
    return last not in ADJECTIVES or (last in NOUN_TOO and len(words) > 1)


def _joins_colours(words: list[Word], index: int) -> bool:
    """Whether this is the "and" of "a black and white dog"."""
    return (
        words[index].text == 'and'
        and 0 < index < len(words) - 1
        and words[index - 1].text in COLOURS
        and words[index + 1].text in COLOURS
    )


def _lower(text: str) -> str:
    # A few characters get longer when lower-cased; offsets must stay those of the caption.
    return ''.join(c.lower() if len(c.lower()) == 1 else c for c in text)


def find_noun_phrases(caption: str) -> list[Span]:
    """Find the noun phrases of a caption: article or number, adjectives, nouns.

    Args:
        caption: English text.

    Returns:
        Half-open character spans in reading order, without overlap; empty if there is none.
    """
    text = _lower(caption)
    relations = [match.span() for match in RELATION.finditer(text)]
    words = [Word(match.group(), *match.span()) for match in WORD.finditer(text)]

    spans: list[Span] = []
    current: list[Word] = []

    def close() -> None:
        while current and not _has_head(current):
            current.pop()
        if current:
            spans.append((current[0].start, current[-1].end))
        current.clear()

    for index, word in enumerate(words):
        if current and text[current[-1].end : word.start].strip(" '’"):
            close()  # punctuation between the two words
        if any(start <= word.start < end for start, end in relations):
            close()
        elif _joins_colours(words, index) and current:
            current.append(word)
        elif _is_breaker(word.text):
            close()
        elif _is_determiner(word.text):
            # "all the dogs" goes on; an article after a thing starts anew.
            if _has_head(current):
                close()
            current.append(word)
        elif (word.text in VERBS or _is_participle(word.text)) and (
            not current or _has_head(current)
        ):
            close()  # "a car parked", "dogs playing"; but "a parked car", "a can" go on
        else:
            current.append(word)
    close()
    return spans
