"""Draws scenes. A scene's picture depends on the scene alone: all randomness is in its fields."""

from __future__ import annotations

import math
import random
from functools import lru_cache

import cv2
import numpy as np

from .geometry import Patch, rasterise
from .scene import Scene, ShapeObject

_BANK = 12  # background noises, light maps
_BANK_SEED = 20_221_129
_CROSS = np.ones((3, 3), np.uint8)
_STEPS = np.linspace(0, 2, 256)[:, None]


@lru_cache(maxsize=4)
def _noise_bank(side: int) -> np.ndarray:
    """(_BANK, 2 side, 2 side) uint8: multi-octave noise from soft (clouds) to grainy (gravel)."""
    rng = np.random.default_rng(_BANK_SEED)
    full, out = 2 * side, []
    for i in range(_BANK):
        fall = 0.42 + 0.42 * i / (_BANK - 1)  # weight of each octave relative to the one before
        total, weight, cells = np.zeros((full, full), np.float32), 1.0, 4
        while cells <= full // 2:
            grid = rng.random((cells + 3, cells + 3), np.float32) - 0.5
            octave = cv2.resize(grid, (full, full), interpolation=cv2.INTER_CUBIC)
            total += weight * octave
            weight, cells = weight * fall, cells * 2
        total = (total - total.mean()) / total.std()
        out.append(np.clip(128 + 52 * total, 0, 255).astype(np.uint8))
    return np.stack(out)


@lru_cache(maxsize=4)
def _light_bank(side: int) -> np.ndarray:
    """(_BANK, side, side, 3) uint8 brightness factors, 128 = unchanged and the most."""
    rng = np.random.default_rng(_BANK_SEED + 1)
    out = []
    for _ in range(_BANK):
        grid = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        light = 112 + 30 * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        out.append(np.repeat(np.clip(light, 70, 128).astype(np.uint8)[..., None], 3, 2))
    return np.stack(out)


