"The copy test against slow definitions: what is drawn, what is asked, one row with branches against plain rows and real generation."
import os
import subprocess
import sys
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM, GenerationConfig, GPT2Config, GPTNeoXConfig, LlamaConfig,
                          MistralConfig, PreTrainedTokenizerFast, Starcoder2Config, T5Config, T5ForConditionalGeneration)

from grok_nb import InputError
from grok_nb.copying.copy_test import CopyTest, _distinct, _layout, copier, copy_figure, drawable_tokens, methods, tree_figure
from grok_nb.models import branches_are_exact, logits_at, tree_inputs
from grok_nb.probes import fingerprint, measure
from grok_nb.streams import rng

VOCABULARY, CONTEXT = 5, 64
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CONTEXT)
NONE = dict(bos_token_id=None, eos_token_id=None)
CONFIGS = dict(
    llama=LlamaConfig(**SIZES), # its end-of-text token, 2, is one of the alphabet
    grouped=LlamaConfig(**SIZES, num_key_value_heads=2, **NONE),
    starcoder2=Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=None, **NONE),
    gpt_neox=GPTNeoXConfig(**SIZES, rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=.5), **NONE),
    gpt2=GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **NONE))
BRANCHED = sorted(CONFIGS)
WINDOWS = dict(window=Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=9, **NONE),
               mistral=MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=9, **NONE))
FOREIGN = "qwen3 gemma3_text phi cohere stablelm olmo2 mixtral bloom opt helium".split()


def built(config, dtype=torch.float32):
    "A model with every weight, bias and norm drawn at random."
    model, generator = AutoModelForCausalLM.from_config(config), torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=generator)*(.1 if p.ndim == 1 else .6) + (p.ndim == 1 and name.endswith("weight"))
    return model.to(dtype).eval()


def foreign(name):
    "A small model of any architecture of transformers."
    wanted = dict(SIZES, num_key_value_heads=2, head_dim=8, n_layer=2, n_head=4, ffn_dim=48,
                  word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    default = AutoConfig.for_model(name)
    return built(type(default)(**{k: v for k, v in wanted.items() if k in default.to_dict() or k in default.attribute_map}))


def first_mistake(test, answers): return (answers == test.asked[:, :, test.prefix:]).cumprod(-1).sum(-1)


@pytest.fixture(scope="module")
def test(): return CopyTest(VOCABULARY, n_sequences=5, prefix=4, suffix=2, n_samples=60, every=1)


# ---- what is drawn ----

@settings(max_examples=60)
@given(st.integers(2, 40_000), st.integers(1, 14), st.integers(1, 60), st.integers(0, 99))
def test_distinct_sequences_are_distinct(symbols, length, count, seed):
    count = min(count, symbols**length)
    found = _distinct(rng(seed), symbols, count, length)
    assert found.shape == (count, length) and found.dtype == np.int64 and found.min() >= 0 and found.max() < symbols
    assert len(np.unique(found, axis=0)) == count


def test_every_symbol_is_drawn_alike_in_every_place():
    found = np.stack([_distinct(rng(seed), 3, 8, 5) for seed in range(2000)])
    shares = np.stack([(found == symbol).mean((0, 1)) for symbol in range(3)])
    assert np.abs(shares - 1/3).max() < 5*(2/9/16_000)**.5


@pytest.mark.parametrize("options", [dict(vocab_size=32_000), dict(vocab_size=3, n_sequences=9, prefix=3, suffix=2, every=3),
                                     dict(vocab_size=40, n_sequences=16, prefix=2, suffix=1, every=2, alphabet="hex", special=(0, 7))], ids=str)
def test_a_sample(options):
    test = CopyTest(**options, n_samples=30)
    assert test.sequences.shape == (30, test.n_sequences, test.prefix + test.suffix)
    for sample in test.sequences:
        assert len(np.unique(sample[:, :test.prefix], axis=0)) == len(np.unique(sample[:, test.prefix:], axis=0)) == test.n_sequences
    assert not set(options.get("special", ())) & set(np.unique(test.contexts)) and np.isin(test.contexts, test.tokens).all()
    lines = test.contexts.reshape(30, test.n_sequences, test.each)
    assert (lines[:, :, :test.prefix + test.suffix] == test.sequences).all()
    assert (lines[:, :, test.prefix + test.suffix:] == test.newline).all() and len(test.newline) == (test.alphabet == "hex")
    assert not np.isin(test.sequences, test.newline).any() and len(test.symbols) == (16 if test.alphabet == "hex" else len(test.tokens))
    assert test.queried.tolist() == [i for i in range(1, test.n_sequences + 1) if i % test.every == 0]
    assert (test.asked == test.sequences[:, [i - 1 for i in test.queried]]).all()


def test_sequences_depend_on_the_seed_and_the_options_alone():
    first = CopyTest(64, 5, 5, 3, 10, 1)
    np.random.seed(5); torch.manual_seed(5)
    assert (CopyTest(64, 5, 5, 3, 10, 1).sequences == first.sequences).all() and (CopyTest(64, 5, 5, 3, 4, 5).sequences == first.sequences[:4]).all()
    assert (CopyTest(64, 5, 5, 3, 10, 1, seed=1).sequences != first.sequences).mean() > .9
    assert (first.sequences[0] != first.sequences[1]).mean() > .9


def tokenizer(names, special, **more):
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=special[0]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=special[0], eos_token=special[-1], **more)


