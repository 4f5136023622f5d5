"""The network on variable summaries: every number equals that of the plain reference, values and gradients."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.transform import ZScore
from seqsetvae.batches.variables import not_used
from seqsetvae.models import variable_summaries
from seqsetvae.models.variable_summaries import backbone, derived, encoding, prepare
from seqsetvae.models.variable_summaries.backbone import Backbone, most_present
from seqsetvae.models.variable_summaries.encoding import count_below
from seqsetvae.models.variable_summaries.prepare import Summaries, named_rows
from seqsetvae.models.variable_summaries.reference import plain_normal_score, plain_relevance, plain_summaries
from seqsetvae.models.variable_summaries.relevance import relevance
from seqsetvae.models.variable_summaries.sizes import FEW_STAYS, Sizes
from seqsetvae.models.variable_summaries.summaries import SUMMARIES, summarize
from seqsetvae.system.errors import InputError
from tests import tiny

NAMES = tuple(f"v{row}" for row in range(tiny.VARIABLES))
VARIABLES = torch.arange(tiny.VARIABLES)


def _plain(stay: list[Any], length: float = 0.0) -> dict[int, list[float]]:
    """Summaries of each variable of a stay, by the plain reference."""
    start = stay[0][0]
    end = max(stay[-1][0], start + 60 * length)
    events: dict[int, list[tuple[float, float]]] = {}
    for minute, of_set in stay:
        for variable, value in of_set:
            events.setdefault(variable, []).append(((minute - start) / 60, value))
    return {variable: plain_summaries(of_variable, (end - start) / 60) for variable, of_variable in events.items()}


def _cohort(names: tuple[str, ...] = NAMES) -> Any:
    return SimpleNamespace(vocabulary=names, mean=np.zeros(len(names)), std=np.ones(len(names)))


def _network(monkeypatch: pytest.MonkeyPatch, **sizes: Any) -> tuple[Backbone, list[Any], Batch]:
    """A network in double precision, fitted to the stays of a batch."""
    stays = tiny.ragged_stays() + tiny.ragged_stays(seed=1)
    batch = tiny.batch_of(stays)
    torch.manual_seed(0)
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=NAMES, summary_width=6, **sizes)).double()
    network.fit(_cohort(), [batch])
    return network.eval(), stays, batch


def _hourly_stay(rng: np.random.Generator, hours: int) -> list[Any]:
    """Every hour some of the variables, at times that are not whole hours."""
    minutes = 30 + 60 * np.arange(hours) + rng.uniform(0, 30, hours)
    return [(float(minute), tiny.random_stay(rng, [int(rng.integers(1, 5))])[0][1]) for minute in minutes]


@pytest.mark.parametrize("length", [0.0, 48.0])
def test_summaries_equal_those_of_the_plain_reference(length):
    rng = np.random.default_rng(0)
    stays = [*tiny.ragged_stays(), *(_hourly_stay(rng, hours) for hours in (3, 20, 50, 60))]
    batch = tiny.batch_of(stays)
    pairs = summarize(batch, batch.variable, batch.value, length)
    expected = [(row, name, of) for row, stay in enumerate(stays) for name, of in _plain(stay, length).items()]
    expected.sort(key=lambda pair: (pair[1], pair[0]))
    assert [(int(row), int(variable)) for row, variable in zip(pairs.stay, pairs.variable, strict=True)] == [
        pair[:2] for pair in expected
    ]
    np.testing.assert_allclose(pairs.values.numpy(), [of for *_, of in expected], rtol=1e-9, atol=1e-9)
    for column, name in enumerate(SUMMARIES):  # no summary is missing or constant in these stays
        values = pairs.values[:, column]
        assert len(values[values.isfinite()].unique()) > 1, name


def test_an_event_of_an_unknown_variable_is_left_out():
    batch = tiny.batch_of(tiny.ragged_stays())
    unknown = torch.where(batch.variable == 3, -1, batch.variable)
    known = summarize(batch, batch.variable, batch.value)
    pairs = summarize(batch, unknown, batch.value)
    assert 3 in known.variable
    kept = known.variable != 3
    assert torch.equal(pairs.variable, known.variable[kept])
    assert torch.equal(pairs.values.nan_to_num(-1), known.values[kept].nan_to_num(-1))


def _encoded(values: torch.Tensor, edges: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Of numbers [R, F] of one variable, all of which are used: [R, F, W]."""
    fitted = edges[None], center[None], torch.ones(1, len(edges), dtype=torch.bool)
    return encoding.encode(encoding.places(values, fitted, torch.zeros(len(values), dtype=torch.int64)))


