"What the two algorithms answer, against slow definitions; and the probe, against models whose algorithm is known."
import itertools
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_nb import InputError
from grok_nb.models import gpt
from grok_nb.modular import algorithms as page
from grok_nb.modular.algorithms import (algorithms, algorithms_figure, cell_kinds, check_memory, draw_context, explained, explained_figure, grid,
                                        grid_answers, grid_predictions, grid_sequences, modular_regression, paper_cell, ratio_matchable,
                                        ratio_matching, shots_to_ask, verdict)
from grok_nb.modular.tasks import ModularStream
from grok_nb.streams import rng as generator

quick = settings(max_examples=60)


# slow definitions: plain Python, every multiplier tried, no inverses and no determinants

def slow_ratio(context, answers, query, p):
    "The most recent example of which the query is a multiple."
    for (x1, y1), z1 in reversed(list(zip(context, answers))):
        if (x1, y1) == (0, 0): continue
        for c in range(p):
            if (c*x1 % p, c*y1 % p) == query: return c*z1 % p
    return 0 if query == (0, 0) else -1


def on_one_line(one, two, p): return any((c*one[0] % p, c*one[1] % p) == two or (c*two[0] % p, c*two[1] % p) == one for c in range(p))


def slow_regression(context, answers, query, p):
    "The most recent example, and the most recent one on another line; then all pairs of multipliers."
    examples = [(xy, z) for xy, z in reversed(list(zip(context, answers))) if xy != (0, 0)]
    others = [(xy, z) for xy, z in examples if not on_one_line(examples[0][0], xy, p)]
    if not others: return slow_ratio(context, answers, query, p)
    ((x1, y1), z1), ((x2, y2), z2) = examples[0], others[0]
    found = {(c*z1 + d*z2) % p for c in range(p) for d in range(p) if ((c*x1 + d*x2) % p, (c*y1 + d*y2) % p) == query}
    assert len(found) == 1
    return found.pop()


def assert_as_slow(context, answers, p):
    for fast, slow in ((ratio_matching, slow_ratio), (modular_regression, slow_regression)):
        expected = [slow(context, answers, query, p) for query in itertools.product(range(p), repeat=2)]
        assert fast(context, answers, grid(p), p).tolist() == expected, (fast.__name__, context, answers, p)


