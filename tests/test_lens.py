"The lens against transformers of a few lines of numpy, against zeroed weights, and against itself: nothing it touches stays changed."
import copy
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import erf
from transformers import (AutoModelForCausalLM, BloomConfig, DynamicCache, GPT2Config, GPTNeoXConfig, HeliumConfig, LlamaConfig,
                          Starcoder2Config)

from grok_nb import InputError
from grok_nb.lens import (ablate_heads, adapters, attention_patterns, embed_unembed, head_factors, head_outputs, hidden_states, kinds, look,
                          mlp_activations, norms, ov_matrices)
from grok_nb.models import logits_at

LAYERS, HEADS, HIDDEN, VOCABULARY, LONGEST = 3, 4, 32, 13, 24
SIZES = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
             max_position_embeddings=LONGEST, bos_token_id=None, eos_token_id=None)


def configuration(name, dropout=0.0):
    rope = dict(rope_type="default", rope_theta=50.0)
    if name == "llama": # two heads share a value head, and d_head is not hidden / heads
        return LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=12, attention_bias=True, mlp_bias=True, attention_dropout=dropout,
                           rope_parameters=rope)
    if name == "starcoder2":
        return Starcoder2Config(**SIZES, num_key_value_heads=2, use_bias=True, sliding_window=None, attention_dropout=dropout,
                                residual_dropout=dropout, embedding_dropout=dropout, tie_word_embeddings=True, rope_parameters=rope)
    if name.startswith("gpt_neox"):
        return GPTNeoXConfig(**SIZES, use_parallel_residual="sequential" not in name, attention_dropout=dropout, hidden_dropout=dropout,
                             rope_parameters=dict(rope, partial_rotary_factor=.5))
    return GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_inner=40, n_layer=LAYERS, n_head=HEADS, n_positions=LONGEST, bos_token_id=None,
                      eos_token_id=None, attn_pdrop=dropout, resid_pdrop=dropout, embd_pdrop=dropout)


NAMES = ["llama", "starcoder2", "gpt_neox", "gpt_neox sequential", "gpt2"]


def build(name, dtype=torch.float32, dropout=0.0):
    "A model with every weight, bias and norm drawn at random."
    model, generator = AutoModelForCausalLM.from_config(configuration(name, dropout)), torch.Generator().manual_seed(NAMES.index(name))
    for key, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=generator)*(.3 if p.ndim == 1 else .25) + (1.0 if p.ndim == 1 and key.endswith("weight") else 0.0)
    return model.to(dtype).eval()


@pytest.fixture(params=NAMES)
def model(request): return build(request.param)


@pytest.fixture(params=NAMES)
def exact(request): return build(request.param, torch.float64)


def sequences(batch=3, length=9, seed=0): return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


# ---- the same models, in numpy ----

ACTIVATIONS = dict(silu=lambda x: x/(1 + np.exp(-x)), gelu=lambda x: x*(1 + erf(x/2**.5))/2,
                   gelu_new=lambda x: x*(1 + np.tanh((2/np.pi)**.5*(x + .044715*x**3)))/2)
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]


