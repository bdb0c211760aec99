"""Images as files: those of a folder, and those that a glob matches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from fsspec.utils import glob_translate

from tsae import paths
from tsae.errors import InputError
from tsae.inputs.containers import is_container
from tsae.inputs.labels import is_label_file
from tsae.inputs.listing import Finding, has_image_ending

WILDCARDS = frozenset("*?[")


def find_in_folder(folder: str) -> Finding:
    """The images of a folder and of those below.

    Args:
        folder: Absolute path or URL.
    """
    finding = Finding(folder, is_tree=True)
    for name, facts in remote_names(folder, "find") if paths.is_url(folder) else _walk(finding, None):
        if not name.endswith("/"):
            if is_label_file(name):
                finding.label_files.append(name)
            _add_if_image(finding, name, facts)
    return finding


def _add_if_image(finding: Finding, name: str, facts: paths.FileFacts | None) -> None:
    """Adds a file, with what a remote store has told of it, as asking for each would cost a request."""
    fields = {} if facts is None else {"size_bytes": facts.size_bytes, "version": facts.version}
    finding.add_if_image(name, **fields)


def remote_names(root: str, how: str, below: str = "") -> Iterator[tuple[str, paths.FileFacts | None]]:
    """Names below a remote root that the filesystem's `find` or `glob` gives, those of folders with a `/` at the end."""
    if how == "find":
        yield from ((name.rstrip("/"), facts) for name, facts in paths.find_remote(root) if facts is not None)
        return
    files, base = paths.filesystem(root)
    start = base.rstrip("/") + "/"
    for path, info in files.glob(start + below, detail=True).items():
        if path.startswith(start):
            name = path[len(start) :].rstrip("/")
            is_below = info["type"] == "directory"
            yield (name + "/", None) if is_below else (name, paths.remote_facts(info))


def _walk(finding: Finding, depth: int | None) -> Iterator[tuple[str, None]]:
    """Names below a local root, those of folders with a `/` at the end, of `depth` parts at most.

    Links are followed, but never into a folder that they lie in.
    """
    todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while todo:
        prefix, above = todo.pop()
        try:
            identity, entries = scan(paths.join(finding.root, prefix))
        except OSError as error:
            if not prefix:
                raise _unreadable(finding.root, error) from error
            add_unreadable(finding, prefix, error)
            continue
        if identity in above:
            continue
        for entry in entries:
            name, is_below = prefix + entry.name, is_folder(entry)
            yield (name + "/" if is_below else name), None
            if is_below and (depth is None or name.count("/") + 1 < depth):
                todo.append((name + "/", (*above, identity)))


def scan(folder: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """What identifies a folder, and what is in it."""
    status = os.stat(folder)
    with os.scandir(folder) as entries:
        return (status.st_dev, status.st_ino), list(entries)


def _unreadable(root: str, error: OSError) -> InputError:
    return InputError(f"{root}: cannot be read ({error.strerror or error}); check the folder and its permissions")


def add_unreadable(finding: Finding, folder: str, error: OSError) -> None:
    """Notes that a folder below the root cannot be read."""
    reason = error.strerror or str(error)
    finding.fail(folder, type(error).__name__, f"the folder cannot be read: {reason}; check its permissions")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is one, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: reading it will say so
        return False


def find_by_glob(pattern: str) -> tuple[Finding, list[str]]:
    """The images that a glob matches; or the containers, if it ends as their names do.

    Returns:
        The root with the images, and the names of containers below it.
    """
    root, below = split_glob(pattern)
    finding, containers = Finding(root), []
    for name, facts in remote_names(root, "glob", below) if paths.is_url(root) else _glob(finding, below):
        if is_container(pattern):
            containers += [] if name.endswith("/") else [name]
        elif not name.endswith("/"):
            _add_if_image(finding, name, facts)
        elif has_image_ending(name[:-1]):
            finding.fail(name[:-1], "IsADirectoryError", "it is a folder, not an image file; name it as the input")
    return finding, containers


def split_glob(pattern: str) -> tuple[str, str]:
    """Root and rest of a pattern: the folder before the first part with a wildcard, and the pattern from there on."""
    parts = paths.absolute(pattern).split("/")
    first = next(index for index, part in enumerate(parts) if WILDCARDS & set(part))
    root, below = "/".join(parts[:first]) or "/", "/".join(parts[first:])
    try:
        re.compile(glob_translate(below))
    except (ValueError, re.error) as error:
        raise InputError(f"{pattern}: not a glob ({error}); put `**` between slashes, close brackets") from error
    return root + "/" if root.endswith(":/") else root, below  # `memory:/`, where the wildcard follows the scheme


def _glob(finding: Finding, below: str) -> Iterator[tuple[str, None]]:
    """What a pattern matches below a local root, by fsspec's rules, but through links as well."""
    matches = re.compile(glob_translate(below)).match
    names = _walk(finding, None if "**" in below else below.count("/") + 1)
    return (found for found in names if matches(found[0].rstrip("/")))
