"Minimal pairs against slow definitions and against the peers: what is read, which words decide, and what each sentence scores."
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import (AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, PhiConfig, PreTrainedTokenizerFast,
                          Starcoder2Config, T5Config, T5ForConditionalGeneration)

from grok_nb import InputError
from grok_nb.grammar.minimal_pairs import (Policy, _differing, _neighbour_rule_of, _row, _rule_of, _why_not, accuracy, baseline_figure, blimp_paradigms,
                                           critical_phrases, encode_pairs, phrase_columns, phrase_table, read_pairs, read_policy, score_pairs, token_positions,
                                           unigram_scores)
from grok_nb.grammar.presets import pairs_fingerprint_of
from grok_nb.models import branches_are_exact
from grok_nb.texts import train_tokenizer

SENTENCES = [
    ("determiner_noun_agreement_1", "Craig explored that grocery store.", "Craig explored that grocery stores."),
    ("determiner_noun_agreement_with_adj_2", "Cynthia scans these hard books.", "Cynthia scans this hard books."),
    ("regular_plural_subject_verb_agreement_1", "A lot of dancers research a book.", "A lot of dancers researches a book."),
    ("regular_plural_subject_verb_agreement_2", "The students perform.", "The student perform."),
    ("irregular_past_participle_verbs", "The mushroom went bad.", "The mushroom gone bad."),
    ("existential_there_subject_raising", "There is soon to be a cat existing.", "There is willing to be a cat existing."),
    ("existential_there_subject_raising", "There turned out to be more cats falling.", "There try to be more cats falling."),
    ("adjunct_island", "Who should Derek hug after shocking Richard?", "Who should Derek hug Richard after shocking?"),
    ("superlative_quantifiers_1", "No girl attacked fewer than two waiters.", "No girl attacked at most two waiters."),
    ("anaphor_number_agreement", "The boys hadn't seen themselves.", "The boys hadn't seen himself."),
    ("animate_subject_passive", "Lori was run around by some waiters.", "Lori was run around by some ice."),
    ("principle_A_domain_1", "That man thought that that girl hired him.", "That man thought that that girl hired himself."),
    ("transitive", "Kendra won't talk to Tiffany.", "Kendra won't talk Tiffany."),
    ("drop_argument", "Noah approached.", "Noah works with.")]
PHRASES = ["that grocery store", "these hard books", "dancers research", "students perform", "mushroom went", "there is soon", None, None,
           "no girl attacked fewer than", "boys hadn't seen themselves", "run around by some waiters", "girl hired him", None, None]
PAIRS = pd.DataFrame(SENTENCES, columns=["paradigm", "sentence_good", "sentence_bad"])
POLICIES = dict(default=Policy(), bare=Policy(leading_space=False), skipped=Policy(first_token=False),
                unprefixed=Policy("none", first_token=False), means=Policy("none", False, False, "token", "bad"))


@pytest.fixture(scope="module")
def pairs(): return read_pairs(PAIRS)


@pytest.fixture(scope="module")
def tokenizer(): return train_tokenizer([s for column in ("sentence_good", "sentence_bad") for s in PAIRS[column]]*3, 330)


SIZES = dict(vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
NONE = dict(bos_token_id=None, eos_token_id=None)
CONFIGS = dict(
    llama=LlamaConfig(**SIZES), grouped=LlamaConfig(**SIZES, num_key_value_heads=2),
    starcoder2=Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=None, **NONE),
    gpt_neox=GPTNeoXConfig(**SIZES, rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=.5), **NONE),
    gpt2=GPT2Config(vocab_size=330, n_embd=32, n_layer=2, n_head=4, n_positions=64, **NONE))
PLAIN = dict(phi=PhiConfig(**SIZES, **NONE), mistral=MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6),
             window=Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=6, **NONE))


def built(config, seed=1):
    "A model with every weight, bias and norm drawn at random."
    model, generator = AutoModelForCausalLM.from_config(config), torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=generator)*(.1 if p.ndim == 1 else .4) + (p.ndim == 1 and name.endswith("weight"))
    return model.eval()


@torch.no_grad()
def one_at_a_time(model, tokenizer, sentence, policy):
    "Log-probability of one sentence, and its scored tokens, by the definition."
    ids = tokenizer((" " if policy.leading_space else "") + sentence, add_special_tokens=False)["input_ids"]
    if policy.prefix == "bos": ids = [tokenizer.bos_token_id, *ids]
    skip = {("bos", True): 1, ("bos", False): 2, ("none", False): 1}[policy.prefix, policy.first_token]
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logprobs[i - 1, ids[i]].item() for i in range(skip, len(ids))), len(ids) - skip


