"Concept vectors and attention on minimal pairs: the pass against one sentence at a time, ranks and AUROC against their definitions, nulls that keep their promise."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Starcoder2Config

from grok_nb import InputError
from grok_nb.grammar import concepts
from grok_nb.grammar.attention import attention_figure, attention_rows, attention_changes, changes_figure, concentration, heads_with_half, attention_probe, words_figure
from grok_nb.grammar.concepts import (auroc, auroc_figure, word_auroc, auroc_interval, layers_figure, broken_pairs, concept_rows, concept_vectors,
                                      conditions, effective_rank, look_at_pairs, matched_rank, mean_direction, rank_figure)
from grok_nb.grammar.lag import clusters
from grok_nb.probes import curve

LAYERS, HEADS, HIDDEN, VOCABULARY, LONGEST = 2, 4, 24, 29, 16
SIZES = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=20, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
             max_position_embeddings=LONGEST, bos_token_id=None, eos_token_id=None)
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, num_key_value_heads=2, attention_dropout=.3),
    "starcoder2": lambda: Starcoder2Config(**SIZES, num_key_value_heads=2, use_bias=True, sliding_window=None, attention_dropout=.3),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES, attention_dropout=.3, hidden_dropout=.3),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_inner=20, n_layer=LAYERS, n_head=HEADS, n_positions=LONGEST,
                               bos_token_id=None, eos_token_id=None)}


def build(name):
    "A model with every weight, bias and gain drawn at random."
    model, generator = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="sdpa"), torch.Generator().manual_seed(1)
    for key, p in model.named_parameters():
        gain = p.ndim == 1 and key.endswith("weight")
        p.data = torch.rand(p.shape, generator=generator)*1.5 + .3 if gain else torch.randn(p.shape, generator=generator)*.4
    return model.eval()


def tokens_table(n=12, seed=0):
    "Pairs of random sentences of 4 to 16 tokens; every fifth has no context word, every seventh no critical word either."
    g, rows = np.random.default_rng(seed), []
    for pair in range(n):
        row = dict(pair=100 + pair)
        for side in ("good", "bad"):
            length = int(g.integers(4, LONGEST + 1))
            context, critical = sorted(g.choice(length - 1, 2, replace=False).tolist())
            row |= {f"ids_{side}": g.integers(VOCABULARY, size=length).tolist(), f"last_token_{side}": int(g.integers(critical, length)),
                    f"critical_token_{side}": pd.NA if pair % 7 == 6 else critical, f"context_token_{side}": pd.NA if pair % 5 == 4 or pair % 7 == 6 else context}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({c: "Int64" for c in table if c.startswith(("last", "critical", "context"))})


@pytest.fixture(params=CONFIGS)
def model(request): return build(request.param)


@pytest.fixture(scope="module")
def llama(): return build("llama")


