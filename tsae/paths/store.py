"""Remote stores, through fsspec: reading and writing in one step each, within a limited time. Conditional writes on S3."""

from __future__ import annotations

import contextlib
import datetime
import re
import threading
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.exceptions import FSTimeoutError

from tsae.paths.facts import ConflictError, FileFacts, check_expected

S3_CONFIG: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 15,
    "retries": {"mode": "standard", "total_max_attempts": 4},
}
"""What s3fs hands to botocore, unless fsspec's own configuration has other values."""


S3_RETRIES = 2
"""How often s3fs repeats what botocore has given up; a read repeats that once more."""


UPLOAD_WAIT_S = 120.0
"""How long a write to a remote store may take, beside what `SLOWEST_UPLOAD` allows for its size."""


SLOWEST_UPLOAD = 50_000
"""Bytes a second that a write to a remote store must make at least; slower ones are given up."""


def options(scheme: str) -> dict[str, Any]:
    """What a filesystem of ours is made with, by its URL's scheme."""
    # Only these filesystems keep listings, and some of the others hand options that they do not know on to a connection.
    if not issubclass(fsspec.get_filesystem_class(scheme), AsyncFileSystem):
        return {}
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        options["config_kwargs"] = {**S3_CONFIG, **fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})}
    return options


def is_s3(files: Any) -> bool:
    """Whether a filesystem is s3fs."""
    return "s3" in files.protocol and hasattr(files, "call_s3")


def upload(files: Any, method: str, size_bytes: int, *args: Any, **kwargs: Any) -> None:
    """Calls a filesystem's method that sends bytes, for a limited time, which no timeout of aiohttp does.

    It asks a server first whether to send at all (`Expect: 100-continue`), and waits for the answer for ever.
    """
    if not isinstance(files, AsyncFileSystem):
        getattr(files, method)(*args, **kwargs)
        return
    seconds = UPLOAD_WAIT_S + size_bytes / SLOWEST_UPLOAD
    try:
        sync(files.loop, getattr(files, f"_{method}"), *args, timeout=seconds, **kwargs)
    except FSTimeoutError:
        raise TimeoutError(f"{size_bytes} bytes were not written within {seconds:.0f} s") from None


def _content(files: Any, path: str) -> bytes | None:
    try:
        return bytes(files.cat_file(path))
    except FileNotFoundError:
        return None


NOT_FOUND, CONFLICT, PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE = 404, 409, 412, 416


def _status(error: OSError) -> int | None:
    """The HTTP status that s3fs made an error of, if it is one of those."""
    response = getattr(error.__cause__, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def cat_range(files: Any, path: str, start: int, length: int) -> bytes | None:
    """As many of the bytes as there are; None if the file has not even the first."""
    if length == 0:  # HTTP has no range of no bytes
        return b"" if remote_facts(files.info(path)).size_bytes >= start else None
    try:
        return bytes(files.cat_file(path, start=start, end=start + length))
    except OSError as error:
        if _status(error) != RANGE_NOT_SATISFIABLE:
            raise
        return None


VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")
"""Under which names fsspec's filesystems tell a file's version, the best first."""


def remote_facts(info: dict[str, Any]) -> FileFacts:
    """The facts of a file, from what its filesystem tells of it."""
    if info.get("type") == "directory":
        raise IsADirectoryError("it is a folder")
    size = info.get("size")
    version = next((info[key] for key in VERSION_KEYS if info.get(key)), "")
    # Some tell a time now as a datetime, now (in listings) as its seconds.
    version = version.timestamp() if isinstance(version, datetime.datetime) else version
    return FileFacts(-1 if size is None else int(size), str(version))


_REPLACING = threading.Lock()


def replace_remote(files: Any, path: str, data: bytes, expected: bytes | None) -> None:
    """Compares and writes, in one step among the threads of this process; raises `ConflictError`."""
    with _REPLACING:
        check_expected(path, _content(files, path), expected)
        upload(files, "pipe_file", len(data), path, data)


def replace_s3(files: Any, path: str, data: bytes, expected: bytes | None) -> None:
    """Compares and writes in one step of the store; raises `ConflictError`."""
    refusals = {CONFLICT, PRECONDITION_FAILED} | (set() if expected is None else {NOT_FOUND})
    for _ in range(3):
        condition = _s3_condition(files, path, expected)
        try:
            return _put_s3(files, path, data, condition)
        except OSError as error:
            if _status(error) not in refusals:
                raise
        # A request that is repeated since its answer got lost is refused because of its own success.
        if _content(files, path) == data:
            return None
    raise ConflictError(f"{path}: somebody else writes it all the time")


def _s3_condition(files: Any, path: str, expected: bytes | None) -> dict[str, str]:
    """What the store must find to take the new content, which is as of a moment before the content is compared."""
    tag = None
    with contextlib.suppress(FileNotFoundError):
        tag = files.info(path).get("ETag")
    content = _content(files, path)
    check_expected(path, content, expected)
    if content is None:
        return {"IfNoneMatch": "*"}
    if not tag:
        raise OSError(f"{path}: its store tells no ETag, so nothing can be replaced safely there")
    return {"IfMatch": str(tag)}


def _put_s3(files: Any, path: str, data: bytes, condition: dict[str, str]) -> None:
    # s3fs leaves out parameters that botocore does not know: without its condition, a write would be none of ours.
    if not condition.keys() <= files.s3.meta.service_model.operation_model("PutObject").input_shape.members.keys():
        raise OSError(f"{path}: botocore is too old to write on a condition; install aiobotocore>=2.19")
    bucket, key, _ = files.split_path(path)
    upload(files, "call_s3", len(data), "put_object", Bucket=bucket, Key=key, Body=data, **condition)


def remove_remote(files: Any, paths: list[str]) -> None:
    """Removes files, as far as they are there, with as few calls as can be."""
    if is_s3(files):
        _remove_s3(files, paths)
        return
    # One call for all, where there is one; but it takes the characters of patterns for patterns, and may stop at a gap.
    if isinstance(files, AsyncFileSystem) and paths and not re.search(r"[*?\[]", "".join(paths)):
        with contextlib.suppress(FileNotFoundError):
            files.rm(paths)
            return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(path)


MOST_KEYS = 1000
"""How many S3 removes in one call."""


def _remove_s3(files: Any, paths: list[str]) -> None:
    # Not s3fs's `rm`, which takes names for patterns and is silent about what could not be removed.
    for first in range(0, len(paths), MOST_KEYS):
        places = [files.split_path(path) for path in paths[first : first + MOST_KEYS]]
        objects = {"Objects": [{"Key": key} for _, key, _ in places], "Quiet": True}
        answer = files.call_s3("delete_objects", Bucket=places[0][0], Delete=objects)
        for error in answer.get("Errors", []):
            raise OSError(f"{error.get('Key')}: cannot be removed: {error.get('Code')}: {error.get('Message')}")