@pytest.mark.parametrize("n_edges", [1, 2, 5, 31, 32, 33])
def test_the_binary_search_counts_as_torch_does_in_a_copy_of_the_edges(n_edges):
    drawn = torch.Generator().manual_seed(n_edges)
    edges = torch.randint(0, 9, (7, n_edges), generator=drawn).double().sort().values  # many are equal
    row = torch.randint(0, 7, (500,), generator=drawn)
    number = torch.randint(-2, 22, (500,), generator=drawn).double() / 2
    expected = torch.searchsorted(edges[row], number[:, None])[:, 0]
    assert torch.equal(count_below(number, edges, row), expected)
    assert set(expected.tolist()) >= {0, n_edges}


def test_normal_scores_are_those_of_the_position_among_the_quantiles():
    drawn = torch.Generator().manual_seed(0)
    values = torch.randn(500, 2, dtype=torch.float64, generator=drawn)
    values[:200, 1] = 0  # 40 % are equal
    values[::7] = torch.nan
    edges, center, used = encoding.fit(values)
    assert used.all()
    numbers = torch.cat([values[:50], edges.T, torch.tensor([[-99.0, -99.0], [99.0, 99.0]])])
    found = _encoded(numbers, edges, center)
    for row, of_row in zip(numbers.tolist(), found.tolist(), strict=True):
        for column in range(2):
            expected = plain_normal_score(row[column], edges[column].tolist(), center[column].tolist())
            assert of_row[column] == pytest.approx(expected, abs=1e-9)
    scores, present = _encoded(values, edges, center).unbind(-1)
    assert scores.sum(0).abs().max() < 1e-9  # a missing number is the mean of the others
    assert torch.equal(present == 1, values.isfinite())
    assert scores[:, 0][values[:, 0].isfinite()].std() == pytest.approx(1, abs=0.05)
    assert found[-1, 0, 0] - found[-2, 0, 0] == pytest.approx(2 * 2.1539, abs=1e-3)  # normal quantile of 63/64


def test_quantiles_are_linear_between_the_edges():
    values = torch.arange(101.0)[:, None]
    edges = encoding.fit(values)[0]
    found = [encoding.quantile(edges, share).item() for share in (0.1, 0.5, 0.9, 1.0)]
    assert found == pytest.approx([10, 50, 90, 100])


