"Models, tokenizers and texts of others: opened as they are, or refused in a line that says what helps."
import gzip
import json
import re
import resource
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, HeliumConfig, LlamaConfig

from grok_nb import InputError, texts
from grok_nb.commands import grok_nb_measure, grok_nb_train
from grok_nb.copying.elsewhere import copies_of_its_own, heads_of_its_own, ordinary_tokens
from grok_nb.probes import measure
from grok_nb.series import Other, Series, tensor_hashes, tokenizer_of
from grok_nb.texts import end_of_text, open_texts

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


def in_blocks(kind, prefix, whole=""):
    "Names as they are where each block was compiled by itself, and the model once more; `whole`: what that has put before them."
    return lambda found: {whole + re.sub(rf"^{re.escape(LAYER[kind])}\.\d+\.", rf"\g<0>{prefix}", n): t for n, t in found.items()}


@pytest.mark.parametrize("whole", ["", "_orig_mod.", "module."])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox"])
def test_a_prefix_inside_names_is_named_and_taken_off_on_request(models, tmp_path, kind, prefix, whole):
    folder = changed(models[kind], tmp_path/"step3", in_blocks(kind, prefix, whole))
    says = f"begin with {re.escape(whole)}," if whole else f"hold {re.escape(prefix)}, as {re.escape(LAYER[kind])}.0.{re.escape(prefix)}[a-z_0-9.]+ does,"
    refused(lambda: Other(folder, 3).model, f"^step3: its tensors' names {says}", f"--strip-prefix {re.escape(whole or prefix)} takes it off$")
    assert same(Series([folder], strip_prefix=whole or prefix).checkpoints[0].model, Other(models[kind], 3).model)
    assert tensor_hashes(folder) == tensor_hashes(models[kind])


@pytest.mark.parametrize("prefix, options", [("_orig_mod.", {}), ("_orig_mod.", dict(strip_prefix="_orig_mod.")), ("mine.", dict(strip_prefix="mine."))])
def test_which_of_two_tensors_of_one_name_is_meant_is_not_guessed(models, tmp_path, prefix, options):
    folder = changed(models["llama"], tmp_path/"step3", lambda found: {prefix + n: t + 1 for n, t in found.items()} | found)
    refused(lambda: Other(folder, 3, **options).model, f"^step3: 21 of its tensors are there with {prefix} and without, such as lm_head.weight; --ignore-tensors '.{prefix}.' alone")
    if options: refused(lambda: Other(folder, 3, **options, ignore_tensors=(f"*{prefix}*",)).model, " and without, such as")
    assert same(Other(folder, 3, ignore_tensors=(f"*{prefix}*",)).model, Other(models["llama"], 3).model)
    assert len(tensor_hashes(folder)) == 42
    if not options: assert len(tensor_hashes(changed(folder, tmp_path/"step4", lambda found: {n if n.startswith(prefix) else "module." + n: t for n, t in found.items()}))) == 42


@pytest.mark.parametrize("change", [in_blocks("llama", "_orig_mod."), in_blocks("llama", "", "_orig_mod.")], ids=["blocks", "whole"])
def test_one_compiled_checkpoint_among_many_is_told_before_any_is_measured(models, tmp_path, runs_root, capsys, change):
    for step in (1, 2, 3, 5):
        changed(models["llama"], tmp_path/"series"/f"step{step}", lambda found: {n: t + step*.1 for n, t in found.items()})
    changed(tmp_path/"series"/"step2", tmp_path/"series"/"step4", change) # a duplicate, too
    command = [str(tmp_path/"series"), "--study", "copying", "--json"]
    with pytest.raises(SystemExit) as ended: grok_nb_measure(command)
    said = capsys.readouterr()
    assert ended.value.code == 2 and not said.out and re.fullmatch("grok_nb_measure: step4: its tensors' names [^\n]*; --strip-prefix _orig_mod. takes it off\n", said.err)
    assert list(runs_root.iterdir()) == []
    grok_nb_measure([*command, "--strip-prefix", "_orig_mod."])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == [1, 2, 3, 4, 5] and found["verified"]["summary"] == "4 distinct of 5" and found["verified"]["remarks"] == ["step 4 has the weights of step 2"]


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


# --- what is drawn from, and what is not asked

