"Formation order against its null, heads removed against edited weights, and the smallest circuit against a planted one."
import copy
import math
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, LlamaForCausalLM, Starcoder2Config
from transformers.pytorch_utils import Conv1D

from grok_nb import InputError
from grok_nb.copying import circuits as C, formation as F
from grok_nb.copying.copy_test import CopyTest, copier
from grok_nb.copying.induction import induction_scores
from grok_nb.intervals import Interval
from grok_nb.lens import ablate_heads, adapters
from grok_nb.models import initialise, llama
from grok_nb.probes import measure
from grok_nb.runs import Context

STEPS = np.arange(0, 2001, 100)


def rising(at, height=.9): return height/(1 + np.exp(-(STEPS - at)/40.))


def table(induction, previous={(0, 0): 300}, depth=4, heads=2, early=0, run="r"):
    "Rows of the probe, from the steps at which heads form."
    rows = []
    for layer, head in np.ndindex(depth, heads):
        at = induction.get((layer, head), np.inf)
        scores = dict(attention=rising(at), eigenvalue_positivity=rising(at - early), induction_score=rising(at)*rising(at - early),
                      previous_token=rising(previous.get((layer, head), np.inf)))
        rows += [dict(run=run, step=step, tokens=64*step, probe="induction", layer=layer, head=head, metric=metric, value=value)
                 for metric, values in scores.items() for step, value in zip(STEPS, values)]
    return pd.DataFrame(rows)


def onsets(induction, previous={(0, 0): 300}, depth=4, heads=1, width=100):
    "A table of `formation`, from the intervals themselves."
    rows = []
    for layer, head in np.ndindex(depth, heads):
        for metric, where in dict(induction_score=induction, previous_token=previous).items():
            at = where.get((layer, head), np.inf)
            rows.append(dict(run="r", layer=layer, head=head, metric=metric, onset_lo=at - width if at < np.inf else 5000., onset_hi=at, formed=at < np.inf))
    return pd.DataFrame(rows)


# formation

def test_planted_onsets_are_found_and_what_never_came_is_censored():
    made = F.formation(table({(1, 0): 800, (2, 1): 1200}), sustained=2).set_index(["metric", "layer", "head"])
    assert 800 in Interval(*made.loc[("attention", 1, 0), ["onset_lo", "onset_hi"]] + [0, 50])
    for place, at in {(1, 0): 800, (2, 1): 1200}.items():
        lo, hi = made.loc[("induction_score", *place), ["onset_lo", "onset_hi"]]
        assert hi - lo == 100 and lo - 100 <= at <= hi + 100
    assert made.formed.groupby("metric").sum().to_dict() == dict(attention=2, eigenvalue_positivity=2, induction_score=2, previous_token=1)
    never = made[~made.formed]
    assert (never.onset_hi == np.inf).all() and (never.onset_lo == STEPS[-1]).all()


def test_a_score_that_does_not_stay_has_not_formed():
    spike = table({(1, 0): 800})
    spike.loc[(spike.layer == 2) & (spike["head"] == 0) & (spike.step == 1000), "value"] = .9
    made = F.formation(spike)
    assert not made[(made.layer == 2) & (made["head"] == 0)].formed.any()


def test_formation_does_not_depend_on_the_order_of_rows_and_takes_other_tables_rows_out():
    made = table({(1, 0): 800})
    other = made.assign(probe="copy", value=np.nan)
    pd.testing.assert_frame_equal(F.formation(made), F.formation(pd.concat([other, made.sample(frac=1, random_state=0)])))


@pytest.mark.parametrize("wrong, message", [
    (lambda t: t.iloc[:0], "no rows"), (lambda t: t.drop(columns="layer"), "column 'layer'"), (lambda t: t.assign(probe="copy"), "no rows"),
    (lambda t: t.assign(value=t.value.where(t.step != 500)), "layer 0, head 0 is nan at step 500"),
    (lambda t: t[t.metric != "previous_token"], "'previous_token' is unknown")])
def test_tables_that_formation_refuses(wrong, message):
    with pytest.raises(InputError, match=message): F.formation(wrong(table({(1, 0): 800})))


