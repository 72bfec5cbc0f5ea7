# Coarse pre-training on COCO, Visual Genome, SBU and CC3M: 4,096 pairs a step on 64 GPUs, 100,000
# steps, from Swin-B (ImageNet-22k, 384 px) and roberta-base; the heads start fresh.
#
#     python tools/convert_checkpoint.py swin_base_patch4_window12_384_22k.pth start.pth \
#         --with roberta-base/model.safetensors
#     torchrun --nnodes 8 --nproc_per_node 8 tools/train.py \
#         configs/pretrain/fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m.py --launcher pytorch \
#         --cfg-options load_from=start.pth
#     python tools/test.py configs/pretrain/fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m.py WEIGHTS.pth
#
# Fewer GPUs: fiber_swin-b_8xb64-acc8_100k_coco-vg-sbu-cc3m.py. The test is retrieval on COCO's test
# split: docs/retrieval.md.
_base_ = [
    '../_base_/models/fiber_swin-b_pretrain.py',
    '../_base_/datasets/coco_vg_sbu_cc3m.py',
    '../_base_/schedules/pretrain_100k.py',
    '../_base_/coarse_runtime.py',
]
# 64 pairs on a GPU need the blocks to be computed again in the backward pass.
model = dict(with_cp=True)