def same_as_one_at_a_time(model, tokenizer, pairs, policy, **how):
    scores = score_pairs(model, tokenizer, pairs, policy, **how)
    for side in ("good", "bad"):
        slow = [one_at_a_time(model, tokenizer, s, policy) for s in pairs[f"sentence_{side}"]]
        assert np.abs(scores[f"logprob_{side}"] - [nats for nats, _ in slow]).max() < 1e-4
        assert scores[f"tokens_{side}"].tolist() == [n for _, n in slow]
    divide = (scores.tokens_good, scores.tokens_bad) if policy.normalise == "token" else (1, 1)
    margin = scores.logprob_good/divide[0] - scores.logprob_bad/divide[1]
    assert np.allclose(scores.margin, margin) and (scores.correct == (margin > 0)).all() and len(set(scores.correct)) == 2
    assert scores.pair.tolist() == pairs.pair.tolist() and Policy(**scores.attrs["policy"]) == policy


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_with_branches_scores_as_one_sentence_at_a_time(name, policy, tokenizer, pairs):
    model = built(CONFIGS[name])
    assert branches_are_exact(model, 64)
    same_as_one_at_a_time(model, tokenizer, pairs, policy, batch_tokens=100)


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_scores_are_near_those_of_float64(name, tokenizer, pairs):
    "Log-probabilities are taken in float32: 1e-5 nats beside float64, 1e-4 where the model is float32 too, and no verdict differs."
    single, exact = built(CONFIGS[name]), built(CONFIGS[name]).double()
    for policy in (Policy(), POLICIES["means"]):
        found, twin = score_pairs(single, tokenizer, pairs, policy), score_pairs(exact, tokenizer, pairs, policy)
        for side in ("good", "bad"):
            slow = [one_at_a_time(exact, tokenizer, s, policy)[0] for s in pairs[f"sentence_{side}"]]
            assert np.abs(twin[f"logprob_{side}"] - slow).max() < 1e-5 and np.abs(found[f"logprob_{side}"] - slow).max() < 1e-4
        assert (found.correct == twin.correct).all() and np.abs(found.margin - twin.margin).max() < 1e-4


@pytest.mark.parametrize("name", PLAIN)
def test_other_architectures_are_scored_in_plain_rows(name, tokenizer, pairs):
    model = built(PLAIN[name])
    assert not branches_are_exact(model, 64)
    same_as_one_at_a_time(model, tokenizer, pairs, Policy(), batch_tokens=100)


def test_the_size_of_a_batch_and_the_order_of_pairs_do_not_matter(tokenizer, pairs):
    model = built(CONFIGS["llama"])
    whole, single = score_pairs(model, tokenizer, pairs), score_pairs(model, tokenizer, pairs[::-1], batch_tokens=1)
    assert np.abs(whole.margin.to_numpy() - single.margin.to_numpy()[::-1]).max() < 1e-4 and single.pair.tolist() == pairs.pair.tolist()[::-1]


def test_a_sentence_may_begin_the_other_and_two_may_have_the_same_tokens(tokenizer):
    model = built(CONFIGS["llama"])
    pairs = read_pairs(pd.DataFrame(dict(sentence_good=["The cat", "The cat is", "a b"], sentence_bad=["The cat is", "The cat", "b a"])))
    scores = score_pairs(model, tokenizer, pairs)
    assert scores.margin[0] == pytest.approx(-scores.margin[1], abs=1e-4) and scores.margin[0] > 0
    lower = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token=tokenizer.bos_token)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    same = read_pairs(pd.DataFrame(dict(sentence_good=["The cat"], sentence_bad=["the cat"])))
    for ties, right in (("half", .5), ("good", 1), ("bad", 0)):
        scores = score_pairs(model, lower, same, Policy(ties=ties))
        assert scores.margin[0] == 0 and scores.correct[0] == right and scores.same_tokens[0] and accuracy(scores, same).same_tokens[0] == 1
    lower.backend_tokenizer.normalizer = None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_a_row_holds_both_sentences(good, bad):
    ids, whose = map(np.array, _row(good, bad))
    assert ids[whose != 2].tolist() == good and ids[whose != 1].tolist() == bad
    assert len(ids) == len(good) + len(bad) - (whose == 0).sum() and (np.diff(whose) >= 0).all()


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_the_words_that_differ_are_as_few_as_can_be(good, bad):
    start, stop, other = _differing(good, bad)
    assert good[:start] == bad[:start] and good[stop:] == bad[other:] and start <= min(stop, other)
    if start < min(stop, other): assert good[start] != bad[start] and good[stop - 1] != bad[other - 1]


def test_phrases_span_what_differs_and_what_decides(pairs):
    assert [None if pd.isna(p) else p for p in pairs.phrase_good] == PHRASES
    for row in pairs.dropna(subset=["phrase_good"]).itertuples():
        for side in ("good", "bad"):
            first, last = getattr(row, f"context_{side}"), getattr(row, f"critical_{side}")
            words = getattr(row, f"sentence_{side}").lower().split()[first:last + 1]
            assert " ".join(words).rstrip(".?") == getattr(row, f"phrase_{side}")
    assert pairs.attrs == dict(identical=0, phrase_not_found=2) and not pairs[pairs.phrase_good.isna()][list(phrase_columns)].notna().any(axis=None)
    assert len(blimp_paradigms) == 67 and not set(_rule_of) & set(_why_not)


@settings(max_examples=60)
@given(st.sampled_from(sorted(_rule_of)), st.lists(st.sampled_from("that the ever is n't a lot of Ann's ice cream . dog".split()), min_size=1, max_size=8),
       st.lists(st.sampled_from("that the ever is n't a lot of Ann's ice cream . dog".split()), min_size=1, max_size=8))
def test_no_sentence_breaks_a_rule(paradigm, good, bad):
    table = critical_phrases(pd.DataFrame(dict(paradigm=[paradigm], sentence_good=[" ".join(good)], sentence_bad=[" ".join(bad)])))
    row = table.iloc[0]
    assert row[list(phrase_columns)].isna().nunique() == 1 # all or none
    if not pd.isna(row.phrase_good): assert 0 <= row.context_good <= row.critical_good < len(good) and 0 <= row.context_bad <= row.critical_bad < len(bad)