# the order and its null

@pytest.mark.parametrize("floors, ends", [([0, 0, 0], [1, 2, 3]), ([2, 1, 0], [3, 2, 1]), ([2, 2, 0, 0], [1, 3, 4, 5]), ([0, 3, 1, -np.inf], [2, 4, 5, 1])])
def test_placements_are_uniform_over_all_that_the_structure_allows(floors, ends):
    floors, ends, draws = np.array(floors, float), np.array(ends, float), 60_000
    allowed = [p for p in permutations(range(len(ends))) if all(ends[unit] > floors[place] for unit, place in enumerate(p))]
    drawn, number = F._placements(floors, ends, draws, np.random.default_rng(1))
    counts = {p: 0 for p in allowed}
    for p in map(tuple, drawn): counts[p] += 1 # a KeyError: not allowed
    assert number == len(allowed)
    assert len(allowed) == 1 or stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_kendalls(seed):
    times = np.random.default_rng(seed).permutation(8)*100. + 500
    [row] = F.layer_order(onsets({(i + 1, 0): t for i, t in enumerate(times)}, depth=9), draws=50).itertuples()
    assert row.tau == pytest.approx(stats.kendalltau(np.arange(8), times).statistic) and row.undecided == 0


def test_overlapping_intervals_count_as_undecided():
    [row] = F.layer_order(onsets({(i, 0): 1000 + 10*i for i in range(1, 7)}, depth=7), draws=50).itertuples()
    assert row.tau == 0 and row.undecided == 1 and row.p_value == 1


def test_without_structure_layer_0_takes_part():
    formed = onsets({}, previous={(i, 0): 500 + 100*i for i in range(5)}, depth=5)
    [row] = F.layer_order(formed, "previous_token", None).itertuples()
    assert row.heads == 5 and row.tau == 1 and row.orders == 120 and row.unfounded == 0 and row.p_value < .05


@pytest.mark.parametrize("column", ["run", "layer", "metric", "onset_lo", "formed"])
def test_order_refuses_other_tables(column):
    with pytest.raises(InputError, match=f"formed: column '{column}'"): F.layer_order(onsets({}).drop(columns=column))
    with pytest.raises(InputError, match="formed: column"): F.layer_order(pd.DataFrame())
    with pytest.raises(InputError, match="did you mean 'induction_score'"): F.layer_order(onsets({}), "induction")


def test_perfect_orders_up_and_down():
    up, down = (F.layer_order(onsets({(i, 0): 1000 + sign*100*i for i in range(1, 8)}, depth=8)).iloc[0] for sign in (1, -1))
    assert up.tau == 1 and up.p_value < .01 and up.orders == math.factorial(7) and not up.reason
    assert down.tau == -1 and down.p_value == 1


def test_heads_without_a_previous_token_head_below_are_counted_and_left_out():
    found = {(0, 0): 900, (1, 0): 200, (1, 1): 800, **{(i, 0): 800 + 200*i for i in range(2, 7)}}
    [row] = F.layer_order(onsets(found, previous={(0, 0): 500}, depth=7, heads=2), draws=100).itertuples()
    assert row.unfounded == 2 and row.heads == 6 and row.never == 14 - 8 and row.tau == 1


def test_late_floors_favour_the_opposite_order():
    "Where the deep layers can hold induction heads first, the null is not centred on 0, and knows it."
    found = {(1, 0): 3000, (2, 0): 3200, (3, 0): 3400, (4, 0): 1000, (5, 0): 1200, (6, 0): 1400}
    [row] = F.layer_order(onsets(found, previous={(0, 0): 2500, (3, 0): 500}, depth=7)).itertuples()
    assert row.orders == 6*6 and row.null == pytest.approx(-9/15, abs=.03) and row.tau == pytest.approx((3 + 3 - 9)/15)


@pytest.mark.parametrize("depth, found, reason", [
    (1, {}, "1 layers"), (2, {(1, 0): 900}, "2 layers"), (5, {}, "no layer"), (5, {(3, 0): 900, (3, 1): 1000}, "layer 3 alone"),
    (4, {(1, 0): 900, (2, 0): 1000, (3, 0): 1100}, "only 6 orders")])