@pytest.mark.parametrize("p, shots", [(2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (5, 1)])
def test_all_contexts_with_all_labels_right_or_corrupted(p, shots):
    for examples in itertools.product(itertools.product(range(p), repeat=3), repeat=shots):
        assert_as_slow([(x, y) for x, y, _ in examples], [z for *_, z in examples], p)


@pytest.mark.parametrize("p", [2, 3, 5, 7, 11])
def test_random_contexts_of_many_shots(p):
    rng = np.random.default_rng(p)
    for k in (0, 2, 3, 5, 8, 20):
        for _ in range(6 if p < 11 else 2):
            context = [tuple(xy) for xy in rng.integers(p, size=(k, 2)).tolist()]
            assert_as_slow(context, rng.integers(p, size=k).tolist(), p)


@quick
@given(st.sampled_from([2, 3, 5, 7, 13, 29, 113]), st.integers(0, 31), st.integers(0, 2**32 - 1))
def test_with_right_labels_both_tell_the_truth_and_regression_reaches_at_least_as_far(p, k, seed):
    rng = np.random.default_rng(seed)
    context, task = rng.integers(p, size=(k, 2)), rng.integers(p, size=2)
    z, truth = context @ task % p, grid(p) @ task % p
    matched, regressed = (f(context, z, grid(p), p) for f in (ratio_matching, modular_regression))
    for found in (matched, regressed): assert np.array_equal(found[found >= 0], truth[found >= 0])
    assert np.array_equal(matched >= 0, ratio_matchable(context, grid(p), p))
    assert not ((matched >= 0) & (regressed < 0)).any()
    lines = {min(tuple(c*int(n) % p for n in xy) for c in range(1, p)) for xy in context if xy.any()}
    assert (matched >= 0).sum() == 1 + len(lines)*(p - 1)
    assert (regressed >= 0).sum() == (p*p if len(lines) > 1 else 1 + len(lines)*(p - 1))
    order = rng.permutation(k)
    assert np.array_equal(ratio_matching(context[order], z[order], grid(p), p), matched), "with right labels the order does not matter"
    assert np.array_equal(modular_regression(context[order], z[order], grid(p), p), regressed)


def test_leading_axes_are_contexts_one_by_one():
    p, rng = 7, np.random.default_rng(0)
    for k in (0, 1, 5):
        context, z = rng.integers(p, size=(3, 4, 1, k, 2)), rng.integers(p, size=(3, 4, 1, k))
        for f in (ratio_matching, modular_regression):
            together = f(context, z, grid(p), p)
            assert together.shape == (3, 4, p*p)
            assert all(np.array_equal(together[i, j], f(context[i, j, 0], z[i, j, 0], grid(p), p)) for i in range(3) for j in range(4))
            one_each = f(context[:, :, 0], z[:, :, 0], grid(p)[:12].reshape(3, 4, 2), p)
            assert all(one_each[i, j] == together[i, j, 4*i + j] for i in range(3) for j in range(4))


@pytest.mark.parametrize("small", [np.int8, np.uint8, np.int16])
def test_small_integers_do_not_overflow(small):
    p, rng = 113, np.random.default_rng(0)
    context, z = rng.integers(p, size=(31, 2)), rng.integers(p, size=31)
    for f in (ratio_matching, modular_regression):
        assert np.array_equal(f(context.astype(small), z.astype(small), grid(p).astype(small), p), f(context, z, grid(p), p))


def test_memory_does_not_grow_with_shots_times_queries():
    p, rng = 29, np.random.default_rng(0)
    context, z, query = rng.integers(p, size=(100, 1, 31, 2)), rng.integers(p, size=(100, 1, 31)), grid(p)
    for f in (ratio_matching, modular_regression):
        tracemalloc.start()
        f(context, z, query, p)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12*8*100*p*p, "a few arrays of contexts × queries; shots × contexts × queries would be 31 of them in one"


def test_kinds_of_cells_are_what_their_names_say():
    for p, k in itertools.product((3, 7, 29), (0, 1, 2, 5, 13)):
        context, task = draw_context(ModularStream(p=p, n_id=4, alpha=.6), k, generator(p, k)), (1, p - 1)
        predictions, z = grid_predictions(context, task, p), context @ task % p
        shown = {tuple(xy) for xy in context.tolist()}
        columns = (predictions[name] for name in ("kind", "shown", "ratio_matching", "modular_regression"))
        for (x, y), kind, was_shown, m, r in zip(grid(p).tolist(), *columns):
            assert was_shown == ((x, y) in shown)
            name = "given" if was_shown or (x, y) == (0, 0) else "both" if m >= 0 and r >= 0 else "regression only" if r >= 0 else "neither"
            assert cell_kinds[kind] == name
        assert np.array_equal(predictions["ratio_matching"], ratio_matching(context, z, grid(p), p))


# the grid

def test_grid_sequences_are_the_shown_examples_and_then_the_query():
    for p, k in ((3, 0), (5, 1), (7, 4)):
        context, (a, b) = np.random.default_rng(k).integers(p, size=(k, 2)), (2, p - 1)
        rows = [[n for u, v in [*context.tolist(), (x, y)] for n in (u, v, (a*u + b*v) % p)] for x in range(p) for y in range(p)]
        assert grid_sequences(context, (a, b), p).tolist() == rows


class Spy(torch.nn.Module):
    "Keeps what it was asked; answers 0, though a token that is no number is likelier."
    def __init__(self, vocabulary): super().__init__(); self.vocabulary, self.asked = vocabulary, []
    def forward(self, input_ids):
        self.asked.append(input_ids)
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        logits[..., 0], logits[..., -1] = 1, 2
        return SimpleNamespace(logits=logits)


def test_a_model_is_asked_without_the_answer_in_chunks_and_answers_a_number():
    spy, context = Spy(12), [(1, 2), (3, 4)]
    assert (grid_answers(spy, context, (2, 3), 5, chunk_tokens=20) == 0).all()
    assert np.array_equal(torch.cat(spy.asked), grid_sequences(context, (2, 3), 5)[:, :8])
    assert max(part.numel() for part in spy.asked) <= 20


def test_answers_are_those_of_one_sequence_at_a_time():
    model, context = gpt(9, 16, 2, 2, 12, std=1.0, seed=3), [(1, 2), (3, 4), (6, 0)]
    expected = []
    for x, y in itertools.product(range(7), repeat=2):
        tokens = torch.tensor([[n for u, v in context for n in (u, v, (2*u + 3*v) % 7)] + [x, y]])
        with torch.no_grad(): expected.append(model(input_ids=tokens).logits[0, -1, :7].argmax().item())
    assert len(set(expected)) > 2
    for chunk in (1, 100, 10**6): assert grid_answers(model, context, (2, 3), 7, chunk_tokens=chunk).ravel().tolist() == expected


def test_contexts_are_training_inputs_none_twice_before_all_were_shown():
    stream = ModularStream()
    train = {tuple(xy) for xy in stream.split[0].tolist()}
    for k in (0, 1, len(train), 2*len(train) + 3):
        drawn = [tuple(xy) for xy in draw_context(stream, k, generator(0, "test")).tolist()]
        assert len(drawn) == k and set(drawn) <= train
        for start in range(0, k, len(train)): assert len(set(drawn[start:start + len(train)])) == min(len(train), k - start)
    assert len({tuple(draw_context(stream, 1, generator(0, n))[0]) for n in range(400)}) == len(train)


# the probe

class Answers(torch.nn.Module):
    "Answers by a rule of shown examples and query; one above the truth where the rule has no answer."
    def __init__(self, rule, p): super().__init__(); self.rule, self.p = rule, p
    def forward(self, input_ids):
        shown, query = input_ids[:, :-2].numpy().reshape(len(input_ids), -1 if input_ids.shape[1] > 2 else 0, 3), input_ids[:, -2:].numpy()
        asked = shown[..., :2], shown[..., 2], query, self.p
        wrong = (modular_regression(*asked) + 1) % self.p
        answers = self.rule(*asked)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.as_tensor(np.where(answers < 0, wrong, answers)), self.p)[:, None])


