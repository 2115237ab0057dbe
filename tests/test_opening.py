"Models, tokenizers and texts of others: opened as they are, or refused in a line that says what helps."
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from grok_nb import InputError
from grok_nb.series import Other, Series, tokenizer_of

SIZES = dict(vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, max_position_embeddings=64, bos_token_id=0, eos_token_id=0)
CONFIGS = dict(neox=GPTNeoXConfig(**SIZES), llama=LlamaConfig(**SIZES), tied=LlamaConfig(**SIZES, tie_word_embeddings=True),
               gpt2=GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0))
LAYER = dict(neox="gpt_neox.layers", llama="model.layers", tied="model.layers", gpt2="transformer.h")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Architecture → folder of a checkpoint; not to be changed."
    folder = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder/name/"step3")
    return {name: folder/name/"step3" for name in CONFIGS}


def changed(source, folder, change):
    "A copy of a checkpoint; `change`: tensors by name → tensors by name."
    shutil.copytree(source, folder)
    save_file({n: t.clone() for n, t in change(load_file(source/"model.safetensors")).items()}, folder/"model.safetensors", dict(format="pt"))
    return folder


def refused(ask, *says):
    with pytest.raises(InputError) as error: ask()
    assert len(str(error.value).splitlines()) == 1
    for part in says: assert re.search(part, str(error.value)), (part, str(error.value))


def same(one, other): return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# --- weights

def one_more_layer(kind):
    layer = LAYER[kind]
    return lambda found: found | {n.replace(f"{layer}.1.", f"{layer}.2."): t for n, t in found.items() if f"{layer}.1." in n}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_layer_more_than_configured_is_refused(models, tmp_path, kind):
    deeper = changed(models[kind], tmp_path/"step3", one_more_layer(kind))
    refused(lambda: Other(deeper, 3).model, f"^step3: [0-9]+ tensors are unexpected, such as {re.escape(LAYER[kind])}.2.", "--ignore-tensors")
    refused(lambda: Other(deeper, 3, ignore_tensors=("*.7.*", "lm_head*")).model, "unexpected")
    opened = Series([deeper], ignore_tensors=["*.2.*"]).checkpoints[0]
    assert same(opened.model, Other(models[kind], 3).model)
    assert opened.content != Other(deeper, 3).content # what was left out is part of what was measured


@pytest.mark.parametrize("kind, name, shape", [("llama", "model.layers.0.self_attn.q_proj.bias", 16), ("neox", "lm_head.bias", 24), ("gpt2", "lm_head.bias", 24)])
def test_a_bias_that_the_configuration_has_not_is_refused(models, tmp_path, kind, name, shape):
    folder = changed(models[kind], tmp_path/"step3", lambda found: found | {name: torch.ones(shape)})
    refused(lambda: Other(folder, 3).model, f"1 tensors are unexpected, such as {re.escape(name)}")


HARMLESS = dict(
    gpt2={"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)},
    neox={"gpt_neox.layers.1.attention.bias": torch.ones(1, 1, 64, 64), "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
          "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(4)},
    llama={"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
)


@pytest.mark.parametrize("kind", HARMLESS)
def test_buffers_of_older_versions_are_left_out(models, tmp_path, kind):
    assert same(Other(changed(models[kind], tmp_path/"step3", lambda found: found | HARMLESS[kind]), 3).model, Other(models[kind], 3).model)


def test_a_tied_head_may_be_written_out(models, tmp_path):
    folder = changed(models["tied"], tmp_path/"step3", lambda found: found | {"lm_head.weight": found["model.embed_tokens.weight"]})
    assert same(Other(folder, 3).model, Other(models["tied"], 3).model)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prefix_is_named_and_taken_off_on_request(models, tmp_path, kind, prefix):
    folder = changed(models[kind], tmp_path/"step3", lambda found: {prefix + n: t for n, t in found.items()})
    refused(lambda: Other(folder, 3).model, f"^step3: its tensors' names begin with {re.escape(prefix)},", f"--strip-prefix {re.escape(prefix)} ")
    assert same(Series([folder], strip_prefix=prefix).checkpoints[0].model, Other(models[kind], 3).model)
    refused(lambda: Series([folder], strip_prefix="model.").checkpoints[0].model, "names begin with")


def test_a_tensor_of_another_shape_is_named(models, tmp_path):
    folder = changed(models["llama"], tmp_path/"step3", lambda found: found | {"lm_head.weight": torch.ones(30, 16)})
    refused(lambda: Other(folder, 3).model, r"^step3: lm_head.weight has the shape \(30, 16\), but \(24, 16\) by config.json$")


# --- tokenizers

def words_tokenizer(folder, words):
    from tokenizers import Tokenizer, models as token_models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    made = Tokenizer(token_models.WordLevel({w: i for i, w in enumerate(["<end>", *words])}, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<end>").save_pretrained(folder)


BROKEN = dict(cut=("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vo'), empty=("tokenizer.json", ""), list=("tokenizer.json", "[]"),
              unknown=("tokenizer.json", '{"version": "1.0", "model": {"type": "NoSuchModel", "vocab": {}}}'), config=("tokenizer_config.json", "[]"),
              code=("tokenizer_config.json", '{"tokenizer_class": "Toy", "auto_map": {"AutoTokenizer": ["toy.Toy", null]}}'),
              classless=("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'), vocabulary=("vocab.json", "[]"))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_tokenizer_that_cannot_be_built_is_one_line(models, tmp_path, kind):
    folder, (name, content) = Path(shutil.copytree(models["llama"], tmp_path/"step3")), BROKEN[kind]
    (folder/name).write_text(content)
    refused(lambda: Other(folder, 3).tokenizer, "^step3: tokenizer .*step3")
    refused(lambda: tokenizer_of(Other(folder, 3).model), "^step3: tokenizer .*step3")


def test_a_tokenizer_in_the_folder_above_is_named_and_not_taken(models, tmp_path):
    folder = Path(shutil.copytree(models["llama"], tmp_path/"step3"))
    model = Other(folder, 3).model
    assert tokenizer_of(model) is None
    words_tokenizer(tmp_path, ["a", "b"])
    refused(lambda: tokenizer_of(model), f"^step3: no tokenizer lies beside the weights; --tokenizer {re.escape(str(tmp_path))} ")
    assert tokenizer_of(model, tmp_path).get_vocab() == dict({"<end>": 0, "a": 1, "b": 2})
    words_tokenizer(folder, ["c"])
    assert "c" in tokenizer_of(model).get_vocab() and "a" in tokenizer_of(model, tmp_path).get_vocab()
    refused(lambda: tokenizer_of(model, tmp_path/"none"), "none")
