"Toy models' .pt files: what is converted is what TransformerLens computes, and what cannot be is one line."
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from grok_nb import InputError
from grok_nb.architectures import support
from grok_nb.convert import grok_nb_convert, read_tensors, toy_model
from grok_nb.copying.copy_test import CopyTest
from grok_nb.copying.induction import eigenvalue_positivity
from grok_nb.lens import ablate_heads, attention_patterns, head_outputs, hidden_states
from grok_nb.series import Series, verify

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 13, 32, 4, 2, 24
IDS = torch.randint(0, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
# TransformerLens' configuration, and what the command is told
KINDS = {
    "attention without norms": (dict(attn_only=True, normalization_type=None), dict(norms="none")),
    "attention with norms": (dict(attn_only=True, normalization_type="LN"), {}),
    "attention, norms without weights": (dict(attn_only=True, normalization_type="LNPre"), dict(norms="plain")),
    "MLPs without norms": (dict(d_mlp=48, act_fn="relu", normalization_type=None), dict(norms="none", activation="relu")),
    "MLPs with norms": (dict(d_mlp=48, act_fn="gelu_new", normalization_type="LN"), dict(activation="gelu_new")),
}


def hooked(kind, bias=True):
    "TransformerLens' own transformer, every tensor drawn at random."
    pytest.importorskip("transformer_lens", reason="needs TransformerLens 3: pip install 'grok_nb[peers]'")
    try: from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError: pytest.skip("needs TransformerLens 3, whose transformer is its own")
    about = dict(n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=WIDTH//HEADS, n_ctx=LONGEST, d_vocab=VOCABULARY, device="cpu",
                 use_attn_result=True)
    theirs, g = HookedTransformer(HookedTransformerConfig(**about, **KINDS[kind][0])), torch.Generator().manual_seed(1)
    for name, p in theirs.named_parameters():
        p.data = torch.randn(p.shape, generator=g)*.3 + float(name.endswith(".w"))
        if name == "unembed.b_U" and not bias: p.data.zero_()
    return theirs.eval()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_one_of_transformer_lens(kind, bias):
    theirs = hooked(kind, bias)
    model, (expected, cache) = toy_model(theirs.state_dict(), **KINDS[kind][1]), theirs.run_with_cache(IDS)
    def close(a, b): np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5*float(b.abs().max()))
    close(model(input_ids=IDS).logits, expected)
    assert model.config.model_type == ("gpt2" if "without norms" not in kind and not bias else "gpt2_toy")
    close(attention_patterns(model, IDS), torch.stack([cache["pattern", i] for i in range(LAYERS)]))
    close(head_outputs(model, IDS), torch.stack([cache["result", i] for i in range(LAYERS)]))
    close(hidden_states(model, IDS), torch.stack([*(cache["resid_pre", i] for i in range(LAYERS)), cache["resid_post", LAYERS - 1]]))
    def without(z, hook): z[:, :, 1] = 0; return z
    with ablate_heads(model, [(1, 1)]):
        close(model(input_ids=IDS).logits, theirs.run_with_hooks(IDS, fwd_hooks=[("blocks.1.attn.hook_z", without)]))
    assert all(support(model).values())
    if "without norms" in kind:
        values = (theirs.W_E @ theirs.OV @ theirs.W_U).eigenvalues
        close(eigenvalue_positivity(model).float(), values.sum(-1).real/values.abs().sum(-1))


# ---- the command ----

