# Flickr30k retrieval by matching at 384 px, as for COCO, and from COCO's fine-tuned model.
#
#     torchrun --nproc_per_node 8 tools/train.py \
#         configs/retrieval/fiber_swin-b_itm_8xb8-acc16_10e_flickr30k.py --launcher pytorch \
#         --cfg-options load_from=COCO_ITM.pth
#
# The test matches 1,000 images with 5,000 captions. For a released checkpoint add
# model.rank_by=rank_output. Expected on test (released code's README): IR@1 84.1.
_base_ = './fiber_swin-b_itm_8xb8-acc16_10e_coco.py'

flickr30k = dict(
    data_root='data/flickr30k_entities/',
    ann_file='dataset_flickr30k.json',
    data_prefix=dict(img_path='flickr30k_images/'),
)
train_dataloader = dict(dataset=flickr30k)
test_dataloader = dict(dataset=flickr30k)