def test_an_order_that_cannot_be_tested_says_why(depth, found, reason):
    [row] = F.layer_order(onsets(found, depth=depth, heads=2), draws=50).itertuples()
    assert reason in row.reason and not row.p_value < .05


def simulated(seed, together=0, slope=0, previous={0: 400}, depth=9, heads=5):
    "Onsets of half of the heads, which never lie before the floor of their layer."
    g, found = np.random.default_rng(seed), {}
    for layer in range(1, depth):
        floor, shift = min(at for i, at in previous.items() if i < layer) if any(i < layer for i in previous) else np.inf, together*g.normal()
        for head in range(heads):
            if g.random() < .5 and floor < np.inf:
                at = -1
                while at <= floor: at = 2500 + shift + slope*layer + 400*g.normal()
                found[layer, head] = 100*math.ceil(at/100)
    return onsets(found, {(i, 0): at for i, at in previous.items()}, depth, heads).assign(run=seed)


def called(**world): # share of 80 worlds in which p ≤ .05
    rows = F.layer_order(pd.concat([simulated(seed, **world) for seed in range(80)]), draws=99)
    return (rows[["p_value", "p_heads"]] <= .05).mean()


@pytest.mark.parametrize("world", [{}, dict(previous={3: 500, 1: 1500, 0: 2300}), dict(together=400, previous={4: 500, 0: 1500})], ids=str)
def test_formation_without_order_is_not_called_ordered(world): assert called(**world).p_value <= .1 # 5 % and two standard errors


def test_layers_that_form_together_fool_single_heads_but_not_layers():
    share = called(together=800)
    assert share.p_value <= .1 < share.p_heads


def test_an_order_is_found(): assert called(slope=220).p_value > .9


# what comes first

@pytest.mark.parametrize("early", [400, 0, -400])
def test_lead_finds_who_was_first(early):
    rows = F.lead(table({(1, 0): 1000}, early=early)).set_index(["measure", "share"])
    gap = rows.loc["eigenvalue_positivity"]
    assert all(early in Interval(lo - 1, hi) for lo, hi in zip(gap.before_attention_lo, gap.before_attention_hi))
    assert rows.loc[("previous_token", .5), ["layer", "head"]].tolist() == [0, 0]


def test_lead_of_what_never_rises_is_censored_and_the_behaviour_is_compared():
    made = table({(1, 0): 1000})
    flat = (made.metric == "eigenvalue_positivity")
    made.loc[flat, "value"] = .5
    made.loc[made.metric == "induction_score", "value"] /= 2
    rows = F.lead(made, pd.Series(rising(1500), STEPS)).set_index(["measure", "share"])
    assert rows.loc[("eigenvalue_positivity", .5), "came_hi"] == np.inf
    assert 500 in Interval(*rows.loc[("attention", .5), ["before_behaviour_lo", "before_behaviour_hi"]])
    for ask in (F.lead, lambda t: F.formation_figure(t, F.formation(t))):
        with pytest.raises(InputError, match="holds 2 runs"): ask(pd.concat([made, made.assign(run="q")]))
    with pytest.raises(InputError, match="'attention' is unknown"): F.lead(made[made.metric != "attention"])


# sets of heads

def planted_copier(depth=2, heads=4, previous=(0, 1), induction=((1, 2),), noise=.01):
    "The hand-made `copier` of the copy test, among other heads, whose weights are small random numbers."
    small, g = copier(500, 64, width=32), torch.Generator().manual_seed(0)
    config = type(small.config)(**small.config.to_dict() | dict(num_hidden_layers=depth, num_attention_heads=heads, num_key_value_heads=heads))
    model, size = LlamaForCausalLM(config).eval().requires_grad_(False), config.head_dim
    for name, p in model.named_parameters():
        if "self_attn" in name: torch.nn.init.normal_(p, 0, noise, generator=g)
        elif "layers" in name: p.fill_(1.0 if "norm" in name else 0.0)
        else: p.copy_(small.get_parameter(name))
    for source, (layer, head) in [(0, previous), *((1, place) for place in induction)]:
        for name, p in model.model.layers[layer].self_attn.named_parameters():
            made, at = small.model.layers[source].self_attn.get_parameter(name), slice(size*head, size*(head + 1))
            if name == "o_proj.weight": p[:, at] = made
            elif name != "o_proj.bias": p[at] = made
    return model