def state(**changed):
    "Two layers of attention without norms, written by hand; a tensor of None is left out."
    g = torch.Generator().manual_seed(0)
    shapes = {"embed.W_E": (VOCABULARY, WIDTH), "pos_embed.W_pos": (LONGEST, WIDTH), "unembed.W_U": (WIDTH, VOCABULARY)}
    for i in range(LAYERS):
        shapes |= {f"blocks.{i}.attn.W_{part}": (HEADS, WIDTH, WIDTH//HEADS) for part in "QKV"} | {f"blocks.{i}.attn.W_O": (HEADS, WIDTH//HEADS, WIDTH)}
    found = {name: torch.randn(shape, generator=g)*.3 for name, shape in shapes.items()}
    return {name: t for name, t in (found | {k.replace("__", "."): t for k, t in changed.items()}).items() if t is not None}


def command(words, capsys):
    "Exit status, and all that was said."
    status = 0
    try: grok_nb_convert([str(w) for w in words])
    except SystemExit as e: status = e.code or 0
    said = capsys.readouterr()
    return status, said.out + said.err


@torch.no_grad()
def test_a_series_of_files_is_a_series_of_checkpoints(tmp_path, capsys):
    "Converted, verified, asked: nothing between knows where they come from. Masks that TransformerLens keeps are left out."
    for step in (0, 10, 20):
        part = state() | {"blocks.0.attn.mask": torch.ones(24, 24).tril().bool(), "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
        torch.save(dict(model={k: v*(1 + step) if v.is_floating_point() else v for k, v in part.items()}), tmp_path/f"{step}.pt")
        assert command([tmp_path/f"{step}.pt", "--out", tmp_path/f"series/step{step}", "--norms", "none"], capsys)[0] == 0
    assert not [p for p in (tmp_path/"series").rglob("*") if p.suffix in (".pt", ".bin", ".py")]
    series = Series(tmp_path/"series")
    assert verify(series).attrs["summary"] == "3 distinct of 3"
    model = series.checkpoints[0].model
    assert torch.equal(model(input_ids=IDS).logits, toy_model(state(), norms="none")(input_ids=IDS).logits)
    test = CopyTest(VOCABULARY, n_sequences=3, prefix=3, suffix=2, n_samples=6, every=1)
    assert (test.answers(model) == test.answers(model, "generate"))[..., 0].all()


class Code:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (self.path,)


def packed(folder):
    "A pickle of tensors in the usual archive, deflated to a thousandth of what it unpacks to."
    torch.save(state(embed__W_E=torch.zeros(10**6)), buffer := io.BytesIO())
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(folder/"f.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for part in plain.infolist(): small.writestr(part.filename, plain.read(part))


def saved(**changed): return lambda folder: torch.save(state(**changed), folder/"f.pt")
def written(content): return lambda folder: (folder/"f.pt").write_bytes(content)


NORMS = ["--norms", "none"]
BAD = {
    "no file": (lambda folder: None, NORMS, "no such file"),
    "a folder": (lambda folder: (folder/"f.pt").mkdir(), NORMS, "no regular file"),
    "a pipe": (lambda folder: os.mkfifo(folder/"f.pt"), NORMS, "no regular file"),
    "empty": (written(b""), NORMS, "cannot be read"),
    "text": (written(b"weights"), NORMS, "FILE"),
    "half a file": (lambda folder: (saved()(folder), (folder/"f.pt").write_bytes((folder/"f.pt").read_bytes()[:9000])), NORMS, "FILE"),
    "code": (lambda folder: torch.save(Code(str(folder/"harm")), folder/"f.pt"), NORMS, "never read"),
    "code among tensors": (lambda folder: torch.save(state() | dict(x=Code(str(folder/"harm"))), folder/"f.pt"), NORMS, "never read"),
    "a bare pickle with code": (lambda folder: (folder/"f.pt").write_bytes(pickle.dumps(Code(str(folder/"harm")))), NORMS, "FILE"),
    "a whole model": (lambda folder: torch.save(torch.nn.Linear(2, 2), folder/"f.pt"), NORMS, "never read"),
    "a list": (lambda folder: torch.save([torch.zeros(2)], folder/"f.pt"), NORMS, "holds no state dict"),
    "nothing in it": (lambda folder: torch.save({}, folder/"f.pt"), NORMS, "holds no state dict"),
    "too large": (saved(), [*NORMS, "--max-size", "1kB"], "the most is 1 kB; --max-size"),
    "too large when unpacked": (packed, [*NORMS, "--max-size", "1MB"], "--max-size raises it"),
    "few numbers many times": (saved(embed__W_E=torch.zeros(1).expand(10**7, 10**7)), NORMS, "--max-size raises it"),
    "no size": (saved(), [*NORMS, "--max-size", "much"], "--max-size 'much'"),
    "no embedding": (saved(embed__W_E=None), NORMS, "missing: embed.W_E"),
    "positions that turn": (saved(pos_embed__W_pos=None), NORMS, "missing: pos_embed.W_pos"),
    "a part missing": (saved(blocks__1__attn__W_O=None), NORMS, "missing: blocks.1.attn.W_O"),
    "a block missing": (saved(blocks__3__attn__W_O=torch.zeros(4, 8, 32)), NORMS, "missing: blocks.2.attn.W_Q"),
    "a block beyond number": (saved(**{f"blocks__{10**12}__attn__W_O": torch.zeros(4, 8, 32)}), NORMS, "blocks"),
    "another shape": (saved(blocks__1__attn__W_V=torch.zeros(4, 32, 7)), NORMS, "blocks.1.attn.W_V: of shape (4, 32, 7), must be (4, 32, 8)"),
    "narrow heads": (saved(blocks__0__attn__W_Q=torch.zeros(4, 32, 4)), NORMS, "blocks.0.attn.W_Q: of shape (4, 32, 4)"),
    "heads that do not divide": (saved(blocks__0__attn__W_Q=torch.zeros(5, 32, 8)), NORMS, "must be"),
    "no heads": (saved(blocks__0__attn__W_Q=torch.zeros(0, 32, 8)), NORMS, "blocks.0.attn.W_Q"),
    "an embedding of one axis": (saved(embed__W_E=torch.zeros(5)), NORMS, "embed.W_E: of shape (5,), must have two dimensions"),
    "a scalar for heads": (saved(blocks__0__attn__W_Q=torch.tensor(1.0)), NORMS, "blocks.0.attn.W_Q"),
    "whole numbers": (saved(unembed__W_U=torch.zeros(32, 13, dtype=int)), NORMS, "unembed.W_U: of torch.int64"),
    "an unknown part": (saved(blocks__0__attn__rotary_sin=torch.zeros(4)), NORMS, "blocks.0.attn.rotary_sin: no part"),
    "not told about norms": (saved(), [], "--norms: no norm has weights here: none where"),
    "told about norms twice": (saved(blocks__0__ln1__w=torch.ones(32)), NORMS, "--norms: the norms' weights are in the file"),
    "norms without biases": (saved(blocks__0__ln1__w=torch.ones(32)), [], "missing: blocks.0.ln1.b"),
    "not told about MLPs": (saved(blocks__0__mlp__W_in=torch.zeros(32, 8)), NORMS, "--activation: the file does not say"),
    "told about MLPs": (saved(), [*NORMS, "--activation", "relu"], "--activation: there are no MLPs"),
    "an unknown norm": (saved(), ["--norms", "nones"], "--norms"),
    "an unknown nonlinearity": (saved(), [*NORMS, "--activation", "solu_ln"], "--activation"),
}


@pytest.mark.promise("input")
@pytest.mark.parametrize("wrong", BAD)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(wrong, tmp_path, capsys):
    "Files that are none, hold code, lack tensors or are too large; options that are missing or too many."
    make, words, says = BAD[wrong]
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, said = command([tmp_path/"f.pt", "--out", tmp_path/"new", *words], capsys)
    assert status == 2 and says in said and said.count("\n") == 1 and len(said) < 400 + 3*len(str(tmp_path)), said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.promise("input")
@pytest.mark.parametrize("out", ["there", "link", "f.pt", "f.pt/in", ""])
def test_a_folder_that_is_there_is_left_as_it_is(out, tmp_path, capsys):
    "The folder to write, which is there, a link to nowhere, a file, in a file, or not named."
    saved()(tmp_path)
    (tmp_path/"there").mkdir()
    (tmp_path/"link").symlink_to(tmp_path/"nowhere")
    before = sorted(tmp_path.rglob("*"))
    status, said = command([tmp_path/"f.pt", "--norms", "none", *(["--out", tmp_path/out] if out else [])], capsys)
    assert status == 2 and said.count("\n") == 1 and ("--out" in said or "cannot be written" in said), said
    assert sorted(tmp_path.rglob("*")) == before


def test_half_precision_is_read_whole(tmp_path):
    torch.save({k: v.half() for k, v in state().items()}, tmp_path/"f.pt")
    model = toy_model(read_tensors(tmp_path/"f.pt"), norms="none")
    assert model.dtype == torch.float32 and torch.equal(model.lm_head.weight, state()["unembed.W_U"].half().float().T)
    with pytest.raises(InputError, match="the most is 10 bytes"): read_tensors(tmp_path/"f.pt", most=10)
