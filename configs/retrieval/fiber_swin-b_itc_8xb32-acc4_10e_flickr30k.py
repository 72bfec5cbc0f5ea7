# Flickr30k retrieval by contrast at 576 px, as for COCO, and from COCO's fine-tuned model.
#
#     torchrun --nproc_per_node 8 tools/train.py \
#         configs/retrieval/fiber_swin-b_itc_8xb32-acc4_10e_flickr30k.py --launcher pytorch \
#         --cfg-options load_from=COCO_ITC.pth
#     python tools/test.py \
#         configs/retrieval/fiber_swin-b_itc_8xb32-acc4_10e_flickr30k.py WEIGHTS.pth
#
# Expected on test (released code's README): TR@1 92.9, IR@1 81.4.
_base_ = './fiber_swin-b_itc_8xb32-acc4_10e_coco.py'

flickr30k = dict(
    data_root='data/flickr30k_entities/',
    ann_file='dataset_flickr30k.json',
    data_prefix=dict(img_path='flickr30k_images/'),
)
train_dataloader = dict(dataset=flickr30k)
val_dataloader = dict(dataset=flickr30k)
test_dataloader = dict(dataset=flickr30k)
