"""Which kind of INPUT it is, and its listing."""

from __future__ import annotations

import functools

import pyarrow as pa

from tsae import paths
from tsae.archive.records import key_fault
from tsae.archive.verify import map_in_threads
from tsae.errors import InputError
from tsae.images import ENDINGS
from tsae.inputs.containers import COMPRESSED, container_path, is_tar, refuse_compressed
from tsae.inputs.files import WILDCARDS, find_by_glob, find_in_folder
from tsae.inputs.labels import add_labels
from tsae.inputs.listing import Finding, Listing
from tsae.inputs.lists import find_in_list
from tsae.inputs.tables import find_in_table, has_images, open_table
from tsae.inputs.tars import find_in_tar

REMOTE_CONTAINERS = 16
"""Containers of a remote store whose members are listed at once: each takes some requests, one after the other."""


def list_inputs(source: str, root: str | None = None, may_be_empty: bool = False) -> Listing:
    """Finds the images that `source` names.

    Args:
        source: A folder; a container, that is a tar or Parquet file of images; a glob of images or of containers; or a
            list of either: `.txt` with a path a line, or `.parquet` with a column `path`.
        root: For a list, the folder that its keys are relative to; None is the list's own folder.
        may_be_empty: Whether there may be no image yet.

    Returns:
        The listing, with at least one key or failure unless it may be empty.

    Raises:
        InputError: if the source is not there, cannot be read, names no image, or paths of a list lie outside the root;
            or if there are labels that cannot be read.
    """
    try:
        with paths.as_os_error(source):
            return _finish(_find(source, root), source, may_be_empty)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{source}: cannot be read ({reason}); check the path, the network and its credentials") from error


def _finish(finding: Finding, source: str, may_be_empty: bool) -> Listing:
    """Sorts, drops repetitions, adds labels; a listing without any image is refused, unless it may be empty."""
    table = finding.sorted_table(source)
    if not len(table) and not finding.failures and not may_be_empty:
        skipped = f" ({finding.skipped} files with other endings)" if finding.skipped else ""
        remedy = f"images end in {' '.join(sorted(ENDINGS))}, globs of tar or Parquet files in .tar or .parquet"
        raise InputError(f"{source}: no image found{skipped}; {remedy}")
    table = add_labels(finding, table)
    return Listing(finding.root, table, finding.failures, finding.skipped, finding.notes)


def _find(source: str, root: str | None) -> Finding:
    is_file, is_folder = _kind(source)
    is_single = is_file and _is_single_container(paths.absolute(source))
    if root is not None and (is_single or (not is_file and (is_folder or WILDCARDS & set(source)))):
        raise InputError(f"--root {root}: is for lists; {source} is none, its keys follow from it")
    if is_folder:
        return find_in_folder(paths.absolute(source))
    if is_single:
        return _add_containers(Finding(paths.absolute(source)), [""])
    if is_file:
        return _add_containers(*find_in_list(paths.absolute(source), root))
    if WILDCARDS & set(source):
        return _add_containers(*find_by_glob(source))
    raise InputError(f"{source}: not there; name a folder, a tar or Parquet file, a glob or a list of images")


def _kind(source: str) -> tuple[bool, bool]:
    """Whether it is a file, and whether it is a folder."""
    if paths.is_url(source):  # whose filesystem would list all of a folder to tell
        found = paths.kind(source)
        return found == "file", found == "folder"
    files, path = paths.filesystem(source)
    return files.isfile(path), files.isdir(path)


def _is_single_container(source: str) -> bool:
    """Whether a file is a container; a Parquet file with a column `path` is a list, whatever else it has."""
    if is_tar(source) or COMPRESSED.search(source):
        return True
    if not source.endswith(".parquet"):
        return False
    try:
        with paths.open_file(source) as file:
            schema = open_table(file).schema_arrow
    except (pa.ArrowException, OSError, ValueError, LookupError):
        return False  # as a list, it will be refused
    return has_images(schema) and "path" not in schema.names


def _add_containers(finding: Finding, containers: list[str]) -> Finding:
    """Adds the members of containers, which are named relative to the root, each once."""
    names, find = sorted(set(containers)), functools.partial(_find_container, finding.root)
    for found in map_in_threads(find, names, REMOTE_CONTAINERS) if paths.is_url(finding.root) else map(find, names):
        finding.join(found)
    return finding


def _find_container(root: str, container: str) -> Finding:
    """The members of one container."""
    finding, path = Finding(root), container_path(root, container)
    refuse_compressed(path)
    if container and (fault := key_fault(container)):
        finding.fail(container, "InputError", fault)
        return finding
    try:
        (find_in_tar if is_tar(path) else find_in_table)(finding, path, container)
    except OSError as error:
        if not container:
            raise
        reason = error.strerror or str(error)
        finding.fail(container, type(error).__name__, f"cannot be read: {reason}; check the file and its permissions")
    return finding