@pytest.mark.parametrize("newline", ["\n", "Ċ", "<0x0A>"])
def test_tokens_of_a_tokenizer(newline):
    names = ["<unk>", newline, *"zyxfedcba9876543210", "</s>"]
    t = tokenizer(names, ["<unk>", "</s>"], extra_special_tokens=["<|reserved|>"])
    assert drawable_tokens(100, tokenizer=t).tolist() == list(range(1, 21)) # neither specials nor the rows beyond the tokenizer
    assert drawable_tokens(100, tokenizer=t, special=(3,)).tolist() == [1, 2, *range(4, 21)]
    assert drawable_tokens(12, tokenizer=t).tolist() == list(range(1, 12)) # nor what the model has no row for
    assert drawable_tokens(100, "hex", t).tolist() == [names.index(c) for c in "0123456789abcdef"] + [1]
    with pytest.raises(InputError, match="no token for '0', '1'"): drawable_tokens(19, "hex", t)
    with pytest.raises(InputError, match="no token for '5'"): drawable_tokens(100, "hex", t, special=(names.index("5"),))
    with pytest.raises(InputError, match="^tokenizer: leaves 0 of 1 "): drawable_tokens(1, tokenizer=t)
    assert CopyTest(100, 3, 4, 2, 1, 1, alphabet="hex", tokenizer=t).text().count("\n") == 3


def test_a_reserved_token_is_not_drawn():
    from tokenizers import AddedToken
    t = tokenizer(["<unk>", "a", "b", "c"], ["<unk>", "<unk>"])
    t.add_tokens([AddedToken("<|later|>", special=True), AddedToken("word", special=False)])
    assert t.convert_tokens_to_ids("<|later|>") == 4 and 4 not in t.all_special_ids
    assert drawable_tokens(6, tokenizer=t).tolist() == [1, 2, 3, 5]


def test_text_reads_as_the_sample():
    test = CopyTest(17, 4, 6, 2, 3, 2, alphabet="hex")
    *lines, query = test.text(sample=1, number=4).split("\n")
    digits = np.array([[int(c, 16) for c in line.replace(" ", "")] for line in lines])
    assert (digits == test.sequences[1]).all() and query == lines[3][:6] + "  ?"
    assert CopyTest(9, 3, 2, 2, 1, 1).text().split("\n")[-1].endswith("  ?")


# ---- chance ----

def test_chance_is_what_guessing_scores():
    test, generator = CopyTest(4, n_sequences=6, prefix=3, suffix=2, n_samples=4000, every=2), rng(0)
    wanted = test.asked[:, :, 3:]
    tokens = generator.integers(4, size=wanted.shape)
    suffixes = test.sequences[np.arange(4000)[:, None], generator.integers(6, size=wanted.shape[:2]), 3:]
    chance = test.chance()
    for kind, guess in dict(chance=tokens, any_suffix=suffixes).items():
        right = guess == wanted
        assert chance[f"{kind}_exact"] == pytest.approx(right.all(-1).mean(0), abs=.03), kind
        assert chance[f"{kind}_token"] == pytest.approx(right.mean((0, 2)), abs=.03), kind


