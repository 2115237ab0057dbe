"Induction scores against their definitions: dense matrices in numpy, a slow loop over transformers' own attention, and circuits made by hand."
import copy
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Starcoder2Config

from grok_nb import InputError
from grok_nb.copying import induction
from grok_nb.copying.induction import (eigenvalue_positivity, heads_figure, icl_score, induction_scores, repeated_sequences, scores_figure,
                                       stripe_figure, stripes)
from grok_nb.lens import adapters
from grok_nb.models import initialise, llama

LAYERS, HEADS, HIDDEN, VOCABULARY, LONGEST = 2, 4, 24, 29, 40
SIZES = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=20, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
             max_position_embeddings=LONGEST, bos_token_id=None, eos_token_id=None)
CONFIGS = { # two with grouped value heads; biases everywhere, to be left out
    "llama": lambda: LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=10, attention_bias=True, attention_dropout=.3),
    "starcoder2": lambda: Starcoder2Config(**SIZES, num_key_value_heads=2, use_bias=True, sliding_window=None, attention_dropout=.3),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES, attention_dropout=.3, hidden_dropout=.3),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_inner=20, n_layer=LAYERS, n_head=HEADS, n_positions=LONGEST,
                               bos_token_id=None, eos_token_id=None, tie_word_embeddings=False)}


def build(name, dtype=torch.float32, implementation="sdpa"):
    "A model with every weight, bias and gain drawn at random."
    model, generator = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=implementation), torch.Generator().manual_seed(1)
    for key, p in model.named_parameters():
        gain = p.ndim == 1 and key.endswith("weight")
        p.data = torch.rand(p.shape, generator=generator)*1.5 + .3 if gain else torch.randn(p.shape, generator=generator)*.4
    return model.to(dtype).eval()


@pytest.fixture(params=CONFIGS)
def model(request): return build(request.param)


@pytest.fixture(params=CONFIGS)
def exact(request): return build(request.param, torch.float64)


def values(rows, metric):
    "(layer, head) of one metric."
    return pd.DataFrame(rows).query("metric == @metric").pivot(index="layer", columns="head", values="value").to_numpy()


# ---- sequences ----

@settings(max_examples=40)
@given(st.data())
def test_sequences_repeat_distinct_tokens_and_depend_on_the_seed_alone(data):
    vocabulary = data.draw(st.integers(2, 60))
    special = data.draw(st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary - 1))
    s, n, seed = data.draw(st.integers(1, vocabulary - len(special))), data.draw(st.integers(1, 5)), data.draw(st.integers(0, 99))
    ids = repeated_sequences(vocabulary, s, n, seed, tuple(special))
    assert ids.shape == (n, 2*s) and ids.dtype == np.int64 and (ids[:, :s] == ids[:, s:]).all()
    assert all(len({*row}) == s and not {*row} & special and {*row} <= set(range(vocabulary)) for row in ids[:, :s].tolist())
    assert np.array_equal(ids, repeated_sequences(vocabulary, s, n + 3, seed, tuple(special))[:n])


def test_every_token_is_drawn_and_seeds_differ():
    assert set(repeated_sequences(7, 3, 100, special=(2, 5)).ravel()) == {0, 1, 3, 4, 6}
    assert not np.array_equal(repeated_sequences(50, 20, 4, 0), repeated_sequences(50, 20, 4, 1))


# ---- attention ----

def by_definition(pattern):
    "Ā and the previous-token score of one (2s, 2s) pattern, term by term."
    s = len(pattern)//2
    return np.mean([pattern[s + i - 1, i] for i in range(1, s)]), np.mean([pattern[t, t - 1] for t in range(1, s)])


@settings(max_examples=30)
@given(st.integers(2, 7).flatmap(lambda s: hnp.arrays(np.float32, (2, 3, 2*s, 2*s), elements=st.floats(0, 1, width=32))))
def test_stripes_are_the_definition(patterns):
    found = [x.numpy() for x in stripes(torch.as_tensor(patterns))]
    for at in np.ndindex(2, 3): np.testing.assert_allclose([x[at] for x in found], by_definition(patterns[at]), rtol=1e-5, atol=1e-6)