def test_a_file_gives_its_own_phrases_places_and_paradigms(tmp_path):
    rows = pd.DataFrame(dict(sentence_good=["Das Haus ist  alt.", "Die Frau liest.", "Wir sind.", "Ich bin da."],
                             sentence_bad=["Der Haus ist alt.", "Die Frau lesen.", "Wir sind.", "Ich bist da."],
                             phrase_good=["Das  Haus ist", "Frau liest.", "wir sind", "du bin"],
                             phrase_bad=["Der Haus ist", "Frau LESEN", "wir sind", "Ich bist"],
                             context_good=[1, None, None, None]))
    rows.to_parquet(tmp_path/"deutsch.parquet")
    rows.to_json(tmp_path/"auch.jsonl", orient="records", lines=True, force_ascii=False)
    one, other = read_pairs(tmp_path/"deutsch.parquet"), read_pairs(tmp_path/"auch.jsonl")
    pd.testing.assert_frame_equal(one.drop(columns="paradigm"), other.drop(columns="paradigm"), check_dtype=False)
    assert set(one.paradigm) == {"deutsch"} and set(other.paradigm) == {"auch"} and one.attrs == dict(identical=1, phrase_not_found=1)
    assert one.pair.tolist() == [0, 1, 3] and one.phrase_good[:2].tolist() == ["das haus ist", "frau liest"] and one.phrase_bad[1] == "frau lesen"
    assert one.context_good[0] == 1 and one.critical_good[0] == 2 and one.critical_bad[1] == 2
    both = read_pairs(tmp_path)
    assert len(both) == 6 and both.pair.is_unique and set(both.paradigm) == {"deutsch", "auch"} and set(read_pairs(tmp_path, "auch").paradigm) == {"auch"}
    assert read_pairs(PAIRS.rename(columns={"paradigm": "UID"})).equals(read_pairs(PAIRS))


def test_pairs_of_every_kind_of_file_under_their_own_names(tmp_path):
    rows = pd.DataFrame(dict(ok=['Она сказала: "нет"; и ушла, да.', "NA are null", "Он спал."], wrong=["Она", "NA is null", "Он спала."], set=["x", None, "y"]))
    columns = "good=ok,bad=wrong,paradigm=set"
    def text(name, **how): rows.to_csv(tmp_path/name, index=False, encoding="utf-8-sig", lineterminator="\r\n", **how)
    for name, sep in (("comma.csv", ","), ("semicolon.csv", ";"), ("tab.tsv", "\t"), ("tab.csv", "\t")): text(name, sep=sep)
    rows.to_parquet(tmp_path/"a.parquet")
    rows.to_json(tmp_path/"a.json", orient="records")
    for name in ("a.jsonl", "a.jsonl.gz"): rows.to_json(tmp_path/name, orient="records", lines=True)
    (tmp_path/"bom.jsonl").write_text((tmp_path/"a.jsonl").read_text(), encoding="utf-8-sig")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 9
    for file in files:
        pairs = read_pairs(file, columns=columns)
        assert pairs.sentence_good.tolist() == rows.ok.tolist() and pairs.sentence_bad.tolist() == rows.wrong.tolist(), file
        assert pairs.paradigm.tolist() == ["x", file.name.split(".")[0], "y"]
        fingerprint = pairs_fingerprint_of(file, "x", columns)
        assert len(fingerprint) == 16
    assert len(read_pairs(tmp_path, columns=columns)) == 8*3 # a .json in a folder is not looked at
    turned = read_pairs(tmp_path/"a.json", columns="good=wrong,bad=ok")
    assert turned.sentence_good.tolist() == rows.wrong.tolist()


BY_SENTENCE = "sentence=text,label=acceptable,item=id,paradigm=set"


def by_sentence(labels=("good", "bad")):
    "The sentences of this page, a row for each, in another order than that of the pairs; an id counts within its paradigm, and begins again."
    good = pd.DataFrame(dict(text=PAIRS.sentence_good, acceptable=labels[0], id=PAIRS.groupby("paradigm").cumcount(), set=PAIRS.paradigm, phrase=None))
    good.loc[7, "phrase"] = "who should derek hug"
    bad = good.assign(text=PAIRS.sentence_bad, acceptable=labels[1])
    bad.loc[7, "phrase"] = "who should derek hug richard"
    return pd.concat([good[:1], bad[:3], good[1:], bad[3:]])


@pytest.mark.parametrize("labels", [(1, 0), ("good", "bad"), ("Acceptable", "unacceptable"), (True, False), (1.0, 0.0)])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "b.csv", "a.json", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_sentence_a_row_is_the_same_as_a_pair_a_row(tmp_path, name, labels):
    rows, path = by_sentence(labels), tmp_path/name
    if name.endswith(".parquet"): rows.to_parquet(path)
    elif ".json" in name: rows.to_json(path, orient="records", lines="jsonl" in name)
    else: rows.to_csv(path, index=False, sep={"a.tsv": "\t", "b.csv": ";"}.get(name, ","))
    own = PAIRS.assign(phrase_good=None, phrase_bad=None).astype(object)
    own.loc[7, ["phrase_good", "phrase_bad"]] = rows.phrase.dropna().tolist()
    wanted, found = read_pairs(own), read_pairs(path, columns=BY_SENTENCE)
    pd.testing.assert_frame_equal(found, wanted)
    assert found.attrs == wanted.attrs and found.phrase_good[7] == "who should derek hug"
    usual = rows.rename(columns=dict(text="sentence", acceptable="label", id="item", set="UID"))
    pd.testing.assert_frame_equal(read_pairs(usual), wanted)
    assert len(pairs_fingerprint_of(path, "transitive", BY_SENTENCE)) == 16