def copying(context, answers, query, p):
    answers = np.where((context == query[:, None]).all(-1), answers, -1)
    return np.where((query == 0).all(-1), 0, answers.max(-1, initial=-1))


def probed(rule, stream=ModularStream(), **options):
    return pd.DataFrame(algorithms(Answers(rule, stream.p), SimpleNamespace(stream=stream, device="cpu"), **options))


@pytest.mark.parametrize("rule, right", [
    (copying, ["given"]), (ratio_matching, ["given", "both"]), (modular_regression, ["given", "both", "regression only"])])
@pytest.mark.parametrize("n_cells", [None, 8, 1])
def test_each_algorithm_is_right_on_its_cells_and_on_no_others(rule, right, n_cells):
    table = probed(rule, n_contexts=5, n_cells=n_cells)
    accuracy = table[(table["metric"] == "accuracy") & (table["cells"] != "neither")]
    assert set(accuracy["cells"]) == set(cell_kinds[:3]) and set(accuracy["shot"]) == {"1", "2", "4", "8", "11"}
    assert (accuracy["value"] == accuracy["cells"].isin(right)).all()
    assert table.loc[table["metric"] == "chance", "value"].tolist() == [1/7]


@pytest.mark.parametrize("stream", [ModularStream(), ModularStream(p=13, n_id=32, n_shots=20, seed=4)], ids=["p=7", "p=13"])
def test_verdicts_name_the_algorithm(stream):
    for rule, name in ((copying, "neither"), (ratio_matching, "Ratio Matching"), (modular_regression, "Modular Regression")):
        named = verdict(explained(probed(rule, stream, n_contexts=12))).iloc[0]
        assert named[1] == ("neither" if rule is copying else "either")
        assert (named[[k for k in shots_to_ask(stream.n_shots) if k > 1]] == name).all()


