"""Old states that somebody still reads: which there are, and whose files must stay for them.

A reader on a local disk holds the manifest that it has opened (`tsae.paths.Hold`). A commit that puts another one in its
place gives the old one a second name, `states/<digest>.json`, if it is held; as long as somebody holds it, its files stay.
In a remote store nobody can hold anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tsae.archive.files import DIGEST_DIGITS, MANIFEST_FILE, STATE_FILE, STATES_FOLDER, digest
from tsae.archive.manifest import MAX_BYTES, Manifest
from tsae.errors import TsaeError
from tsae.paths import Folder, is_url


def state_file(manifest_text: bytes) -> str:
    """Where the manifest of a state lies once it is an old one."""
    return f"{STATES_FOLDER}/{digest(manifest_text)[:DIGEST_DIGITS]}.json"


@contextlib.contextmanager
def kept_if_held(archive: Folder, manifest_text: bytes | None) -> Iterator[None]:
    """Within the block the manifest may be replaced: if somebody holds it, it has its second name.

    Args:
        archive: Its place.
        manifest_text: The manifest; None if there is none.

    Raises:
        OSError: if that cannot be found out.
    """
    if manifest_text is None or is_url(archive.path):
        yield
        return
    with archive.unheld(MANIFEST_FILE) as is_free:
        if not is_free:
            with contextlib.suppress(OSError):  # a file system without links: its readers will be told to open it again
                archive.link(MANIFEST_FILE, state_file(manifest_text))
        yield


def held_states(archive: Folder) -> dict[str, Manifest]:
    """The old states that somebody holds, by the names of their files; those that nobody holds any more are forgotten.

    Raises:
        OSError: if they cannot be told.
    """
    if is_url(archive.path):
        return {}
    held = {}
    for name in Folder(f"{archive.path}/{STATES_FOLDER}").sizes_bytes():
        file = f"{STATES_FOLDER}/{name}"
        if STATE_FILE.fullmatch(file):
            with archive.unheld(file) as is_free:
                if is_free:
                    archive.remove([file])  # while nobody new can hold it
            if not is_free and (manifest := _read(archive, file)) is not None:
                held[file] = manifest
    return held


def _read(archive: Folder, file: str) -> Manifest | None:
    """A state; None if it has gone in the meantime, or is none."""
    try:
        text = archive.read(file, MAX_BYTES)
        return Manifest.from_json(text, file) if state_file(text) == file else None
    except (FileNotFoundError, TsaeError):
        return None
