"""Boxes, areas and segmentations against what is really drawn."""

import colorsys
import copy

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fiber_mm.shapes import make_scene
from fiber_mm.shapes import vocabulary as V
from fiber_mm.shapes.geometry import contours, rasterise
from fiber_mm.shapes.render import render
from fiber_mm.shapes.scene import sample_scene


def owners(scene) -> np.ndarray:
    """Painter's algorithm from the scene graph alone."""
    out = np.full((scene.height, scene.width), -1)
    for i, obj in enumerate(scene.objects):
        patch = rasterise(obj, scene.width, scene.height)
        out[patch.slices][patch.mask] = i
    return out


def test_boxes_and_areas_are_those_of_the_visible_pixels(scenes):
    for scene in scenes:
        owner = owners(scene)
        for i, obj in enumerate(scene.objects):
            ys, xs = np.nonzero(owner == i)
            box = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
            assert obj.box == box
            assert obj.area == len(xs)


def test_segmentations_are_the_visible_pixels():
    for k in range(12):
        scene, _ = make_scene(8, 'val', k)
        owner = owners(scene)
        for i, obj in enumerate(scene.objects):
            rle = obj.segmentation
            if isinstance(rle, list):
                rle = coco_mask.merge(coco_mask.frPyObjects(rle, 256, 256))
            mask = coco_mask.decode(rle).astype(bool)
            wrong = (mask != (owner == i)).sum()
            assert wrong <= 0.12 * obj.area + 4  # polygons differ by pixel rounding at the edge


def quiet(scene):
    """Without anything that changes pixels outside an object."""
    scene = copy.deepcopy(scene)
    scene.effects.update(blur=0.0, noise=0.0, wires=0)
    for obj in scene.objects:
        obj.shadow = 0.0
    return scene


def test_boxes_fit_the_picture():
    """One object white, all else black: the white pixels are those of its box."""
    for k in range(6):
        scene = quiet(make_scene(9, 'val', k)[0])
        scene.background.update(kind='smooth', palette=[[0, 0, 0]] * 3, lines=0, blobs=0)
        scene.effects.update(contrast=1.0)
        for obj in scene.objects:
            obj.shade, obj.outline, obj.texture, obj.rgb = (0.0, 0.0), 0.0, 'plain', (0, 0, 0)
        for obj in scene.objects:
            obj.rgb = (255, 255, 255)
            light = render(scene).max(2)
            obj.rgb = (0, 0, 0)
            ys, xs = np.nonzero(light > 0.45 * light.max())
            got = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            x, y, w, h = obj.box
            assert np.abs(got - (x, y, x + w, y + h)).max() <= 1


def test_picture_depends_on_the_scene_alone():
    scene, canvas, _ = sample_scene(1, 'val', 0, 256)
    assert np.array_equal(render(scene, canvas.patches), render(copy.deepcopy(scene)))


def test_painted_colours_keep_their_hues():
    for k in range(40):
        scene = quiet(make_scene(10, 'val', k)[0])
        picture = render(scene)[..., ::-1] / 255
        owner = owners(scene)
        for i, obj in enumerate(scene.objects):
            if obj.texture != 'plain' or obj.size < 20:
                continue
            hue = 360 * colorsys.rgb_to_hsv(*np.median(picture[owner == i], 0))[0]
            low, high = V.COLOURS[obj.colour].hue
            off = abs((hue - (low + high) / 2 + 180) % 360 - 180)
            # contrast and tint shift it a little; neighbours stay out of reach
            assert off <= (high - low) / 2 + 8, (hue, obj)


@pytest.mark.parametrize('shape', V.SHAPES)
def test_outline_has_the_stated_size_and_centre(shape):
    scene, _ = make_scene(0, 'val', 0)
    obj = scene.objects[0]
    obj.shape, obj.size, obj.centre = shape, 80.0, (100.0, 120.0)
    outline = contours(obj)[0]
    low, high = outline.min(0), outline.max(0)
    assert np.isclose((high - low).max(), 80)
    assert np.allclose((low + high) / 2, (100, 120))
    patch = rasterise(obj, 256, 256)
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    if shape == 'ring':
        x, y = contours(obj)[1].T
        area -= abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert abs(patch.total - area) < 0.05 * area


def test_unknown_shape_is_named():
    scene, _ = make_scene(0, 'val', 0)
    scene.objects[0].shape = 'heptagon'
    with pytest.raises(ValueError, match='heptagon'):
        render(scene)
