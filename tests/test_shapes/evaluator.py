"""Reads a referring expression and finds its objects: written apart from the generator.

It knows the sentence patterns and the JSON of a scene, nothing of the package. Its thresholds lie
between the package's strict and loose ones.
"""

import re

WORDS = dict(
    colour='red|orange|yellow|green|cyan|blue|purple|pink',
    shape='circle|ring|square|triangle|star|cross',
    texture='plain|striped|dotted|checkered',
    size='small|large',
)
SIDES = dict(left=(0, -1), right=(0, 1), top=(1, -1), bottom=(1, 1))
LINKS = {
    'to the left of': 'left', 'left of': 'left', 'to the right of': 'right', 'right of': 'right',
    'above': 'top', 'over': 'top', 'below': 'bottom', 'under': 'bottom',
    'in front of': 'front', 'partly covering': 'front',
    'behind': 'behind', 'partly hidden by': 'behind',
}  # fmt: skip


def _centre(obj: dict) -> list[float]:
    x, y, w, h = obj['box']
    return [(x + w / 2) / 256, (y + h / 2) / 256]


def _side(obj: dict) -> float:
    return (obj['size'] + max(obj['box'][2:])) / 2


def _noun(text: str, scene: dict) -> list[int]:
    found = range(len(scene['objects']))
    for key, options in WORDS.items():
        hit = re.search(rf'\b({options})\b', text)
        if not hit:
            continue
        word, objects = hit.group(1), scene['objects']
        if key == 'size':
            found = [
                i
                for i in found
                if (_side(objects[i]) < 29 if word == 'small' else _side(objects[i]) > 55)
            ]
        else:
            found = [i for i in found if objects[i][key] == word]
    return list(found)  # fmt: skip


def _related(a: int, word: str, b: int, scene: dict) -> bool:
    if word in ('front', 'behind'):
        lower, upper = (b, a) if word == 'front' else (a, b)
        return any(row[0] == lower and row[1] == upper and row[2] > 0.05
                   for row in scene['overlaps'])  # fmt: skip
    axis, sign = SIDES[word]
    first, second = _centre(scene['objects'][a]), _centre(scene['objects'][b])
    return sign * (first[axis] - second[axis]) > 0.04


def refer(text: str, scene: dict) -> list[int]:
    """Indices of all objects that the expression can mean."""
    text = text.removeprefix('the ')
    for link in sorted(LINKS, key=len, reverse=True):
        if f' {link} the ' in text:
            head, anchor = text.split(f' {link} the ')
            anchors = _noun(anchor, scene)
            return [
                a
                for a in _noun(head, scene)
                if any(a != b and _related(a, LINKS[link], b, scene) for b in anchors)
            ]
    hit = re.search(r' (on|at|in) the ([a-z ]+)$', text)
    if hit:
        found = _noun(text[: hit.start()], scene)
        for word in hit.group(2).split():
            if word == 'middle':
                found = [
                    i for i in found if all(0.33 < v < 0.67 for v in _centre(scene['objects'][i]))
                ]
            else:
                axis, sign = SIDES[word]
                found = [
                    i for i in found if sign * (_centre(scene['objects'][i])[axis] - 0.5) > 0.06
                ]
        return found
    word, _, rest = text.partition(' ')
    if word in ('largest', 'smallest'):
        order = sorted(_noun(rest, scene), key=lambda i: _side(scene['objects'][i]))
        return [order[-1] if word == 'largest' else order[0]]
    if word.endswith('most'):
        axis, sign = SIDES[word.removesuffix('most')]
        order = sorted(_noun(rest, scene), key=lambda i: sign * _centre(scene['objects'][i])[axis])
        return [order[-1]]
    return _noun(text, scene)  # fmt: skip