@pytest.mark.parametrize("room", [1, 30_000, 2**24])
def test_one_pass_is_what_each_sentence_alone_gives(model, room):
    tokens = tokens_table()
    looks = look_at_pairs(model, tokens, room)
    eager = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    for i, row in enumerate(tokens.to_dict("records")):
        for s, side in enumerate(("good", "bad")):
            with torch.no_grad(): out = eager(input_ids=torch.tensor([row[f"ids_{side}"]]), output_hidden_states=True, output_attentions=True)
            hidden = np.stack([h[0, row[f"last_token_{side}"]] for h in out.hidden_states])
            np.testing.assert_allclose(looks.hidden[i, s], hidden, rtol=1e-4, atol=1e-5)
            critical, context = row[f"critical_token_{side}"], row[f"context_token_{side}"]
            if pd.isna(critical):
                assert np.isnan(looks.entropy[i, s]).all() and np.isnan(looks.attention[i, s]).all() and np.isnan(looks.visible[i, s])
                continue
            weights = np.stack([a[0, :, critical, :critical + 1] for a in out.attentions]).astype(float)
            np.testing.assert_allclose(looks.entropy[i, s], -(weights*np.log(np.maximum(weights, 1e-300))).sum(-1), rtol=1e-4, atol=1e-5)
            assert looks.visible[i, s] == critical + 1
            if pd.isna(context): assert np.isnan(looks.attention[i, s]).all()
            else: np.testing.assert_allclose(looks.attention[i, s], weights[..., context], rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was(llama):
    llama.train()
    look_at_pairs(llama, tokens_table(2))
    assert llama.training and llama.config._attn_implementation == "sdpa"
    llama.eval()


def test_the_order_of_pairs_is_kept(llama):
    tokens = tokens_table()
    order = np.random.default_rng(3).permutation(len(tokens))
    one, two = look_at_pairs(llama, tokens), look_at_pairs(llama, tokens.iloc[order])
    np.testing.assert_allclose(one.hidden[order], two.hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.attention[order], two.attention, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change, message", [
    (dict(pair=[100, 100]), "tokens: pair 100 occurs twice"),
    (dict(last_token_good=[3, 40]), "pair 101: last_token_good = 40: the sentence has"),
    (dict(critical_token_bad=[-1, 1]), "pair 100: critical_token_bad = -1"),
    (dict(last_token_bad=[1, pd.NA]), "pair 101, bad sentence: last_token_bad is missing"),
    (dict(context_token_good=[3, 0], critical_token_good=[1, 1]), "pair 100, good sentence: the context word, at 3, must come before the critical word, at 1"),
    (dict(ids_bad=[[1]*17, [1]*16]), "pair 100, bad sentence: 17 tokens, the model's context holds 16"),
    (dict(ids_good=[[1]*16, []]), "pair 101: last_token_good = "),
    (dict(ids_good=[[1]*15 + [29], [1]*16]), "input_ids: must be from 0 to 28")])
def test_what_cannot_be_looked_at_is_named(llama, change, message):
    with pytest.raises(InputError, match="(?s)^.*" + message): look_at_pairs(llama, tokens_table(2).assign(**change))


def test_other_wrong_input_to_the_pass(llama):
    with pytest.raises(InputError, match="no column 'critical_token_bad'"): look_at_pairs(llama, tokens_table(2).drop(columns="critical_token_bad"))
    with pytest.raises(InputError, match="holds no pairs"): look_at_pairs(llama, tokens_table(2)[:0])
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=VOCABULARY, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(InputError, match="no adapter for 'bloom'"): look_at_pairs(bloom, tokens_table(2))
    broken = build("llama")
    broken.model.layers[1].mlp.down_proj.weight.data[0] = float("inf")
    with pytest.raises(InputError, match="not finite"): look_at_pairs(broken, tokens_table(2))


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=40)
def test_effective_rank_is_its_definition(n, d, seed):
    v = np.random.default_rng(seed).normal(size=(n, d))
    centred = v - v.mean(0)
    values = np.sqrt(np.clip(np.linalg.eigvalsh(centred.T @ centred), 0, None))
    shares = values/values.sum()
    expected = np.exp(-sum(p*np.log(p) for p in shares if p > 0))
    assert effective_rank(v) == pytest.approx(expected, rel=1e-4)
    assert 1 - 1e-9 <= effective_rank(v) <= min(n - 1, d) + 1e-9
    assert effective_rank(3*v + 7) == pytest.approx(effective_rank(v)) # neither place nor size matters


def test_limits_of_effective_rank():
    line = np.outer(np.arange(9.), np.ones(5))
    assert effective_rank(line) == pytest.approx(1)
    for n, d in ((40, 6), (4, 9)): # round: as many directions as there can be
        axes = np.linalg.qr(np.random.default_rng(0).normal(size=(max(n, d),)*2))[0][:n, :d]
        cloud = np.concatenate([np.eye(d), -np.eye(d)]) if n > d else axes
        assert effective_rank(cloud) == pytest.approx(d if n > d else n - 1, rel=1e-6 if n > d else .1)
    assert np.isnan(effective_rank(np.full((6, 3), .1, dtype=np.float32)))
    with pytest.raises(InputError, match="at least two"): effective_rank(line[:1])