def test_the_probe_is_the_same_every_time_and_touches_no_global_state():
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    one, two = probed(ratio_matching), probed(ratio_matching)
    assert one.equals(two) and np.array_equal(before, np.random.get_state()[1]) and torch.equal(torch_before, torch.get_rng_state())
    few = probed(ratio_matching, n_contexts=3)
    assert few.equals(one[one["context"] < 3].reset_index(drop=True)), "more contexts add to those of few"
    assert len(one) <= 300 and (one["context"] < 20).all()
    assert not one.duplicated(["shot", "context", "cells", "metric"]).any()


def test_only_unseen_tasks_and_training_inputs_are_asked_and_contexts_are_nested():
    stream, spy = ModularStream(n_id=12), Spy(7)
    algorithms(spy, SimpleNamespace(stream=stream, device="cpu"), shots=(2, 6), n_contexts=10, chunk_tokens=10**6)
    few, many = (np.unique(asked.numpy()[:, :-2], axis=0) for asked in spy.asked)
    assert {tuple(row) for row in few.tolist()} == {tuple(row[:6]) for row in many.tolist()}
    train = {tuple(xy) for xy in stream.split[0].tolist()}
    for row in many.reshape(-1, 6, 3):
        assert {(x, y) for x, y, _ in row.tolist()} <= train
        fitting = [[(row[:, :2] @ t % 7 == row[:, 2]).all() for t in tasks] for tasks in (stream.ood_tasks, stream.id_tasks)]
        assert any(fitting[0]) and not any(fitting[1])


@pytest.mark.parametrize("n_cells", [1, 5, None])
def test_so_many_cells_of_each_kind_are_asked(n_cells):
    stream, spy = ModularStream(), Spy(7)
    algorithms(spy, SimpleNamespace(stream=stream, device="cpu"), shots=(3,), n_contexts=1, n_cells=n_cells, chunk_tokens=10**6)
    (asked,) = spy.asked
    context, query = asked[0, :-2].reshape(-1, 3)[:, :2].numpy(), asked[:, -2:].numpy()
    kinds = grid_predictions(context, (1, 1), 7)["kind"] # the task does not matter for them
    assert np.array_equal(np.bincount(kinds[query @ (7, 1)], minlength=4), np.bincount(kinds, minlength=4).clip(max=n_cells or 49))
    assert len({tuple(xy) for xy in query.tolist()}) == len(query), "no cell twice"


def test_no_shown_example_is_allowed_and_answered_by_nothing():
    table = explained(probed(modular_regression, shots=(0, 1), n_contexts=4))
    assert table[table["shot"] == 0].set_index("cells")["accuracy"].to_dict().keys() == {"given", "neither"}
    assert verdict(table).iloc[0].to_dict() == {0: "undecided", 1: "either"}


# table, verdict and figures

def of_contexts(**values): # cells → accuracy of each context
    rows = [dict(shot="4", context=i, cells=cells.replace("_", " "), metric="accuracy", value=v)
            for cells, accuracies in values.items() for i, v in enumerate(accuracies)]
    return pd.DataFrame(rows + [dict(shot="all", context=-1, cells="all", metric="chance", value=.2)])