@lru_cache(maxsize=4)
def _grain_bank(side: int) -> np.ndarray:
    """(2 side, 2 side, 3) uint8 sensor noise around 128."""
    rng = np.random.default_rng(_BANK_SEED + 2)
    noise = rng.normal(0, 1, (2 * side, 2 * side, 3)).astype(np.float32)
    noise = 0.6 * noise + 0.8 * cv2.GaussianBlur(noise, (3, 3), 0.8)
    return np.clip(128 + 48 * noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _tile(kind: str, side: int) -> np.ndarray:
    """One period of a pattern, (side, side) uint8."""
    big = 8 * side
    y, x = np.mgrid[:big, :big] / big
    if kind == 'striped':
        pattern = x < 0.5
    elif kind == 'dotted':
        pattern = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.32**2
    elif kind == 'checkered':
        pattern = (x < 0.5) ^ (y < 0.5)
    elif kind == 'tiled':  # bricks: two rows, joints between
        row = y < 0.5
        shifted = np.where(row, x, (x + 0.5) % 1.0)
        pattern = ((y % 0.5) < 0.06) | (shifted < 0.05)
    else:
        raise ValueError(f'unknown pattern {kind!r}')
    return cv2.resize(pattern.astype(np.float32) * 255, (side, side),
                      interpolation=cv2.INTER_AREA).astype(np.uint8)  # fmt: skip


@lru_cache(maxsize=32)
def _table(kind: str, side: int) -> np.ndarray:
    """(4096,) uint8: a pattern by 64 x 64 phases, drawn with the sharpness of ``side`` pixels."""
    tile = np.tile(_tile(kind, side), (3, 3))
    tile = cv2.resize(tile, (192, 192), interpolation=cv2.INTER_LINEAR)
    return tile[64:128, 64:128].reshape(-1).copy()


def _pattern(
    kind: str, period: float, angle: float, centre: tuple[float, float], width: int, height: int
) -> np.ndarray:
    """(height, width) uint8 repeated pattern.

    Phases are looked up in a table: four times as fast as warping a tile.
    """
    side = 8
    while side < period and side < 64:
        side *= 2
    turn = math.radians(angle)
    c, s = math.cos(turn) * 64 / period, math.sin(turn) * 64 / period
    x = np.arange(width, dtype=np.float32) - centre[0]
    y = np.arange(height, dtype=np.float32) - centre[1]
    # + 2^15: the conversion to integers rounds towards zero
    across = ((x * c + 32768)[None] + (y * s)[:, None]).astype(np.int32) & 63
    along = ((x * -s + 32768)[None] + (y * c)[:, None]).astype(np.int32) & 63
    return _table(kind, side)[along * 64 + across]


@lru_cache(maxsize=8)
def _pattern_bank(kind: str, side: int) -> np.ndarray:
    """(n, 2 side, 2 side) uint8: a background pattern at many angles and periods."""
    rng = np.random.default_rng(_BANK_SEED + 3)
    count, full = 24, 2 * side
    periods = np.geomspace(12, 56, count) * side / 256
    angles = 180 * rng.permutation(count) / count
    return np.stack([_pattern(kind, p, a, (0, 0), full, full) for p, a in zip(periods, angles)])


@lru_cache(maxsize=4)
def _ramp(side: int) -> np.ndarray:
    return np.linspace(-1, 1, side, dtype=np.float32)


def _draw_background(scene: Scene) -> np.ndarray:
    bg, w, h = scene.background, scene.width, scene.height
    side = max(w, h)
    bank = _noise_bank(side)
    ox, oy = bg['offset'][0] % (side + 1), bg['offset'][1] % (side + 1)
    noise = bank[bg['bank'] % _BANK, oy : oy + h, ox : ox + w]
    kind = bg['kind']
    if kind == 'cloudy':
        index = noise
    else:
        if kind == 'smooth':
            turn = math.radians(bg['angle'])
            ramp = 64 * (math.cos(turn) * _ramp(w)[None] + math.sin(turn) * _ramp(h)[:, None])
            base = (128 + ramp).astype(np.uint8)
        else:
            patterns = _pattern_bank(kind, side)
            base = patterns[bg['bank'] // _BANK % len(patterns), oy : oy + h, ox : ox + w]
        grain = 0.12 + 0.6 * bg['grain']
        index = cv2.addWeighted(base, 1 - grain, noise, grain, 0)
    palette = (np.array(bg['palette'], np.float32) * scene.effects['tint'])[:, ::-1]
    return cv2.applyColorMap(index, _colour_map(*palette))


def _colour_map(low: np.ndarray, middle: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(256, 1, 3) uint8: straight from the first of three colours to the second and the third."""
    colours = np.concatenate(
        [(middle - low) * _STEPS[:128] + low, (high - middle) * (_STEPS[128:] - 1) + middle]
    )
    colours[-1] = high
    return colours.clip(0, 255).astype(np.uint8)[:, None]


def _grey(rng: random.Random) -> tuple[int, int, int]:
    level = 25 + 200 * rng.random()
    return tuple(min(255, max(0, int(level + 18 * rng.random() - 9))) for _ in range(3))


def _draw_clutter(image: np.ndarray, scene: Scene) -> None:
    """Thin lines and grey blobs of no nameable shape, behind the objects."""
    rng, scale = random.Random(scene.background['clutter_seed']), scene.scale
    w, h = scene.width, scene.height
    for _ in range(scene.background['lines']):
        a = (int(w * rng.random()), int(h * rng.random()))
        b = (int(w * (1.5 * rng.random() - 0.25)), int(h * (1.5 * rng.random() - 0.25)))
        cv2.line(image, a, b, _grey(rng), 1 + (rng.random() < 0.3), cv2.LINE_AA)
    for _ in range(scene.background['blobs']):
        radius = 16 * scale * 4 * 6 ** rng.random()
        n = 7 + int(5 * rng.random())
        r = np.array([radius * (0.45 + 0.7 * rng.random()) for _ in range(n)])
        circle = _circle(n) * (1, 0.5 + 0.5 * rng.random())
        points = circle * r[:, None] + (16 * w * rng.random(), 16 * h * rng.random())
        cv2.fillPoly(image, [points.astype(np.int32)], _grey(rng), cv2.LINE_AA, 4)


@lru_cache(maxsize=16)
def _circle(n: int) -> np.ndarray:
    turn = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def _draw_wires(image: np.ndarray, scene: Scene) -> None:
    """Thin dark or light lines in front of everything."""
    rng = random.Random(scene.background['clutter_seed'] + 1)
    w, h = scene.width, scene.height
    for _ in range(scene.effects['wires']):
        a, b = (0, rng.randrange(h)), (w, rng.randrange(h))
        if rng.random() < 0.4:
            a, b = (rng.randrange(w), 0), (rng.randrange(w), h)
        cv2.line(image, a, b, _grey(rng), 1, cv2.LINE_AA)


def _draw_shadow(image: np.ndarray, obj: ShapeObject, patch: Patch) -> None:
    d = 1 + round(0.05 * obj.size)
    h, w = image.shape[:2]
    rows, cols = patch.slices
    y0, x0 = min(rows.start + d, h), min(cols.start + d, w)
    y1, x1 = min(rows.stop + d, h), min(cols.stop + d, w)
    if y0 >= y1 or x0 >= x1:
        return
    soft = cv2.blur(patch.alpha, (2 * d + 1, 2 * d + 1))[: y1 - y0, : x1 - x0]
    light = cv2.convertScaleAbs(soft, alpha=-obj.shadow, beta=255)
    roi = image[y0:y1, x0:x1]
    roi[...] = cv2.multiply(roi, cv2.merge([light, light, light]), scale=1 / 255)


def _tone(rgb: tuple[int, int, int], tint: list[float], shade: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 BGR: a colour under a (h, w) uint8 shade, 128 = unchanged."""
    scales = [rgb[i] * tint[i] / 128 for i in (2, 1, 0)]
    # A channel that overflows alone would change the hue: pink would turn magenta.
    shade = cv2.min(shade, 255 / max(1.0, *scales))
    return cv2.merge([cv2.convertScaleAbs(shade, alpha=v) for v in scales])


def _draw_object(image: np.ndarray, obj: ShapeObject, patch: Patch, tint: list[float]) -> None:
    if obj.shadow:
        _draw_shadow(image, obj, patch)
    rows, cols = patch.slices
    h, w = patch.alpha.shape
    # The shade is laid over the whole shape's box, of which the patch may be a part.
    x = np.arange(cols.start, cols.stop, dtype=np.float32) + (0.5 - obj.centre[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32) + (0.5 - obj.centre[1])
    x *= 256 * obj.shade[0] / obj.size
    y *= 256 * obj.shade[1] / obj.size
    shade = (x + 128)[None] + y[:, None]
    if obj.outline:
        edge = patch.alpha - cv2.erode(patch.alpha, _CROSS)
        shade *= 1 - np.float32(obj.outline / 255) * edge.astype(np.float32)
    shade = shade.astype(np.uint8)
    paint = _tone(obj.rgb, tint, shade)
    if obj.texture != 'plain':
        centre = (obj.centre[0] - cols.start, obj.centre[1] - rows.start)
        share = _pattern(obj.texture, obj.period, obj.texture_angle, centre, w, h)
        share = share.astype(np.float32) * (1 / 255)
        paint = cv2.blendLinear(_tone(obj.second_rgb, tint, shade), paint, share, 1 - share)
    alpha = patch.alpha.astype(np.float32) * (1 / 255)
    roi = image[rows, cols]
    cv2.blendLinear(paint, roi, alpha, 1 - alpha, dst=roi)


def _apply_effects(image: np.ndarray, scene: Scene) -> np.ndarray:
    fx, w, h = scene.effects, scene.width, scene.height
    side = max(w, h)
    light = _light_bank(side)[fx['light'] % _BANK][:h, :w]
    image = cv2.multiply(image, light, scale=fx['contrast'] * fx['gain'] / 128)
    lift = 110 * fx['gain'] * (1 - fx['contrast'])
    if fx['blur']:
        image = cv2.GaussianBlur(image, (3, 3), fx['blur'])
    ox, oy = fx['noise_offset'][0] % (side + 1), fx['noise_offset'][1] % (side + 1)
    grain = _grain_bank(side)[oy : oy + h, ox : ox + w]
    return cv2.addWeighted(image, 1, grain, fx['noise'], lift - 128 * fx['noise'])


def render(scene: Scene, patches: list[Patch] | None = None) -> np.ndarray:
    """Picture of a scene.

    Args:
        scene: what to draw.
        patches: masks of the objects if they are at hand already.
    Returns: (height, width, 3) uint8, BGR.
    """
    if patches is None:
        patches = [rasterise(o, scene.width, scene.height) for o in scene.objects]
    image = _draw_background(scene)
    _draw_clutter(image, scene)
    for obj, patch in zip(scene.objects, patches):
        _draw_object(image, obj, patch, scene.effects['tint'])
    if scene.effects['wires']:
        _draw_wires(image, scene)
    return _apply_effects(image, scene)


def encode(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of a BGR image."""
    done, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f'OpenCV could not encode a JPEG of shape {image.shape}')
    return data.tobytes()