def test_matched_rank_takes_the_sample_size_out():
    cloud = np.random.default_rng(0).normal(size=(900, 40))
    found = matched_rank(dict(many=cloud[:800], few=cloud[800:]))
    assert abs(found["many"]/found["few"] - 1) < .03 < effective_rank(cloud[:800])/found["few"] - 1
    assert found["few"] == pytest.approx(effective_rank(cloud[800:])) # the smallest group as it is
    for n in (1, 101):
        with pytest.raises(InputError, match=f"n = {n}: must be from 2 to 100"): matched_rank(dict(many=cloud[:800], few=cloud[800:]), n)


scores = st.lists(st.integers(-4, 4), min_size=1, max_size=25)

@given(scores, scores)
@settings(max_examples=60)
def test_auroc_is_the_rank_sum(good, bad):
    ranks = rankdata(good + bad)[:len(good)]
    u = ranks.sum() - len(good)*(len(good) + 1)/2
    assert auroc(np.array(good), np.array(bad)) == pytest.approx(u/len(good)/len(bad))


def test_the_bootstrap_is_that_of_resampled_pairs():
    g = np.random.default_rng(0)
    good, bad, phrase = g.integers(0, 6, 30), g.integers(0, 5, 30), g.integers(9, size=30)
    of, n = np.unique(phrase, return_inverse=True)[1], len(set(phrase))
    drawn = concepts.rng(5, "auroc").multinomial(n, np.full(n, 1/n), size=50)
    by_hand = [auroc(np.repeat(good, counts[of]), np.repeat(bad, counts[of])) for counts in drawn]
    assert auroc_interval(good, bad, phrase, draws=50, seed=5) == pytest.approx(tuple(np.quantile(by_hand, [.025, .975])))
    low, high = auroc_interval(good, bad)
    assert 0 <= low < auroc(good, bad) < high <= 1


def test_too_small_for_an_auroc():
    with pytest.raises(InputError, match="0 good and 2 bad"): auroc(np.array([]), np.array([1, 2]))
    for cluster in (None, np.zeros(3)):
        with pytest.raises(InputError, match="two pairs with different phrases"): auroc_interval(*np.ones((2, 3 if cluster is not None else 0)), cluster)
    with pytest.raises(InputError, match="no pairs"): mean_direction(np.empty((0, 4)))
    with pytest.raises(InputError, match="at least two pairs"): broken_pairs(np.zeros((1, 2, 4)))


@given(st.integers(2, 50), st.integers(0, 100))
@settings(max_examples=30)
def test_broken_pairs_keep_every_sentence_and_no_pair(n, seed):
    hidden = np.stack([np.arange(n), np.arange(n)], 1)
    broken = broken_pairs(hidden, seed)
    assert (broken[:, 0] == np.arange(n)).all() and sorted(broken[:, 1]) == list(range(n)) and (broken[:, 0] != broken[:, 1]).all()


def planted(n=120, layers=2, seed=0):
    "Hidden states with a direction for `acceptable` in the last layer alone, and which pairs are exposed."
    g = np.random.default_rng(seed)
    hidden = g.normal(size=(n, 2, layers, 8))
    hidden[:, 0, -1, 0] += 3
    return hidden, np.arange(n) % 3 == 0


def test_a_planted_direction_is_found_where_it_is():
    hidden, exposed = planted()
    rows = pd.DataFrame(concept_rows(hidden, exposed, matched=50)).pivot(index="layer", columns="metric", values="value")
    assert rows.auroc_low[1] > .9 and rows.auroc_low[0] < .5 < rows.auroc_high[0]
    v = concept_vectors(hidden)
    assert rows["rank"][1] == effective_rank(v[:, 1]) and rows.rank_control[1] == effective_rank(concept_vectors(broken_pairs(hidden))[:, 1])
    assert rows.norm[0] == pytest.approx(np.linalg.norm(v[:, 0], axis=1).mean())
    relabelled = pd.DataFrame(concept_rows(hidden[:, ::-1], exposed)).query("metric == 'auroc'").value # the direction turns with the labels
    np.testing.assert_allclose(relabelled, rows.auroc)