def test_a_padded_vocabulary_is_not_drawn_from(tmp_path, runs_root, capsys):
    "100 words in 256 ids, a third of which a head has never learnt to find; a model that copies must look as if it did."
    from grok_nb.copying.copy_test import copier
    model = copier(256, context=128)
    with torch.no_grad(): model.get_input_embeddings().weight[101:] = 0 # never trained
    model.config.bos_token_id = model.config.eos_token_id = None
    padded, series = tmp_path/"padded", tmp_path/"series"
    model.save_pretrained(padded/"step1")
    model.save_pretrained(series/"step1")
    words_tokenizer(padded/"step1", [f"w{i}" for i in range(100)])
    words_tokenizer(tmp_path/"words", [f"w{i}" for i in range(100)])
    best = lambda rows, metric: max(r["value"] for r in rows if r["metric"] == metric)
    alone, known = Other(series/"step1", 1).model, Other(padded/"step1", 1).model
    given = dict(tokenizer=str(tmp_path/"words"))
    assert ordinary_tokens(known).tolist() == ordinary_tokens(alone, **given).tolist() == list(range(1, 101))
    assert best(heads_of_its_own(known), "attention") > .9 > best(heads_of_its_own(alone), "attention") + .2
    assert heads_of_its_own(alone, **given) == heads_of_its_own(known)
    assert copies_of_its_own(alone, **given, samples=5) == copies_of_its_own(known, samples=5) != copies_of_its_own(alone, samples=5)
    for source, words, drawn in ((padded, [], 100), (series, ["--tokenizer", str(tmp_path/"words")], 100), (series, [], 256)):
        grok_nb_measure([str(source), "--study", "copying", "--json", *words])
        assert json.loads(capsys.readouterr().out)["notes"] == [f"tokens are drawn from {drawn} of the model's 256"]


def test_the_copy_test_is_asked_where_the_lens_sees_no_heads(tmp_path, runs_root, capsys):
    config = HeliumConfig(**SIZES | dict(vocab_size=40), num_key_value_heads=2, head_dim=8, pad_token_id=None)
    for step in (1, 2):
        torch.manual_seed(step)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path/"helium"/f"step{step}")
    grok_nb_measure([str(tmp_path/"helium"), "--study", "copying", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert len(found["left_out"]) == 1 and re.search("^induction is left out: model: the lens has no adapter for 'helium'", found["left_out"][0])
    assert said.err.splitlines() == ["helium: " + found["left_out"][0]]
    assert {p.stem for p in Path(found["tables"]).glob("*.parquet")} == {"tokens", "copy", "weights"} and found["steps"] == [1, 2]
    with pytest.raises(InputError, match="no adapter for 'helium'.* and nothing is left"): measure(tmp_path/"helium", dict(induction=heads_of_its_own), tmp_path/"tables")
    assert not (tmp_path/"tables").exists()


@pytest.mark.parametrize("option, words", [("--tokenizer", ["--tokenizer", "none"]), ("--strip-prefix", ["--strip-prefix"]), ("names begin with _orig_mod.", []),
                                           ("unexpected", ["--strip-prefix", "_orig_mod."])])
def test_the_command_refuses_in_a_line_before_it_writes(models, tmp_path, runs_root, capsys, option, words):
    changed(models["llama"], tmp_path/"series"/"step3", lambda found: {"_orig_mod." + n: t for n, t in one_more_layer("llama")(found).items()})
    command = [str(tmp_path/"series"), "--study", "copying", *words]
    with pytest.raises(SystemExit) as ended: grok_nb_measure(command)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1 and option.removeprefix("--") in said and list(runs_root.iterdir()) == []


def test_a_prefix_and_tensors_are_left_out_by_the_command(models, tmp_path, runs_root, capsys):
    changed(models["llama"], tmp_path/"series"/"step3", lambda found: {"_orig_mod." + n: t for n, t in one_more_layer("llama")(found).items()})
    grok_nb_measure([str(tmp_path/"series"), "--study", "copying", "--json", "--strip-prefix", "_orig_mod.", "--ignore-tensors", "model.layers.2.*"])
    assert json.loads(capsys.readouterr().out)["steps"] == [3]


# --- texts

TEXTS = ["One – and more.", "Two 🐈.", "Three."]
ROWS = "".join(json.dumps(dict(text=t)) + "\n" for t in TEXTS)
PLAIN = f"\n{end_of_text}\n".join(TEXTS)
PACKED = {"": bytes, ".gz": gzip.compress, ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True)}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".json"])
def test_packed_texts_are_read_to_their_end(tmp_path, kind, packed):
    pack, content = PACKED[packed], (PLAIN if kind == ".txt" else ROWS).encode()
    path = tmp_path/f"a{kind}{packed}"
    path.write_bytes(pack(content))
    assert [t.strip() for t in open_texts(tmp_path)] == TEXTS
    path.write_bytes(pack(content[:9]) + pack(content[9:])) # as `cat` and parallel packers write it
    assert [t.strip() for t in open_texts(path)] == TEXTS
    if not packed: return
    for broken in (pack(content)[:-3], pack(content)[:9], pack(content) + b"no frame", content):
        path.write_bytes(broken)
        if packed == ".gz" and broken.endswith(b"no frame"): continue # as gzip itself does it
        refused(lambda: [*open_texts(path)], f"^corpus file {re.escape(str(path))} cannot be read: ")


