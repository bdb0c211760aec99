"""Facts of a model without its networks: the same as those of its codec."""

from __future__ import annotations

import pytest
import safetensors.numpy

from tsae.codec import Codec
from tsae.errors import InputError, ModelError
from tsae.model_facts import check_quality, read_model_facts
from tsae.model_file import read_header, write_model_file
from tsae.model_file import read_model_file as parse
from tsae.zoo import names, read_model_file


@pytest.mark.parametrize("name", names("codec"))
def test_facts_are_those_of_the_codec(name: str) -> None:
    data = read_model_file(name)
    facts, codec = read_model_facts(data, name), Codec.from_bytes(data, name)
    assert facts.name == codec.name
    assert facts.latent_shape == codec.latent_shape
    assert facts.qualities == codec.qualities
    assert facts.preprocessing == codec.preprocessing


def test_what_is_no_model_is_refused() -> None:
    for data in (b"", b"x" * 100, safetensors.numpy.save({})):
        with pytest.raises(ModelError, match="file"):
            read_model_facts(data, "file")


def test_tables_of_another_form_are_refused() -> None:
    data = read_model_file("tsae")
    tensors = parse(data, "file")[1]
    tensors["tables.active"] = tensors["tables.active"].ravel()
    with pytest.raises(ModelError, match="file: unusable tables"):
        read_model_facts(write_model_file(read_header(data, "file"), tensors), "file")


def test_a_model_without_qualities_takes_none() -> None:
    assert check_quality(None, 0, "seed-8x8x8") is None
    with pytest.raises(InputError, match="quality 3: model seed-8x8x8 has none"):
        check_quality(3, 0, "seed-8x8x8")


def test_a_model_with_qualities_takes_those_and_has_one_by_itself() -> None:
    assert [check_quality(quality, 8, "tsae") for quality in range(1, 9)] == list(range(1, 9))
    assert check_quality(None, 8, "tsae") == 5
    assert check_quality(None, 3, "small") == 3
    for quality in (0, 9, -1):
        with pytest.raises(InputError, match=f"quality {quality}: model tsae has 1 to 8"):
            check_quality(quality, 8, "tsae")
