"Every family that the lens knows: what it says is what the model does, and the checks that say so can fail."
import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from test_grammar_minimal_pairs import PAIRS, POLICIES, same_as_one_at_a_time
from transformers import AutoConfig

from grok_nb import InputError
from grok_nb.architectures import checks, public, small_model, support, support_table
from grok_nb.copying.copy_test import CopyTest
from grok_nb.copying.induction import eigenvalue_positivity
from grok_nb.grammar.minimal_pairs import Policy, read_pairs
from grok_nb.lens import ablate_heads, adapters, attention_patterns, embed_unembed, head_outputs, hidden_states, kinds, look, norms
from grok_nb.models import branches_are_exact, branching, logits_at
from grok_nb.texts import train_tokenizer

IDS = torch.randint(0, 13, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=public)
def model(request): return small_model(request.param)


def logits(model, **inputs):
    with torch.no_grad(): return model(**inputs).logits


def test_everything_works_for_every_family(model):
    assert support(model) == dict.fromkeys(checks, True)


def test_the_page_shows_the_table():
    "The table that is committed is the one that is measured, and names every adapter."
    page = json.loads((ROOT/"nbs"/"core"/"02_architectures.ipynb").read_text(encoding="utf-8"))
    [shown] = ["".join(out["data"]["text/html"]) for cell in page["cells"] if "table = support_table()" in "".join(cell["source"])
               for out in cell.get("outputs", []) if "text/html" in out.get("data", {})]
    with pd.option_context("display.max_colwidth", None): measured = support_table().to_html()
    def cells(html): return re.findall(r"<t[dh][^>]*>([^<]*)<", html)
    assert len(cells(shown)) > 100 and cells(shown) == cells(measured) and set(public) == set(adapters) == branching


def test_checkpoints_of_a_family_are_of_its_type():
    "transformers has every one of them, under this very name."
    for kind in public: assert AutoConfig.for_model(kind).model_type == kind