class Numpy:
    "A decoder of the four architectures, from the names of its weights alone."
    def __init__(self, model):
        self.config, self.w = model.config, {k: v.detach().double().numpy() for k, v in model.state_dict().items()}
        self.kind = model.config.model_type
        self.head = next(k for k in ("lm_head.weight", "embed_out.weight") if k in self.w)

    def linear(self, x, name):
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias", 0.0)
        return (x @ weight if self.kind == "gpt2" else x @ weight.T) + bias

    def norm(self, x, name):
        if self.kind != "llama": x = x - x.mean(-1, keepdims=True)
        names = "rms_norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon"
        epsilon = next(getattr(self.config, e) for e in names if hasattr(self.config, e))
        return x/np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)*self.w[f"{name}.weight"] + self.w.get(f"{name}.bias", 0.0)

    def rotate(self, x, share=1.0):
        "Turn the pairs (i, i + half) of x, (batch, position, head, d_head), by position · θ^(−2i/dims)."
        dims = int(x.shape[-1]*share)
        angle = np.arange(x.shape[1])[:, None]*50.0**(-np.arange(0, dims, 2)/dims)
        turned = (x[..., :dims//2] + 1j*x[..., dims//2:dims])*np.exp(1j*angle)[:, None]
        return np.concatenate([turned.real, turned.imag, x[..., dims:]], -1)

    def queries_keys_values(self, x, attention):
        if self.kind == "gpt2":
            return [part.reshape(*x.shape[:2], HEADS, -1) for part in np.split(self.linear(x, f"{attention}.c_attn"), 3, -1)]
        if self.kind == "gpt_neox":
            q, k, v = np.moveaxis(self.linear(x, f"{attention}.query_key_value").reshape(*x.shape[:2], HEADS, 3, -1), 3, 0)
            return self.rotate(q, .5), self.rotate(k, .5), v
        q, k, v = (self.linear(x, f"{attention}.{n}_proj").reshape(*x.shape[:2], heads, -1) for n, heads in zip("qkv", (HEADS, 2, 2)))
        k, v = (t[:, :, [0, 0, 1, 1]] for t in (k, v)) # heads 0 and 1 share the first
        return self.rotate(q), self.rotate(k), v

    def __call__(self, ids, allowed=None, replaced={}):
        "Everything inside; `allowed` (batch, query, key) further limits attention, `replaced` puts vectors in the place of heads' outputs."
        ids = np.asarray(ids)
        causal = np.tril(np.ones((ids.shape[1],)*2, bool))[None]
        allowed = causal if allowed is None else allowed & causal
        root, attention_name, output_name = dict(gpt_neox=("gpt_neox", "attention", "dense"), gpt2=("transformer", "attn", "c_proj")).get(
            self.kind, ("model", "self_attn", "o_proj"))
        if self.kind == "gpt2": x = self.w["transformer.wte.weight"][ids] + self.w["transformer.wpe.weight"][:ids.shape[1]]
        else: x = self.w[f"{root}.embed_{'in' if self.kind == 'gpt_neox' else 'tokens'}.weight"][ids]
        found = dict(attention=[], hidden=[x], heads=[], mlp=[], mixed=[], normed=[])
        for layer in range(LAYERS):
            block = f"{root}.{'h' if self.kind == 'gpt2' else 'layers'}.{layer}"
            first, second = ("ln_1", "ln_2") if self.kind == "gpt2" else ("input_layernorm", "post_attention_layernorm")
            attention, normed = f"{block}.{attention_name}", self.norm(x, f"{block}.{first}")
            q, k, v = self.queries_keys_values(normed, attention)
            scores = np.where(allowed[:, None], np.einsum("bqhd,bkhd->bhqk", q, k)/q.shape[-1]**.5, -np.inf)
            pattern = np.exp(scores - scores.max(-1, keepdims=True))
            pattern /= pattern.sum(-1, keepdims=True)
            mixed = np.einsum("bhqk,bkhd->bqhd", pattern, v)
            only = np.zeros((HEADS, *mixed.shape)) # one head's values at a time
            for h in range(HEADS): only[h, :, :, h] = mixed[:, :, h]
            output = f"{attention}.{output_name}"
            bias = self.w[f"{output}.bias"]
            heads = np.stack([self.linear(only[h].reshape(*x.shape[:2], -1), output) - bias for h in range(HEADS)], 2)
            for (at, h), vectors in replaced.items():
                if at == layer: heads[:, :, h] = vectors
            middle = x + heads.sum(2) + bias
            before = self.norm(x if self.kind == "gpt_neox" and self.config.use_parallel_residual else middle, f"{block}.{second}")
            up, down = dict(llama=("up_proj", "down_proj"), starcoder2=("c_fc", "c_proj"), gpt_neox=("dense_h_to_4h", "dense_4h_to_h"),
                            gpt2=("c_fc", "c_proj"))[self.kind]
            activation = ACTIVATIONS[getattr(self.config, "activation_function", None) or self.config.hidden_act]
            neurons = self.linear(before, f"{block}.mlp.{up}")
            if self.kind == "llama": neurons = neurons*activation(self.linear(before, f"{block}.mlp.gate_proj"))
            else: neurons = activation(neurons)
            x = middle + self.linear(neurons, f"{block}.mlp.{down}")
            for name, value in dict(attention=pattern, hidden=x, heads=heads, mlp=neurons, mixed=mixed, normed=normed).items():
                found[name].append(value)
        last = self.norm(x, f"{root}." + dict(gpt2="ln_f", gpt_neox="final_layer_norm").get(self.kind, "norm"))
        return {name: np.stack(values) for name, values in found.items()} | dict(last=last, logits=last @ self.w[self.head].T)


def close(a, b, tolerance=1e-5): np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def logits(model, ids, **inputs):
    with torch.no_grad(): return model(input_ids=ids, **inputs).logits


# ---- what is seen ----

@pytest.mark.parametrize("mask", ["none", "padding", "tree"])
def test_everything_seen_is_what_numpy_computes(exact, mask):
    "transformers computes rotations, and Llama's norms and softmax, in single precision."
    ids, attention_mask, allowed = sequences(), None, None
    if mask == "padding":
        attention_mask = torch.ones_like(ids)
        attention_mask[1, 6:] = 0
        allowed = attention_mask.bool().numpy()[:, None].repeat(ids.shape[1], 1)
    if mask == "tree":
        allowed = np.random.default_rng(0).random((3, 9, 9)) < .5
        allowed |= np.eye(9, dtype=bool)
        additive = torch.tensor(np.where(allowed & np.tril(np.ones((9, 9), bool)), 0.0, torch.finfo(torch.float64).min))
        attention_mask = additive[:, None]
    expected, seen = Numpy(exact)(ids, allowed), look(exact, ids, *kinds, attention_mask=attention_mask)
    close(logits(exact, ids, attention_mask=attention_mask), expected["logits"])
    for kind in kinds: close(seen[kind], expected[kind])
    close(seen["attention"].sum(-1), 1.0)


def test_each_function_is_a_look(model):
    ids, functions = sequences(), dict(attention=attention_patterns, hidden=hidden_states, heads=head_outputs, mlp=mlp_activations)
    together = look(model, ids.tolist(), *functions)
    for kind, function in functions.items():
        assert not together[kind].requires_grad
        torch.testing.assert_close(function(model, ids), together[kind])


def test_hidden_states_are_those_of_transformers(model):
    ids = sequences()
    theirs, ours = model(input_ids=ids, output_hidden_states=True).hidden_states, hidden_states(model, ids)
    assert len(theirs) == len(ours) == LAYERS + 1
    for a, b in zip(theirs[:-1], ours): assert torch.equal(a, b)
    norm = model.base_model.get_submodule(dict(gpt2="ln_f", gpt_neox="final_layer_norm").get(model.config.model_type, "norm"))
    assert torch.equal(theirs[-1], norm(ours[-1])) and not torch.allclose(theirs[-1], ours[-1])


@pytest.mark.parametrize("kind", kinds)
def test_a_selection_is_that_part_of_the_whole(model, kind):
    ids, layers, positions = sequences(), [2, 0, -1, 2], [-1, 4, 0, 4]
    whole = look(model, ids, kind)[kind]
    rows = whole[:, :, :, positions] if kind == "attention" else whole[:, :, positions]
    torch.testing.assert_close(look(model, ids, kind, positions=positions)[kind], rows)
    torch.testing.assert_close(look(model, ids, kind, positions=torch.tensor(positions), layers=np.array(layers))[kind], rows[layers])


def test_attention_weights_are_the_only_reason_to_leave_the_fast_implementation(model):
    used = []
    with model.base_model.register_forward_pre_hook(lambda *_: used.append(model.config._attn_implementation)):
        look(model, sequences(), "hidden", "heads", "mixed", "mlp")
        look(model, sequences(), "attention")
    assert used == ["sdpa", "eager"]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_sleeps_while_one_looks(name):
    model, quiet, ids = build(name, dropout=.5).train(), build(name), sequences()
    random = torch.random.get_rng_state()
    for kind, seen in look(model, ids, *kinds).items(): assert torch.equal(seen, look(quiet, ids, *kinds)[kind])
    assert torch.equal(random, torch.random.get_rng_state())
    assert not torch.equal(logits(model, ids), logits(model, ids)), "and is awake afterwards"


def test_other_precisions_and_wrappers(model):
    ids, half = sequences(), copy.deepcopy(model).bfloat16()
    assert {seen.dtype for seen in look(half, ids, *kinds).values()} == {torch.bfloat16}
    wrapped = torch.nn.DataParallel(model) # as DistributedDataParallel: the model is its `.module`
    assert torch.equal(hidden_states(wrapped, ids), hidden_states(model, ids))
    assert all(torch.equal(a, b) for a, b in zip(head_factors(wrapped), head_factors(model)))


def test_an_architecture_can_be_added(monkeypatch):
    model = AutoModelForCausalLM.from_config(HeliumConfig(**SIZES, num_key_value_heads=2, head_dim=8))
    with pytest.raises(InputError, match="helium"): look(model, sequences(), "hidden")
    monkeypatch.setitem(adapters, "helium", adapters["llama"])
    assert head_outputs(model, sequences()).shape == (LAYERS, 3, 9, HEADS, HIDDEN)


# ---- weights ----

def test_factors_explain_what_heads_write(exact):
    "Attention, times the normed stream, times OV, and what the value bias adds: it passes whole, since rows sum to one."
    ids = sequences()
    inside, (values, outputs) = Numpy(exact)(ids), (t.numpy() for t in head_factors(exact))
    assert values.shape[:3] == outputs.transpose(0, 1, 3, 2).shape[:3] == (LAYERS, HEADS, HIDDEN)
    for layer in range(LAYERS):
        ov = ov_matrices(exact, layer).numpy()
        close(ov, ov_matrices(exact, layer - LAYERS))
        close(ov, values[layer] @ outputs[layer], 1e-12)
        zero = Numpy(exact).queries_keys_values(np.zeros((1, 1, HIDDEN)), attention_path(exact, layer))[2][0, 0]
        bias = np.einsum("hd,hdw->hw", zero, outputs[layer])
        mixed = np.einsum("bhqk,bkw->bqhw", inside["attention"][layer], inside["normed"][layer])
        close(np.einsum("bqhw,hwv->bqhv", mixed, ov) + bias, inside["heads"][layer])
        close(np.einsum("bw,hwv->bhv", inside["normed"][layer][:, 0], ov) + bias, head_outputs(exact, ids)[layer, :, 0])


def attention_path(model, layer):
    return dict(gpt2=f"transformer.h.{layer}.attn", gpt_neox=f"gpt_neox.layers.{layer}.attention").get(
        model.config.model_type, f"model.layers.{layer}.self_attn")


def test_shared_value_heads_are_repeated():
    values, _ = head_factors(build("llama"))
    assert torch.equal(values[:, 0], values[:, 1]) and torch.equal(values[:, 2], values[:, 3]) and not torch.equal(values[:, 1], values[:, 2])


def test_embeddings_lead_in_and_out(exact):
    ids, (into, out) = sequences(), embed_unembed(exact)
    first = into[ids] + (exact.transformer.wpe.weight[:9] if exact.config.model_type == "gpt2" else 0)
    close(first.detach(), hidden_states(exact, ids)[0], 1e-12)
    close(Numpy(exact)(ids)["last"] @ out.numpy(), logits(exact, ids))
    assert not any(t.requires_grad for t in (into, out, *head_factors(exact), ov_matrices(exact, 0)))


@torch.no_grad()
def test_norms_are_those_that_attention_and_unembedding_read_through(exact):
    inside, hidden, (before, last) = Numpy(exact)(sequences()), hidden_states(exact, sequences()), norms(exact)
    for layer in range(LAYERS): close(before[layer](hidden[layer]), inside["normed"][layer])
    close(last(hidden[-1]), inside["last"])
    assert len(before) == LAYERS and norms(torch.nn.DataParallel(exact))[1] is last


# ---- ablation ----

def zeroed(model, heads):
    "A copy with the heads' part of the output projection's weights set to zero."
    model = copy.deepcopy(model)
    for layer, head in heads:
        path = attention_path(model, layer) + dict(gpt2=".c_proj", gpt_neox=".dense").get(model.config.model_type, ".o_proj")
        weight = model.get_submodule(path).weight.data
        width = weight.shape[0 if model.config.model_type == "gpt2" else 1]//HEADS
        part = slice(head*width, (head + 1)*width)
        if model.config.model_type == "gpt2": weight[part] = 0
        else: weight[:, part] = 0
    return model


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_zeroing_a_head_is_zeroing_its_weights_to_the_bit(model, implementation):
    model.set_attn_implementation(implementation)
    ids, every = sequences(), list(product(range(LAYERS), range(HEADS)))
    intact = logits(model, ids)
    for heads in [*([pair] for pair in every), [(0, 1), (0, 3), (2, 0)], [(1, 2), (1, 2)], every, []]:
        with ablate_heads(model, heads): without, written = logits(model, ids), head_outputs(model, ids)
        assert torch.equal(without, logits(zeroed(model, heads), ids)), heads
        assert torch.equal(without, intact) == (heads == [])
        gone = torch.zeros(LAYERS, HEADS, dtype=torch.bool)
        for layer, head in heads: gone[layer, head] = True
        assert torch.equal((written == 0).all(4).all(2).all(1), gone)
    assert torch.equal(logits(model, ids), intact)


def test_zeroing_holds_in_generation_in_parts_and_in_training(model):
    ids, heads = sequences(), [(0, 1), (2, 3)]
    other = zeroed(model, heads)
    def gradient(m):
        m.zero_grad()
        m(input_ids=ids, labels=ids).loss.backward()
        return m.get_input_embeddings().weight.grad
    def part(m): return logits_at(m, [2, 8], input_ids=ids)
    with ablate_heads(model, heads):
        assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), other.generate(ids, max_new_tokens=6, do_sample=False))
        torch.testing.assert_close(part(model), part(other))
        torch.testing.assert_close(gradient(model), gradient(other))