def test_a_pattern_made_by_hand():
    pattern = torch.zeros(2*4, 2*4)
    for query, key in ((4, 1), (5, 2), (6, 3)): pattern[query, key] = 1
    assert [x.item() for x in stripes(pattern)] == [1, 0]
    shifted = torch.zeros(8, 8)
    for query, key in ((3, 0), (7, 4), (5, 1), (4, 0), (7, 3), (6, 2)): shifted[query, key] = 1 # the match itself, and both ends of the diagonal
    assert [x.item() for x in stripes(shifted)] == [0, 0]
    first = torch.diag(torch.ones(7), -1)
    first[4:] = 0
    assert [x.item() for x in stripes(first)] == [0, 1]


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_is_the_mean_over_transformers_own(name):
    "Term by term, one sequence at a time, in single precision: its rounding is about 1e-7 a weight."
    s, n = 12, 5
    eager, expected = build(name, implementation="eager"), []
    for ids in repeated_sequences(VOCABULARY, s, n, seed=3):
        with torch.no_grad(): seen = eager(input_ids=torch.as_tensor(ids)[None], output_attentions=True).attentions
        expected.append([[by_definition(layer[0, head].numpy()) for head in range(HEADS)] for layer in seen])
    expected, rows = np.mean(expected, 0), induction_scores(build(name), s=s, n_samples=n, seed=3)
    np.testing.assert_allclose(values(rows, "attention"), expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(values(rows, "previous_token"), expected[..., 1], atol=1e-6)
    assert expected.std() > .01, "heads differ, or this says nothing"


def test_few_sequences_at_a_time_give_the_same(model):
    ids = torch.as_tensor(repeated_sequences(VOCABULARY, 9, 7))
    whole = induction._measured(model, ids)
    for room in (1, 4*LAYERS*HEADS*18**2): np.testing.assert_allclose(induction._measured(model, ids, room), whole, atol=1e-6)


# ---- eigenvalue positivity ----

def dense(model, fold_norms):
    "EP of every head from V × V matrices, in numpy, from the names of the weights alone."
    w, kind = {k: v.double().numpy() for k, v in model.state_dict().items()}, model.config.model_type
    def matrix(name): return w[f"{name}.weight"] if kind == "gpt2" else w[f"{name}.weight"].T # (in, out)
    def norm(name):
        if not fold_norms: return np.eye(HIDDEN)
        gain = np.diag(w[f"{name}.weight"])
        return gain if kind == "llama" else (np.eye(HIDDEN) - np.ones((HIDDEN, HIDDEN))/HIDDEN) @ gain
    root, first, last = dict(gpt_neox=("gpt_neox", "input_layernorm", "final_layer_norm"), gpt2=("transformer", "ln_1", "ln_f")).get(
        kind, ("model", "input_layernorm", "norm"))
    into = w[f"{root}.{dict(gpt_neox='embed_in', gpt2='wte').get(kind, 'embed_tokens')}.weight"]
    out = w["embed_out.weight" if "embed_out.weight" in w else "lm_head.weight"].T
    found = np.zeros((LAYERS, HEADS))
    for layer, head in np.ndindex(LAYERS, HEADS):
        block = f"{root}.{'h' if kind == 'gpt2' else 'layers'}.{layer}"
        if kind == "gpt2":
            v, o, d = matrix(f"{block}.attn.c_attn")[:, 2*HIDDEN:], matrix(f"{block}.attn.c_proj"), HIDDEN//HEADS
            v = v[:, head*d:(head + 1)*d]
        elif kind == "gpt_neox":
            fused, o, d = matrix(f"{block}.attention.query_key_value"), matrix(f"{block}.attention.dense"), HIDDEN//HEADS
            v = fused[:, head*3*d + 2*d:(head + 1)*3*d]
        else:
            o = matrix(f"{block}.self_attn.o_proj")
            d, shared = len(o)//HEADS, head//2 # two heads share a value head
            v = matrix(f"{block}.self_attn.v_proj")[:, shared*d:(shared + 1)*d]
        circuit = into @ norm(f"{block}.{first}") @ v @ o[head*d:(head + 1)*d] @ norm(f"{root}.{last}") @ out
        assert circuit.shape == (VOCABULARY, VOCABULARY)
        eigenvalues = np.linalg.eigvals(circuit)
        found[layer, head] = eigenvalues.sum().real/np.abs(eigenvalues).sum()
    return found


@pytest.mark.parametrize("fold_norms", [True, False])
def test_positivity_is_that_of_the_full_matrix(exact, fold_norms):
    """In double precision. The V × V matrix has V − d_head eigenvalues that are zero but for rounding, about 1e-16 of the largest;
    a defective zero comes out as the root of that, so |λ| sums to what it should within about 1e-7."""
    expected = dense(exact, fold_norms)
    np.testing.assert_allclose(eigenvalue_positivity(exact, fold_norms), expected, atol=1e-6)
    assert expected.std() > .05 and np.abs(expected - dense(exact, not fold_norms)).max() > .01, "heads and foldings differ"


def test_single_and_half_precision_are_near(exact):
    "Eigenvalues of a matrix that is not normal move by more than its entries do: five digits of fp32 and one of bfloat16 are left."
    whole = eigenvalue_positivity(exact)
    np.testing.assert_allclose(eigenvalue_positivity(copy.deepcopy(exact).float()), whole, atol=1e-4)
    half = copy.deepcopy(exact).bfloat16()
    np.testing.assert_allclose(eigenvalue_positivity(half), whole, atol=.06)
    np.testing.assert_allclose(eigenvalue_positivity(half), eigenvalue_positivity(half.float()), atol=1e-9)


def test_folding_is_multiplying_the_gains_into_the_weights():
    folded = build("llama", torch.float64)
    for block in folded.model.layers:
        block.self_attn.v_proj.weight.data *= block.input_layernorm.weight
        block.input_layernorm.weight.data.fill_(1)
    folded.lm_head.weight.data *= folded.model.norm.weight
    folded.model.norm.weight.data.fill_(1)
    expected = eigenvalue_positivity(build("llama", torch.float64))
    for fold in (True, False): np.testing.assert_allclose(eigenvalue_positivity(folded, fold), expected, atol=1e-9)


def test_a_layer_norm_takes_the_mean_away():
    "So a constant added to the embeddings changes nothing, as it changes nothing in what the head reads."
    plain, moved = build("gpt2", torch.float64), build("gpt2", torch.float64)
    moved.transformer.wte.weight.data += 3*torch.randn(VOCABULARY, 1, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(eigenvalue_positivity(moved), eigenvalue_positivity(plain), atol=1e-9)
    assert (eigenvalue_positivity(moved, False) - eigenvalue_positivity(plain, False)).abs().max() > .05


def test_signs_bounds_and_heads_that_write_nothing(exact):
    positivity, adapter = eigenvalue_positivity(exact), adapters[exact.config.model_type]
    assert positivity.abs().max() <= 1 and positivity.shape == (LAYERS, HEADS) and positivity.dtype == torch.float64
    outputs = [block.get_submodule(adapter.output).weight for block in exact.base_model.get_submodule(adapter.blocks)]
    outputs[0].data *= -3
    outputs[1].data *= 0
    np.testing.assert_allclose(eigenvalue_positivity(exact)[0], -positivity[0], atol=1e-9)
    assert (eigenvalue_positivity(exact)[1] == 0).all()


def test_a_head_that_copies_every_token_has_one():
    model = initialise(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES | dict(num_attention_heads=1))), std=.1)
    model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
    for block, sign in zip(model.model.layers, (1, -1)):
        block.self_attn.v_proj.weight.data, block.self_attn.o_proj.weight.data = torch.eye(HIDDEN), sign*torch.eye(HIDDEN)
    np.testing.assert_allclose(eigenvalue_positivity(model), [[1], [-1]], atol=1e-5)