def _scores(numbers: list[float], used: torch.Tensor, edges: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Normal scores of numbers, of which those in use count, by the plain reference."""
    columns = zip(numbers, used.tolist(), edges.tolist(), center.tolist(), strict=True)
    scores = [plain_normal_score(number if use else np.nan, *fitted) for number, use, *fitted in columns]
    return torch.tensor(scores).double().flatten()


def test_the_network_equals_the_plain_sum_over_variables_with_gradients(monkeypatch):
    network, stays, batch = _network(monkeypatch)
    summaries, totals = network.summaries(batch, VARIABLES), []
    combination = network.combination_used, network.combination_edges, network.combination_center
    for row, stay in enumerate(stays):
        total = network.bias + _scores(summaries.combinations[row].tolist(), *combination) @ network.combination_weight
        clipped = [(m, [(v, float(_clip(network, v, x))) for v, x in s]) for m, s in stay]
        for variable, of in _plain(clipped, float(network.length)).items():
            fitted = network.used[variable], network.edges[variable], network.center[variable]
            total = total + _scores(of, *fitted) @ network.weight[variable]
        totals.append(torch.relu(total))
    expected = torch.stack(totals)
    found = network.pooled(batch, VARIABLES, "mean")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # bounds and edges are float32
    assert (found > 0).any()
    weights = [network.weight, network.combination_weight, network.bias]
    probe = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for own, other in zip(
        torch.autograd.grad((found * probe).sum(), weights),
        torch.autograd.grad((expected * probe).sum(), weights),
        strict=True,
    ):
        assert own.abs().max() > 0
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def _clip(network: Backbone, variable: int, value: float) -> torch.Tensor:
    low, high = network.bounds[:, variable]
    return torch.tensor(value, dtype=torch.float64).clamp(low, high)


def test_a_stay_has_the_same_result_in_any_batch(monkeypatch):
    network, stays, batch = _network(monkeypatch)
    together = network.pooled(batch, VARIABLES, "mean")
    alone = torch.cat([network.pooled(tiny.batch_of([stay]), VARIABLES, "mean") for stay in stays])
    torch.testing.assert_close(together, alone)


def test_variables_are_known_by_name_and_not_by_their_place(monkeypatch):
    network, _, batch = _network(monkeypatch)
    expected = network.pooled(batch, VARIABLES, "mean")
    order = torch.randperm(tiny.VARIABLES, generator=torch.Generator().manual_seed(1))
    names = tuple(NAMES[old] for old in order.tolist())
    place = torch.argsort(order)
    moved = replace(batch, variable=place[batch.variable])
    torch.testing.assert_close(network.pooled(moved, network.variable_table(_cohort(names)), "mean"), expected)
    table = network.variable_table(_cohort(("unknown", "v1")))
    assert table.tolist() == [-1, 1]


def test_what_the_loader_prepares_gives_the_same_result(monkeypatch):
    network, _, batch = _network(monkeypatch)
    expected = network.pooled(batch, VARIABLES, "mean")
    prepared = replace(batch, prepared=network.summarizer(VARIABLES)(batch))
    monkeypatch.setattr(network, "summarizer", None)  # nothing is computed again
    assert torch.equal(network.pooled(prepared, VARIABLES, "mean"), expected)


def test_kept_summaries_are_those_of_any_batch_to_the_last_bit(monkeypatch):
    """A run that is resumed computes them in other batches, and must go on to the same bits."""
    network, stays, batch = _network(monkeypatch)
    kept, fresh = network.kept_summarizer(VARIABLES), network.summarizer(VARIABLES)
    kept(batch)
    kept.summarizer = None  # type: ignore[assignment]  # nothing is computed again
    order = np.random.default_rng(0).permutation(len(stays))
    for chosen in (order, order[:3], order[5:6]):
        part = replace(tiny.batch_of([stays[i] for i in chosen]), stay_id=batch.stay_id[torch.from_numpy(chosen)])
        _assert_equal_bits(kept(part), fresh(part))


def _assert_equal_bits(found: Summaries, expected: Summaries) -> None:
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(other, value, rtol=0, atol=0, equal_nan=True)
        else:
            assert other == value, name


def test_a_stay_that_is_cut_off_is_not_taken_for_the_whole_stay(monkeypatch):
    network, stays, batch = _network(monkeypatch)
    kept = network.kept_summarizer(VARIABLES)
    kept(batch)
    longest = max(range(len(stays)), key=lambda i: len(stays[i]))
    cut = replace(tiny.batch_of([stays[longest][:-1]]), stay_id=batch.stay_id[longest : longest + 1])
    _assert_equal_bits(kept(cut), network.summarizer(VARIABLES)(cut))


def test_no_summaries_are_kept_where_they_do_not_all_fit(monkeypatch):
    network, stays, _ = _network(monkeypatch)
    kept = network.kept_summarizer(VARIABLES)
    batches = [replace(tiny.batch_of([stay]), stay_id=torch.tensor([n])) for n, stay in enumerate(stays[:4])]
    kept(batches[0])
    monkeypatch.setattr(prepare, "MOST_KEPT", kept._bytes)
    sizes = []
    for batch in batches:
        _assert_equal_bits(kept(batch), network.summarizer(VARIABLES)(batch))
        sizes.append(len(kept._kept))
    assert sizes == [1, 0, 0, 0]


def test_numbers_that_differ_between_stays_by_size_or_by_being_there_are_used():
    nan = torch.nan
    columns = {
        "constant": ([1, 1, 1, 1, 1], [True, False]),  # of 5 stays, and of 9, where 4 lack the variable
        "varies": ([1, 2, 2, 2, 2], [True, True]),
        "there in some": ([3, 3, nan, nan, 3], [True, True]),
        "varies and there in some": ([3, 4, nan, 3, nan], [True, True]),
        "there in the same ones": ([7, 7, nan, 7, nan], [False, False]),
        "there in one": ([5, nan, nan, nan, nan], [False, False]),
        "in none": ([nan] * 5, [False, False]),
    }
    values = torch.tensor([numbers for numbers, _ in columns.values()]).float().T
    for n_stays, case in ((9, 0), (5, 1)):
        alone = encoding.fit(values[:, [0, 2, 3, 4, 5, 6]], n_stays)[2].tolist()
        expected = [used[case] for column, (_, used) in columns.items() if column != "varies"]
        assert alone == expected, n_stays
    assert encoding.fit(values[:, :2], 9)[2].tolist() == [False, True]  # the second is there in the same stays


def test_the_size_of_a_number_is_learned_from_more_stays_than_that_it_is_there():
    values = torch.tensor([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])  # a count, and a value
    assert [encoding.differing(values, torch.ones(2).bool(), n).tolist() for n in (4, 100, 6000)] == [
        [True, True],
        [True, True],
        [True, False],
    ]
    assert encoding.least_stays(6000) == 10


def test_of_a_constant_number_the_network_reads_that_it_is_there_whatever_its_value():
    edges, center, used = encoding.fit(torch.tensor([[4.0], [4.0], [torch.nan]]), 4)
    assert used.tolist() == [True]
    found = _encoded(torch.tensor([[4.0], [5.0], [-3.0], [torch.nan]]), edges, center)[:, 0]
    assert found.tolist() == [[0, 1]] * 3 + [[0, 0]]


def test_a_fact_is_an_input_as_often_as_a_value_and_one_column_of_the_table():
    stays = [[(0.0, [(0, float(n)), *([(1, 1.0)] if n % 2 else [])])] for n in range(8)]
    batch = tiny.batch_of(stays)
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=("age", "sex=Male"), summary_width=6))
    network.fit(_cohort(("age", "sex=Male")), [batch])
    assert int(network.used[1].sum()) > 10
    assert network.in_table[1].nonzero().tolist() == [[SUMMARIES.index("count")]]
    column = network.table(batch, torch.arange(2))[:, network._columns()[1, 0]]
    np.testing.assert_array_equal(column, [np.nan, 1] * 4)
    network.eval()
    found = network.pooled(batch, torch.arange(2), "mean")
    without = network.pooled(replace(batch, variable=batch.variable * 0), torch.arange(2), "mean")
    assert (found - without).abs().sum(1).gt(0).tolist() == [False, True] * 4


def test_variables_that_are_not_used_or_not_wholly_are_named_with_the_reason():
    names = ("age", "always", "in one", "in few", "level of few")
    stays = [
        [(0.0, [(0, float(n)), (1, 1.0), *[(2, 1.0)] * (n == 0), *[(3, float(n)), (4, 1.0)] * (n < 5)])]
        for n in range(600)
    ]
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=names, summary_width=6))
    network.fit(_cohort(names), [tiny.batch_of(stays)])
    found = network.unused_variables()
    assert found.keys() == {"always", "in one", "in few"}
    assert "how often it occurs is used" in found["in few"]
    assert found["always"] == found["in one"] == "no summary of it differs between enough training stays"


def test_a_fact_of_few_training_stays_is_not_cut_off_as_a_typing_error():
    values = np.array([0.0] * 29_990 + [1.0] * 10)
    assert backbone.bounds_of(values) == (0.0, 1.0)
    assert backbone.bounds_of(-values) == (-1.0, 0.0)
    low, high = backbone.bounds_of(np.append(np.linspace(7, 8, 9_999), 735.0))
    assert 7 < low < 7.01
    assert 7.98 < high < 8


def test_a_checkpoint_keeps_the_inputs_that_it_was_fitted_with(monkeypatch):
    """One from before facts were inputs has none of them, and its trees read a table without them."""
    network, _, batch = _network(monkeypatch)
    network.used &= network.edges[..., 0] < network.edges[..., -1]
    network.in_table &= network.used
    loaded = variable_summaries.build(network.sizes).double().eval()
    loaded.load_state_dict(network.state_dict())
    expected = network.pooled(batch, VARIABLES, "mean")
    torch.testing.assert_close(loaded.pooled(batch, VARIABLES, "mean"), expected, rtol=0, atol=0)
    np.testing.assert_array_equal(loaded.table(batch, VARIABLES), network.table(batch, VARIABLES))


def _labelled(decided: bool, n_stays: int = 200) -> list[Batch]:
    """Stays with three values of variable 0, the last of which may decide the label, and one of variable 1."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n_stays, 4))
    stays = [[(60.0 * hour, [(0, row[hour])] + [(1, row[3])] * (hour == 0)) for hour in range(3)] for row in values]
    label = values[:, 2] > 0.8 if decided else rng.random(n_stays) > 0.5
    halves = [slice(0, n_stays // 2), slice(n_stays // 2, None)]
    return [replace(tiny.batch_of(stays[half]), label=torch.from_numpy(label[half]).long()) for half in halves]


def test_relevance_is_that_of_the_plain_reference(monkeypatch):
    network, stays, batch = _network(monkeypatch)
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 2, len(stays)))
    summaries = network.summaries(batch, VARIABLES)
    found, of_combinations = relevance([summaries], [label], tiny.VARIABLES, n_inputs=2)
    dense = torch.full((len(stays), *found.shape), torch.nan, dtype=torch.float64)
    dense[summaries.stay, summaries.variable] = summaries.values.double()
    columns = torch.cat([dense.flatten(1), summaries.combinations], dim=1).T.tolist()
    plain = [plain_relevance(column, label.tolist(), n_inputs=2) for column in columns]
    np.testing.assert_allclose(torch.cat([found.flatten(), of_combinations]), plain, atol=1e-6)
    assert 0 < np.count_nonzero(plain) < len(plain)


def test_a_summary_that_alone_decides_begins_large_and_is_never_dropped():
    torch.manual_seed(0)
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=NAMES, summary_width=64, summary_dropout=0.5))
    batches, last, mean = _labelled(decided=True), SUMMARIES.index("last"), SUMMARIES.index("mean")
    network.fit(_cohort(), batches)
    before = network.weight.detach().clone()
    network.start_small(len(batches) * 100, batches, VARIABLES)
    grown = (network.weight.detach() / before).view(*network.used.shape, -1).mean(2)
    assert grown[0, last] > 10
    assert grown[1, last] < grown[0, mean] < grown[0, last] / 4
    encoded = torch.ones(2000, len(SUMMARIES), 2)
    assert network.kept is not None
    dropped = network._dropped(encoded, True, network.kept[torch.tensor([0, 1] * 1000)])
    assert torch.equal(dropped[::2, last], encoded[::2, last])
    assert float((dropped[1::2, last] == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped.mean((0, 2)), torch.ones(len(SUMMARIES)), rtol=0, atol=0.1)


def test_many_stays_begin_as_usual_and_no_label_is_read():
    torch.manual_seed(0)
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=NAMES, summary_width=6))
    network.fit(_cohort(), _labelled(decided=True))
    before = network.weight.detach().clone()
    network.start_small(FEW_STAYS, (pytest.fail("a batch is read") for _ in range(1)), VARIABLES)
    assert torch.equal(network.weight, before)
    assert network.kept is None