@pytest.fixture(scope="module")
def planted(): return planted_copier()


@pytest.fixture(scope="module")
def test(): return CopyTest(500, 4, 4, 3, 20, every=2)


@pytest.fixture(scope="module")
def scores(planted): return induction_scores(planted, s=20, n_samples=4)


def copied(model, test): return {r["metric"]: r["value"] for r in test.accuracy(model) if r["position"] == "mean"}


@pytest.mark.parametrize("mode", ["mean", "zero"])
def test_one_pass_and_generation_agree_without_heads(planted, test, mode):
    "Queries that branch off one row get the mean of their own positions, as they do when generated one token at a time."
    over = C._own_sequences(planted, test) if mode == "mean" else None
    for heads in ([(0, 0)], [(0, 2), (1, 1)], [(0, 1)], [(1, 2)]):
        with ablate_heads(planted, heads, mode, over): one, many = (test.answers(planted, method) == test.asked[:, :, test.prefix:] for method in ("teacher", "generate"))
        assert np.array_equal(one.all(-1), many.all(-1)) # after a mistake the two go on differently
        assert np.array_equal(one.cumprod(-1), many.cumprod(-1))


def test_the_planted_model_copies_with_its_planted_heads(planted, test, scores):
    assert copied(planted, test)["exact"] > .8
    assert C.rank_heads(scores, "induction_score")[0] == (1, 2) and C.rank_heads(scores, "previous_token")[0] == (0, 1)
    assert C.rank_heads(scores, "induction_score", "previous_token")[:2] == [(1, 2), (0, 1)] and len(C.rank_heads(scores, "induction_score", "previous_token")) == 8


def test_sets_are_what_they_say(scores):
    sets = pd.DataFrame(C.head_sets(scores, top=(1, 3), draws=4))
    assert sorted(sum(sets[sets.kind == "single"].heads, [])) == sorted(sum(sets[sets.kind == "layer"].heads, [])) == [(i, j) for i in range(2) for j in range(4)]
    for (by, n), few in sets[sets.by != ""].groupby(["by", "n"]):
        [top] = few[few.kind == "top"].heads
        assert top == C.rank_heads(scores, by)[:n]
        for kind in ("random", "same layers"):
            drawn = [frozenset(heads) for heads in few[few.kind == kind].heads]
            assert len(set(drawn)) == len(drawn) and set(top) not in drawn and all(len(heads) == n for heads in drawn)
            assert len(drawn) == (3 if kind == "same layers" and n == 1 else 4)
        for heads in few[few.kind == "same layers"].heads: assert sorted(i for i, _ in heads) == sorted(i for i, _ in top)


def test_draws_follow_the_seed(scores):
    assert C.head_sets(scores, draws=3, seed=1) == C.head_sets(scores, draws=3, seed=1) != C.head_sets(scores, draws=3, seed=2)


@pytest.mark.parametrize("wrong, message", [
    (lambda scores: C.head_sets(scores, top=(8,)), "top = 8: must be from 1 to 7"), (lambda scores: C.head_sets(scores, top=(0,)), "top = 0"),
    (lambda scores: C.head_sets([]), "rows of induction_scores"), (lambda scores: C.head_sets(scores, by=("induction",)), "did you mean 'induction_score'")])
def test_sets_that_are_refused(scores, wrong, message):
    with pytest.raises(InputError, match=message): wrong(scores)


# removing heads