def test_a_folder_may_have_files_of_both_layouts(tmp_path):
    PAIRS.to_csv(tmp_path/"a.csv")
    by_sentence().rename(columns=dict(text="sentence", acceptable="label", id="item", set="paradigm")).to_csv(tmp_path/"b.csv")
    found = read_pairs(tmp_path)
    assert found.pair.tolist() == list(range(2*len(PAIRS))) and found.sentence_bad.tolist() == PAIRS.sentence_bad.tolist()*2


def without_a_row(rows): return rows[1:]
def with_a_row_twice(rows): return pd.concat([rows, rows[:1]])
def of_one_label(rows): return rows.assign(acceptable="good")


@pytest.mark.promise("input")
@pytest.mark.parametrize("change,says", [
    (without_a_row, "1 of 14 items .*: '0' of 'determiner_noun_agreement_1' .1 bad.$"), (with_a_row_twice, "1 of 14 items .*: '0' of 'determiner_noun_agreement_1' .2 good, 1 bad.$"),
    (of_one_label, "14 of 14 items are not one good and one bad row: '0' of .* .2 good., '0' of .* .2 good., '0' of .* .2 good., …$"),
    (lambda rows: rows.assign(acceptable=["good", "maybe", *["bad"]*26]), "label 'maybe' in row 1, from 0: must be 1 or 0"),
    (lambda rows: rows.assign(acceptable=[None, *["bad"]*27]), "label '' in row 0"), (lambda rows: rows.assign(id=["", *range(27)]), "no item in row 0, from 0"),
    (lambda rows: rows.assign(text=[None, *rows.text[1:]]), "sentence_good of pair 0 is blank"), (lambda rows: rows.assign(set=[None, *rows.set[1:]]), "2 of 15 items .*'0' of 'pairs' .1 good., '0' of 'det"),
    (lambda rows: rows.drop(columns="id"), "columns: item='id' is unknown. Allowed"), (lambda rows: pd.concat([rows, PAIRS]), "label '' in row 28, from 0")])
def test_items_that_are_no_pairs_are_counted_and_named(tmp_path, change, says):
    change(by_sentence()).to_json(tmp_path/"pairs.jsonl", orient="records", lines=True, force_ascii=False)
    for read in (read_pairs, lambda path, columns: pairs_fingerprint_of(path, "", columns)):
        with pytest.raises(InputError, match=says) as e: read(tmp_path/"pairs.jsonl", columns=BY_SENTENCE)
        assert "pairs.jsonl" in str(e.value) and str(e.value).isprintable()


@pytest.mark.promise("input")
@pytest.mark.parametrize("columns,says", [
    ("", "has sentence_good beside sentence, label and item"), ("sentence=sentence", "label '' in row 1, from 0"), ("good=sentence_good", "sentence_good of pair 0 is blank"),
    ("good=sentence_good,item=item", "good is of files with a pair a row, item of those with a sentence a row")])
def test_a_file_in_two_layouts_is_refused_either_way(tmp_path, columns, says):
    (tmp_path/"pairs.jsonl").write_text(json.dumps(dict(sentence="a", label=1, item=0)) + "\n" + json.dumps(dict(sentence_good="a", sentence_bad="b")))
    with pytest.raises(InputError, match=says): read_pairs(tmp_path/"pairs.jsonl", columns=columns)


def test_a_row_without_a_paradigm_is_of_the_files_and_none_is_lost(tmp_path):
    rows = [dict(UID="a"), dict(paradigm="b"), dict(), dict(UID=" ", paradigm=None), dict(paradigm=7)]
    (tmp_path/"rest.jsonl").write_text("\n".join(json.dumps(dict(sentence_good=f"good {i}", sentence_bad=f"bad {i}") | row) for i, row in enumerate(rows)))
    pairs = read_pairs(tmp_path/"rest.jsonl")
    assert pairs.paradigm.tolist() == ["a", "b", "rest", "rest", "7"] and phrase_table(pairs).pairs.sum() == len(rows)
    scores = pd.DataFrame(dict(pair=pairs.pair, margin=1., correct=True, same_tokens=False))
    assert accuracy(scores, pairs).set_index("paradigm").pairs.drop("mean").sum() == len(rows)
    with pytest.raises(InputError, match="did you mean 'rest'"): pairs_fingerprint_of(tmp_path/"rest.jsonl", "rist")


@pytest.mark.parametrize("paradigm,good,bad,phrase", [
    ("np_agreement_gender", "Вот такой конь!", "Вот такая конь!", "такой конь"), ("np_agreement_gender", "Вот такой же конь!", "Вот такая же конь!", None),
    ("np_agreement_number", "Это большие, деревни.", "Это большие, деревня.", None), ("adposition_government", "Он спал в лесу.", "Он спал в леса.", "в лесу"),
    ("noun_subj_predicate_agreement_number", "А гость спал.", "А гость спали.", "гость спал"), ("noun_subj_predicate_agreement_number", "Гость не спал.", "Гость не спали.", None),
    ("noun_subj_predicate_agreement_number", "Спал гость.", "Спали гость.", None)])
