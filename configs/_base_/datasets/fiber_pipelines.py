# The image pipeline of the released models; every benchmark's data set config builds on it.
#
# A short side of 480 to 800 and a long side of at most 1333 pixels, Pillow's bilinear filter, no
# EXIF rotation, flips by half (expressions with "left" and "right" must not be flipped), inclusive
# boxes. Nothing else: no crop, no colour jitter.
_base_ = '../tta.py'
tokenizer = 'roberta-base'

# The name ends so that mmdet's DetInferencer finds it.
load_image = dict(
    type='fiber_mm.datasets.LoadImageFromFile',
    color_type='color_ignore_orientation',
    backend_args=dict(backend='fiber_image', as_released=True),
)
load_boxes = dict(type='LoadAnnotations', with_bbox=True)
inclusive_boxes = dict(type='FiberInclusiveBoxes')
train_resize = dict(type='FiberResize', short=(480, 560, 640, 720, 800), max_long=1333)
flip = dict(type='RandomFlip_GLIP', prob=0.5)
# The original passes over faulty spans in silence; here their boxes are counted in the log.
caption_prompt = dict(type='FiberPrompt', tokenizer=tokenizer, skip_faulty_phrases=True)
pack = dict(type='FiberPackInputs')

caption_pipeline = [
    load_image,
    load_boxes,
    inclusive_boxes,
    train_resize,
    flip,
    caption_prompt,
    pack,
]
expression_pipeline = [
    load_image,
    load_boxes,
    inclusive_boxes,
    train_resize,
    caption_prompt,
    pack,
]
test_pipeline = [load_image, dict(type='FiberResize', short=800, max_long=1333), pack]
tta_pipeline = [
    *test_pipeline[:-1],
    dict(type='TestTimeAug', transforms=[_base_.mirrored, [pack]]),
]