SIZES = dict(vocab_size=31, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=40, bos_token_id=None, eos_token_id=None)
CONFIGS = dict(
    llama=LlamaConfig(**SIZES, num_key_value_heads=2), starcoder2=Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=None),
    gpt_neox=GPTNeoXConfig(**SIZES, use_parallel_residual=True, rope_parameters=dict(rope_type="default", rope_theta=50., partial_rotary_factor=.5)),
    gpt2=GPT2Config(vocab_size=31, n_embd=32, n_inner=40, n_layer=3, n_head=4, n_positions=40, bos_token_id=None, eos_token_id=None))


@pytest.fixture(params=CONFIGS)
def small(request): return initialise(AutoModelForCausalLM.from_config(CONFIGS[request.param]), std=.3).eval()


def edited(model, heads):
    "The model with the heads' output weights at zero."
    model = copy.deepcopy(model)
    adapter = adapters[model.config.model_type]
    for layer, head in heads:
        projection = model.base_model.get_submodule(adapter.blocks)[layer].get_submodule(adapter.output)
        rows = projection.weight.data if isinstance(projection, Conv1D) else projection.weight.data.T
        rows[8*head:8*(head + 1)] = 0
    return model


def text(vocab_size=31, rows=6, length=30):
    ids = np.random.default_rng(0).integers(vocab_size, size=(rows, length))
    return ids, np.random.default_rng(1).random(ids.shape) < .4


def test_zero_ablation_is_zeroed_weights(small):
    questions, (ids, mask) = CopyTest(31, 3, 3, 2, 30, every=1), text()
    sets = [dict(heads=[(0, 1)]), dict(heads=[(2, 0), (0, 3)]), dict(heads=[(1, j) for j in range(4)])]
    rows = pd.DataFrame(C.ablation(small, questions, sets, ("zero",), ids, mask)).set_index(["heads", "metric"]).value
    for one in sets:
        [intact] = [pd.DataFrame(C.ablation(edited(small, one["heads"]), questions, [], (), ids, mask)).set_index("metric").value]
        for metric, value in intact.items(): assert rows[C._named(sorted(one["heads"])), metric] == pytest.approx(value, abs=2e-5)
    for heads in rows.index.levels[0].drop(""):
        for metric in intact.index: assert rows[heads, f"{metric}_change"] == pytest.approx(rows[heads, metric] - rows["", metric])


def test_losses_are_of_the_marked_tokens(small):
    ids, mask = text()
    rows = {r["metric"]: r["value"] for r in C.ablation(small, CopyTest(31, 3, 3, 2, 5, every=1), [], (), ids, mask)}
    logits = small(torch.tensor(ids)).logits[:, :-1].log_softmax(-1)
    nats = -logits.gather(2, torch.tensor(ids)[:, 1:, None])[..., 0].detach().numpy()
    for metric, chosen in dict(loss=np.ones_like(mask), loss_copyable=mask, loss_other=~mask).items():
        assert rows[metric] == pytest.approx(nats[chosen[:, 1:]].mean(), abs=1e-5)


def test_the_model_is_left_as_it_was(small):
    before = {k: v.clone() for k, v in small.state_dict().items()}
    C.ablation(small, CopyTest(31, 3, 3, 2, 5, every=1), [dict(heads=[(0, 0)])])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in small.modules()) and all(torch.equal(v, before[k]) for k, v in small.state_dict().items())


def test_top_heads_are_missed_and_random_ones_are_not(planted, test, scores):
    rows = pd.DataFrame(C.ablation(planted, test, C.head_sets(scores, draws=7)))
    for by in ("induction_score", "previous_token"):
        for mode in ("mean", "zero"):
            found = C.excess(rows, "same layers", by, mode=mode).iloc[0]
            assert found.top > .7 and abs(found.others) < .05 and found.sets == 3 and found.p_value == .25
    assert C.excess(rows, "random").p_value[0] == pytest.approx(2/8) # the other planted head is one of the seven
    runs = pd.concat([rows.assign(run="a"), rows.assign(run="b")])
    assert C.excess(runs).run.tolist() == ["a", "b"]