def test_a_neighbour_decides_in_russian(paradigm, good, bad, phrase):
    row = critical_phrases(pd.DataFrame(dict(paradigm=[paradigm], sentence_good=[good], sentence_bad=[bad]))).iloc[0]
    assert row.phrase_good == phrase if phrase else pd.isna(row.phrase_good)


def test_a_neighbour_of_the_changed_word_where_no_rule_knows_one():
    table = pd.DataFrame(dict(paradigm=["own", "own", "own", "adjunct_island"], sentence_good=["Der alte Mann geht heim.", "Er, geht.", "Das ist so.", "Der Mann geht."],
                              sentence_bad=["Der alte Mann gehst heim.", "Er, gehst.", "So ist das.", "Der Mann gehst."]))
    before, after, none = (critical_phrases(table, n).phrase_good.fillna("").tolist() for n in ("before", "after", ""))
    assert before == ["mann geht", "", "", ""] and after == ["geht heim", "", "", ""] and none == [""]*4


def test_pairs_from_the_hub_are_read_by_configuration(monkeypatch):
    import datasets
    import huggingface_hub
    class Hub:
        def dataset_info(self, name, timeout): return type("Info", (), dict(sha="abc"))
    def load(name, config, revision): return dict(train=datasets.Dataset.from_pandas(PAIRS[PAIRS.paradigm == config].drop(columns="paradigm")))
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, revision: sorted(set(PAIRS.paradigm)))
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_pairs("nyu-mll/blimp").paradigm.value_counts().to_dict() == PAIRS.paradigm.value_counts().to_dict()
    assert read_pairs("nyu-mll/blimp", ["transitive"]).sentence_good.tolist() == ["Kendra won't talk to Tiffany."]
    with pytest.raises(InputError, match="paradigm 'transitiv' is unknown: did you mean 'transitive'"): read_pairs("nyu-mll/blimp", ["transitiv"])


def test_an_unreachable_hub_is_one_line(monkeypatch):
    import huggingface_hub
    def unreachable(*args, **how): raise ConnectionError("no route\nto host")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(InputError, match="'nyu-mll/blimp': no such file, and not loaded as a data set .no route.; allowed: ") as e: read_pairs("nyu-mll/blimp")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_positions_are_where_a_word_has_been_read(policy, tokenizer, pairs):
    places, encoded = token_positions(tokenizer, pairs, policy), encode_pairs(tokenizer, pairs, policy)
    start = policy.prefix == "bos"
    for i, row in enumerate(pairs.itertuples()):
        for side, ids in zip(("good", "bad"), encoded):
            sentence = getattr(row, f"sentence_{side}")
            for name in ("context", "critical", "last"):
                at, word = places[f"{name}_token_{side}"][i], -1 if name == "last" else getattr(row, f"{name}_{side}")
                if pd.isna(word): assert pd.isna(at); continue
                until = len(sentence.split()) if word == -1 else word + 1
                wanted = " ".join(sentence.split()[:until]).rstrip(".?")
                assert tokenizer.decode(ids[i][start:at + 1]).strip().rstrip(".?") == wanted # punctuation may be in the token of the word
                assert len(tokenizer.decode(ids[i][start:at]).strip()) < len(wanted)


def test_unigrams_score_by_counts_and_the_same_words_are_a_tie(tokenizer, pairs):
    counts = np.arange(330)[::-1]
    for policy in POLICIES.values():
        scores, encoded = unigram_scores(counts, tokenizer, pairs, policy), encode_pairs(tokenizer, pairs, policy)
        nats = np.log((counts + 1)/(counts.sum() + 330))
        assert np.allclose(scores.logprob_bad, [nats[ids[policy.unscored:]].sum() for ids in encoded[1]]) and Policy(**scores.attrs["policy"]) == policy
    words = ["we saw the cat and her dog in town".split()[i:] + "we saw the cat and her dog in town".split()[:i] for i in range(9)]
    turned = read_pairs(pd.DataFrame(dict(sentence_good=[" ".join(words[0])]*8, sentence_bad=[" ".join(w) for w in words[1:]])))
    table = accuracy(unigram_scores(np.random.default_rng(0).integers(1000, size=330), tokenizer, turned), turned)
    assert table.accuracy.tolist() == [.5, .5] and table.tied.tolist() == [1, 1] and table.same_tokens.tolist() == [0, 0]


def test_accuracy_is_by_paradigm_and_its_mean_is_plain(pairs):
    scores = pd.DataFrame(dict(pair=pairs.pair, margin=1.0, correct=pairs.paradigm != "adjunct_island", same_tokens=False))
    scores.loc[pairs.index[pairs.sentence_good.str.startswith("There turned")], "correct"] = False
    table = accuracy(scores, pairs).set_index("paradigm")
    assert table.accuracy["adjunct_island"] == 0 and table.accuracy["existential_there_subject_raising"] == .5 and table.pairs["mean"] == 14
    assert table.accuracy["mean"] == pytest.approx((13 - 1.5)/13)
    assert len(baseline_figure(accuracy(scores, pairs), accuracy(scores, pairs), dict(transitive="here")).axes) == 1
    covered = phrase_table(pairs).set_index("paradigm")
    assert covered.with_phrase["existential_there_subject_raising"] == 1 and covered.span["adjunct_island"] == _why_not["adjunct_island"]


