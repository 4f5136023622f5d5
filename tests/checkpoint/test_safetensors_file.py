"""A damaged .safetensors file is one clear error, and a whole one comes back as it was written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqsetvae.checkpoint.file import CONTENT, read_safetensors, write_safetensors
from seqsetvae.system.errors import InputError

pytest.importorskip("safetensors")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    content = {"hyper_parameters": {"a": 1}}
    write_safetensors(path, {"weight": torch.ones(2, 3)}, content, {"trees": ["one", "zwei ü"]})
    return path


def _with_header(file: Path, **changes: Any) -> Path:
    """The file with another header; a value None removes an entry of its metadata."""
    content = file.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    metadata = header["__metadata__"] | changes
    header["__metadata__"] = {name: value for name, value in metadata.items() if value is not None}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[length:])
    return file


def test_a_file_comes_back_as_it_was_written(file):
    found = read_safetensors(file)
    assert found["hyper_parameters"] == {"a": 1, "trees": ["one", "zwei ü"]}
    assert list(found["state_dict"]) == ["weight"]
    assert torch.equal(found["state_dict"]["weight"], torch.ones(2, 3))


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"hyper_parameters": 3}', '{"hyper_parameters": []}', "{"])
def test_a_header_that_records_something_else_is_one_error(file, content):
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file, or damaged"):
        read_safetensors(_with_header(file, **{CONTENT: content}))


def test_a_text_that_is_no_text_is_one_error(file):
    content = file.read_bytes()
    file.write_bytes(content.replace("zwei ü".encode(), b"zwei \xff\xfe"))
    with pytest.raises(InputError, match="not a safetensors file, or damaged"):
        read_safetensors(_with_header(file, weights_sha256=None))


@pytest.mark.parametrize("length", [0, 5, 20, 2**63 - 1])
def test_a_header_of_another_length_is_one_error(file, length):
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(InputError, match="not a safetensors file, or damaged"):
        read_safetensors(file)