@pytest.mark.parametrize("options, message", [(dict(null="same layer"), "null"), (dict(n=2), "no rows"), (dict(metric="loss"), "no rows")])
def test_excess_refuses_what_is_not_there(planted, test, scores, options, message):
    rows = pd.DataFrame(C.ablation(planted, test, C.head_sets(scores, draws=2), ("zero",)))
    with pytest.raises(InputError, match=message): C.excess(rows, **dict(mode="zero") | options)
    with pytest.raises(InputError, match="column"): C.excess(rows.drop(columns="metric"))
    with pytest.raises(InputError, match="one checkpoint"): C.excess(pd.concat([rows, rows]), mode="zero")


@pytest.mark.parametrize("wrong, message", [
    (lambda m, t: C.ablation(m, t, [dict(heads=[(0, 4)])]), r"heads = \(0, 4\)"), (lambda m, t: C.ablation(m, t, [dict(heads=[(-1, 0)])]), "layer 0 to 1"),
    (lambda m, t: C.ablation(m, t, [dict(head=(0, 0))]), "heads = None: must be a list"), (lambda m, t: C.ablation(m, t, [dict(heads=[1])]), "must be a list"),
    (lambda m, t: C.ablation(m, t, [], ("median",)), "modes: 'median'"), (lambda m, t: C.ablation(m, t, [], copyable=np.ones((2, 3), bool)), "needs input_ids"),
    (lambda m, t: C.ablation(m, t, [], input_ids=np.zeros((2, 3), int), copyable=np.ones((2, 3))), "must be bool"),
    (lambda m, t: C.ablation(m, t, [], input_ids=np.full((2, 3), 999)), "from 0 to 499"),
    (lambda m, t: C.keep_only(m, t, sizes=(9,)), "sizes = 9: must be from 0 to 8"), (lambda m, t: C.keep_only(m, t, [(0, 0)]), "ranking: 1 heads"),
    (lambda m, t: C.keep_only(m, t, search=("forward",)), "search: 'forward'"), (lambda m, t: C.keep_only(m, t, mode="none"), "mode"),
    (lambda m, t: C.causes(m, Context()), "test: a CopyTest is needed")])
def test_questions_that_are_refused(planted, test, wrong, message):
    with pytest.raises(InputError, match=message): wrong(planted, test)


def test_models_that_are_refused(test):
    broken = llama(500, 16, 16, 2, 2, 64)
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    for ask in (lambda: C.ablation(broken, test, []), lambda: C.keep_only(broken, test), lambda: C.causes(broken, Context(), test)):
        with pytest.raises(InputError, match="up_proj.weight holds numbers that are not finite"): ask()
    other = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=500, hidden_size=16, n_layer=1, n_head=2)).eval()
    with pytest.raises(InputError, match="no adapter for 'bloom'"): C.causes(other, Context(), test)


# what is kept

def test_all_heads_are_the_whole_model_and_none_are_none(planted, test):
    kept = pd.DataFrame(C.keep_only(planted, test, search=("ranked",), sizes=(0, 8), mode="zero")).set_index(["n", "metric"]).value
    fresh = C._fresh(test)
    assert kept[8, "exact"] == copied(planted, fresh)["exact"] > .8
    with ablate_heads(planted, [(i, j) for i in range(2) for j in range(4)]): assert kept[0, "exact"] == copied(planted, fresh)["exact"] < .05


@pytest.mark.parametrize("mode", ["mean", "zero"])
def test_the_smallest_circuit_is_the_planted_one(planted, test, mode):
    kept = pd.DataFrame(C.keep_only(planted, test, mode=mode, draws=3))
    found = C.smallest_circuit(kept).set_index("search")
    assert found.heads["backward"] == found.heads["ranked"] == "0.1 1.2" and found.n["random"] > 3
    sizes = kept[kept.metric == "exact"].groupby("search").n.apply(list)
    assert sizes["backward"] == list(range(8, -1, -1)) and sizes["ranked"] == list(range(9)) and len(sizes["random"]) == 27


def test_backward_elimination_keeps_one_of_two_that_do_the_same(test):
    twins = planted_copier(induction=((1, 0), (1, 3)))
    kept = pd.DataFrame(C.keep_only(twins, test, search=("backward",)))
    assert C.smallest_circuit(kept).heads[0] in ("0.1 1.0", "0.1 1.3")