def test_ambiguity_by_counting():
    test = CopyTest(20, n_sequences=6, prefix=4, suffix=2, n_samples=5, every=3, alphabet="hex")
    for row in test.ambiguity(3):
        m, elsewhere = row["tokens"], []
        for sample in range(5):
            for number in test.queried:
                query = test.sequences[sample, number - 1, :4]
                read = [*test.contexts[sample], *query]
                right = (number - 1)*test.each + 4 - m # where it stands in the context
                elsewhere.append(sum(read[i:i + m] == list(query[-m:]) for i in range(len(read) - m) if i != right))
        assert row["elsewhere"] == pytest.approx(np.mean(elsewhere)) and row["unique"] == pytest.approx(np.mean(np.array(elsewhere) == 0))


def test_the_alphabets_at_the_size_of_the_paper():
    hexadecimal, vocabulary = (CopyTest(32_000, alphabet=a, n_samples=50).ambiguity(3) for a in ("hex", "vocabulary"))
    for row, expected in zip(hexadecimal, (911/16, 861/256, 811/4096)): assert row["elsewhere"] == pytest.approx(expected, rel=.1)
    assert vocabulary[0]["unique"] > .95


# ---- a row with branches ----

@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 4), min_size=1, max_size=3)), min_size=1, max_size=3))
def test_tree_inputs_by_definition(rows):
    "Trunks and branches of any length, padded behind."
    longest = max(trunk + sum(branches) for trunk, branches in rows)
    whose = [[0]*trunk + [k + 1 for k, n in enumerate(branches) for _ in range(n)] for trunk, branches in rows]
    tree = tree_inputs([w + [-1]*(longest - len(w)) for w in whose], torch.float64)
    assert tree["attention_mask"].shape == (len(rows), 1, longest, longest) and tree["attention_mask"].dtype == torch.float64
    for i, w in enumerate(whose):
        for query in range(len(w)):
            path = [key for key in range(query + 1) if w[key] in (0, w[query])]
            assert (tree["attention_mask"][i, 0, query] == 0).nonzero().ravel().tolist() == path
            assert tree["position_ids"][i, query] == len(path) - 1
    assert torch.isfinite(tree["attention_mask"]).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BRANCHED)
def test_branches_give_the_logits_of_rows(name, attention, test):
    "Also in a row that is longer than the model's table of positions, and cut down to the scored places."
    long = CopyTest(VOCABULARY, n_sequences=6, prefix=5, suffix=3, n_samples=4, every=1)
    exact = 1e-9 if attention == "sdpa" else 1e-4 # eager has a softmax in fp32
    model = built(CONFIGS[name], torch.float64)
    model.set_attn_implementation(attention)
    whose, scored = _layout(long)
    assert whose.size > CONTEXT >= long.longest
    ids = torch.as_tensor(np.hstack([long.contexts, long.asked[:, :, :-1].reshape(4, -1)]))
    with torch.no_grad():
        together = logits_at(model, torch.as_tensor(scored.ravel()), input_ids=ids, **tree_inputs(whose, torch.float64)).unflatten(1, scored.shape)
        for q in range(6):
            alone = model(input_ids=torch.as_tensor(np.hstack([long.contexts, long.asked[:, q, :-1]]))).logits[:, -3:]
            torch.testing.assert_close(together[:, q], alone, rtol=exact, atol=exact)


@pytest.mark.parametrize("name", FOREIGN)
def test_logits_at_of_other_architectures(name):
    "Their keys may be normalised, or rotated in part: the last block is then run whole."
    model, ids = foreign(name), torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): torch.testing.assert_close(logits_at(model, [3, 7, -1], input_ids=ids), model(input_ids=ids).logits[:, [3, 7, -1]])


