"""A byte-level BPE tokenizer for the language of Shapes, laid out like roberta-base's folder.

It is trained on the grammar, not on the sampled images, so every Shapes folder has the same one,
and it covers any other text by bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

from .language import corpus

SPECIAL = ('<s>', '<pad>', '</s>', '<unk>')  # ids 0-3 as in roberta-base; <mask> is the last id
MAX_VOCABULARY = 1000
MAX_LENGTH = 512


def _train() -> dict:
    """The model part of tokenizer.json: vocabulary and merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY - 1,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    return json.loads(bpe.to_str())['model']


def write_tokenizer(folder: Path) -> None:
    """Write a folder that ``AutoTokenizer.from_pretrained`` opens as a RoBERTa tokenizer."""
    model = _train()
    vocabulary, merges = dict(model['vocab']), [tuple(m) for m in model['merges']]
    vocabulary['<mask>'] = len(vocabulary)
    added = [
        dict(id=vocabulary[token], content=token, single_word=False, lstrip=token == '<mask>',
             rstrip=False, normalized=False, special=True)
        for token in (*SPECIAL, '<mask>')
    ]  # fmt: skip
    byte_level = dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=True)
    whole = dict(
        version='1.0',
        truncation=None,
        padding=None,
        added_tokens=added,
        normalizer=None,
        pre_tokenizer=byte_level,
        post_processor=dict(type='RobertaProcessing', sep=['</s>', 2], cls=['<s>', 0],
                            trim_offsets=True, add_prefix_space=False),
        decoder=byte_level,
        model=dict(type='BPE', dropout=None, unk_token=None, continuing_subword_prefix='',
                   end_of_word_suffix='', fuse_unk=False, byte_fallback=False,
                   ignore_merges=False, vocab=vocabulary, merges=[list(m) for m in merges]),
    )  # fmt: skip
    names = dict(bos_token='<s>', eos_token='</s>', unk_token='<unk>', sep_token='</s>',
                 pad_token='<pad>', cls_token='<s>')  # fmt: skip
    mask = dict(content='<mask>', lstrip=True, normalized=False, rstrip=False, single_word=False)
    config = dict(
        add_prefix_space=False,
        clean_up_tokenization_spaces=False,
        errors='replace',
        model_max_length=MAX_LENGTH,
        tokenizer_class='RobertaTokenizer',
        trim_offsets=True,
        **names,
        mask_token='<mask>',
    )
    files = {
        'tokenizer.json': whole,
        'vocab.json': vocabulary,
        'tokenizer_config.json': config,
        'special_tokens_map.json': dict(**names, mask_token=mask),
        # lets tools that need a model type find the tokenizer class
        'config.json': dict(model_type='roberta', vocab_size=len(vocabulary)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / name).write_text(text + '\n', encoding='utf-8')
    lines = ['#version: 0.2', *(' '.join(m) for m in merges)]
    (folder / 'merges.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
