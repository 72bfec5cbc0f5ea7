"""Data preprocessors: images to normalised batches, strings to padded token ids."""

from .image_text import FiberImageTextPreprocessor
from .text import FiberDataPreprocessor, PromptTokenizer, TokenizedPrompt

__all__ = [
    'FiberDataPreprocessor',
    'FiberImageTextPreprocessor',
    'PromptTokenizer',
    'TokenizedPrompt',
]