# ---- three ways to ask ----

@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*BRANCHED, *WINDOWS])
def test_three_ways_one_verdict(name, attention, test):
    model = built((CONFIGS | WINDOWS)[name])
    model.set_attn_implementation(attention)
    answers = {method: test.answers(model, method) for method in methods}
    right = first_mistake(test, answers["rows"])
    assert branches_are_exact(model, test.longest) == (name in CONFIGS)
    assert set(np.unique(right)) == {0, 1, 2} and len(np.unique(answers["rows"])) > 2, "verdicts of every kind"
    assert (answers["teacher"] == answers["rows"]).all() and (first_mistake(test, answers["generate"]) == right).all()
    assert (answers["generate"][..., 0] == answers["rows"][..., 0]).all() # before any mistake they are asked the same


@pytest.mark.parametrize("method", ["teacher", "rows"])
def test_answers_by_definition(method, test):
    "Sample by sample and query by query, the whole of the logits."
    model, said = built(CONFIGS["grouped"]), []
    for sample in range(10):
        for number in test.queried:
            row = torch.as_tensor([*test.contexts[sample], *test.sequences[sample, number - 1]])
            with torch.no_grad(): said.append(model(input_ids=row[None]).logits[0, -3:-1].argmax(-1))
    assert (test.answers(model, method)[:10].reshape(-1, 2) == torch.stack(said).numpy()).all()


def test_a_window_needs_rows_of_its_own(test, monkeypatch):
    "What the fallback is good for: a mask of one's own undoes the window."
    model = built(WINDOWS["window"])
    rows = test.answers(model, "rows")
    monkeypatch.setattr("grok_nb.copying.copy_test.branches_are_exact", lambda *_: True)
    assert (test.answers(model) != rows).mean() > .05
    monkeypatch.undo()
    wide = built(Starcoder2Config(**SIZES | dict(num_key_value_heads=2), sliding_window=test.longest, **NONE))
    assert branches_are_exact(wide, test.longest) and (test.answers(wide) == test.answers(wide, "rows")).all()
    assert not branches_are_exact(built(WINDOWS["mistral"]), test.longest)


def test_a_copier_is_right_where_one_place_tells():
    test, model = CopyTest(500, n_sequences=8, prefix=6, suffix=4, n_samples=60, every=2), copier(500, 128)
    answers = {method: test.answers(model, method) for method in methods}
    right = answers["rows"] == test.asked[:, :, 6:]
    places = (test.contexts[:, None, None] == test.asked[:, :, 5:-1, None]).sum(-1)
    assert right[places == 1].all() and .2 < right[places > 1].mean() < .8 and .5 < right.all(-1).mean() < .95
    assert (answers["teacher"] == answers["rows"]).all()
    assert (first_mistake(test, answers["generate"]) == right.cumprod(-1).sum(-1)).all()
    mistaken = ~right.all(-1)
    assert (answers["generate"][mistaken] != answers["rows"][mistaken]).any(), "after a mistake generation goes another way"


def test_equal_logits_go_to_the_first_token(test):
    model = built(CONFIGS["llama"])
    for p in model.parameters(): p.data.zero_()
    for method in methods: assert (test.answers(model, method) == 0).all(), method
    rows = pd.DataFrame(test.accuracy(model)).query("position == 'mean'").set_index("metric").value
    assert rows.token == pytest.approx((test.asked[:, :, 4:] == 0).mean()) and rows.exact == pytest.approx((test.asked[:, :, 4:] == 0).all(-1).mean())


@pytest.mark.parametrize("name", BRANCHED)
def test_near_ties_in_bf16(name, test):
    "Verdicts may differ only where the two best logits are nearly equal."
    model = built(CONFIGS[name], torch.bfloat16)
    differ = test.answers(model) != test.answers(model, "rows")
    assert differ.mean() < .1
    for sample, query, place in np.argwhere(differ):
        row = torch.as_tensor([*test.contexts[sample], *test.asked[sample, query, :4 + place]])[None]
        with torch.no_grad(): best = model(input_ids=row).logits[0, -1].float().topk(2).values
        assert best[0] - best[1] < .05*max(1, best.abs().max())