def test_labels_of_another_task_decide_nothing(monkeypatch):
    network, *_ = _network(monkeypatch)
    batches = [replace(batch, target=torch.zeros(len(batch.label), 2)) for batch in _labelled(decided=True)]
    network.start_small(200, batches, VARIABLES)
    assert network.kept is not None
    torch.testing.assert_close(network.kept.float(), torch.full_like(network.kept, 0.6).float())


def test_weights_that_no_label_speaks_for_shrink_to_nothing(monkeypatch):
    network, *_ = _network(monkeypatch)
    network.after_step(lr=1e-2)
    assert network.shrinkage == 0  # until `start_small`, and with many stays after it too
    network.start_small(420, _labelled(decided=False), VARIABLES)
    before = network.weight.detach().clone()
    network.after_step(lr=1e-3)
    groups = [weight.view(-1, encoding.WIDTH * 6) for weight in (before, network.weight.detach())]
    lengths = [each.norm(dim=1) for each in groups]
    least = 1e-3 * network.shrinkage * groups[0].shape[1] ** 0.5
    torch.testing.assert_close(lengths[1], (lengths[0] - least).clamp_min(0))
    for _ in range(1000):
        network.after_step(lr=1e-3)
    assert not network.weight.any()
    assert not network.combination_weight.any()