def test_unknown_characters_are_counted(pairs):
    from tokenizers import Tokenizer, models, pre_tokenizers
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "The": 2, "student": 3, "perform": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    some = read_pairs(pd.DataFrame(dict(sentence_good=["The student", "The students"], sentence_bad=["student The", "The student"])))
    assert score_pairs(built(CONFIGS["llama"]), known, some).attrs["unknown"] == 1


def mistakes(tmp_path):
    model, tokenizer, pairs = built(CONFIGS["llama"]), train_tokenizer(["a b c"], 300), read_pairs(PAIRS)
    broken, nameless = built(CONFIGS["llama"]), train_tokenizer(["a b c"], 300)
    broken.lm_head.weight.data[7, 0] = float("nan")
    nameless.bos_token = nameless.eos_token = None
    (tmp_path/"empty.jsonl").write_text("")
    (tmp_path/"broken.jsonl").write_text("{")
    (tmp_path/"pairs.txt").write_text("a b")
    (tmp_path/"none").mkdir()
    table = lambda good, bad, **more: read_pairs(pd.DataFrame(dict(sentence_good=good, sentence_bad=bad, **more)))
    yield "no such file; allowed: a .parquet, .jsonl, ", lambda: read_pairs(tmp_path/"absent.parquet")
    yield "empty.jsonl: no pair in it", lambda: read_pairs(tmp_path/"empty.jsonl")
    yield "broken.jsonl, line 1: not JSON", lambda: read_pairs(tmp_path/"broken.jsonl")
    yield "pairs.txt: unknown kind of file; allowed", lambda: read_pairs(tmp_path/"pairs.txt")
    yield "no .parquet, .jsonl, .csv or .tsv file in this folder", lambda: read_pairs(tmp_path/"none")
    yield "no column 'sentence_bad' .found: sentence_good", lambda: read_pairs(pd.DataFrame(dict(sentence_good=["a"])))
    yield "sentence_good='sentence' is unknown: did you mean 'sentence_one'", lambda: read_pairs(pd.DataFrame(dict(sentence_one=["a"])), columns="good=sentence")
    yield "neighbour 'behind' is unknown.* Allowed: after, before", lambda: read_pairs(PAIRS, neighbour="behind")
    yield "sentence_bad of pair 1 is blank or no text: must be a sentence", lambda: table(["a", "b"], ["b", " "])
    yield "sentence_good of pair 0 is blank or no text: must be a sentence", lambda: table([None, "b"], ["b", "c"])
    yield "the two sentences are the same in every pair", lambda: table(["a"], ["a"])
    yield "critical_good = 2 in pair 0: must be from 0 to 1, a word", lambda: table(["It is."], ["It are."], critical_good=[2])
    yield "paradigm 'transitve' is unknown: did you mean 'transitive'", lambda: read_pairs(PAIRS, ["transitve"])
    yield "name at least one", lambda: read_pairs(PAIRS, [])
    yield "prefix 'BOS' is unknown.* Allowed: bos, none", lambda: Policy("BOS")
    yield "policy: 'tie' is unknown: did you mean 'ties'", lambda: read_policy("tie=good")
    yield "policy: first_token '1' is unknown.* Allowed: no, yes", lambda: read_policy("first_token=1")
    yield "policy: ties is given twice", lambda: read_policy("ties=good,ties=bad")
    yield "prefix = 'none' needs first_token=False", lambda: Policy("none")
    yield "neither a begin nor an end-of-text token", lambda: score_pairs(model, nameless, pairs)
    yield "pair 1: 81 tokens with the prefix, .* context holds 64: ", lambda: score_pairs(model, tokenizer, table(["a", "a" + " a"*39], ["b", "b"]))
    yield "pair 0: a sentence has no token", lambda: score_pairs(model, tokenizer, table(["a"], ["b"]), Policy("none", False, False))
    yield "pair 0: its log-probabilities are not numbers", lambda: score_pairs(broken, tokenizer, pairs.assign(pair=pairs.pair), batch_tokens=50)
    yield "the model's vocabulary has 50", lambda: score_pairs(built(LlamaConfig(**SIZES | dict(vocab_size=50))), tokenizer, pairs)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=330, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2))
    yield "has an encoder", lambda: score_pairs(t5, tokenizer, pairs)
    yield "the table is empty", lambda: score_pairs(model, tokenizer, pairs.head(0))
    yield "there are counts for 3", lambda: unigram_scores([1, 2, 3], tokenizer, pairs)
    yield "must be a count for each token", lambda: unigram_scores([[1, 2, 3]], tokenizer, pairs)
    yield "pair 99 is not in the table", lambda: accuracy(pd.DataFrame(dict(pair=[99], margin=[0.], correct=[True])), pairs)


