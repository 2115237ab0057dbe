"The modular study's tasks, batches, evaluation and algorithms against brute force and against models whose answers are known."
import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_nb import InputError
from grok_nb.modular import tasks
from grok_nb.modular.study import study
from grok_nb.modular.algorithms import ratio_matchable
from grok_nb.modular.tasks import ModularStream, accuracy
from grok_nb.streams import check_stream

PRIMES = [3, 5, 7, 11, 13, 29]
quick = settings(max_examples=30)


def pairs(array): return list(map(tuple, np.asarray(array).reshape(-1, 2).tolist()))
def examples(sequences): return np.asarray(sequences).reshape(len(sequences), -1, 3)
def context(stream, step=0): return SimpleNamespace(stream=stream, step=step, device="cpu", config=None)
def table_of(model, stream, step=0, **options): return pd.DataFrame(accuracy(model, context(stream, step), **options))


def value(table, **keys):
    "The one value of a table with these keys."
    return table.loc[(table[list(keys)] == pd.Series(keys)).all(axis=1), "value"].item()


def consistent_tasks(sequence, p):
    "All tasks (a, b) that explain a sequence, by trying them all."
    return [(a, b) for a in range(p) for b in range(p) if all((a*x + b*y) % p == z for x, y, z in sequence.tolist())]


