"""Many files as one stream: ZIP, or MIME multipart. Each piece is made when it goes out."""

from __future__ import annotations

import secrets
import zipfile
from typing import IO, Protocol, cast
from urllib.parse import quote

MEDIA_TYPES = {"application/zip": "zip", "multipart/mixed": "multipart"}

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the same request gives the same bytes."""


class FileStream(Protocol):
    """Files become bytes."""

    media_type: str

    def add(self, name: str, data: bytes, headers: dict[str, str]) -> bytes:
        """The bytes of one more file."""

    def end(self) -> bytes:
        """The last bytes."""


class _Sink:
    """Takes what is written, until it is drained; cannot seek."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._parts.append(bytes(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def drain(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class ZipStream:
    """Members as they are: images are compressed already."""

    media_type = "application/zip"

    def __init__(self) -> None:
        """Without members."""
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(cast(IO[bytes], self._sink), "w", zipfile.ZIP_STORED)

    def add(self, name: str, data: bytes, headers: dict[str, str]) -> bytes:
        """A member; a ZIP file has no headers."""
        info = zipfile.ZipInfo(name, EPOCH)
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, data)
        return self._sink.drain()

    def end(self) -> bytes:
        """The central directory."""
        self._zip.close()
        return self._sink.drain()


class MultipartStream:
    """Parts with headers (RFC 2046); the name of each is in `Content-Disposition` (RFC 6266), the key in `Content-Location`."""

    def __init__(self) -> None:
        """With a boundary that no image holds."""
        self._boundary = secrets.token_hex(16)
        self.media_type = f"multipart/mixed; boundary={self._boundary}"

    def add(self, name: str, data: bytes, headers: dict[str, str]) -> bytes:
        """A part."""
        lines = [f"--{self._boundary}", f"content-disposition: attachment; filename*=UTF-8''{quote(name, safe='')}"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        lines += [f"content-length: {len(data)}", "", ""]
        return "\r\n".join(lines).encode() + data + b"\r\n"

    def end(self) -> bytes:
        """The last boundary."""
        return f"--{self._boundary}--\r\n".encode()