def test_summaries_that_are_not_used_are_no_columns(monkeypatch):
    network, _, batch = _network(monkeypatch)
    table = network.table(batch, VARIABLES)
    assert table.shape == (batch.n_stays, int(network.in_table.sum() + network.combination_used.sum()))
    assert not (network.in_table & ~network.used).any()
    missing = np.isnan(table).all(axis=0)
    assert not missing.any()
    counts = {variable for variable in range(tiny.VARIABLES) if network.used[variable, 0]}
    assert counts  # the first column of a variable in use is its count
    first = network._columns()[min(counts), 0]
    plain = [len([1 for _, s in stay for v, _ in s if v == min(counts)]) or np.nan for stay in tiny_stays()]
    np.testing.assert_array_equal(table[:, first], plain)


def tiny_stays() -> list[Any]:
    return tiny.ragged_stays() + tiny.ragged_stays(seed=1)


def test_variables_of_which_nothing_is_used_are_named_with_the_reason(monkeypatch):
    network, _, _ = _network(monkeypatch)
    network.used[:] = True
    network.used[3] = False
    cohort = SimpleNamespace(
        vocabulary=("v1", "v2", "v3", "v4", "new"),
        mean=np.array([5.0, 5.0, 5.0, 0.0, np.nan]),
        std=np.array([2.0, 2.0, 2.0, 1.0, np.nan]),  # v4 is always 1, as a level is
        manifest={"report": {"unknown_variables": {"train": {"no vector": 5}}}},
    )
    assert not_used(network, cohort, ZScore(min_count=5, rare=("v2", "v4"))) == {  # type: ignore[arg-type]
        "new": "is unknown to the pretrained checkpoint",
        "no vector": "has no embedding, so its events were left out",
        "v2": "has too few training values (min_count): that it occurred is used, its values are not",
        "v3": "no summary of it differs between enough training stays",
    }