# ---- the score ----

def circuit(symbols=12, length=20):
    "GPT-2 with an induction circuit put in by hand: head 0.1 notes the token before, head 1.2 finds that note and copies; as on the lens's page."
    token, position, before, copied = (slice(i, i + n) for i, n in ((0, symbols), (12, length), (36, symbols), (60, symbols)))
    model = initialise(AutoModelForCausalLM.from_config(GPT2Config(
        vocab_size=symbols, n_positions=length, n_embd=96, n_layer=2, n_head=4, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None)), std=.01).eval()
    gpt2 = model.transformer

    def place(layer, head, part, rows, strength, shift=0):
        columns = slice((4*part + head)*24, (4*part + head)*24 + rows.stop - rows.start)
        gpt2.h[layer].attn.c_attn.weight.data[rows, columns] += strength*torch.eye(rows.stop - rows.start).roll(shift, 1)

    def write(layer, head, rows, strength):
        gpt2.h[layer].attn.c_proj.weight.data[head*24:head*24 + rows.stop - rows.start, rows] += strength*torch.eye(rows.stop - rows.start)

    gpt2.wte.weight.data[:, token] += torch.eye(symbols)
    gpt2.wpe.weight.data[:, position] += torch.eye(length)
    model.lm_head.weight.data[:, copied] += 5*torch.eye(symbols)
    place(0, 1, 0, position, 6, shift=-1), place(0, 1, 1, position, 1), place(0, 1, 2, token, 1), write(0, 1, before, .25)
    place(1, 2, 0, token, 6), place(1, 2, 1, before, 1), place(1, 2, 2, token, 1), write(1, 2, copied, .25)
    return model


