"""The errors `tsae` raises for bad data. Owns the names only; a caller's own bug is a plain `ValueError`.

Every message names the value, the rule it broke and the remedy, on one line.
"""


class TsaeError(Exception):
    """Something outside the program is wrong: a file, an archive, a model, a path or an option."""


class InputError(TsaeError):
    """The input or output that the user named cannot be used."""


class BusyError(InputError):
    """Another command is at work at the same place, or has just been: the same command may do later."""


class ImageError(TsaeError):
    """An image file cannot be turned into pixels."""


class FormatError(TsaeError):
    """An archive is not one, is of an unknown version, or its parts contradict each other."""


class ModelError(TsaeError):
    """A model file is damaged, unknown or does not fit."""


class CorruptDataError(TsaeError):
    """Stored bytes are not the bytes that were written."""