def test_under_autocast(test):
    model = built(CONFIGS["grouped"])
    with torch.autocast("cpu", torch.bfloat16): said = test.answers(model), test.answers(model, "rows")
    assert (said[0] == said[1]).mean() > .9 and (said[0] == test.answers(model)).mean() > .8


def test_what_a_checkpoint_brings_along_changes_nothing(test):
    "Neither its settings of generation nor dropout nor the mode it is in; and all of it is there afterwards."
    config = LlamaConfig(**SIZES, attention_dropout=.5)
    model, plain = built(config), built(CONFIGS["llama"])
    brought = GenerationConfig(repetition_penalty=50.0, do_sample=True, temperature=9.0, eos_token_id=[0, 1], no_repeat_ngram_size=1, max_length=3)
    model.generation_config = brought
    model.train(); model.model.layers[1].eval()
    for method in methods:
        assert (test.answers(model, method) == test.answers(plain, method)).all(), method
        assert model.generation_config is brought and model.training and not model.model.layers[1].training
    model.lm_head.weight.data[0, 0] = float("nan")
    for method in methods:
        with pytest.raises(InputError, match="NaN"): test.answers(model, method)
        assert model.generation_config is brought and model.training


@pytest.mark.parametrize("method", methods)
def test_passes_are_bounded(method, test):
    "No pass is larger than asked for, and logits are made at the suffixes alone."
    model = built(CONFIGS["grouped"])
    passes, unembedded = [], []
    model.register_forward_pre_hook(lambda _, args, kwargs: passes.append(kwargs["input_ids"].numel()), with_kwargs=True)
    model.lm_head.register_forward_pre_hook(lambda _, args: unembedded.append(args[0][..., 0].numel()))
    whole = test.answers(model, method)
    passes.clear(); unembedded.clear()
    assert (test.answers(model, method, tokens_per_pass=200) == whole).all()
    assert max(passes) <= 200 and sum(unembedded[2:]) == 60*5*2
    if method != "generate": assert (test.answers(model, method, tokens_per_pass=1) == whole).all()


def test_inside_a_wrapper(test):
    class Wrapper(torch.nn.Module): # as DistributedDataParallel holds a model
        def __init__(self, module): super().__init__(); self.module = module
        def forward(self, **inputs): return self.module(**inputs)
    model = built(CONFIGS["llama"])
    for method in methods: assert (test.answers(Wrapper(model), method) == test.answers(model, method)).all()


# ---- rows, probe, figures ----

def test_rows_are_tidy(test):
    model, rows = built(CONFIGS["gpt2"]), None
    for method in methods:
        right = test.answers(model, method) == test.asked[:, :, 4:]
        rows = test.accuracy(model, method)
        table = pd.DataFrame(rows)
        assert list(table.columns) == ["position", "distance", "metric", "value"] and not table.duplicated(["position", "metric"]).any()
        wide = table.pivot(index="position", columns="metric", values="value")
        assert set(wide.columns) == {"exact", "token", "chance_exact", "chance_token", "any_suffix_exact", "any_suffix_token"}
        for k, number in enumerate(test.queried):
            assert wide.exact[str(number)] == pytest.approx(right[:, k].all(-1).mean())
            assert wide.token[str(number)] == pytest.approx(right[:, k].mean())
        assert wide.exact["mean"] == pytest.approx(right.all(-1).mean())
        assert wide.chance_exact["mean"] == 5**-2 and wide.any_suffix_exact["mean"] == 1/5
    assert test(model, object(), method="generate") == rows
    row = [*test.contexts[0], *test.asked[0, 1]] # the second sequence: its suffix, and where it is asked for
    distance = table[table.position == "2"].distance.iloc[0]
    asked_at, stands_at = len(row) - 2, test.each + 4
    assert distance == asked_at - stands_at and row[asked_at:] == row[stands_at:stands_at + 2]


