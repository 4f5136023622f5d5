"""Properties of random cohorts: what is compiled reads back, and the company of a stay does not change its score."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("hypothesis", reason="pip install hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqsetvae.cohort import compile_cohort
from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from tests.tiny import VARIABLES, batch_of, embeddings, tiny_backbone

OFTEN = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = st.sampled_from(["HR", "Na", "pH ä", "a,b", "lactate "])
VALUES = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: round(value, 3))
EVENTS = st.lists(st.tuples(NAMES, VALUES, st.integers(0, 5).map(float)), min_size=1, max_size=12)
STAYS = st.lists(EVENTS, min_size=2, max_size=5)


def _write(folder: Path, stays: list[list[tuple[str, float, float]]]) -> Path:
    for number, events in enumerate(stays):
        split = folder / "patient_ehr" / ("train" if number else "valid")
        split.mkdir(parents=True, exist_ok=True)
        columns = dict(zip(("variable", "value", "minute"), map(list, zip(*events, strict=True)), strict=True))
        pq.write_table(pa.table(columns), split / f"{number}.parquet")
    return folder / "patient_ehr"


@OFTEN
@given(STAYS)
def test_what_is_compiled_reads_back(stays):
    """The events of each stay, ordered by minute and otherwise as in the file, and one set for each minute.

    Names are read without the spaces around them.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = SeqSetVAELayout(_write(Path(folder), stays))
        cohort = compile_cohort(source, Path(folder) / "out", label_name="label", progress=False)
        found = {}
        for split in cohort.splits.values():
            for n, number in enumerate(split.stay_id.tolist()):
                sets = range(split.stay_offset[n], split.stay_offset[n + 1])
                found[number] = [
                    (cohort.vocabulary[v], float(split.value[e]), float(split.minute[s]))
                    for s in sets
                    for e in range(split.set_offset[s], split.set_offset[s + 1])
                    for v in [split.variable[e]]
                ]
                assert len(set(split.minute[list(sets)])) == len(sets)
        for number, events in enumerate(stays):
            expected = sorted(events, key=lambda event: event[2])  # stable
            assert [(name, minute) for name, _, minute in found[number]] == [(trimmed(n), m) for n, _, m in expected]
            assert [value for _, value, _ in found[number]] == [value for _, value, _ in expected]


EVENT = st.tuples(st.integers(0, VARIABLES - 1), st.floats(-3, 3))
SETS = st.lists(st.lists(EVENT, min_size=1, max_size=20), min_size=1, max_size=6)


@OFTEN
@given(st.lists(SETS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_company_of_a_stay_does_not_change_its_state(stays, shuffled):
    """Alone, or in any batch in any order: the pooled state is the same but for rounding, in float64."""
    timed = [[(30.0 * (at + 1), events) for at, events in enumerate(sets)] for sets in stays]
    backbone, vectors = tiny_backbone(dtype=torch.float64), embeddings()
    with torch.no_grad():
        alone = torch.cat([backbone.pooled(batch_of([stay]), vectors, "last_mean") for stay in timed])
        order = list(range(len(timed)))
        shuffled.shuffle(order)  # type: ignore[attr-defined]
        together = backbone.pooled(batch_of([timed[at] for at in order]), vectors, "last_mean")
    torch.testing.assert_close(together, alone[order], rtol=0, atol=1e-10)