def test_explained_is_mean_and_interval_over_contexts_of_every_run_and_step():
    a, b = of_contexts(both=[.2, .4, .9, 1.], regression_only=[.5]), of_contexts(both=[1.]*4)
    table = explained(pd.concat([a.assign(run="z", step=10), b.assign(run="z", step=20), a.assign(run="a", step=10)]).assign(probe="algorithms"))
    assert list(table["run"].unique()) == ["z", "a"], "runs stay in the order of the table"
    first = table.iloc[0]
    assert (first["run"], first["step"], first["shot"], first["cells"], first["contexts"], first["chance"]) == ("z", 10, 4, "both", 4, .2)
    assert first["accuracy"] == pytest.approx(.625) and .2 <= first["low"] < .5 and .75 < first["high"] <= 1
    assert table.iloc[1][["low", "high"]].tolist() == [0, 1], "one context says nothing about others"
    assert table.iloc[2][["step", "accuracy", "low", "high"]].tolist() == [20, 1, 1, 1]


def test_explained_takes_its_rows_out_of_a_table_of_several_probes():
    of_another = pd.DataFrame([dict(probe="accuracy", shot="1", metric="accuracy", value=.1)])
    rows = pd.concat([of_contexts(both=[1., 1.]).assign(probe="algorithms"), of_another])
    assert explained(rows)["accuracy"].tolist() == [1]
    with pytest.raises(InputError, match="holds no rows of the probe 'algorithms'"): explained(rows[rows["probe"] == "accuracy"])


@pytest.mark.parametrize("values, name", [ # chance .2: halfway is .6
    (dict(both=[.9]*3, regression_only=[.9]*3), "Modular Regression"), (dict(both=[.9]*3, regression_only=[.3]*3), "Ratio Matching"),
    (dict(both=[.9]*3), "either"), (dict(both=[.3]*3, regression_only=[.1]*3), "neither"), (dict(both=[.3]*3, regression_only=[.9]*3), "neither"),
    (dict(both=[.9]*3, regression_only=[.1, .9, .6]), "undecided"), (dict(both=[.1, .9, .6], regression_only=[.1]*3), "undecided"),
    (dict(regression_only=[.9]*3), "undecided"), (dict(both=[.9], regression_only=[.1]), "undecided")])
def test_verdict_by_the_rule(values, name): assert verdict(explained(of_contexts(**values))).loc[("", 0), 4] == name


def test_the_grid_figure_draws_the_table():
    context, p = draw_context(ModularStream(), 6, generator(0, "figure")), 7
    table = page.grid_table(Answers(modular_regression, p), context, (2, 3), p, (1, 6))
    assert table.groupby("shot").size().to_dict() == {1: 49, 6: 49}
    assert (table["right"] == (table["model"] == table["truth"])).all() and (table["truth"] == (2*table["x"] + 3*table["y"]) % 7).all()
    for algorithm in ("ratio_matching", "modular_regression"):
        axes = np.array(algorithms_figure(table, algorithm).axes).reshape(3, 2)
        for column, k in zip(axes.T, (1, 6)):
            model, reached, difference = (ax.images[0].get_array() for ax in column)
            for row in table[table["shot"] == k].itertuples():
                answered = getattr(row, algorithm) == row.truth
                assert (model[row.y, row.x], reached[row.y, row.x]) == (row.right, answered)
                assert difference[row.y, row.x] == int(row.right) - int(answered)
            assert {tuple(xy) for xy in column[1].collections[0].get_offsets().astype(int).tolist()} == {tuple(xy) for xy in context[:k].tolist()}
            assert f"{table[table['shot'] == k]['right'].mean():.0%}" in column[0].get_title()


def test_the_other_figure_draws_what_was_asked_for():
    tables = pd.concat(probed(rule, n_contexts=4).assign(run=rule.__name__, step=step) for rule in (ratio_matching, copying) for step in (0, 100))
    table = explained(tables)
    fig = explained_figure(table)
    assert [ax.get_title() for ax in fig.axes] == ["ratio_matching", "copying"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in fig.axes[0].lines}
    assert lines["multiple of a shown example"] == [[k, 1.] for k in (1, 2, 4, 8, 11)]
    assert lines["only regression can answer"] == [[k, 0.] for k in (2, 4, 8, 11)]
    over_steps = {line.get_label(): line.get_xydata().tolist() for line in explained_figure(table, "step", at=2).axes[1].lines}
    assert over_steps["multiple of a shown example"] == [[0, 0.], [100, 0.]] and over_steps["shown itself, or (0, 0)"] == [[0, 1.], [100, 1.]]