def test_a_mean_is_what_the_head_writes_elsewhere_at_that_position(exact):
    ids, elsewhere, heads = sequences(), sequences(6, 12, seed=1), [(0, 1), (0, 2), (2, 3)]
    by_hand = Numpy(exact)
    average = by_hand(elsewhere)["heads"].mean(1) # (layer, position, head, hidden)
    expected = by_hand(ids, replaced={(layer, head): average[layer, :9, head] for layer, head in heads})
    with ablate_heads(exact, heads, "mean", elsewhere): close(logits(exact, ids), expected["logits"])
    with ablate_heads(exact, heads, "mean", elsewhere): close(logits_at(exact, [2, 8], input_ids=ids).detach(), expected["logits"][:, [2, 8]])
    close(logits(exact, ids), by_hand(ids)["logits"])
    assert np.abs(expected["logits"] - by_hand(ids)["logits"]).max() > .01


def test_a_mean_over_the_sequence_itself_changes_nothing(model):
    ids, every = sequences(1), list(product(range(LAYERS), range(HEADS)))
    with ablate_heads(model, every, "mean", ids): torch.testing.assert_close(logits(model, ids), logits(copy.deepcopy(model), ids))


def test_a_mean_goes_by_the_tokens_position_not_by_its_column(model):
    "Token by token from a cache, and after padding whose positions were restarted."
    ids, elsewhere, heads = sequences(), sequences(6, 9, seed=1), [(0, 1), (2, 3)]
    with ablate_heads(model, heads, "mean", elsewhere.tolist()):
        whole, cache = logits(model, ids), DynamicCache(config=model.config)
        steps = [logits(model, ids[:, i:i + 1], past_key_values=cache, use_cache=True) for i in range(9)]
        torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)
        padded, real = torch.nn.functional.pad(ids, (3, 0)), torch.arange(12) >= 3
        after = logits(model, padded, attention_mask=real.long().repeat(3, 1), position_ids=(torch.arange(12) - 3).clamp(0)[None])
        torch.testing.assert_close(after[:, 3:], whole, rtol=1e-4, atol=1e-4)