def test_a_circuit_made_by_hand_is_found():
    rows = induction_scores(circuit(), s=10)
    score, previous = values(rows, "induction_score"), values(rows, "previous_token")
    assert score[1, 2] > .9 and previous[0, 1] > .9
    others = np.arange(8).reshape(2, 4) != 4 + 2, np.arange(8).reshape(2, 4) != 1
    assert np.abs(score[others[0]]).max() < .1 and previous[others[1]].max() < .3


def test_rows_are_tidy_and_the_score_is_the_product(model):
    rows = induction_scores(model, s=8, n_samples=3)
    assert [tuple(row) for row in rows] == [("layer", "head", "metric", "value")]*len(rows)
    metrics = "attention", "eigenvalue_positivity", "induction_score", "previous_token"
    assert [(r["layer"], r["head"], r["metric"]) for r in rows] == list(product(range(LAYERS), range(HEADS), metrics))
    assert {type(row["value"]) for row in rows} == {float} and {type(row["layer"]) for row in rows} == {int}
    attention, positivity = values(rows, "attention"), values(rows, "eigenvalue_positivity")
    np.testing.assert_array_equal(values(rows, "induction_score"), attention*positivity)
    np.testing.assert_array_equal(positivity, eigenvalue_positivity(model))
    bare = induction_scores(model, s=8, n_samples=3, fold_norms=False)
    np.testing.assert_array_equal(values(bare, "eigenvalue_positivity"), eigenvalue_positivity(model, False))
    np.testing.assert_array_equal(values(bare, "attention"), attention)


def test_it_is_a_probe_and_always_says_the_same(model):
    probe, context = partial(induction_scores, s=8, n_samples=3), SimpleNamespace(config=None, stream=None, step=3, tokens=4, device="cpu")
    assert probe(model, context) == probe(model) == probe(torch.nn.DataParallel(model), context)
    assert induction_scores(model, s=8, n_samples=3, seed=1) != probe(model)


def test_special_tokens_are_never_shown(model):
    shown = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    model.config.eos_token_id, model.config.pad_token_id = [1, 2], 3
    induction_scores(model, s=9, n_samples=30, special=(0, 7))
    assert set(torch.cat(shown).unique().tolist()) == set(range(VOCABULARY)) - {0, 1, 2, 3, 7}
    with pytest.raises(InputError, match=f"s = 11: must be from 3 to 10: .*2 × 20 tokens, and 10 of"):
        induction_scores(model, s=11, special=range(15 + 4))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("ask", [lambda m: induction_scores(m, s=8), lambda m: icl_score(m, repeated_sequences(VOCABULARY, 15))])
def test_the_model_is_left_as_found(model, implementation, ask):
    model.set_attn_implementation(implementation)
    quiet = ask(model)
    model.train()
    list(model.modules())[3].eval()
    modes, weights, random = [m.training for m in model.modules()], copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert ask(model) == quiet, "dropout is off inside"
    assert [m.training for m in model.modules()] == modes and model.config._attn_implementation == implementation
    assert all(torch.equal(w, model.state_dict()[k]) for k, w in weights.items()) and torch.equal(random, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()) and torch.is_grad_enabled()


# ---- in-context learning ----

def losses(model, ids):
    "Of every token but the first, from all the logits: (batch, position − 1)."
    with torch.no_grad(): logits = model(input_ids=ids).logits[:, :-1].double()
    return -logits.log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0].numpy()


