"""A folder of images, searched by words."""

from .embed import Embedder
from .errors import ImageIndexError
from .image_index import Hit, ImageIndex
from .update import UpdateReport

__all__ = ['Embedder', 'Hit', 'ImageIndex', 'ImageIndexError', 'UpdateReport']