def test_ablations_nest(model):
    ids = sequences()
    with ablate_heads(model, [(0, 1)]), ablate_heads(model, [(0, 2), (1, 0)]): both = logits(model, ids)
    assert torch.equal(both, logits(zeroed(model, [(0, 1), (0, 2), (1, 0)]), ids))


# ---- as found ----

def everything(model):
    "All that could be left changed."
    hooks = {(name, key): len(value) for name, m in model.named_modules() for key, value in vars(m).items() if "hooks" in key and value is not None}
    return dict(weights={k: v.clone() for k, v in model.state_dict().items()}, config=model.config.to_dict(), hooks=hooks,
                implementation=model.config._attn_implementation, modes={name: m.training for name, m in model.named_modules()},
                attributes={name: sorted(vars(m)) for name, m in model.named_modules()}, gradients=[p.requires_grad for p in model.parameters()],
                enabled=torch.is_grad_enabled(), random=torch.random.get_rng_state())


def same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key == "weights": assert all(torch.equal(value[k], after[key][k]) for k in value | after[key])
        elif key == "random": assert torch.equal(value, after[key])
        else: assert value == after[key], key


class Breakdown(BaseException): "Not an `Exception`, as Ctrl-C is not one."


@pytest.fixture(params=["sdpa", "eager"])
def found(request, model):
    "A model in an unusual mode: training, but for one block."
    model.set_attn_implementation(request.param)
    model.train()
    adapter = adapters[model.config.model_type]
    model.base_model.get_submodule(adapter.blocks)[1].eval()
    return model


