"""What goes wrong with an index."""


class ImageIndexError(RuntimeError):
    """An index that cannot be made, read or used like this; the message says what to do."""
