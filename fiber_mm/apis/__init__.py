"""Using a trained model in a few lines of Python."""

from .inference import EncodedImage, encode_image, ground, init_grounder

__all__ = ['EncodedImage', 'encode_image', 'ground', 'init_grounder']