# the paper's cell

def test_the_paper_s_cell_has_its_named_examples_in_their_places():
    cells = [paper_cell(seed) for seed in (0, 0, 1)]
    for cell in cells:
        assert (cell["p"], cell["task_vector"], cell["shots"], cell["context"].shape) == (29, (6, 6), (1, 2, 13, 31), (31, 2))
        assert [tuple(cell["context"][k - 1].tolist()) for k in cell["shots"]] == [(4, 21), (2, 6), (19, 4), (15, 23)]
        assert len({tuple(xy) for xy in cell["context"].tolist()}) == 31 and 0 <= cell["context"].min() and cell["context"].max() < 29
    first, same, other = (cell["context"] for cell in cells)
    assert np.array_equal(first, same) and (first != other).any(1).sum() > 20
    assert len(page.grid_table(Answers(ratio_matching, 29), **cells[0])) == 4*29**2


# what cannot be

@pytest.mark.parametrize("ask, message", [
    (lambda: ratio_matching([(1, 1)], [1], [(2, 2)], 9), "p = 9: must be a prime"),
    (lambda: modular_regression([(1, 1)], [1], [(2, 2)], 1), "p = 1: must be a prime"),
    (lambda: grid_predictions([(1, 1)], (1, 2), 15), "p = 15: must be a prime"),
    (lambda: grid_sequences([(1, 5)], (1, 2), 5), "context: must be pairs"),
    (lambda: grid_sequences([1, 2, 3], (1, 2), 5), "context: must be pairs"),
    (lambda: ratio_matching([(.5, 1)], [1], [(1, 1)], 5), "context: must be pairs"),
    (lambda: ratio_matching([(1, 1)], [1], [(-1, 1)], 5), "query: must be pairs"),
    (lambda: grid_predictions([(1, 1)], (1, 7), 7), "task_vector: must be pairs"),
    (lambda: draw_context(ModularStream(), -1, generator(0)), "n_shots = -1"),
    (lambda: probed(copying, shots=(12,)), r"shots = \(12,\): must be between 0 and 11"),
    (lambda: probed(copying, shots=()), r"shots = \(\)"),
    (lambda: probed(copying, n_contexts=0), "n_contexts = 0"),
    (lambda: probed(copying, n_cells=0), "n_cells = 0"),
    (lambda: page.grid_table(None, [(1, 2)], (1, 1), 7, (2,)), r"shots = \(2,\): must be between 0 and 1"),
    (lambda: explained_figure(explained(of_contexts(both=[1.])), over="shots"), "did you mean 'shot'"),
    (lambda: explained_figure(explained(of_contexts(both=[1.])), at=5), "at = 5: must be a step of the table: 0"),
    (lambda: algorithms_figure(pd.DataFrame(), "ratio"), "Allowed: modular_regression, ratio_matching"),
])
def test_one_clear_line(ask, message):
    with pytest.raises(InputError, match=message) as e: ask()
    assert "\n" not in str(e.value)


def test_what_does_not_fit_is_refused_before_it_is_allocated():
    tracemalloc.start()
    for ask, message in ((lambda: grid(10**7 + 19), "p = 10000019: needs "),
                         (lambda: grid_sequences(np.zeros((10**6, 2), int), (1, 1), 9973), "1000000 shown examples"),
                         (lambda: check_memory("much", 1e18), r"much: needs 1,000,000,000\.0 GB of memory, and \S+ GB are free")):
        with pytest.raises(InputError, match=message): ask()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    check_memory("little", 1e3)


def test_the_module_is_light():
    code = "import sys, grok_nb.modular.algorithms; print(*(m for m in 'torch pandas matplotlib transformers scipy'.split() if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