@pytest.mark.parametrize("exposed, n, absent", [
    (np.ones, 9, {"auroc", "auroc_low", "auroc_high", "rank_matched"}), (np.zeros, 9, {"auroc", "auroc_low", "auroc_high", "rank_matched"}),
    (np.ones, 1, {"auroc", "auroc_low", "auroc_high", "rank_matched", "rank", "rank_control"})])
def test_what_cannot_be_had_is_left_out_and_named(exposed, n, absent):
    hidden, exposed = planted(n)[0], exposed(n, bool)
    every = {"auroc", "auroc_low", "auroc_high", "rank", "rank_matched", "rank_control", "norm"}
    assert {row["metric"] for row in concept_rows(hidden, exposed)} == every - absent
    missing = conditions(pd.DataFrame(dict(pair=range(n), paradigm="x", exposed=exposed))).missing["x"]
    assert all(name in missing for name in ("rank_matched", "unexposed" if exposed.all() else "exposed")) and ("single pair" in missing) == (n == 1)


def test_a_single_unexposed_phrase_has_no_interval():
    hidden, exposed = planted(6)
    pairs = pd.DataFrame(dict(pair=range(6), paradigm="x", exposed=exposed, phrase_good="a", phrase_bad="b"))
    assert {"auroc"} == {row["metric"] for row in concept_rows(hidden, exposed, clusters(pairs)) if row["metric"].startswith("auroc")}
    assert "a single unexposed phrase" in conditions(pairs).missing["x"]


def test_clusters_are_phrases():
    pairs = pd.DataFrame(dict(pair=range(6), phrase_good=["a", "a", "b", None, None, "a"], phrase_bad=["c", "c", "c", None, "c", "d"]))
    found = clusters(pairs)
    assert found[0] == found[1] and len(set(found)) == 5
    assert len(set(clusters(pairs[["pair"]]))) == 6


def test_identical_sentences_make_nothing_up(llama):
    tokens = tokens_table(8)
    for part in ("ids", "last_token", "critical_token", "context_token"): tokens[f"{part}_bad"] = tokens[f"{part}_good"]
    looks = look_at_pairs(llama, tokens)
    looks.hidden[:, 1] = looks.hidden[:, 0] # the two may differ by rounding
    rows = pd.DataFrame(concept_rows(looks.hidden, np.arange(8) < 4)).set_index(["layer", "metric"]).value
    assert (rows.xs("auroc", level="metric") == .5).all() and rows.xs("rank", level="metric").isna().all()


def test_attention_rows_are_means_of_what_is_there(llama):
    looks = look_at_pairs(llama, tokens_table(12))
    rows = pd.DataFrame(attention_rows(looks))
    assert len(rows) == 2*(2*LAYERS*HEADS + 2)
    has_context = [i for i in range(12) if i % 5 != 4 and i % 7 != 6]
    pick = lambda metric, **where: rows[(rows.metric == metric) & (rows[list(where)] == pd.Series(where)).all(axis=1)].value.item()
    assert pick("to_context", sentence="bad", layer=1, head=2) == pytest.approx(np.mean([looks.attention[i, 1, 1, 2] for i in has_context]))
    assert pick("uniform", sentence="good") == pytest.approx(np.mean([1/looks.visible[i, 0] for i in has_context]))
    assert pick("entropy", sentence="good", layer=0, head=3) == pytest.approx(np.nanmean(looks.entropy[:, 0, 0, 3]))
    assert pick("uniform_entropy", sentence="good") == pytest.approx(np.nanmean(np.log(looks.visible[:, 0])))
    assert (rows[rows.metric == "entropy"].groupby("sentence").value.max() <= np.log(LONGEST)).all()


def test_a_paradigm_without_context_words_has_no_attention_rows(llama):
    tokens = tokens_table(3).assign(context_token_good=pd.NA, context_token_bad=pd.NA)
    assert {row["metric"] for row in attention_rows(look_at_pairs(llama, tokens))} == {"entropy", "uniform_entropy"}


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12))
@settings(max_examples=60)
def test_heads_with_half_by_hand(change):
    gains, total, carried, n = sorted((c for c in change if c > 0), reverse=True), sum(c for c in change if c > 0), 0, 0
    while 2*carried < total: carried, n = carried + gains[n], n + 1
    assert heads_with_half(np.array(change)) == (n or np.inf)