@torch.no_grad()
def test_what_is_kept_adds_up_and_can_be_chosen(model):
    seen, last = look(model, IDS, *kinds), look(model, IDS, *kinds, positions=[-1], layers=[1])
    assert torch.isfinite(torch.cat([t.flatten() for t in seen.values()])).all()
    for kind in kinds:
        row = seen[kind][1:2, :, :, -1:] if kind == "attention" else seen[kind][1:2, :, -1:]
        torch.testing.assert_close(last[kind], row)
    assert seen["mlp"].shape == (3, 3, 9, 40 if model.config.model_type not in ("gpt2", "gpt2_toy") else model.config.n_inner or 128)
    [*_, end], (_, norm) = seen["hidden"], norms(model)
    theirs = model(input_ids=IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(norm(end), theirs[-1], rtol=1e-4, atol=1e-4)
    for ours, other in zip(seen["hidden"], theirs[:-1]): torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_embeddings_lead_in_and_out(model):
    "Gemma's with its scale, OPT's with its learned positions beside it; Gemma 2 squeezes its logits."
    (into, out), (_, last), hidden = embed_unembed(model), norms(model), hidden_states(model, IDS)
    first = into[IDS]
    if hasattr(model.base_model, "wpe"): first = first + model.transformer.wpe.weight[:9]
    if model.config.model_type == "opt": first = first + model.model.decoder.embed_positions.weight[2:11]
    torch.testing.assert_close(first, hidden[0])
    bias = model.get_output_embeddings().bias
    said, cap = last(hidden[-1]) @ out + (0 if bias is None else bias), getattr(model.config, "final_logit_softcapping", None)
    torch.testing.assert_close(cap*torch.tanh(said/cap) if cap else said, logits(model, input_ids=IDS), rtol=1e-4, atol=1e-4)


def test_masks_and_means(model):
    "A causal mask by hand changes nothing; a mean over the sequence itself neither; nor do logits at some positions."
    whole, late = logits(model, input_ids=IDS), torch.finfo(torch.float32).min
    mask = torch.full((9, 9), late).triu(1).expand(3, 1, 9, 9)
    torch.testing.assert_close(hidden_states(model, IDS, attention_mask=mask), hidden_states(model, IDS), rtol=1e-4, atol=1e-4)
    every = [(layer, head) for layer in range(3) for head in range(4)]
    with ablate_heads(model, every, "mean", IDS[:1]): torch.testing.assert_close(logits(model, input_ids=IDS[:1]), whole[:1], rtol=1e-4, atol=1e-4)
    with torch.no_grad(): torch.testing.assert_close(logits_at(model, [2, -1], input_ids=IDS), whole[:, [2, -1]], rtol=1e-4, atol=1e-4)


# ---- the checks can fail ----

WRONG = {
    "heads": ("gemma2", "adapter", dict(after="")), # what is written is not what the norm lets through
    "factors": ("gemma", "adapter", dict(norm="post_attention_layernorm")),
    "ablation": ("qwen2", "ablate_heads", lambda model, heads: ablate_heads(model, [(layer, head - 1) for layer, head in heads])),
    "attention": ("qwen3", "attention_patterns", lambda model, ids: attention_patterns(model, ids).flip(2))}


@pytest.mark.parametrize("check", WRONG)
def test_a_wrong_lens_is_found_out(check, monkeypatch):
    kind, what, wrong = WRONG[check]
    if what == "adapter": monkeypatch.setitem(adapters, kind, dataclasses.replace(adapters[kind], **wrong))
    else: monkeypatch.setattr(f"grok_nb.architectures.{what}", wrong)
    assert support(small_model(kind)) == dict.fromkeys(checks, True) | {check: False}


def test_branches_that_are_not_exact_are_found_out(monkeypatch):
    "A window that is cut off by a mask of one's own: refused by `branches_are_exact`, and seen by the check where that is silenced."
    model = small_model("gemma3_text", sliding_window=4)
    assert not branches_are_exact(model, 7) and not support(model)["branches"]
    monkeypatch.setattr("grok_nb.architectures.branches_are_exact", lambda *_: True)
    assert not support(model)["branches"]


# ---- scoring, the copy test, eigenvalues ----

@pytest.fixture(scope="module")
def tokenizer(): return train_tokenizer([s for column in ("sentence_good", "sentence_bad") for s in PAIRS[column]]*3, 330)


SIZES = dict(vocab_size=330, max_position_embeddings=64)


@pytest.mark.parametrize("kind", public)
def test_pairs_are_scored_in_branches_as_one_at_a_time(kind, tokenizer):
    model = small_model(kind, **SIZES | (dict(final_logit_softcapping=2.0) if kind == "gemma2" else {}))
    assert branches_are_exact(model, 64)
    same_as_one_at_a_time(model, tokenizer, read_pairs(PAIRS.iloc[::3]), Policy(), batch_tokens=100)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text", "olmo3"])
def test_pairs_beyond_a_window_are_scored_in_plain_rows(kind, tokenizer):
    model = small_model(kind, **SIZES, sliding_window=6)
    assert not branches_are_exact(model, 64)
    same_as_one_at_a_time(model, tokenizer, read_pairs(PAIRS.iloc[::4]), POLICIES["means"], batch_tokens=100)


def test_the_copy_test_answers_alike_in_branches_and_in_rows(model):
    test = CopyTest(13, n_sequences=3, prefix=3, suffix=2, n_samples=6, every=1)
    assert (test.answers(model) == test.answers(model, "rows")).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gemma2", "olmo", "olmo2", "opt"])
def test_eigenvalue_positivity_folds_the_norms_of_every_family(kind):
    "Written out: Gemma's gain is 1 + weight, OLMo's norm only centres, OLMo 2's stands behind the attention."
    model = small_model(kind).double()
    blocks = model.base_model.decoder.layers if kind == "opt" else model.base_model.layers
    gains = {"gemma2": lambda norm: 1 + norm.weight, "olmo": lambda norm: torch.ones(32).double()}
    gain = lambda norm: gains.get(kind, lambda norm: norm.weight)(norm).numpy()
    centre = np.eye(32) - 1/32 if kind in ("olmo", "opt") else np.eye(32)
    last = model.base_model.decoder.final_layer_norm if kind == "opt" else model.base_model.norm
    into, out = (m.weight.numpy() for m in (model.get_input_embeddings(), model.get_output_embeddings()))
    expected = np.zeros((3, 4))
    for layer, head in np.ndindex(3, 4):
        attention = blocks[layer].self_attn
        write = (attention.out_proj if kind == "opt" else attention.o_proj).weight.numpy()[:, head*8:head*8 + 8]
        shared = head if kind == "opt" or len(attention.v_proj.weight) == 32 else head//2
        read = attention.v_proj.weight.numpy()[shared*8:shared*8 + 8]
        before = dict(opt="self_attn_layer_norm", olmo2="").get(kind, "input_layernorm")
        if before: read = read*gain(getattr(blocks[layer], before)) @ centre
        if kind in ("gemma2", "olmo2"): write = gain(blocks[layer].post_attention_layernorm)[:, None]*write
        circuit = out*gain(last) @ centre @ write @ read @ into.T
        values = np.linalg.eigvals(circuit)
        expected[layer, head] = values.sum().real/np.abs(values).sum()
    np.testing.assert_allclose(eigenvalue_positivity(model).numpy(), expected, atol=1e-6)


# ---- mistakes ----

MISTAKES = {
    "an OPT with norms in the stream": (lambda: look(small_model("opt", do_layer_norm_before=False), IDS, "hidden"), "no adapter"),
    "an OPT with other embeddings": (lambda: head_outputs(small_model("opt", word_embed_proj_dim=16), IDS), "no adapter"),
    "more positions than OPT has": (lambda: look(small_model("opt"), IDS.repeat(1, 3), "hidden"), "27 positions: the model has embeddings for 24"),
    "an unknown family": (lambda: small_model("gpt3"), "model_type"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake):
    wrong, says = MISTAKES[mistake]
    with pytest.raises(InputError, match=says) as raised: wrong()
    assert "\n" not in str(raised.value)
