"""Data preprocessors: images to normalised batches, strings to padded token ids."""

from .text import FiberDataPreprocessor, PromptTokenizer, TokenizedPrompt

__all__ = ['FiberDataPreprocessor', 'PromptTokenizer', 'TokenizedPrompt']