def test_dropout_acts_in_training_only(monkeypatch):
    network, _, batch = _network(monkeypatch, summary_dropout=0.5, variable_dropout=0.2, hidden_dropout=0.0)
    assert torch.equal(network.pooled(batch, VARIABLES, "mean"), network.pooled(batch, VARIABLES, "mean"))
    network.train()
    assert not torch.equal(network.pooled(batch, VARIABLES, "mean"), network.pooled(batch, VARIABLES, "mean"))


def test_combinations_are_those_of_their_formulas():
    summaries = torch.full((2, len(derived.NAMES), len(SUMMARIES)), torch.nan, dtype=torch.float64)

    def set_to(variable: str, **values: float) -> None:
        for name, value in values.items():
            summaries[0, derived.NAMES.index(variable), SUMMARIES.index(name)] = value

    set_to("Age", mean=66)  # 12 points
    set_to("GCS", min=5, last=15, mean=12, first=6, max=15)  # 26 points, last 0
    set_to("BUN", max=90, last=30, mean=50)  # 10 points, last 6
    set_to("Creatinine", mean=2)
    set_to("HCO3", min=14, last=25)  # 6 points, last 0
    set_to("NISysABP", min=69, max=150, last=110)  # 13 points, last 0; SysABP is missing
    set_to("HR", min=50, max=170, last=100)  # 7 points
    set_to("WBC", min=0.5, max=30)  # 12 points
    set_to("Bilirubin", max=4)  # 4 points
    set_to("Temp", max=39)  # 3 points
    set_to("Urine", mean=100, count=5)  # 250 ml a day, 11 points
    set_to("MechVent", count=3, hour_first=1, hour_last=9)
    set_to("PaO2", min=80)
    set_to("FiO2", min=0.5)  # 160: 9 points
    set_to("Weight", mean=80)
    set_to("Height", mean=200)
    found = derived.combinations(summaries, torch.tensor([[3.0, 9.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found["severity"][0] == 12 + 26 + 10 + 6 + 13 + 7 + 12 + 4 + 3 + 11 + 9
    assert found["severity.without_age"][0] == found["severity"][0] - 12
    assert found["severity.last"][0] == 12 + 0 + 6 + 0 + 0
    assert found["bmi"][0] == 20
    assert found["BUN/Creatinine.mean"][0] == 25
    assert found["GCS.change"][0] == 9
    assert found["GCS.last/mean"][0] == 1.25
    assert found["urine/kg"][0] == 500 / 80
    assert found["ventilated.hours"][0] == 8
    assert found["shock_index.last"][0] == 100 / 110
    assert [found[name][0] for name in ("variables", "events", "labs.last_12h")] == [3, 9, 1]
    assert not any(torch.isinf(column).any() for column in found.values())
    assert found["bmi"].isnan().tolist() == [False, True]


def test_combinations_are_in_the_units_of_the_variables(monkeypatch):
    """The cohort holds z-scores; a body-mass index of z-scores would mean nothing."""
    names = ("Height", "Weight")
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=names, summary_width=6))
    cohort = _cohort(names)
    cohort.mean, cohort.std = np.array([170.0, 80.0]), np.array([10.0, 20.0])
    batch = tiny.batch_of([[(0.0, [(0, 3.0), (1, -1.0)])]])  # 200 cm, 60 kg
    network.fit(cohort, [batch])
    summaries = network.summaries(batch, torch.arange(2))
    assert summaries.combinations[0, derived.COMBINATIONS.index("bmi")] == pytest.approx(15)
    assert named_rows(names)[derived.NAMES.index("Weight")] == 1


def test_the_table_holds_the_summaries_that_most_stays_have(monkeypatch):
    n_present = torch.tensor([[3, 0, 9], [9, 5, 1]])
    assert most_present(n_present, 3).tolist() == [[True, False, True], [True, False, False]]  # counts come first
    assert most_present(n_present, 100).tolist() == [[True, False, True], [True, True, True]]
    monkeypatch.setattr(backbone, "MAX_COLUMNS", 7)
    network, _, batch = _network(monkeypatch)
    assert network.table(batch, VARIABLES).shape[1] == 7 + int(network.combination_used.sum())


def test_a_checkpoint_of_another_encoding_names_the_last_version_that_reads_it():
    stated = Sizes(input_dim=12, vocabulary=NAMES).as_dict()
    assert variable_summaries.infer_sizes({}, stated, {}, "new.ckpt").vocabulary == NAMES
    earlier = stated | {"summary_encoding": "piecewise_linear"}
    unnamed = {name: value for name, value in stated.items() if name != "summary_encoding"}  # the first ones
    for each in (earlier, unnamed):
        with pytest.raises(InputError, match=r"old.ckpt: .*piecewise_linear.* version with it is 0\.1\.0"):
            variable_summaries.infer_sizes({}, each, {}, "old.ckpt")


def test_the_number_of_forecasts_is_that_of_the_weights_whatever_a_damaged_file_states():
    stated = Sizes(input_dim=12, vocabulary=NAMES).as_dict() | {"forecasts": 10**12}
    assert variable_summaries.infer_sizes({}, stated, {}, "a.ckpt").forecasts == 0
    shapes = {"forecast_bias": (4 * len(NAMES),)}
    assert variable_summaries.infer_sizes(shapes, stated, {}, "a.ckpt").forecasts == 4 * len(NAMES)
    with pytest.raises(InputError, match=r"a\.ckpt: .*\(5 forecasts"):
        variable_summaries.infer_sizes({"forecast_bias": (5,)}, stated, {}, "a.ckpt")
