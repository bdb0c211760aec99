"""Paths as text: what is a URL, how paths are joined and compared. Touches no file but to resolve links."""

from __future__ import annotations

import os
import posixpath
import re

URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


LOCAL_URL = re.compile(r"^(file|local)://")


def plain(path: str) -> str:
    """A `file://` URL as the local path that it names, so that nothing treats it as remote; others as they are."""
    return LOCAL_URL.sub("", path)


def is_url(path: str) -> bool:
    """Whether `path` is a URL rather than a local path."""
    return bool(URL.match(plain(path)))


def join(base: str, name: str) -> str:
    """The path of `name` (with `/`) below `base`."""
    return f"{base}{name}" if base.endswith("://") else f"{base.rstrip('/')}/{name}"


def absolute(path: str) -> str:
    """The same path, not depending on the current folder, with no `/` at its end; URLs stay as they are otherwise."""
    if not is_url(path):
        return os.path.abspath(plain(path))
    scheme, separator, rest = path.partition("://")
    return scheme + separator + rest.rstrip("/")


def parent(path: str) -> str:
    """The folder that an absolute path lies in."""
    if not is_url(path):
        return os.path.dirname(path)
    scheme, separator, rest = path.partition("://")
    return scheme + separator + rest.rpartition("/")[0]


def relative(path: str, folder: str) -> str | None:
    """The name, with `/`, of an absolute path below an absolute folder; None if it does not lie below."""
    start = folder if folder.endswith("/") else folder + "/"
    return path[len(start) :] if path.startswith(start) and path != start else None


def below(path: str, folder: str) -> str | None:
    """The name, with `/`, of a path that is absolute or below an absolute folder; None if it does not lie below it."""
    path = path if is_url(path) or path.startswith("/") else join(folder, path)
    scheme, separator, rest = path.partition("://") if is_url(path) else ("", "", path)
    return relative(scheme + separator + posixpath.normpath(rest), folder)


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it, links resolved where both are local."""
    if not is_url(path) and not is_url(folder):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")