def test_large_models_are_only_ranked(planted, test):
    kept = pd.DataFrame(C.keep_only(planted, test, most=4, sizes=(2,), search=("backward", "ranked")))
    assert set(kept.search) == {"ranked"}


def test_a_model_that_does_not_copy_has_no_circuit(test):
    kept = pd.DataFrame(C.keep_only(llama(500, 16, 16, 2, 2, 64).eval(), test, search=("ranked",), sizes=(0, 4)))
    with pytest.raises(InputError, match="nothing to preserve"): C.smallest_circuit(kept)
    with pytest.raises(InputError, match="metric"): C.smallest_circuit(kept, metric="value")


# over training, and pictures

def test_causes_is_a_probe_that_is_measured_once(planted, test, tmp_path):
    for step in (100, 200): planted.save_pretrained(tmp_path/f"step-{step}")
    folders, ask = [tmp_path/"step-100", tmp_path/"step-200"], partial(C.causes, test=test, draws=1, modes=("zero",))
    first = measure(folders, dict(causes=ask), tmp_path/"tables")
    assert set(first.step) == {100, 200} and first.groupby("step").size().nunique() == 1
    before = (tmp_path/"tables"/"causes.parquet").stat().st_mtime_ns
    again = measure(folders, dict(causes=partial(C.causes, test=CopyTest(500, 4, 4, 3, 20, every=2), draws=1, modes=("zero",))), tmp_path/"tables")
    assert (tmp_path/"tables"/"causes.parquet").stat().st_mtime_ns == before # an equal test is the same question
    pd.testing.assert_frame_equal(first, again)


def test_causes_measures_the_loss_where_there_is_text(test):
    from grok_nb.copying.language import LanguageStream
    rows = C.causes(llama(500, 16, 16, 2, 2, 64).eval(), Context(stream=LanguageStream(vocab_size=500, context=60)), test, draws=1, modes=("zero",), rows=4)
    assert {"loss", "loss_copyable", "loss_other", "loss_other_change", "exact"} <= {r["metric"] for r in rows}


@pytest.mark.parametrize("ask", [C.excess, C.ablation_figure, C.smallest_circuit, C.keep_only_figure, C.course_figure])
def test_other_tables_are_refused(ask):
    for table in (pd.DataFrame(), pd.DataFrame(dict(metric=["loss"], value=[1.]))):
        with pytest.raises(InputError, match="table: column"): ask(table)


def test_figures_show_what_the_tables_hold(planted, test, scores):
    made = table({(1, 0): 800, (2, 1): 1200})
    fig = F.formation_figure(made, F.formation(made), pd.Series(rising(1500), STEPS))
    heat, right = fig.axes[:2]
    assert heat.collections[0].get_array().size == 8*len(STEPS) and {line.get_label() for line in right.lines} == {"eigenvalue positivity", "attention", "copying accuracy"}
    ids, mask = text(500)
    rows = pd.DataFrame(C.ablation(planted, test, C.head_sets(scores, draws=2), ("zero",), ids, mask))
    fig = C.ablation_figure(pd.concat([rows.assign(run=i) for i in range(3)]))
    assert [ax.get_xlabel() for ax in fig.axes] == ["change of exact accuracy", "change of loss on copyable tokens, nats", "change of loss on other tokens, nats"]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["single heads", "whole layers", "best head by induction score", "best head by previous token"]
    with pytest.raises(InputError, match="rows of ablation"): C.ablation_figure(rows[rows.kind == "intact"])
    kept = pd.DataFrame(C.keep_only(planted, test, sizes=(0, 2, 8), draws=1, mode="zero"))
    [ax] = C.keep_only_figure(kept).axes
    assert ax.get_xlabel() == "heads kept" and len(ax.lines) == 4
    [ax] = C.course_figure(pd.concat([rows.assign(step=step) for step in (1, 2)]), "zero").axes
    assert {line.get_label() for line in ax.lines} >= {"intact", "without 0.1", "without 1.2"}
