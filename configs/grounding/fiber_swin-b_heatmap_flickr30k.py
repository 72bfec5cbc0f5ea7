# Phrase grounding by heatmaps of coarse FIBER-Base, which has seen no box, on Flickr30k Entities:
#
#     python tools/test.py configs/grounding/fiber_swin-b_heatmap_flickr30k.py WEIGHTS.pth
#
# WEIGHTS.pth are those of coarse pre-training, converted (docs/convert.md). The maps are the
# gradient-weighted ones of all fused pairs, cells of 16 and 32 pixels of 384; others by
# --cfg-options model.method=attention model.blocks=last model.direction=t2i. Reported are the
# pointing game and boxes made of the maps, each beside what chance reaches: docs/heatmaps.md.
_base_ = [
    '../_base_/models/fiber_swin-b_pretrain.py',
    '../_base_/coarse_runtime.py',
]
splits = ('val', 'test')

# Captions of up to 80 words; those of pre-training end at 40 tokens, but positions go further.
_base_.model.data_preprocessor.update(max_tokens=128, pad_to='longest')
model = dict(
    _delete_=True,
    type='FiberHeatmapModel',
    model=_base_.model,
    method='gradient',
    blocks='all',
    direction='both',
    skip_faulty_phrases=True,  # a phrase on no token of its caption has no map, and is a miss
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberConcatDataset',
        pipeline=[
            dict(type='FiberLoadImage', color_type='color_ignore_orientation'),
            dict(type='FiberSquareResize', size=384),
            dict(type='FiberPackInputs'),
        ],
        datasets=[
            dict(
                type='FiberMDETRDataset',
                data_root='data/flickr30k_entities/',
                ann_file=f'final_flickr_separateGT_{split}.json',
                data_prefix=dict(img='flickr30k_images/'),
                test_mode=True,
            )
            for split in splits
        ],
    ),
)
test_evaluator = dict(
    type='mmdet.MultiDatasetsEvaluator',
    metrics=[dict(type='FiberHeatmapMetric') for _ in splits],
    dataset_prefixes=list(splits),
)
test_cfg = dict(type='TestLoop')