@pytest.fixture
def broken(found):
    "A switch: add to it, and the last block's MLP fails."
    def fail(*_):
        if switch: raise Breakdown
    switch, adapter = [], adapters[found.config.model_type]
    found.base_model.get_submodule(adapter.blocks)[-1].get_submodule(adapter.down).register_forward_hook(fail)
    return switch


@pytest.mark.parametrize("what", [*([kind] for kind in kinds), kinds], ids=" ".join)
def test_a_look_leaves_the_model_as_found(found, broken, what):
    before = everything(found)
    look(found, sequences(), *what)
    same(before, everything(found))
    broken.append(True)
    with pytest.raises(Breakdown): look(found, sequences(), *what)
    same(before, everything(found))


@pytest.mark.parametrize("mode, failing", [*product(["zero", "mean"], ["nowhere", "body", "forward"]), ("mean", "reference")])
def test_an_ablation_leaves_the_model_as_found(found, broken, mode, failing):
    before = everything(found)
    if failing == "reference": broken.append(True)
    try:
        with ablate_heads(found, [(0, 0), (2, 1)], mode, sequences(seed=1) if mode == "mean" else None):
            assert everything(found)["hooks"] != before["hooks"], "something is going on"
            if failing == "body": raise Breakdown
            if failing == "forward": broken.append(True)
            logits(found, sequences())
    except Breakdown: assert failing != "nowhere"
    else: assert failing == "nowhere"
    same(before, everything(found))


