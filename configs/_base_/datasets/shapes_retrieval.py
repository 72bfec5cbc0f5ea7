# Shapes for retrieval: captions of `shapes_captions.py` without hidden words; validated and tested
# alike, with re-ranking.
_base_ = './shapes_captions.py'

train_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))
val_cfg = dict(type='FiberRetrievalValLoop', protocols=('itc', 'itm_rerank'), rerank_topk=16)
test_dataloader = _base_.val_dataloader
test_evaluator = _base_.val_evaluator
test_cfg = dict(type='FiberRetrievalTestLoop', protocols=('itc', 'itm_rerank'), rerank_topk=16)
