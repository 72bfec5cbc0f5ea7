"""Prompts, noun phrases, token maps, batches of all ranks: functions shared by data and models."""

from .gather import gather_batch, places_in_gathered, select_gathered
from .phrases import find_noun_phrases
from .prompts import (
    Prompt,
    caption_prompt,
    check_class_names,
    chunk_class_prompts,
    class_prompt,
    clean_class_name,
    split_class_string,
)
from .token_maps import spans_to_token_map, token_to_class_scores

__all__ = [
    'Prompt',
    'caption_prompt',
    'check_class_names',
    'chunk_class_prompts',
    'class_prompt',
    'clean_class_name',
    'find_noun_phrases',
    'gather_batch',
    'places_in_gathered',
    'select_gathered',
    'spans_to_token_map',
    'split_class_string',
    'token_to_class_scores',
]