def told(rows): return {row["metric"]: row["value"] for row in rows}


def test_icl_score_is_the_difference_of_two_losses(model):
    ids = torch.randint(VOCABULARY, (6, 32), generator=torch.Generator().manual_seed(0))
    of = losses(model, ids).mean(0) # of token t at t − 1
    for early, late, window in ((1, 2, 1), (3, 31, 1), (4, 20, 3), (5, 31, 5), (16, 31, 15)):
        found = told(icl_score(model, ids, early, late, window))
        first, last = of[early - window:early].mean(), of[late - window:late].mean()
        np.testing.assert_allclose([found["early"], found["late"], found["icl_score"]], [first, last, last - first], atol=1e-5)
    assert told(icl_score(model, ids)) == told(icl_score(model, ids, early=3, late=31))
    assert list(told(icl_score(model, ids.tolist()))) == ["early", "late", "icl_score"]


def test_the_papers_positions_and_only_the_scored_logits():
    model, shapes = llama(VOCABULARY, 16, 16, 1, 2, 1024, std=.5), []
    model.lm_head.register_forward_hook(lambda _, args, out: shapes.append(tuple(out.shape)))
    ids = torch.randint(VOCABULARY, (9, 512), generator=torch.Generator().manual_seed(0))
    assert icl_score(model, ids) == icl_score(model, ids, early=50, late=500)
    assert {shape[1:] for shape in shapes} == {(2, VOCABULARY)} and sum(shape[0] for shape in shapes) == 2*9
    of = losses(model, ids).mean(0)
    found = told(icl_score(model, ids))
    np.testing.assert_allclose([found["early"], found["late"]], [of[49], of[499]], atol=1e-5)
    assert icl_score(model, ids) == icl_score(torch.nn.DataParallel(model), ids)
    assert told(icl_score(model, ids[:, :64]))["late"] == told(icl_score(model, ids[:, :64], 6, 62))["late"]


def test_the_circuit_gains_from_its_context():
    ids = torch.as_tensor(repeated_sequences(12, 10, 64))
    assert told(icl_score(circuit(), ids, early=5, late=15))["icl_score"] < -.5


# ---- figures ----

def made(layers, heads, steps):
    return pd.DataFrame([dict(step=step, layer=layer, head=head, metric=metric, value=layer/layers)
                         for step, layer, head, metric in product(steps, range(layers), range(heads), induction._metrics)])


@pytest.mark.parametrize("layers, heads, rows", [(2, 2, 4), (1, 1, 1), (12, 12, 12)])
def test_figures_show_the_table(layers, heads, rows):
    table = made(layers, heads, range(0, 900, 100))
    fig = scores_figure(table)
    panels = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [name.replace("_", " ") for name in induction._metrics]
    assert panels[0].images[0].get_array().shape == (rows, 9) and len(panels[0].get_yticks()) == rows
    np.testing.assert_allclose(panels[-1].images[0].get_array()[-1], (layers - 1)/layers)
    fig = heads_figure(table)
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == ["step 0", "step 200", "step 500", "step 800"]
    assert fig.axes[0].images[0].get_array().shape == (layers, heads)
    assert len(heads_figure(table, steps=[100]).axes) == 2 # and the colour bar


def test_a_layer_is_its_best_head_or_its_mean():
    table = made(12, 12, [0])
    table.loc[(table.layer == 3) & (table["head"] == 5), "value"] = 1
    drawn = [scores_figure(table, ("attention",), per_layer).axes[0].images[0].get_array()[3, 0] for per_layer in ("max", "mean")]
    np.testing.assert_allclose(drawn, [1, (11*.25 + 1)/12])


def test_the_stripe_is_marked_where_it_is():
    s = 6
    fig = stripe_figure({"a": np.eye(2*s), "b": np.eye(2*s)})
    lines = fig.axes[1].lines
    induction_keys, induction_queries = np.mean([line.get_data() for line in lines[:2]], 0)
    assert induction_keys.tolist() == [1, s - 1] and np.allclose(induction_queries, [s, 2*s - 2])
    keys, queries = np.mean([line.get_data() for line in lines[2:]], 0)
    assert keys.tolist() == [0, s - 2] and np.allclose(queries, [1, s - 1])