def test_measured_once_and_continued(tmp_path, monkeypatch):
    test = CopyTest(64, 5, 5, 3, 8, 1)
    for step in (0, 10, 20): copier(64, 64, seed=step).save_pretrained(tmp_path/f"toy/step{step}")
    calls, whole = [], CopyTest.accuracy
    def interrupted(self, model, **how):
        if len(calls) == 1: calls.append("stop"); raise KeyboardInterrupt
        calls.append("asked")
        return whole(self, model, **how)
    monkeypatch.setattr(CopyTest, "accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt): measure(tmp_path/"toy", dict(copy=test), tmp_path/"tables")
    assert set(pd.read_parquet(tmp_path/"tables"/"copy.parquet").step) == {0}
    table = measure(tmp_path/"toy", dict(copy=CopyTest(64, 5, 5, 3, 8, 1)), tmp_path/"tables")
    assert calls == ["asked", "stop", "asked", "asked"] and set(table.step) == {0, 10, 20}
    monkeypatch.undo()
    expected = pd.DataFrame(test.accuracy(copier(64, 64, seed=20)))
    pd.testing.assert_frame_equal(table[table.step == 20][list(expected)].reset_index(drop=True), expected, check_dtype=False)


def test_fingerprints_tell_tests_apart():
    t = tokenizer(["<unk>", *"abcdefgh"], ["<unk>", "<unk>"])
    options = dict(vocab_size=20, n_sequences=4, prefix=4, suffix=3, n_samples=10, every=2)
    changes = ({}, dict(vocab_size=21), dict(n_sequences=5), dict(prefix=5), dict(suffix=4), dict(n_samples=11), dict(every=1), dict(seed=1),
               dict(alphabet="hex"), dict(special=(3,)), dict(special=(4,)), dict(tokenizer=t))
    tests = [CopyTest(**options | change) for change in changes]
    assert len({fingerprint(test) for test in tests}) == len({fingerprint(partial(test, method="rows")) for test in tests}) == len(tests)
    assert fingerprint(tests[0]) == fingerprint(CopyTest(**options)) != fingerprint(partial(tests[0], method="rows"))
    assert len(repr(tests[0])) < 200


def test_figures(test):
    before = len(plt.get_fignums())
    rows = {f"step {i}": test.accuracy(built(CONFIGS["gpt2"])) for i in range(8)}
    for tables in (dict(list(rows.items())[:2]), rows):
        fig = copy_figure(tables, "token")
        solid = [line for line in fig.axes[0].get_lines() if line.get_marker() == "o"]
        assert len(solid) == len(tables) and solid[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
        assert len({str(line.get_color()) for line in solid}) == len(tables)
    image = tree_figure(test).axes[0].images[0].get_array()
    assert image.shape == (55, 55) and (image[30:35, :30] == 1).all()
    assert np.unique(image[34, 30:35]).tolist() == [2] and (image[35:40, 30:35] == 0).all()
    with pytest.raises(InputError, match="'both' holds more than one"): copy_figure(dict(both=rows["step 0"]*2))
    with pytest.raises(InputError, match="metric 'exakt'"): copy_figure(rows, "exakt")
    assert len(plt.get_fignums()) == before


# ---- bad input ----

@pytest.mark.parametrize("options, message", [
    (dict(vocab_size=64, every=51), "every = 51: must be at most n_sequences = 50"),
    (dict(vocab_size=2, prefix=5), "prefix = 5: 2 tokens make 32 different ones, n_sequences = 50 are needed"),
    (dict(vocab_size=64, suffix=1, n_sequences=65), "suffix = 1: 64 tokens make 64 different ones"),
    (dict(vocab_size=17, alphabet="hex", suffix=1), "suffix = 1: 16 tokens make 16 different ones"),
    (dict(vocab_size=16, alphabet="hex"), r"alphabet = 'hex': no token for '\\n'"),
    (dict(vocab_size=64, alphabet="hexadecimal"), "alphabet 'hexadecimal' is unknown"),
    (dict(vocab_size=0), "vocab_size = 0: must be at least 1"),
    (dict(vocab_size=1), "special: leaves 1 of 1 tokens"),
    (dict(vocab_size=64, prefix=0), "prefix = 0: must be at least 1"),
    (dict(vocab_size=64, n_samples="many"), "n_samples = 'many': must be a whole number"),
    (dict(vocab_size=64, seed=.5), "seed = 0.5: must be a whole number"),
    (dict(vocab_size=64, special=(64,)), "special = 64: must be from 0 to 63"),
    (dict(vocab_size=3, special=(0, 2)), "special: leaves 1 of 3 tokens")], ids=str)
def test_options_that_make_no_test(options, message):
    with pytest.raises(InputError, match=message) as error: CopyTest(**options)
    assert "\n" not in str(error.value)


def test_tightest_alphabet():
    test = CopyTest(2, n_sequences=8, prefix=3, suffix=3, n_samples=20, every=8)
    assert all(len(np.unique(part, axis=0)) == 8 for sample in test.sequences for part in (sample[:, :3], sample[:, 3:]))


def test_a_context_too_short_names_the_largest_that_fits():
    for test, context in ((CopyTest(64, n_samples=2), 305), (CopyTest(64, n_samples=2, alphabet="hex"), 302)): # filled to the last token
        model = copier(64, context)
        with pytest.raises(InputError, match="the largest that fits is n_sequences = ") as error: test.accuracy(model)
        most = int(str(error.value).split()[-1])
        fits = CopyTest(64, most, n_samples=2, alphabet=test.alphabet)
        assert fits.longest == context and all(fits.answers(model, method).shape == (2, most//5, 6) for method in methods)
        with pytest.raises(InputError): CopyTest(64, most + 1, n_samples=2, alphabet=test.alphabet).accuracy(model)
    with pytest.raises(InputError, match="not even one sequence of 18 fits"): test.__class__(64).accuracy(copier(64, 20))


@pytest.mark.parametrize("method", methods)
def test_models_that_cannot_be_asked(method, test):
    both_ways = LlamaConfig(**SIZES)
    both_ways.is_causal = False
    bert = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                                      max_position_embeddings=CONTEXT))
    for model in (bert, built(both_ways), built(both_ways, torch.bfloat16)):
        with pytest.raises(InputError, match="no causal mask"): test.answers(model, method)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(InputError, match="'t5' has an encoder"): test.answers(t5, method)
    with pytest.raises(InputError, match=f"the test draws token 63, the model's vocabulary has {VOCABULARY}"):
        CopyTest(64, 5, 4, 2, 2, 1).answers(built(CONFIGS["llama"]), method)
    with pytest.raises(InputError, match="method 'generated' is unknown: did you mean 'generate'"): test.answers(bert, "generated")


@pytest.mark.parametrize("method", methods)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_weights(method, dtype, test):
    "Also where the first tokens do not meet them."
    everywhere = built(CONFIGS["llama"], dtype)
    everywhere.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    far = built(CONFIGS["gpt2"], dtype)
    far.transformer.wpe.weight.data[test.longest - 2] = float("nan") # one of the last positions
    for model in (everywhere, far):
        with pytest.raises(InputError, match="not numbers") as error: test.accuracy(model, method)
        assert "\n" not in str(error.value)


def test_a_causal_model_passes_in_every_precision(test):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name in CONFIGS: test.answers(built(CONFIGS[name], dtype), tokens_per_pass=10**6)


# ---- memory ----

MEMORY = """
import re, torch
from transformers import LlamaConfig, LlamaForCausalLM
from grok_nb.copying.copy_test import CopyTest
torch.set_num_threads(1)
config = LlamaConfig(vocab_size=32_000, hidden_size=768, intermediate_size=3072, num_hidden_layers=1, num_attention_heads=12,
                     max_position_embeddings=1024)
model, test = LlamaForCausalLM(config), CopyTest(32_000, n_samples=3) # three rows are one pass
assert len(test.accuracy(model)) == 11*6
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1] # ru_maxrss begins at what the parent has
print(int(peak)*1024 + 11*4*sum(p.numel() for p in model.model.layers[0].parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak stands in /proc")
def test_the_paper_s_size_fits_into_two_gigabytes():
    "One layer of the paper's model is run, in fp32; the weights of the other eleven are added to the peak."
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, env=os.environ | dict(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.6e9