def test_a_sequence_beyond_the_reference_is_refused_within_the_pass(model):
    before = everything(model)
    with pytest.raises(InputError, match="mean_over: has 8 positions, the model was given 9"):
        with ablate_heads(model, [(1, 0)], "mean", sequences(3, 8)): logits(model, sequences())
    same(before, everything(model))


# ---- mistakes ----

IDS = sequences()
MISTAKES = {
    "nothing asked": (lambda m: look(m, IDS), "what: name one or more of attention, hidden, heads, mixed, mlp"),
    "unknown kind": (lambda m: look(m, IDS, "attentions"), "did you mean 'attention'"),
    "layer": (lambda m: look(m, IDS, "heads", layers=[3]), "layers = 3: must be from -3 to 2"),
    "layer of some": (lambda m: look(m, IDS, "hidden", "heads", layers=[3]), "from -3 to 2"),
    "hidden layer": (lambda m: look(m, IDS, "hidden", layers=[4]), "from -4 to 3"),
    "no layer": (lambda m: look(m, IDS, "mlp", layers=[]), r"layers = \[\]"),
    "position": (lambda m: look(m, IDS, "mlp", positions=[9]), "positions = 9: must be from -9 to 8"),
    "position before": (lambda m: look(m, IDS, "mlp", positions=[-10]), "from -9 to 8"),
    "no list": (lambda m: look(m, IDS, "mlp", positions=3), "positions = 3: must be a list"),
    "no whole number": (lambda m: look(m, IDS, "mlp", positions=[1.5]), r"positions = \[1.5\]"),
    "one sequence": (lambda m: look(m, IDS[0], "mlp"), r"input_ids: .* \(batch, position\)"),
    "no sequence": (lambda m: look(m, IDS[:0], "mlp"), "input_ids"),
    "fractions": (lambda m: look(m, IDS.float(), "mlp"), "input_ids: torch.float32"),
    "unknown token": (lambda m: look(m, IDS + 5, "mlp"), "input_ids: must be from 0 to 12"),
    "negative token": (lambda m: look(m, IDS - 5, "mlp"), "input_ids: must be from 0 to 12"),
    "bool mask": (lambda m: look(m, IDS, "mlp", attention_mask=torch.ones(3, 1, 9, 9, dtype=bool)), r"attention_mask: torch.bool .* torch.float32"),
    "mask of whole numbers": (lambda m: look(m, IDS, "mlp", attention_mask=torch.ones(3, 1, 9, 9, dtype=int)), "attention_mask: torch.int64"),
    "mask of three dimensions": (lambda m: look(m, IDS, "mlp", attention_mask=torch.zeros(3, 9, 9)), r"of shape \(3, 9, 9\)"),
    "mask of other sequences": (lambda m: look(m, IDS, "mlp", attention_mask=torch.ones(3, 8)), r"of shape \(3, 8\)"),
    "additive mask of other sequences": (lambda m: look(m, IDS, "mlp", attention_mask=torch.zeros(3, 1, 9, 8)), r"of shape \(3, 1, 9, 8\)"),
    "OV of no layer": (lambda m: ov_matrices(m, 3), "from -3 to 2"),
    "head": (lambda m: ablate_heads(m, [(0, 4)]).__enter__(), "head = 4: must be from -4 to 3"),
    "layer of a head": (lambda m: ablate_heads(m, [(3, 0)]).__enter__(), "layer = 3: must be from -3 to 2"),
    "no pair": (lambda m: ablate_heads(m, [3]).__enter__(), r"heads = \[3\]: must be a list of \(layer, head\)"),
    "no heads": (lambda m: ablate_heads(m, 3).__enter__(), "heads = 3"),
    "unknown mode": (lambda m: ablate_heads(m, [(0, 0)], "means", IDS).__enter__(), "did you mean 'mean'"),
    "no reference": (lambda m: ablate_heads(m, [(0, 0)], "mean").__enter__(), "mean_over"),
    "needless reference": (lambda m: ablate_heads(m, [(0, 0)], "zero", IDS).__enter__(), "mean_over"),
    "wrong reference": (lambda m: ablate_heads(m, [(0, 0)], "mean", IDS + 5).__enter__(), "from 0 to 12"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_before_the_model_is_touched(model, mistake):
    (wrong, says), before, ran = MISTAKES[mistake], everything(model), []
    handle = model.base_model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(InputError, match=says) as raised: wrong(model)
    handle.remove()
    assert "\n" not in str(raised.value) and not ran
    same(before, everything(model))


def test_an_architecture_without_adapter_is_told_which_have_one():
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=13, hidden_size=16, n_layer=1, n_head=2))
    for ask in (lambda: look(model, IDS, "hidden"), lambda: head_factors(model), lambda: ov_matrices(model, 0), lambda: embed_unembed(model),
                lambda: norms(model), lambda: ablate_heads(model, [(0, 0)]).__enter__()):
        with pytest.raises(InputError, match="no adapter for 'bloom'; it has for gemma, gemma2, .*, starcoder2"): ask()


def test_more_positions_than_gpt2_has_embeddings_for():
    with pytest.raises(InputError, match="25 positions: the model has embeddings for 24"): look(build("gpt2"), sequences(1, 25), "hidden")
    assert hidden_states(build("llama"), sequences(1, 25)).shape[2] == 25