def test_both_nulls_are_valid():
    g, restless = np.random.default_rng(0), np.array([.01, .02, .05, .1, .1, .3])
    def experiment(seed, gain, phrases=20):
        phrase = np.repeat(np.arange(phrases), 2)
        change = (g.normal(size=(phrases, 6)) + g.normal(size=(phrases, 1)))[phrase]*restless + gain # pairs of a phrase move together
        return concentration(np.zeros((2*phrases, 2, 3)), change.reshape(-1, 2, 3), phrase, draws=99, seed=seed)
    nothing, alike = (pd.DataFrame([experiment(i, gain) for i in range(300)]) for gain in (0., .2))
    for level in (.05, .2, .5, .8):
        assert binomtest(int((nothing.p_gain <= level).sum()), 300, level).pvalue > 1e-4 # uniform
        for p in (nothing.p_half, alike.p_half): # a count has ties: at least not too small
            assert binomtest(int((p <= level).sum()), 300, level, alternative="greater").pvalue > 1e-4
    assert (alike.p_gain <= .05).mean() > .4
    found = pd.DataFrame([experiment(i, np.eye(6)[0], 60) for i in range(20)])
    assert (found[["p_gain", "p_half"]] <= .05).all(axis=None)


def test_concentration_sees_what_is_planted():
    g = np.random.default_rng(1)
    before = g.random((60, 2, 4))*.2
    one, all_heads = before + g.normal(size=before.shape)*.02, before + .2 + g.normal(size=before.shape)*.02
    one[:, 1, 2] += .5
    found, spread = concentration(before, one), concentration(before, all_heads)
    assert (found["layer"], found["head"], found["half"]) == (1, 2, 1) and found["gain"] == pytest.approx(.5, abs=.02)
    assert found["p_gain"] < .01 and found["p_half"] < .01 and found["half_even"] > 1
    assert spread["half"] == 4 and spread["p_half"] > .5 and spread["p_gain"] < .01
    one[7] = np.nan # a pair without context word
    assert concentration(before, one)["pairs"] == 59
    none = concentration(before, before - .1)
    assert none["half"] == np.inf and none["p_half"] == 1 and none["p_gain"] > .5


def test_wrong_input_to_concentration():
    a = np.zeros((4, 2, 3))
    with pytest.raises(InputError, match=r"shapes \(4, 2, 3\) and \(3, 2, 3\)"): concentration(a, a[:3])
    with pytest.raises(InputError, match="at least two pairs"): concentration(a, a, np.zeros(4))
    with pytest.raises(InputError, match="at least two pairs"): concentration(a, a + np.nan)


@pytest.fixture(scope="module")
def measured(llama):
    "A long table of two paradigms over three checkpoints, of which the last two differ from the first."
    tokens, tables = tokens_table(12), []
    pairs = pd.DataFrame(dict(pair=range(99, 113), paradigm=["a", "b"]*7, exposed=[True, True, False, False]*3 + [True]*2))
    other = build("llama")
    for step, scale in ((0, 1), (100, 1.1), (200, 1.3)):
        for p, q in zip(other.parameters(), llama.parameters()): p.data = q.data*scale
        tables.append(pd.DataFrame([dict(run="r", step=step, probe="inside") | row for row in attention_probe(other, None, tokens, pairs, matched=4, draws=20)]))
    return tokens, pairs, pd.concat(tables, ignore_index=True)


def test_inside_is_both_pages_in_one(llama, measured):
    tokens, pairs, table = measured
    part = tokens[tokens.pair % 2 == 0] # those of paradigm b
    looks = look_at_pairs(llama, part)
    exposed = pairs.set_index("pair").exposed[part.pair].to_numpy()
    rows = concept_rows(looks.hidden, exposed, matched=4, draws=20) + attention_rows(looks)
    found = table[(table.step == 0) & (table.paradigm == "b")]
    assert len(found) == len(rows)
    np.testing.assert_allclose(found.value, [row["value"] for row in rows], rtol=1e-4, atol=1e-5)
    assert list(curve(table, paradigm="a", metric="auroc", layer=2).index) == [0, 100, 200]


