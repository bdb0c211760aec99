"""Which records are to go: those whose keys match, and those whose files the input no longer has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import paths
from tsae.errors import InputError
from tsae.inputs import Listing, has_image_ending, list_inputs
from tsae.jobs.choice import IsRemoved


def find_removed(globs: Sequence[str], missing: bool, settings: ar.Settings, archive: str) -> IsRemoved | None:
    """What tells of some keys which of their records are to go.

    Args:
        globs: Of keys to be removed; `*` also matches `/`.
        missing: Whether those go as well whose files the input no longer has.
        settings: Of the archive, which name its input.
        archive: Its path, for messages.

    Returns:
        The rule; None if nothing is to go.

    Raises:
        InputError: if the input cannot be listed, wholly or in part, or lists nothing: it may be a disk that is not there.
    """
    listing = _list_again(settings, archive) if missing else None
    if not globs and listing is None:
        return None

    def is_removed(keys: Sequence[str]) -> NDArray[np.bool_]:
        matches = np.array([any(ar.matches(key, glob) for glob in globs) for key in keys], bool)
        return matches if listing is None else matches | (listing.find(keys) < 0)

    return is_removed


def _list_again(settings: ar.Settings, archive: str) -> Listing:
    """The listing of an archive's input as it is now, known to be whole."""
    source, what = settings.source, f"--remove-missing: the input {settings.source}"
    if not source:
        raise InputError(f"--remove-missing: {archive} does not know its input; name what is to go with --remove")
    try:
        is_list = paths.kind(source) == "file" and settings.root != source
        listing = list_inputs(source, settings.root if is_list else None)
    except (InputError, OSError) as error:
        raise InputError(f"{what} cannot be listed ({error}), so nothing is known to be missing") from error
    # A folder or container that cannot be read would make all that is in it look as if it were gone.
    hidden = [failure for failure in listing.failures if not has_image_ending(failure.path)]
    if hidden:
        raise InputError(f"{what} cannot be listed wholly ({hidden[0].path}: {hidden[0].message}); mend that first")
    if not listing.keys or listing.root != settings.root:
        raise InputError(f"{what} lists no image below {settings.root}; is its disk there?")
    return listing
