"""A byte-level BPE tokenizer with RoBERTa's special ids, trained on a few words."""

import pytest

WORDS = (
    'cat dog red green blue car fire truck circle square triangle bow traffic light person the a '
    'of left small large on in . , a red circle left of the small blue square. traffic light'
)


@pytest.fixture(scope='session')
def tokenizer_dir(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ('</s>', 2), ('<s>', 0), trim_offsets=True, add_prefix_space=False
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token='<s>',
        cls_token='<s>',
        eos_token='</s>',
        sep_token='</s>',
        pad_token='<pad>',
        unk_token='<unk>',
        mask_token='<mask>',
    )
    folder = tmp_path_factory.mktemp('tokenizer')
    fast.save_pretrained(str(folder))
    return str(folder)