def test_each_mistake_is_one_line(tmp_path):
    for message, wrong in mistakes(tmp_path):
        with pytest.raises(InputError, match=message) as e: wrong()
        assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    "A tiny Llama with its tokenizer, as a folder."
    folder = tmp_path_factory.mktemp("tiny")
    built(LlamaConfig(**SIZES, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def offline(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"): monkeypatch.setenv(name, "1")


def agrees(scores, good, bad):
    assert np.abs(scores.logprob_good - good).max() < 1e-4 and np.abs(scores.logprob_bad - bad).max() < 1e-4
    assert (scores.correct == (np.array(good) >= np.array(bad))).all() and len(set(scores.correct)) == 2


def lm_eval_scores(folder, pairs):
    "What lm-eval's blimp task asks its model: an empty context, and the target delimiter, a blank, before each choice."
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    lm = HFLM(pretrained=str(folder), device="cpu", batch_size=4)
    ask = lambda column: [Instance("loglikelihood", {}, ("", " " + s), i) for i, s in enumerate(pairs[column])]
    return [[nats for nats, _ in lm.loglikelihood(ask(column), disable_tqdm=True)] for column in ("sentence_good", "sentence_bad")]


def test_parity_with_lm_eval(saved, tokenizer, pairs, monkeypatch):
    pytest.importorskip("lm_eval")
    offline(monkeypatch)
    agrees(score_pairs(AutoModelForCausalLM.from_pretrained(saved).eval(), tokenizer, pairs, Policy(ties="good")), *lm_eval_scores(saved, pairs))


def test_the_policy_with_ties_good_is_that_of_lm_evals_task():
    pytest.importorskip("lm_eval")
    from importlib.resources import files

    import yaml
    from lm_eval.api.task import TaskConfig
    template = yaml.safe_load((files("lm_eval")/"tasks"/"blimp"/"_template_yaml").read_text())
    assert template["doc_to_text"] == "" and template["doc_to_choice"] == "{{[sentence_good, sentence_bad]}}" and template["doc_to_target"] == 0
    assert "target_delimiter" not in template and TaskConfig(task="x", dataset_path="x").target_delimiter == " " # the blank
    assert template["metric_list"][0]["metric"] == "acc" # the sum; a tie goes to the first, as numpy's argmax
    group = yaml.safe_load((files("lm_eval")/"tasks"/"blimp"/"_blimp.yaml").read_text())
    assert {task.removeprefix("blimp_") for task in group["task"]} == set(blimp_paradigms)
    assert Policy(ties="good") == Policy("bos", True, True, "none", "good") # our own default counts a tie as half
    assert Policy() == Policy("bos", True, True, "none", "half")


def test_parity_with_minicons(saved, tokenizer, pairs, monkeypatch):
    pytest.importorskip("minicons")
    offline(monkeypatch)
    from minicons.scorer import IncrementalLMScorer
    scorer, model = IncrementalLMScorer(str(saved), "cpu"), AutoModelForCausalLM.from_pretrained(saved).eval()
    for policy, how in ((Policy(ties="good"), dict(bos_token=True)), (Policy("none", first_token=False), {}), (Policy(leading_space=False), dict(bos_token=True))):
        texts = [[" "*policy.leading_space + s for s in pairs[column]] for column in ("sentence_good", "sentence_bad")]
        good, bad = (scorer.sequence_score(t, reduction=lambda x: x.sum(0).item(), **how) for t in texts)
        agrees(score_pairs(model, tokenizer, pairs, policy), good, bad)


def test_rublimp_as_it_is_published(data_dir):
    pairs = read_pairs(data_dir/"rublimp.parquet", columns="good=source_sentence,bad=target_sentence,paradigm=paradigm")
    assert len(pairs) == 45_000 and pairs.paradigm.nunique() == 45
    table = phrase_table(pairs).set_index("paradigm").with_phrase
    assert set(table.index[table > 0]) == set(_neighbour_rule_of) and table["adposition_government"] == 995 and table["np_agreement_gender"] == 909


def test_a_policy_is_read_as_it_is_written():
    for policy in [*POLICIES.values(), Policy(normalise="character", ties="good")]: assert read_policy(str(policy)) == policy
    assert read_policy("") == Policy() and read_policy("prefix=none,first_token=no") == Policy("none", first_token=False)


def test_a_mean_over_characters_is_lm_evals_acc_norm(tokenizer, pairs):
    scores = score_pairs(built(CONFIGS["llama"]), tokenizer, pairs, Policy(normalise="character"))
    assert np.allclose(scores.margin, scores.logprob_good/pairs.sentence_good.str.len() - scores.logprob_bad/pairs.sentence_bad.str.len())


def test_a_series_is_told_when_each_pair_came_to_stay_right_and_what_is_tied(saved, tokenizer, tmp_path, capsys):
    "At step 0 the output layer is zero: every pair of sentences of one length is tied. Later steps are random, and the answer is known by definition."
    from grok_nb.commands import grok_nb_measure
    models, sentences = {}, pd.DataFrame(SENTENCES, columns=["set", "ok", "wrong"])
    for step in range(0, 50, 10):
        models[step] = built(LlamaConfig(**SIZES, bos_token_id=0, eos_token_id=0), seed=step)
        if step == 0: models[step].lm_head.weight.data.zero_()
        models[step].save_pretrained(tmp_path/"series"/f"step{step}")
        tokenizer.save_pretrained(tmp_path/"series"/f"step{step}")
    sentences.to_csv(tmp_path/"pairs.csv", sep=";", index=False)
    columns = "good=ok,bad=wrong,paradigm=set"
    asked = [str(tmp_path/"series"), "--study", "grammar", "--pairs", str(tmp_path/"pairs.csv"), "--columns", columns, "--runs", str(tmp_path/"runs"), "--device", "cpu"]
    grok_nb_measure([*asked, "--policy", "normalise=token", "--items", "--out", str(tmp_path/"out")])
    said, items = capsys.readouterr().out, pd.read_csv(tmp_path/"out"/"items.csv")
    assert "prefix=bos,leading_space=yes,first_token=yes,normalise=token,ties=half" in said and "Tied, up to 100.0% of the pairs, at 1 checkpoint: step 0" in said
    pairs = read_pairs(tmp_path/"pairs.csv", columns=columns)
    right = np.array([score_pairs(model, tokenizer, pairs, Policy(normalise="token")).margin > 0 for model in models.values()])
    assert not right[0].any() and items.pair.tolist() == pairs.pair.tolist() and items.paradigm.tolist() == pairs.paradigm.tolist()
    for i, row in enumerate(items.itertuples()):
        wrong = max(step for step, ok in zip(models, right[:, i]) if not ok)
        assert row.last_wrong == wrong and (np.isnan(row.right_from) and row.state == "not yet" if wrong == 40 else row.right_from == wrong + 10 and row.state == "arrived")
    assert items.state.nunique() == 2
    by_sentence().to_csv(tmp_path/"judged.csv", sep=";", index=False)
    asked[asked.index("--pairs") + 1], asked[asked.index("--columns") + 1] = str(tmp_path/"judged.csv"), BY_SENTENCE
    grok_nb_measure([*asked, "--policy", "normalise=token", "--items", "--out", str(tmp_path/"judged")])
    assert capsys.readouterr().out.replace(str(tmp_path/"judged"), str(tmp_path/"out")) == said # a sentence a row is the same
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path/"judged"/"items.csv"), items)


@pytest.mark.promise("input")
@pytest.mark.parametrize("content,says", [
    (b'{"sentence_good": "a \\ud800", "sentence_bad": "b"}', "line 1: half a character"), (b'\xef\xbb\xbf{"sentence_good": "a"}', "no column 'sentence_bad'"),
    (b'{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": ["\\uD812"]}', "line 2: half a character")])
def test_half_a_character_in_pairs_is_one_line(content, says, tmp_path):
    (tmp_path/"pairs.jsonl").write_bytes(content)
    for read in (read_pairs, lambda path: pairs_fingerprint_of(path, "")):
        with pytest.raises(InputError, match=says) as e: read(tmp_path/"pairs.jsonl")
        assert str(e.value).isprintable()
    (tmp_path/"pairs.jsonl").write_bytes(b'{"sentence_good": "a \\ud83d\\ude00", "sentence_bad": "b"}')
    assert read_pairs(tmp_path/"pairs.jsonl").sentence_good[0] == "a 😀"


@pytest.mark.promise("input")
@pytest.mark.parametrize("content,says", [
    (b"sentence_good,sentence_bad\na,b,c\n", "line 2: 3 fields"), (b"a,a\n1,2\n", "two columns have the same name"), (b'sentence_good,sentence_bad\n"a,b\n', "cannot be read"),
    (b"sentence_good,sentence_bad\n", "no pair in it"), (b"", "no pair in it"), (b"sentence_good,sentence_bad\n\xff,b\n", "cannot be read"), (b"good,bad\na,b\n", "no column"),
    (b"sentence_good,sentence_bad\n,b\n", "blank")])
def test_a_broken_table_of_pairs_is_one_line(content, says, tmp_path):
    (tmp_path/"pairs.csv").write_bytes(content)
    with pytest.raises(InputError, match=says) as e: read_pairs(tmp_path/"pairs.csv")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("paradigm,good,bad,phrase", [
    ("causative", "These patients wake up those doctors.", "These patients spoke up those doctors.", "wake up those doctors"),
    ("transitive", "All drivers conceal Paul's French teachers.", "All drivers fall Paul's French teachers.", "conceal paul's french teachers")])
def test_an_object_is_whole(paradigm, good, bad, phrase):
    assert critical_phrases(pd.DataFrame(dict(paradigm=[paradigm], sentence_good=[good], sentence_bad=[bad]))).phrase_good[0] == phrase


def test_blimp_as_a_whole(data_dir, saved, tokenizer, monkeypatch):
    pairs = read_pairs(data_dir/"blimp.parquet")
    assert pairs.attrs["identical"] == 7 and len(pairs) == 67_000 - 7 and set(pairs.paradigm) == set(blimp_paradigms)
    table = phrase_table(pairs).set_index("paradigm")
    assert (table.pairs + pd.Series(dict(passive_1=2, principle_A_case_2=5)).reindex(table.index, fill_value=0) == 1000).all()
    assert (table.with_phrase.reindex(sorted(_why_not)) == 0).all() and (table.with_phrase.reindex(sorted(_rule_of)) >= 935).all()
    assert table.with_phrase["existential_there_subject_raising"] == 935 and table.distinct["determiner_noun_agreement_1"] == 301
    short = table.with_phrase.reindex(sorted(_rule_of)).rsub(table.pairs).loc[lambda n: n > 0].dropna()
    assert short.to_dict() == dict(existential_there_subject_raising=65, transitive=5, passive_1=1, passive_2=1)
    objects = pairs[pairs.paradigm.isin(["causative", "transitive"])].phrase_good.dropna().str.split().str[-1]
    assert not objects.isin(["french", "up"]).any()
    sample = pairs.groupby("paradigm").sample(1, random_state=0)
    model = AutoModelForCausalLM.from_pretrained(saved).eval()
    model.config.max_position_embeddings = 256
    same_as_one_at_a_time(model, tokenizer, sample, Policy())