def test_packed_text_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "longest_document", 1_000_000)
    for kind in (".txt", ".jsonl"):
        with pa.CompressedOutputStream(str(tmp_path/f"bomb{kind}.zst"), "zstd") as file:
            for _ in range(100): file.write(b" "*10_000_000)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 1e6 # a billion blanks each
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in (".txt", ".jsonl"): refused(lambda: open_texts(tmp_path/f"bomb{kind}.zst"), f"bomb{kind}.zst: more than 1 million characters in line 1")
    if sys.platform == "linux": assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000 # KiB


ABOUT = {"README.txt": "Read me.", "LICENSE.txt": "As is.", "README": "Read me.", "readme.md": "Read me.", "LICENCE-2.0.txt": "As is.", "bnc_spoken.train": "Hello .\n",
         ".hidden.txt": "Hidden.", ".git/description.txt": "Unnamed.", "part.jsonl.bz2": "?"}


@pytest.mark.parametrize("name", ABOUT)
def test_a_file_of_a_corpus_folder_is_read_or_named(tmp_path, capsys, name):
    (tmp_path/name).parent.mkdir(exist_ok=True)
    (tmp_path/name).write_text(ABOUT[name])
    refused(lambda: open_texts(tmp_path), rf"holds no text that is read \(there: {re.escape(name)}\); allowed in it: ")
    (tmp_path/"readmes_of_projects.jsonl").write_text(ROWS) # about something else
    (tmp_path/"more").mkdir()
    (tmp_path/"more"/"b.txt.zst").write_bytes(PACKED[".zst"](b"Four."))
    for _ in range(2): assert [t.strip() for t in open_texts(tmp_path)] == ["Four.", *TEXTS]
    assert capsys.readouterr().err == f"corpus folder {tmp_path}: not read: {name}\n" # once
    if name == "README.txt": assert [*open_texts(tmp_path/name)] == ["Read me."] # as asked for


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00", "\\ude00\\ud83d"])
def test_half_a_character_is_refused_where_it_stands(tmp_path, runs_root, capsys, half):
    path = tmp_path/"a.jsonl"
    path.write_text(ROWS*200 + '{"text": "a whole one: \\ud83d\\ude00, \\\\ud83d"}\n' + f'{{"text": "half {half} of one"}}\n')
    with pytest.raises(SystemExit) as ended: grok_nb_train(["corpus", "--preset", "smoke", "--corpus", str(path)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1 and f"{path}, line 602: half a character, \\u" in said
    assert [p for p in runs_root.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    path.write_text('{"text": "a whole one: \\ud83d\\ude00, \\\\ud83d"}\n')
    assert [*open_texts(path)] == ["a whole one: 😀, \\ud83d"]


@pytest.mark.promise("input")
def test_a_sentence_that_is_missing_is_named_with_its_file_before_a_model_is_opened(models, tmp_path, runs_root, capsys):
    (folder := tmp_path/"pairs").mkdir()
    (folder/"a.csv").write_text("sentence_good;sentence_bad\nthe dog runs;the dog run\n")
    (folder/"b.csv").write_text("sentence_good;sentence_bad\nthe cat runs;the cat run\nthe cat sees;\n")
    with pytest.raises(SystemExit): grok_nb_measure([str(models["llama"].parent), "--study", "grammar", "--pairs", str(folder)])
    out, err = capsys.readouterr()
    assert not out and "b.csv: sentence_bad of pair 1 is blank or no text" in err
    (folder/"b.csv").write_bytes("sentence_good;sentence_bad\nl’été;l’ete\n".encode("utf-16"))
    with pytest.raises(SystemExit): grok_nb_measure([str(models["llama"].parent), "--study", "grammar", "--pairs", str(folder)])
    assert "b.csv cannot be read: not UTF-8 text" in capsys.readouterr().err