@st.composite
def streams(draw):
    "Any small stream that the rules allow."
    p = draw(st.sampled_from([5, 7, 11]))
    choice = draw(st.sampled_from(["rectangular", "random"]))
    most = int(.7*p*p)
    n_id = draw(st.integers(1, most//4))*4 if choice == "rectangular" else draw(st.integers(1, most))
    return ModularStream(p=p, n_id=n_id, alpha=draw(st.floats(.3, .9)), n_shots=draw(st.integers(1, 16)), task_choice=choice,
                         batch_size=draw(st.integers(1, 90)), seed=draw(st.integers(0, 2**32 - 1)), data_seed=draw(st.integers(0, 9)),
                         balanced=draw(st.booleans()), n_eval=draw(st.integers(1, 200)), n_ood=draw(st.integers(1, 300)))


# primes and tasks

def test_is_prime_agrees_with_a_sieve():
    sieve = set(range(2, 2000))
    for d in range(2, 45): sieve -= set(range(2*d, 2000, d))
    assert [n for n in range(-3, 2000) if tasks.is_prime(n)] == sorted(sieve)


@quick
@given(st.sampled_from(PRIMES), st.data(), st.integers(0, 2**32 - 1))
def test_every_four_tasks_are_a_rectangle_of_the_rule(p, data, seed):
    n_id = 4*data.draw(st.integers(1, int(.7*p*p)//4))
    drawn = tasks.rectangular_tasks(p, n_id, seed)
    assert drawn.shape == (n_id, 2) and len(set(pairs(drawn))) == n_id
    assert drawn.min() >= 0 and drawn.max() < p
    for corner in drawn.reshape(-1, 4, 2).tolist():
        (a, b), (_, b2), (a2, _), _ = corner
        assert corner == [[a, b], [a, b2], [a2, b], [a2, b2]]
        assert a2 not in (a, b) and b2 not in (a, b) and a2 != b2
    assert np.array_equal(drawn, tasks.rectangular_tasks(p, n_id, seed))


@pytest.mark.parametrize("p, n_id", sorted({(5, 20), (7, 36), *((c.p, c.n_id) for c in study.presets.values())}))
def test_task_counts_of_the_presets_are_always_reached(p, n_id):
    for seed in range(40): assert len(tasks.rectangular_tasks(p, n_id, seed)) == n_id


def official_loop(p, n_id, rng, tries=4000):
    "The rule as it is written: redraw (a′, b′) until all three are new; None where that does not end."
    seeds = [divmod(int(i), p) for i in rng.choice(p*p, n_id//4, replace=False)]
    taken = set(seeds)
    for a, b in seeds:
        left = [c for c in range(p) if c not in (a, b)]
        for _ in range(tries):
            if len(left) < 2: return None
            a2, b2 = (left[i] for i in rng.choice(len(left), 2, replace=False))
            new = {(a, b2), (a2, b), (a2, b2)}
            if not new & taken: break
        else: return None
        taken |= new
    return taken


def test_tasks_follow_the_law_of_the_official_loop():
    "Numbers are interchangeable under the rule, so a task's chance depends only on whether it lies on the diagonal."
    rng = np.random.default_rng(0)
    theirs = [d for d in (official_loop(5, 12, rng, tries=300) for _ in range(1200)) if d]
    on_diagonal = np.array([sum(a == b for a, b in d) for d in theirs])
    ours = np.array([sum(a == b for a, b in pairs(tasks.rectangular_tasks(5, 12, seed))) for seed in range(1200)])
    error = math.hypot(on_diagonal.std()/len(on_diagonal)**.5, ours.std()/len(ours)**.5)
    assert abs(on_diagonal.mean() - ours.mean()) < 4*error
    counts = np.zeros((5, 5))
    for seed in range(1200): counts[tuple(tasks.rectangular_tasks(5, 12, seed).T)] += 1
    for cells in (counts[np.eye(5, dtype=bool)], counts[~np.eye(5, dtype=bool)]):
        share = cells.mean()/1200
        assert abs(cells - cells.mean()).max() < 4.5*(1200*share*(1 - share))**.5


@pytest.mark.parametrize("p, n_id", [(3, 8), (5, 24), (7, 44), (7, 48), (29, 840), (47, 2208), (113, 12768)])
def test_unreachable_tasks_are_refused_in_one_line(p, n_id):
    with pytest.raises(InputError) as caught: tasks.rectangular_tasks(p, n_id)
    message = str(caught.value)
    assert "\n" not in message and f"n_id = {n_id}" in message and f"p={p}" in message
    reachable = int(message.split("up to n_id=")[1].split()[0])
    for seed in range(5): assert len(tasks.rectangular_tasks(p, reachable, seed)) == reachable


@pytest.mark.parametrize("n_id", [0, -4, 6, 49, 52])
def test_rectangles_need_a_multiple_of_four_below_all_tasks(n_id):
    with pytest.raises(InputError, match=f"n_id = {n_id}.*multiple of 4 between 4 and 48"): tasks.rectangular_tasks(7, n_id)


def test_random_tasks_are_different_and_uniform():
    counts = np.zeros((5, 5))
    for seed in range(2000):
        drawn = pairs(tasks.random_tasks(5, 10, seed))
        assert len(set(drawn)) == 10
        for task in drawn: counts[task] += 1
    assert abs(counts - 800).max() < 4.5*(2000*.4*.6)**.5
    with pytest.raises(InputError, match="n_id = 25"): tasks.random_tasks(5, 25)


# inputs

@quick
@given(st.sampled_from(PRIMES), st.floats(.2, .8), st.integers(0, 99))
def test_split_is_a_partition_of_all_inputs(p, alpha, seed):
    train, test = tasks.split_inputs(p, alpha, seed)
    assert sorted(pairs(train) + pairs(test)) == list(itertools.product(range(p), repeat=2))
    assert abs(len(train) - alpha*p*p) <= .5


@pytest.mark.parametrize("alpha", [0, 1, 1.5, -.2, .99, .001, math.nan, math.inf])
def test_alpha_must_leave_both_kinds_of_inputs(alpha):
    with pytest.raises(InputError, match=f"alpha = {alpha}"): tasks.split_inputs(7, alpha)


def test_split_depends_on_data_seed_alone():
    one, two, other = ModularStream(seed=1), ModularStream(seed=2, n_id=12), ModularStream(seed=1, data_seed=1)
    assert np.array_equal(one.split[1], two.split[1]) and not np.array_equal(one.split[1], other.split[1])
    assert not np.array_equal(one.id_tasks, ModularStream(seed=2).id_tasks)


# batches

@quick
@given(streams(), st.integers(0, 10**9))
def test_batches_keep_their_contract(stream, step):
    batch = stream.batch(step)
    tokens, labels = batch["input_ids"], batch["labels"]
    assert tokens.shape == labels.shape == (stream.batch_size, 3*stream.n_shots) and tokens.dtype == labels.dtype == np.int64
    assert stream.tokens_per_batch == tokens.size
    z = np.arange(tokens.shape[1]) % 3 == 2
    assert (labels[:, ~z] == -100).all() and (labels[:, z] == tokens[:, z]).all()
    known, trained = set(pairs(stream.id_tasks)), set(pairs(stream.split[0]))
    for sequence in examples(tokens)[:8]:
        assert known & set(consistent_tasks(sequence, stream.p))
        assert set(pairs(sequence[:, :2])) <= trained


def test_stream_is_pure_and_out_of_order():
    stream = ModularStream(n_id=12)
    check_stream(stream, [900, 3, 0, 77, 3])
    again = ModularStream(n_id=12)
    batches = {step: stream.batch(step)["input_ids"] for step in (5, 0, 9)}
    for step in (0, 9, 5): assert np.array_equal(batches[step], again.batch(step)["input_ids"])
    for other in (batches[5], ModularStream(n_id=12, seed=1).batch(0)["input_ids"]): assert not np.array_equal(batches[0], other)


@pytest.mark.parametrize("n_id, batch_size", [(12, 64), (32, 64), (32, 50), (16, 5), (1, 7)])
def test_batches_are_balanced_over_tasks(n_id, batch_size):
    stream = ModularStream(n_id=n_id, batch_size=batch_size, n_shots=20, task_choice="random", seed=3)
    order, total, first = pairs(stream.id_tasks), np.zeros(n_id, int), []
    for step in range(n_id):
        found = [consistent_tasks(s, 7) for s in examples(stream.batch(step)["input_ids"])]
        assert all(len(f) == 1 for f in found)
        counts = np.bincount([order.index(f[0]) for f in found], minlength=n_id)
        assert counts.max() - counts.min() <= 1
        total += counts
        first.append(order.index(found[0][0]))
    assert (total == batch_size).all()
    if batch_size % n_id: assert len(set(first)) > 1


def test_unbalanced_batches_draw_their_tasks():
    stream = ModularStream(n_id=4, batch_size=400, n_shots=20, balanced=False)
    counts = pd.Series([consistent_tasks(s, 7)[0] for s in examples(stream.batch(0)["input_ids"])]).value_counts()
    assert set(counts.index) == set(pairs(stream.id_tasks)) and 0 < np.ptp(counts) and abs(counts - 100).max() < 4.5*(400*.25*.75)**.5


def test_training_inputs_are_drawn_with_replacement_and_uniformly():
    stream = ModularStream(batch_size=4000)
    inputs = examples(stream.batch(0)["input_ids"])[..., :2]
    without = np.mean([len(set(pairs(row))) == 12 for row in inputs])
    expected = math.prod(1 - i/42 for i in range(12))
    assert abs(without - expected) < 4*(expected*(1 - expected)/4000)**.5
    counts = pd.Series(pairs(inputs)).value_counts()
    assert len(counts) == 42 and abs(counts - 48000/42).max() < 4.5*(48000/42)**.5


# evaluation

@quick
@given(streams())
def test_evaluation_covers_every_task_equally_without_repetition(stream):
    train, test = map(set, map(pairs, stream.split))
    unseen = set(pairs(stream.ood_tasks))
    others = set(itertools.product(range(stream.p), repeat=2)) - set(pairs(stream.id_tasks))
    assert unseen <= others and len(unseen) == len(stream.ood_tasks) == min(stream.n_ood, len(others))
    assert set(stream.evaluation) == {"id_train", "id_test", "id_mix", "ood_train", "ood_test", "ood_mix"}
    for name, s in stream.evaluation.items():
        group, kind = name.split("_")
        asked = stream.id_tasks if group == "id" else stream.ood_tasks
        counts = pd.Series(pairs(s.task_vectors)).value_counts()
        assert set(counts.index) == set(pairs(asked)) and counts.nunique() == 1
        assert counts.iloc[0] == max(1, stream.n_eval//len(asked))
        inputs, z = examples(s.input_ids)[..., :2], examples(s.input_ids)[..., 2]
        assert np.array_equal(z, (s.task_vectors[:, None]*inputs).sum(-1) % stream.p)
        assert all(len(set(pairs(row))) == len(row) for row in inputs) # no query stands in its own context
        known = test if kind == "test" else train
        assert set(pairs(inputs[:, :-1])) <= known
        assert set(pairs(inputs[:, -1])) <= (train if kind == "train" else test)
        assert inputs.shape[1] == min(stream.n_shots, len(known)) and s.only_last == (kind == "mix")
        if kind == "mix":
            assert np.array_equal(inputs[:, :-1], examples(stream.evaluation[f"{group}_train"].input_ids)[:, :-1, :2])
            queries = pd.Series(pairs(inputs[:, -1])).value_counts().reindex(pairs(stream.split[1]), fill_value=0)
            assert np.ptp(queries) <= 1


def test_evaluation_inputs_are_uniform_over_sets():
    "Drawing without replacement: every input equally often in every place, and so is every pair of neighbours."
    inputs = np.arange(10).repeat(2).reshape(5, 2, 2)[:, 0]
    drawn = tasks._without_replacement(np.random.default_rng(0), inputs, 20_000, 3)[..., 0]
    chances = pd.Series(list(map(tuple, drawn.tolist()))).value_counts()
    assert len(chances) == 5*4*3 and abs(chances - 20_000/60).max() < 4.5*(20_000/60)**.5


def test_artifacts_hold_all_that_was_drawn():
    stream = ModularStream()
    saved = stream.artifacts
    assert np.array_equal(saved["id_tasks"], stream.id_tasks) and np.array_equal(saved["ood_tasks"], stream.ood_tasks)
    assert np.array_equal(saved["train_inputs"], stream.split[0]) and np.array_equal(saved["test_inputs"], stream.split[1])
    assert {n for n in saved if n.startswith("evaluation_")} == {f"evaluation_{n}" for n in stream.evaluation}
    for name, s in ModularStream().evaluation.items(): assert np.array_equal(saved[f"evaluation_{name}"], s.input_ids)


# the official sampling

OFFICIAL = dict(p=29, alpha=.8, n_shots=32, batch_size=1024, paper_compat=True)


def test_official_batches_share_their_inputs():
    stream = ModularStream(p=7, n_id=16, batch_size=64, n_shots=20, paper_compat=True, task_choice="random")
    check_stream(stream)
    batch = examples(stream.batch(3)["input_ids"]).reshape(16, 4, 20, 3)
    assert (batch[..., :2] == batch[:1, ..., :2]).all() and not (batch[0, 0, :, :2] == batch[0, 1, :, :2]).all()
    assert [consistent_tasks(s[0], 7) for s in batch] == [[t] for t in pairs(stream.id_tasks)]


def test_official_evaluation_has_the_stated_shape():
    stream = ModularStream(**OFFICIAL | dict(n_id=512))
    assert len(stream.ood_tasks) == 256 and len(ModularStream(p=7, n_id=32, paper_compat=True).ood_tasks) == 16
    assert set(stream.evaluation) == {"id_test", "ood_train", "ood_test"}
    for name, s in stream.evaluation.items():
        asked = stream.id_tasks if name == "id_test" else stream.ood_tasks
        per_task = 1024//len(asked) if name == "id_test" else 1
        blocks = examples(s.input_ids).reshape(16, len(asked), per_task, 32, 3)
        assert (blocks[..., :2] == blocks[:, :1, ..., :2]).all() and s.last_of == per_task
        assert (s.task_vectors.reshape(16, len(asked), per_task, 2) == asked[:, None]).all()
        assert set(pairs(blocks[:, 0, ..., :2])) <= set(pairs(stream.split[name != "ood_train"]))


def test_official_sampler_repeats_its_queries():
    "17 % of the last test queries and 4.5 % of the last training queries already stand in their context."
    stream = ModularStream(**OFFICIAL | dict(n_id=4, n_ood=8))
    asked = stream.evaluation["id_test"].inputs.reshape(16, 4, -1, 32, 2)[:, 0].reshape(-1, 32, 2) # each context once
    trained = np.concatenate([examples(stream.batch(step)["input_ids"])[:256, :, :2] for step in range(16)])
    for inputs, expected in [(asked, .17), (trained, .045)]:
        repeated = (inputs[:, :-1] == inputs[:, -1:]).all(-1).any(-1)
        assert len(repeated) >= 2000 and abs(repeated.mean() - expected) < .002 + 3*(expected*(1 - expected)/len(repeated))**.5


def test_official_last_shot_counts_the_last_sequence_of_each_task():
    stream = ModularStream(p=7, n_id=16, n_ood=16, batch_size=64, paper_compat=True) # 4 sequences of each task

    def right_where(condition):
        def model(input_ids):
            right = torch.tensor([9. if condition(i) else -9. for i in range(len(input_ids))])
            return SimpleNamespace(logits=F.one_hot(input_ids.roll(-1, 1), 7)*right[:, None, None])
        return model

    table = table_of(right_where(lambda i: i % 4 == 3), stream, step=8, chunk_tokens=10**9)
    for name in ("id_train", "id_test"):
        assert value(table, set=name, shot="last", queries="all", metric="accuracy") == 1
        assert value(table, set=name, shot="12", queries="all", metric="accuracy") == .25
    for name in ("ood_train", "ood_test"): # one sequence of each task
        assert value(table, set=name, shot="last", queries="all", metric="accuracy") == value(table, set=name, shot="12", queries="all", metric="accuracy")
    assert value(table, set="id_train", shot="last", queries="all", metric="count") == 16
    assert value(table, set="ood_test", shot="last", queries="all", metric="count") == 16*16


def test_official_id_train_is_the_batch_that_comes_next():
    stream, seen = ModularStream(p=7, n_id=16, batch_size=64, paper_compat=True), []
    def model(input_ids): return seen.append(input_ids.numpy()) or SimpleNamespace(logits=torch.zeros(*input_ids.shape, 7))
    for step in (0, 8):
        seen.clear()
        accuracy(model, context(stream, step), chunk_tokens=10**9)
        assert np.array_equal(seen[0], stream.batch(step)["input_ids"])


# ratio matching

@pytest.mark.parametrize("p", [2, 3, 5, 7])
def test_ratio_matchable_agrees_with_brute_force(p):
    inputs = list(itertools.product(range(p), repeat=2))
    rng = np.random.default_rng(p)
    for k in (0, 1, 2, 4):
        context = rng.integers(p, size=(60, k, 2))
        fast = ratio_matchable(context[:, None], np.array(inputs), p)
        for shown, row in zip(context.tolist(), fast):
            multiples = {(0, 0)} | {(c*x % p, c*y % p) for x, y in shown for c in range(p)}
            assert row.tolist() == [query in multiples for query in inputs]


@quick
@given(streams())
def test_matchable_of_a_set_is_the_brute_force_one(stream):
    s, p = stream.evaluation["ood_train"], stream.p
    for row, found in list(zip(s.inputs.tolist(), s.matchable))[:6]:
        for k, query in enumerate(row):
            assert found[k] == (query == [0, 0] or any([c*x % p, c*y % p] == query for x, y in row[:k] for c in range(p)))


@pytest.mark.parametrize("p", [1, 4, 6, 9, 15])
def test_ratio_matching_refuses_a_composite_modulus(p):
    with pytest.raises(InputError, match=f"p = {p}: .*prime"): ratio_matchable([(1, 1)], [(0, 1)], p)


# the probe

class Uniform:
    def __init__(self, p): self.p = p
    def __call__(self, input_ids): return SimpleNamespace(logits=torch.zeros(*input_ids.shape, self.p))


class RatioMatcher(Uniform):
    "Answers by the definition of ratio matching, one cell after the other, and says 0 with no confidence elsewhere."
    def __call__(self, input_ids):
        logits, p = torch.zeros(*input_ids.shape, self.p), self.p
        for row, sequence in enumerate(input_ids.reshape(len(input_ids), -1, 3).tolist()):
            answers = {}
            for k, (x, y, z) in enumerate(sequence):
                answer = answers.get((x, y), 0 if x == y == 0 else None)
                if answer is not None: logits[row, 3*k + 1, answer] = 60.
                if x or y: answers |= {(c*x % p, c*y % p): c*z % p for c in range(p)}
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("config", [dict(n_eval=150), dict(p=5, n_id=16, alpha=.8, n_shots=8, n_eval=100)], ids=["p7", "p5"])
def test_probe_on_a_ratio_matcher(config):
    stream = ModularStream(**config)
    table = table_of(RatioMatcher(stream.p), stream)
    for name, s in stream.evaluation.items():
        last = dict(set=name, shot="last")
        z, reached = s.input_ids[:, -1], s.matchable[:, -1]
        assert value(table, **last, queries="matchable", metric="accuracy") == 1
        assert value(table, **last, queries="matchable", metric="loss") < 1e-9
        assert value(table, **last, queries="matchable", metric="count") == reached.sum()
        assert value(table, **last, queries="all", metric="matchable_share") == reached.mean()
        assert value(table, **last, queries="all", metric="accuracy") == (reached | (z == 0)).mean()
        if (~reached).any():
            assert value(table, **last, queries="other", metric="accuracy") == (z[~reached] == 0).mean()
            assert value(table, **last, queries="other", metric="loss") == pytest.approx(math.log(stream.p))
        if s.only_last: assert set(table[table["set"] == name]["shot"]) == {"last"}
        else:
            for k in range(s.matchable.shape[1]):
                right = (s.matchable[:, k] | (s.input_ids[:, 3*k + 2] == 0)).mean()
                assert value(table, set=name, shot=str(k + 1), queries="all", metric="accuracy") == right
                assert value(table, set=name, shot=str(k + 1), queries="all", metric="matchable_share") == s.matchable[:, k].mean()


def test_probe_on_a_uniform_model():
    table = table_of(Uniform(7), ModularStream(n_eval=100))
    assert np.allclose(table[table["metric"] == "loss"]["value"], math.log(7))
    assert set(table[table["metric"] == "chance"]["value"]) == {1/7}


def test_probe_rows_are_tidy():
    rows = accuracy(Uniform(7), context(ModularStream(n_eval=50)))
    assert all(list(row) == ["set", "shot", "queries", "metric", "value"] for row in rows)
    assert all(type(row["value"]) is float and all(type(row[k]) is str for k in list(row)[:4]) for row in rows)
    table = pd.DataFrame(rows)
    assert not table.duplicated(["set", "shot", "queries", "metric"]).any()
    assert set(table["shot"]) == {*map(str, range(1, 13)), "last"} and set(table["queries"]) == {"all", "matchable", "other"}


def test_probe_on_a_transformer_agrees_with_one_sequence_at_a_time():
    from grok_nb.models import gpt
    stream = ModularStream(p=5, n_id=16, alpha=.8, n_shots=6, n_eval=32)
    model = gpt(5, 16, 2, 2, 18, std=.5).eval()
    table, small = table_of(model, stream), table_of(model, stream, chunk_tokens=40)
    assert np.allclose(table["value"], small["value"], atol=1e-5)
    s = stream.evaluation["ood_train"]
    right, losses = [], []
    for sequence in torch.as_tensor(s.input_ids):
        with torch.no_grad(): logits = model(input_ids=sequence[None, :-1]).logits[0, -1] # the last answer is not even shown
        right.append(int(logits.argmax() == sequence[-1]))
        losses.append(-logits.log_softmax(-1)[sequence[-1]].item())
    assert 0 < sum(right) < len(right)
    assert value(table, set="ood_train", shot="last", queries="all", metric="accuracy") == sum(right)/len(right)
    assert value(table, set="ood_train", shot="last", queries="all", metric="loss") == pytest.approx(np.mean(losses), abs=1e-5)
    assert value(table, set="ood_train", shot="6", queries="all", metric="loss") == pytest.approx(np.mean(losses), abs=1e-5)


def test_probe_leaves_no_gradients_and_remembers_the_split(monkeypatch):
    stream, calls = ModularStream(n_eval=40), []
    def model(input_ids):
        calls.append(torch.is_grad_enabled())
        return Uniform(7)(input_ids)
    first = accuracy(model, context(stream))
    monkeypatch.setattr("grok_nb.modular.algorithms.ratio_matchable", lambda *_: pytest.fail("the split was worked out again"))
    assert accuracy(model, context(stream)) == first and calls and not any(calls)


# phases and figures

def made_table(accuracies, ceiling=.7, chance=.1, run="r"):
    "set → accuracies over steps 0, 100, …; as the probe would write them."
    rows = []
    for name, curve in accuracies.items():
        for i, a in enumerate(curve):
            key = dict(run=run, step=100*i, probe="accuracy", set=name)
            rows += [key | dict(shot="last", queries="all", metric=m, value=v)
                     for m, v in dict(accuracy=a, matchable_share=ceiling, chance=chance, loss=1., count=50.).items()]
            rows += [key | dict(shot="last", queries="other", metric="accuracy", value=0.)]
            rows += [key | dict(shot=str(k), queries="all", metric=m, value=v) for k in (1, 2, 10)
                     for m, v in dict(accuracy=a*k/10, matchable_share=ceiling*k/10).items()]
    table = pd.DataFrame(rows)
    other = dict(run=run, step=0, probe="loss", metric="loss", value=9.)
    return pd.concat([table, pd.DataFrame([other])], ignore_index=True)


NAMES = {"1000": "1 in-distribution memorisation", "1100": "2 in-distribution generalisation", "1010": "3 out-of-distribution memorisation",
         "1111": "4 out-of-distribution generalisation", "0000": "0 none yet"}


@pytest.mark.parametrize("passed", ["".join(bits) for bits in itertools.product("01", repeat=4)])
def test_phase_of_every_pattern(passed):
    "A set is solved from .6 on."
    table = made_table({name: [.1, .2] + [.61 if bit == "1" else .59]*3 for name, bit in zip(tasks.seen_and_unseen, passed)})
    names = ", ".join(name for name, bit in zip(tasks.seen_and_unseen, passed) if bit == "1")
    assert tasks.phase(table) == NAMES.get(passed, f"unclassified: solved are {names}")


def test_phase_must_be_sustained_and_can_be_asked_for_any_step():
    rising = dict.fromkeys(tasks.seen_and_unseen, [.1, .1, .1, .6, .6, .6])
    assert [tasks.phase(made_table(rising), at=step)[0] for step in (200, 400, 500)] == ["0", "0", "4"]
    assert tasks.phase(made_table(rising), at=300, sustained=1)[0] == "4"
    transient = rising | dict(ood_train=[.1, .6, .6, .6, .3, .1], ood_test=[.1]*6)
    assert tasks.phase(made_table(transient))[0] == "2"
    assert tasks.phase(made_table({n: [.6] for n in tasks.seen_and_unseen}))[0] == "0" # one evaluation sustains nothing
    assert tasks.phase(made_table(rising), level=.7)[0] == "0"
    mixed = {n.replace("test", "mix"): c for n, c in rising.items()}
    assert tasks.phase(made_table(mixed), unseen="mix")[0] == "4"


def test_phase_and_figure_say_which_sets_are_missing():
    table = made_table(dict.fromkeys(tasks.seen_and_unseen, [.1]*3))
    for function in (tasks.phase, tasks.accuracy_figure):
        with pytest.raises(InputError, match="unseen = 'mix'.*ood_mix; the table has id_train, id_test"): function(table, unseen="mix")
    for function in (tasks.phase, tasks.accuracy_figure, tasks.shots_figure):
        with pytest.raises(InputError, match="no last-shot rows"): function(table[table["probe"] == "loss"])


def test_phase_and_shots_are_of_one_run():
    curves = dict.fromkeys(tasks.seen_and_unseen, [.1, .6, .6, .6])
    two = pd.concat([made_table(curves, run="one"), made_table(curves, run="two")])
    for function in (tasks.phase, tasks.shots_figure):
        with pytest.raises(InputError, match="one run"): function(two)


def test_accuracy_figure_draws_the_table(monkeypatch, tmp_path):
    curves = {name: [.1, .1 + i/10, .2 + i/10] for i, name in enumerate(tasks.seen_and_unseen)}
    marked = []
    monkeypatch.setitem(sys.modules, "grok_nb.transitions", SimpleNamespace(mark=lambda ax, transition: marked.append(transition)))
    figure = tasks.accuracy_figure(made_table(curves), transitions=["a", "b"])
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    for name, curve in curves.items(): assert list(drawn[tasks._names[name]]) == curve
    assert list(drawn["chance"]) == [.1, .1] and list(drawn["ratio-matchable share"]) == [.7, .7] and marked == ["a", "b"]
    figure.savefig(tmp_path/"one.png", dpi=80)
    assert 5_000 < (tmp_path/"one.png").stat().st_size < 100_000

    both = tasks.accuracy_figure(pd.concat([made_table(curves, run="demo"), made_table(curves, run="control")]), transitions=dict(demo="c"))
    assert [ax.get_title() for ax in both.axes] == ["demo", "control"] and marked == ["a", "b", "c"]


def test_shots_figure_draws_the_nearest_steps():
    curves = dict.fromkeys(tasks.seen_and_unseen, [.1, .2, .6, .7])
    figure = tasks.shots_figure(made_table(curves), steps=[0, 190, 10**6])
    for ax in figure.axes:
        drawn = {line.get_label(): line for line in ax.lines}
        assert {"step 0", "step 200", "step 300", "ratio-matchable share", "chance"} == set(drawn)
        assert drawn["step 200"].get_xdata().tolist() == [1, 2, 10] # numbers, not text
        assert np.allclose(drawn["step 200"].get_ydata(), [.06, .12, .6])


# the official loss

def test_nonzero_mean_loss_leaves_out_terms_that_are_zero():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 6, 5), torch.randint(0, 5, (3, 6))
    targets[:, 1::2] = -100
    logits[0, 0] = F.one_hot(targets[0, 0], 5)*1e4
    terms = [-logits[i, j].log_softmax(-1)[targets[i, j]].item() for i in range(3) for j in range(6) if targets[i, j] >= 0]
    kept = [t for t in terms if t != 0]
    assert len(kept) == len(terms) - 1
    assert tasks.nonzero_mean_loss(logits, targets).item() == pytest.approx(sum(kept)/len(kept), rel=1e-5)
    assert tasks.nonzero_mean_loss(logits, torch.full_like(targets, -100)).item() == 0


# what is refused

GOOD = dict(p=7, n_id=32, alpha=.85, n_shots=12, batch_size=64)


@pytest.mark.parametrize("change, field", [
    (dict(p=9), "p"), (dict(p=2), "p"), (dict(p=127), "p"), (dict(p=7.), "p"), (dict(p="7"), "p"), (dict(p=-7), "p"), (dict(p=10**18), "p"),
    (dict(n_id=0), "n_id"), (dict(n_id=49), "n_id"), (dict(n_id=30), "n_id"), (dict(n_id=48), "n_id"), (dict(n_id=True), "n_id"),
    (dict(n_id="many"), "n_id"), (dict(alpha=0), "alpha"), (dict(alpha=1), "alpha"), (dict(alpha=.99), "alpha"), (dict(alpha="x"), "alpha"),
    (dict(alpha=math.nan), "alpha"), (dict(n_shots=0), "n_shots"), (dict(n_shots=513), "n_shots"), (dict(batch_size=0), "batch_size"),
    (dict(batch_size=6.5), "batch_size"), (dict(seed=-1), "seed"), (dict(seed=2**32), "seed"), (dict(data_seed=-1), "data_seed"),
    (dict(n_ood=0), "n_ood"), (dict(n_eval=0), "n_eval"), (dict(task_choice="rectangle"), "task_choice"),
    (dict(paper_compat=True, batch_size=60), "batch_size"), (dict(paper_compat=True, balanced=False), "batch_size"),
    (dict(paper_compat=True, n_ood=4), "n_id"), (dict(paper_compat=True, n_id=44, batch_size=44, task_choice="random"), "n_id"),
])
def test_bad_input_is_refused_in_one_line_that_names_the_field(change, field):
    with pytest.raises(InputError) as caught: ModularStream(**GOOD | change)
    assert str(caught.value).startswith(f"{field} = ")
    assert "\n" not in str(caught.value)


def test_good_input_is_let_through():
    ModularStream(**GOOD)
    ModularStream(**GOOD | dict(p=113, n_id=8192, paper_compat=True, batch_size=8192))
    ModularStream(p=3, n_id=4, alpha=.5, n_shots=512, batch_size=1)


def test_the_smallest_world_works():
    stream = ModularStream(p=3, n_id=4, alpha=.9, n_shots=20, batch_size=1, n_eval=1)
    table = table_of(Uniform(3), stream)
    assert stream.evaluation["id_test"].input_ids.shape == (4, 3) and stream.evaluation["ood_mix"].input_ids.shape == (5, 24)
    assert value(table, set="id_test", shot="last", queries="all", metric="count") == 4
