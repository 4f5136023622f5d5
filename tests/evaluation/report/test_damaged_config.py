"""A config.json of a run that holds something else is one clear error of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqsetvae.errors import InputError
from seqsetvae.evaluation.report.read import read_run


@pytest.mark.parametrize("name", ["settings", "cohort"])
@pytest.mark.parametrize("value", [[1], "x", 3])
def test_a_part_of_config_json_that_is_no_object_is_one_error(tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({name: value}), encoding="utf-8")
    with pytest.raises(InputError, match=rf"config\.json: damaged, {name} is "):
        read_run(tmp_path)