def test_wrong_input_to_inside(llama, measured):
    tokens, pairs, _ = measured
    for wrong, message in ((pairs.drop(columns="paradigm"), "no column 'paradigm'"), (pairs.head(3), "pair 102 is not in pairs"),
                           (pd.concat([pairs, pairs.head(1)]), "pair 99 occurs twice"), (pairs.assign(exposed=[None]*14), "exposed must be true or false")):
        with pytest.raises(InputError, match=message): attention_probe(llama, None, tokens, wrong)


def test_changes_are_differences(measured):
    _, _, table = measured
    found = attention_changes(table, {"a": 0, "b": 100}, 200)
    assert len(found) == 2*LAYERS*HEADS and list(found.columns) == ["paradigm", "layer", "head", "before", "after", "change"]
    row = found[(found.paradigm == "b") & (found["layer"] == 1) & (found["head"] == 0)].iloc[0]
    values = curve(table, paradigm="b", sentence="good", layer=1, head=0, metric="to_context")
    assert (row.before, row.after) == (values[100], values[200]) and row.change == values[200] - values[100]
    assert all((part.change.diff().dropna() <= 0).all() for _, part in found.groupby("paradigm"))
    assert list(attention_changes(table, {"a": 0}, 200).paradigm.unique()) == ["a"]
    with pytest.raises(InputError, match="nothing at step 50; there are 0, 100, 200"): attention_changes(table, 50, 200)
    with pytest.raises(InputError, match="sentence = 'worse': must be good or bad"): attention_changes(table, 0, 200, "worse")


def test_words_alone_are_scored_as_a_model_that_counts_them_would_be():
    "`concept_rows` of a model whose hidden state is its sentence's bag of words."
    g = np.random.default_rng(0)
    nouns = g.integers(0, 6, 40)
    pairs = pd.DataFrame(dict(paradigm="a", exposed=g.random(40) < .5, sentence_good=[f"the n{i} has g{i % 3}" for i in nouns],
                              sentence_bad=[f"the n{i} has {'g' if i == 5 else 'b'}{(i + 1) % 3}" for i in nouns]))
    vocabulary = sorted({w for side in ("good", "bad") for s in pairs[f"sentence_{side}"] for w in s.split()})
    bags = np.array([[[pair[f"sentence_{side}"].split().count(w) for w in vocabulary] for side in ("good", "bad")] for _, pair in pairs.iterrows()], float)
    found = concept_rows(bags[:, :, None], pairs["exposed"])
    want = next(r["value"] for r in found if r["metric"] == "auroc")
    assert word_auroc(pairs) == {"a": pytest.approx(want)} and .6 < want < 1
    assert word_auroc(pairs.assign(exposed=True)) == {}


def test_figures_draw_and_refuse(measured):
    _, _, table = measured
    for fig in (auroc_figure(table), auroc_figure(table, dict(a=.7)), layers_figure(table), rank_figure(table), rank_figure(table, layer=1), attention_figure(table),
                attention_figure(table, "entropy", "bad", {"a": (0, 100)}), changes_figure(attention_changes(table, 0, 200)),
                words_figure({"now": np.eye(3)}, ["this", "old", "cat"], 2, 0)):
        fig.canvas.draw()
        axes = fig.axes[0]
        assert axes.get_xlabel() and axes.get_ylabel()
    two = pd.concat([table, table.assign(run="s")])
    for draw in (auroc_figure, rank_figure, attention_figure):
        with pytest.raises(InputError, match="2 runs"): draw(two)
    for draw in (auroc_figure, layers_figure, rank_figure, attention_figure):
        with pytest.raises(InputError, match="no rows"): draw(table[table.metric == "uniform"])
    with pytest.raises(InputError, match="metric = 'x': must be to_context or entropy"): attention_figure(table, "x")
