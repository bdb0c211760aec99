from __future__ import annotations

import email.parser
import email.policy
import io
import zipfile

from tsae.serve.streams import MultipartStream, ZipStream

FILES = {"a/b.png": b"1" * 100, "ü & ?.png": b"\r\n--x\0", "empty": b""}


def test_a_zip_stream_is_a_zip_file_and_the_same_each_time() -> None:
    def make() -> bytes:
        stream = ZipStream()
        return b"".join([*(stream.add(name, data, {}) for name, data in FILES.items()), stream.end()])

    with zipfile.ZipFile(io.BytesIO(make())) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == FILES
    assert make() == make()


def test_each_file_goes_out_at_once() -> None:
    stream = ZipStream()
    assert FILES["a/b.png"] in stream.add("a/b.png", FILES["a/b.png"], {})


def test_a_multipart_stream_has_parts_with_names_and_headers() -> None:
    stream = MultipartStream()
    body = b"".join([*(stream.add(name, data, {"etag": '"1"'}) for name, data in FILES.items()), stream.end()])
    text = b"content-type: " + stream.media_type.encode() + b"\r\n\r\n" + body
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(text)
    parts = list(message.iter_parts())
    assert [part.get_filename() for part in parts] == list(FILES)
    assert [part["content-length"] for part in parts] == [str(len(data)) for data in FILES.values()]
    assert {part["etag"] for part in parts} == {'"1"'}
    assert FILES["ü & ?.png"] in body