# ---- mistakes ----

IDS = torch.zeros(2, 32, dtype=torch.long)
MISTAKES = {
    "beyond the context": (lambda m: induction_scores(m, s=21), r"s = 21: must be from 3 to 20: the model's context holds 2 × 20 tokens"),
    "the default beyond it": (lambda m: induction_scores(m), "s = 100: must be from 3 to 20"),
    "too short": (lambda m: induction_scores(m, s=2), "s = 2: must be from 3 to 20"),
    "no samples": (lambda m: induction_scores(m, s=8, n_samples=0), "n_samples = 0"),
    "no tokens": (lambda m: induction_scores(m, s=8, special=range(26)), "s = 8: must be from 3 to 3"),
    "length for context": (lambda m: induction_scores(m, 8), "context = 8: .* s = 8"),
    "early": (lambda m: icl_score(m, IDS, early=0), "early = 0, late = 31, window = 1"),
    "late": (lambda m: icl_score(m, IDS, late=32), "late ≤ 31, the last of 32 positions"),
    "wrong order": (lambda m: icl_score(m, IDS, 20, 10), "early = 20, late = 10"),
    "window over the start": (lambda m: icl_score(m, IDS, 3, 31, 4), "window = 4"),
    "windows overlap": (lambda m: icl_score(m, IDS, 10, 14, 5), "window ≤ early ≤ late − window"),
    "no window": (lambda m: icl_score(m, IDS, window=0), "window = 0"),
    "no positions": (lambda m: icl_score(m, IDS[:, :4]), "the last of 4 positions"),
    "one row": (lambda m: icl_score(m, IDS[0]), r"input_ids: .* \(batch, position\)"),
    "unknown token": (lambda m: icl_score(m, IDS + VOCABULARY), "input_ids: must be from 0 to 28"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_before_the_model_runs(mistake):
    (wrong, says), ran, model = MISTAKES[mistake], [], build("gpt_neox")
    model.base_model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(InputError, match=says) as raised: wrong(model)
    assert "\n" not in str(raised.value) and not ran


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("ask", [lambda m: induction_scores(m, s=8), lambda m: icl_score(m, IDS)])
def test_a_model_that_has_diverged(model, ask, bad):
    list(model.parameters())[-1].data.view(-1)[3] = bad
    with pytest.raises(InputError, match="not finite"): ask(model)


def test_attention_that_overflows():
    model = build("llama")
    for name in ("q_proj", "k_proj"): model.model.layers[0].self_attn.get_submodule(name).weight.data *= 1e20 # finite, their product is not
    with pytest.raises(InputError, match="attention holds numbers that are not finite"): induction_scores(model, s=8)


@pytest.mark.parametrize("name", ["llama", "starcoder2", "gpt_neox", "gpt2"])
def test_a_model_without_causal_mask(name):
    model = build(name)
    model.config.is_causal = False
    with pytest.raises(InputError, match="causal mask is needed"): induction_scores(model, s=8)


def test_an_architecture_without_adapter():
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=30, hidden_size=16, n_layer=1, n_head=2))
    for ask in (partial(induction_scores, s=8), eigenvalue_positivity):
        with pytest.raises(InputError, match="no adapter for 'bloom'; it has for"): ask(model)


def test_mistakes_about_sequences_and_figures():
    for wrong, says in ((lambda: repeated_sequences(10, 11), "s = 11: must be from 1 to 10"), (lambda: repeated_sequences(10, 0), "s = 0"),
                        (lambda: scores_figure(made(2, 2, [0]), ["induction score"]), "did you mean 'induction_score'"),
                        (lambda: scores_figure(made(2, 2, [0]).assign(run=["a"]*8 + ["b"]*8)), "the table holds 2"),
                        (lambda: scores_figure(made(2, 2, [0]), per_layer="best"), "per_layer: 'best' is unknown"),
                        (lambda: heads_figure(made(2, 2, [0]).drop(columns="step")), "needs a column 'step'"),
                        (lambda: heads_figure(made(2, 2, [0]), "atention"), "did you mean 'attention'"),
                        (lambda: heads_figure(made(2, 2, [0, 10]), steps=[5]), "5")):
        with pytest.raises(InputError, match=says): wrong()
