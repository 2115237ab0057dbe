"Sentences parsed back against their rules and licences, planted phrases counted one by one, and the grammar study: its run, its tables, its claims."
import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from conftest import without_scrubbers
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from transformers import AutoTokenizer

from grok_nb import InputError
from grok_nb.claims import ledger
from grok_nb.grammar import language, paper
from grok_nb.grammar import judge
from grok_nb.grammar.study import study
from grok_nb.grammar.attention import attention_changes
from grok_nb.grammar.exposure import expose, exposure_index, phrases_of, token_counts
from grok_nb.grammar.lag import accuracies, clusters, curve_table, frequency_strata, gaps, random_splits, reached
from grok_nb.grammar.language import SentenceStream, pairs, third_person
from grok_nb.grammar.minimal_pairs import score_pairs
from grok_nb.probes import measure
from grok_nb.runs import Context, Run
from grok_nb.see import report
from grok_nb.streams import check_stream
from grok_nb.training import pick, train

# ---- a parser, written from the page and not from the code ----

NOUNS = {form: (number, i) for i, n in enumerate(language.nouns) for number, form in enumerate((n, n + "s"))}
VERBS = {form: (number, i) for i, v in enumerate(language.verbs) for number, form in enumerate((third_person(v), v))}
PAST, PARTICIPLE = ({v.split("/")[which]: i for i, v in enumerate(language.irregular)} for which in (0, 1))
POINTS = dict(this=(0, 0), that=(0, 1), these=(1, 0), those=(1, 1)) # number, which


class Ungrammatical(Exception): pass


def must(holds, why):
    if not holds: raise Ungrammatical(why)


def noun_phrase(words):
    "(number, noun, which demonstrative or None)"
    determiner, noun = words
    must(noun in NOUNS and (determiner == "the" or determiner in POINTS), f"no noun phrase: {words}")
    number, lemma = NOUNS[noun]
    must(determiner == "the" or POINTS[determiner][0] == number, f"determiner and noun disagree: {words}")
    return number, lemma, None if determiner == "the" else POINTS[determiner][1]


def parse(words):
    "Kind of a sentence, its verb and its noun phrases; `Ungrammatical` if it breaks a rule."
    subject = noun_phrase(words[:2])
    number, verb = subject[0], words[2]
    if verb in VERBS:
        must(VERBS[verb][0] == number, f"subject and verb disagree: {words}")
        must(len(words) == 6 and words[5] == ".", f"no full stop: {words}")
        return "agrees", VERBS[verb][1], [subject, noun_phrase(words[3:5])]
    if verb in PAST:
        must(words[3:] == ["."], f"past form with more behind it: {words}")
        return "past", PAST[verb], [subject]
    must(verb == ("has", "have")[number], f"no verb that fits: {words}")
    must(len(words) == 5 and words[3] in PARTICIPLE and words[4] == ".", f"auxiliary without a participle: {words}")
    return "perfect", PARTICIPLE[words[3]], [subject]


def told(rows):
    "The whole sentences in rows of token ids, as lists of words."
    for row in rows:
        row = [language.words[i] for i in row if i >= 0]
        assert row[0] == "<|endoftext|>", "a row begins with a sentence"
        for sentence in " ".join(row).split("<|endoftext|>")[1:]:
            if sentence.endswith((".", ". ")): yield sentence.split() # the last one of a row may be cut


def check_licences(stream, sentences):
    "Everything that is said is grammatical and licensed; how often each kind is said."
    kinds = Counter()
    for words in sentences:
        kind, verb, phrases = parse(words)
        kinds[kind] += 1
        noun = phrases[0][1]
        if kind == "agrees": assert stream.verbs[noun, verb], f"{words} is not licensed"
        if kind == "past": assert stream.pasts[noun, verb], f"{words} is not licensed"
        for number, noun, which in phrases: assert which is None or stream.demonstratives[number, noun, which], f"{words} is not licensed"
    return kinds


# ---- the language ----

def test_the_lexicon():
    "One token a word, and one word a form."
    assert len(set(language.words)) == len(language.words) and not set(NOUNS) & set(VERBS) and not set(PAST) & set(PARTICIPLE)
    assert [third_person(v) for v in ("teach", "pay", "annoy", "hate", "harass", "push")] == "teaches pays annoys hates harasses pushes".split()
    assert not [v for v in language.verbs if re.search("[^aeiou]y$|[oz]$", v)], "a verb whose form third_person gets wrong"


@settings(max_examples=25)
@given(st.data())
def test_every_sentence_keeps_the_rules_and_is_licensed(data):
    share = st.sampled_from([0.0, .02, .3, 1.0])
    options = {name: data.draw(share) for name in ("density", "demonstrative_density", "demonstrative_rate", "agreement_rate")}
    stream = SentenceStream(zipf=data.draw(st.sampled_from([0.0, 1.2, 3.0])), seed=data.draw(st.integers(0, 99)), language_seed=data.draw(st.integers(0, 99)),
                            context=data.draw(st.integers(7, 50)), batch_size=data.draw(st.integers(1, 4)), **options)
    kinds = check_licences(stream, told(stream.sentences(400, "test")))
    check_licences(stream, told(stream.batch(5)["input_ids"]))
    assert kinds.total() == 400
    if options["agreement_rate"] in (0, 1): assert ("agrees" in kinds) == (set(kinds) == {"agrees"}) == options["agreement_rate"]
    check_stream(stream, (0, 3, 10**6))
    assert stream.batch(1)["input_ids"].shape == (stream.batch_size, stream.context)


def test_the_parser_knows_what_is_wrong():
    for words in ("this dogs began .", "the dog admire the cat .", "the dog begun .", "the dog has began .", "the cats has gone ."):
        with pytest.raises(Ungrammatical): parse(words.split())


def test_batches_do_not_depend_on_the_order_they_are_asked_in():
    options = dict(steps=100, planted=2)
    one, other = SentenceStream(**options), SentenceStream(**options)
    forth, back = [one.batch(s)["input_ids"] for s in range(12)], [other.batch(s)["input_ids"] for s in reversed(range(12))][::-1]
    assert all(map(np.array_equal, forth, back)) and not np.array_equal(forth[0], forth[1])


def test_seeds_of_the_text_and_of_the_language():
    one, text, other = (SentenceStream(seed=s, language_seed=l) for s, l in ((0, 0), (1, 0), (0, 1)))
    assert np.array_equal(one.verbs, text.verbs) and not np.array_equal(one.verbs, other.verbs)
    assert not np.array_equal(one.batch(0)["input_ids"], text.batch(0)["input_ids"])
    assert np.array_equal(one.held_out().ids, text.held_out().ids), "held-out rows are the language's, not the run's"


def test_each_noun_keeps_a_verb():
    stream = SentenceStream(density=0.0, demonstrative_density=0.0)
    assert (stream.verbs.sum(1) == 1).all() and (stream.pasts.sum(1) == 1).all() and not stream.demonstratives.any()
    dense = SentenceStream(density=1.0, demonstrative_density=1.0)
    assert dense.verbs.all() and dense.pasts.all() and dense.demonstratives.all()
    assert abs(SentenceStream(density=.3).verbs.mean() - .3) < 5*np.sqrt(.3*.7/dense.verbs.size) + 1/len(language.verbs)


def within(count, n, share): return abs(count - n*share) <= 5*np.sqrt(n*share*(1 - share)) + 1e-9


@pytest.mark.parametrize("agreement, rate", [(.7, .12), (.2, .6), (1.0, 1.0)])
def test_shares_are_what_the_options_say(agreement, rate):
    n, stream = 6000, SentenceStream(agreement_rate=agreement, demonstrative_rate=rate)
    kinds, seen = Counter(), Counter()
    for kind, _, phrases in map(parse, told(stream.sentences(n, "shares"))):
        kinds[kind] += 1
        for number, noun, which in phrases: seen[int(stream.demonstratives[number, noun].sum()), which is not None] += 1
    assert within(kinds["agrees"], n, agreement) and within(kinds["past"], n, (1 - agreement)/2)
    for licensed in range(3): # of the two demonstratives of a number
        pointed, total = seen[licensed, True], seen[licensed, True] + seen[licensed, False]
        assert total > 500 and within(pointed, total, rate*licensed/2)


@pytest.mark.parametrize("zipf", [0.0, 1.0, 1.5])
def test_words_follow_zipf(zipf):
    n, stream = 20_000, SentenceStream(zipf=zipf, density=1.0, agreement_rate=1.0)
    ids = stream.sentences(n, "zipf")
    for kind, column, forms in (("noun", 2, NOUNS), ("verb", 3, VERBS), ("object", 5, NOUNS)):
        lemmas = Counter(forms[language.words[i]][1] for i in ids[:, column])
        size = len(forms)//2
        wanted = np.arange(1, size + 1)**-zipf
        counts = sorted((lemmas[i] for i in range(size)), reverse=True)
        for count, share in zip(counts, wanted/wanted.sum()): assert within(count, n, share), (kind, count, n*share)


def test_held_out_rows_are_never_trained_on():
    stream = SentenceStream()
    held_out = stream.held_out()
    check_licences(stream, told(held_out.ids))
    seen = {row.tobytes() for step in range(200) for row in stream.batch(step)["input_ids"]}
    assert not any(row.tobytes() in seen for row in held_out.ids)
    read = held_out.read(np.array([3, 1]))
    assert np.array_equal(read["input_ids"], held_out.ids[[3, 1]]) and np.array_equal(read["labels"], read["input_ids"])


def test_the_tokenizer_goes_round_and_is_saved(tmp_path):
    tokenizer, stream = language.word_tokenizer(), SentenceStream()
    row = stream.batch(0)["input_ids"][0].tolist()
    assert tokenizer.convert_ids_to_tokens(row) == [language.words[i] for i in row]
    assert tokenizer(" ".join(language.words[1:]), add_special_tokens=False)["input_ids"] == list(range(1, len(language.words)))
    assert tokenizer(tokenizer.decode(row), add_special_tokens=False)["input_ids"] == row
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.is_fast
    assert again.bos_token_id == again.eos_token_id == 0 and again(" the dog began .")["input_ids"] == tokenizer("the dog began .")["input_ids"]


# ---- planted phrases ----

def brute_counts(stream, steps):
    "(two ids in a row) and (id,) → the batches they stand in, each as often as they do; from the ids alone."
    found = {}
    for step in range(steps):
        for row in stream.batch(step)["input_ids"]:
            for a, b in zip(row, [*row[1:], -1]):
                found.setdefault((a,), []).append(step)
                if a and b > 0: found.setdefault((a, b), []).append(step)
    return found


@pytest.mark.parametrize("options", [dict(steps=80, planted=2), dict(steps=33, planted=1, context=20, batch_size=8, zipf=1.0, language_seed=3)], ids=str)
def test_planted_phrases_are_where_they_should_be_and_nowhere_else(options):
    stream, plain = SentenceStream(**options), SentenceStream(**options | dict(planted=0))
    plan, found, steps = stream.planted_phrases, brute_counts(stream, stream.steps), stream.steps
    assert Counter(zip(plan.dose, plan.schedule)) == {(d, s): stream.planted for d in (1, 2, 4, 8, 16) for s in ("early", "late", "spaced")}
    assert not plan[["noun", "other"]].duplicated().any() and not stream.verbs[plan.noun, plan.other].any()
    for p in plan.itertuples():
        forms = lambda number: (third_person(language.verbs[p.other]), language.verbs[p.other])[number]
        noun = language.nouns[p.noun] + "s"*p.number
        right, wrong = ((language.words.index(noun), language.words.index(forms(n))) for n in (p.number, 1 - p.number))
        assert sorted(p.steps) == found[right] and len(p.steps) == p.dose and wrong not in found
        low, high = dict(early=(0, .25), late=(.5, .75), spaced=(0, .75))[p.schedule]
        assert low*steps - 1 < min(p.steps) and max(p.steps) < high*steps
        if p.schedule == "spaced" and p.dose == 16: assert max(p.steps) - min(p.steps) > .6*steps
    shown = {step for p in plan.itertuples() for step in p.steps}
    assert max(shown) < .75*steps
    for step in range(steps): # what is planted pushes the text of its row back, and changes nothing else
        changed = 0
        for row, was in zip(stream.batch(step)["input_ids"], plain.batch(step)["input_ids"]):
            assert len(row) == stream.context
            k = next(k for k in range(0, stream.context + 1, language.longest) if np.array_equal(row[k:], was[:stream.context - k]))
            for words in told([row[:k]]) if k else (): parse(words)
            changed += k // language.longest
        assert changed == sum(step == s for p in plan.itertuples() for s in p.steps)


def test_what_is_planted_fits_or_is_refused():
    "A batch holds so many sentences; what does not fit would be cut off, and the doses would not be those of the table."
    for options in (dict(context=16, batch_size=2, steps=64, planted=5), dict(context=7, batch_size=1, steps=400, planted=1)):
        try: stream = SentenceStream(**options)
        except InputError: continue
        found = brute_counts(stream, stream.steps)
        good = pairs(stream, 1).query("paradigm == 'planted'")["phrase_good"]
        shown = [len(found.get(tuple(map(language.words.index, phrase.split())), [])) for phrase in good]
        assert shown == stream.planted_phrases.dose.tolist(), f"{options}: shown {sum(shown)} times of {stream.planted_phrases.dose.sum()} planned"


# ---- minimal pairs of the language ----

@pytest.fixture(scope="module")
def sparse(): return SentenceStream(steps=250, planted=3)


@pytest.fixture(scope="module")
def sparse_pairs(sparse): return pairs(sparse, 30)


def test_pairs_break_one_rule_at_the_word_they_name(sparse, sparse_pairs):
    table = sparse_pairs
    assert table.pair.is_unique and Counter(table.paradigm) == dict.fromkeys(language.paradigms, 60) | dict(planted=45)
    for p in table.itertuples():
        good, bad = p.sentence_good.split(), p.sentence_bad.split()
        kind, verb, phrases = parse(good)
        with pytest.raises(Ungrammatical): parse(bad)
        assert (p.critical_good, p.context_good) == (p.critical_bad, p.context_bad) and len(good) == len(bad)
        differ = [i for i, (a, b) in enumerate(zip(good, bad)) if a != b]
        assert differ == [p.context_good if p.paradigm == "subject_verb_2" else p.critical_good]
        assert (p.phrase_good, p.phrase_bad) == tuple(" ".join(w[p.context_good:p.critical_good + 1]) for w in (good, bad)) and p.phrase_good.count(" ") == 1
        if p.paradigm == "determiner_noun":
            number, noun, which = phrases[1]
            assert kind == "agrees" and sparse.demonstratives[number, noun, which] == p.licensed and sparse.verbs[phrases[0][1], verb]
        else: assert (sparse.pasts if p.paradigm == "past_participle" else sparse.verbs)[phrases[0][1], verb] == p.licensed


def test_planted_pairs_are_a_paradigm_of_their_own(sparse, sparse_pairs):
    planted, others = (sparse_pairs[sparse_pairs.paradigm.eq("planted") == which] for which in (True, False))
    assert not planted.licensed.any() and not set(planted.phrase_good) & {*others.phrase_good, *others.phrase_bad}
    assert planted.planted_dose.tolist() == sparse.planted_phrases.dose.tolist() and planted.schedule.tolist() == sparse.planted_phrases.schedule.tolist()
    assert others.planted_dose.isna().all() and others.schedule.isna().all()


def test_what_is_licensed_is_met_and_exposure_is_counted_right(sparse, sparse_pairs):
    index = exposure_index(sparse, phrases_of(sparse_pairs), sparse.steps)
    table, found = expose(sparse_pairs, index), brute_counts(sparse, sparse.steps)
    at = lambda text: found.get(tuple(map(language.words.index, text.split())), [])
    for p in table.itertuples():
        steps = [s + 1 for s in [*at(p.phrase_good), *at(p.phrase_bad)]] # the update that shows batch s is the s + 1st
        assert p.dose == len(steps) and p.exposed == bool(steps)
        if steps: assert (p.first_step, p.last_step) == (min(steps), max(steps))
        assert not at(p.phrase_bad), "the unacceptable phrase is never shown"
    planted = table.paradigm == "planted"
    assert (table.exposed == table.licensed)[~planted].all() and (table.dose == table.planted_dose)[planted].all()
    window = index.window()
    assert all(window[word] == len(at(word)) for word in {w for p in table.phrase_good for w in p.split()})
    ids = np.concatenate([sparse.batch(s)["input_ids"].ravel() for s in range(sparse.steps)])
    assert np.array_equal(token_counts(sparse, sparse.steps), np.bincount(ids, minlength=len(language.words)))


def test_pairs_where_all_or_nothing_is_licensed():
    everything, nothing = (pairs(SentenceStream(density=d, demonstrative_density=d), 10) for d in (1.0, 0.0))
    assert everything.licensed.all() and len(everything) == 40
    assert nothing.groupby("paradigm").licensed.sum().to_dict() == dict(determiner_noun=0, subject_verb_1=10, subject_verb_2=10, past_participle=10)


# ---- the study: options ----

def test_presets_are_the_papers_where_they_say_so():
    sizes = {name: study.presets[name].n_parameters for name in ("paper_35m", "paper", "paper_130m", "gpu")}
    assert sizes == dict(paper_35m=35_197_824, paper=58_073_600, paper_130m=134_105_856, gpu=58_073_600)
    for name in ("paper_35m", "paper", "paper_130m"):
        c = study.presets[name]
        assert (c.context, c.batch_size, c.steps, c.warmup_steps, c.weight_decay, c.clip) == (256, 512, 2000, 1000, 0, 0)
        assert (c.schedule, c.final_lr, c.lr, c.layout) == ("cosine", .1, 5e-4 if name == "paper_130m" else 1e-3, "document")
        assert c.steps // c.checkpoints == 100 and c.paradigms == "all" and not c.pairs_each
    assert len({repr(c.identity) for c in study.presets.values()}) == len(study.presets), "two presets are one"
    demo = study.presets["demo"]
    assert sum(p.numel() for p in study.model(demo).parameters()) == demo.n_parameters


# ---- the study: a run ----

BRIEF = dict(steps=120, warmup_steps=40, evaluate_every=60, checkpoints=2, pairs_each=40) # of the preset `smoke`, half as many steps
TINY = dict(depth=1, width=16, heads=2, mlp=16, batch_size=4, steps=6, warmup_steps=2, evaluate_every=2, checkpoints=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("GROK_NB_RUNS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def smoke(root): return train(study.config("smoke", **BRIEF), root, "cpu", 1)


@pytest.fixture(scope="module")
def planted_run(root): return train(study.config("smoke", **TINY | dict(planted=1, steps=40, evaluate_every=20, checkpoints=2, pairs_each=10)), root, "cpu", 1)


def test_the_rows_of_a_run(smoke):
    table = smoke.metrics()
    rows = table[table.probe == "accuracy"]
    assert set(rows.paradigm) == {*language.paradigms, "mean"} and set(rows.step) == {0, 60, 120} and (rows.dose == 0).all()
    for paradigm, part in rows.groupby("paradigm"):
        keys = {(g, m) for g in ("all", "exposed", "unexposed") for m in ("accuracy", "pairs", "tied", "unigram")}
        keys |= {("all", "same_tokens"), ("difference", "gap"), ("difference", "gap_left")}
        assert {*zip(part.group, part.metric)} == {k for k in keys if paradigm != "mean" or k[1] != "pairs"}
        assert not part.duplicated(["step", "group", "metric"]).any()
    wide = rows[rows.paradigm != "mean"].pivot(index=["step", "paradigm"], columns=["group", "metric"], values="value")
    assert np.allclose(wide["all", "pairs"], wide["exposed", "pairs"] + wide["unexposed", "pairs"])
    assert np.allclose(wide["exposed", "accuracy"] - wide["unexposed", "accuracy"], wide["difference", "gap"])
    mean = rows[rows.paradigm == "mean"].pivot(index="step", columns=["group", "metric"], values="value")
    for column in mean: assert np.allclose(mean[column], wide[column].groupby("step").mean()), column
    assert set(table[table.probe == "held_out"].step) == {0, 60, 120} and pick(smoke.records()[-1]["rows"], study.headline) is not None
    loss = table[table.probe == "held_out"].set_index("step").value
    assert loss[120] < loss[0] - 1


def test_judged_agrees_with_scores_and_accuracies(smoke):
    step = smoke.steps[-1]
    context, model = Context(smoke.config, smoke.stream, step, 0, "cpu"), smoke.checkpoints[-1].model
    rows, table = judge.judged(model, context), judge.asked(smoke.config)
    assert rows == [{k: r[k] for k in ("paradigm", "dose", "group", "metric", "value")} for r in smoke.records()[-1]["rows"] if r["probe"] == "accuracy"]
    correct = score_pairs(model, smoke.stream.tokenizer, table)["correct"].to_numpy()
    for paradigm in language.paradigms:
        here, value = (table.paradigm == paradigm).to_numpy(), lambda group, metric: pick(rows, dict(paradigm=paradigm, group=group, metric=metric))
        exposed = table.exposed.to_numpy()[here]
        for group, shares in zip(("exposed", "unexposed"), accuracies(correct[None, here], exposed)): assert np.isclose(value(group, "accuracy"), shares[0])
        strata = frequency_strata(table.frequency[here])
        splits = random_splits(exposed, 2000, strata)[1:]
        random = np.array([correct[here][s].mean() - correct[here][~s].mean() for s in splits])
        assert abs(value("difference", "gap") - random.mean() - value("difference", "gap_left")) < 5*random.std()/np.sqrt(2000) + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_the_gap_that_strata_leave_is_the_mean_over_random_splits(seed):
    g = np.random.default_rng(seed)
    strata = np.unique(g.integers(1 + 2*seed, size=150), return_inverse=True)[1]
    exposed = g.random(150) < (strata + 1)/(strata.max() + 2)
    correct = g.random(150) < .4 + .5*strata/max(1, strata.max())*exposed
    found, splits = gaps(correct, exposed, strata), random_splits(exposed, 6000, strata, seed=seed)[1:]
    random = (splits @ correct.astype(float))/splits.sum(1) - (~splits @ correct.astype(float))/(~splits).sum(1)
    assert np.isclose(found["gap"], correct[exposed].mean() - correct[~exposed].mean())
    assert abs(found["gap"] - random.mean() - found["gap_left"]) < 5*random.std()/np.sqrt(6000) + 1e-9


def test_curves_of_training_are_those_of_the_checkpoints(smoke):
    "Accuracy as it was measured during training, and margins measured on saved models, are one table."
    ours, table = judge.accuracy_curves(smoke.metrics()), judge.asked(smoke.config)
    theirs = curve_table(measure(smoke, dict(margins=judge.margins)), table)
    columns = ["run", "paradigm", "group", "step", "accuracy", "pairs", "unigram"]
    ours, theirs = (t[columns].sort_values(columns[:4], ignore_index=True) for t in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    lags = judge.measured_lags([smoke], tau=.6, n=50, sustained=1)
    assert lags.paradigm.tolist() == list(language.paradigms) and (lags.preset == smoke.preset).all() and (lags.seed == 0).all()
    for row in lags.itertuples():
        for group, when in (("exposed", row.t_train), ("unexposed", row.t_val)):
            part = ours[(ours.paradigm == row.paradigm) & (ours.group == group)].set_index("step").accuracy
            assert reached(part, .6, 1).hi == when


def test_a_second_call_finds_what_was_asked(root, monkeypatch):
    config, calls, batch = study.config("smoke", **TINY | dict(steps=30, pairs_each=5, seed=5)), [], SentenceStream.batch
    monkeypatch.setattr(SentenceStream, "batch", lambda stream, step: calls.append(step) or batch(stream, step))
    judge.asked.cache_clear()
    first, read = judge.asked(config), len(calls)
    assert judge.asked(config) is first and len(calls) == read, "in one process it is asked once"
    path, = (root/"exposures"/config.run_id).iterdir() # the index, there to go on from, is gone
    before = path.read_bytes()
    judge.asked.cache_clear() # as a second process
    pd.testing.assert_frame_equal(first, judge.asked(config))
    assert path.read_bytes() == before and len(calls) == read, "it is read from the file"
    judge.asked.cache_clear()
    monkeypatch.setattr("grok_nb.probes.fingerprint", lambda probe: "of other code")
    pd.testing.assert_frame_equal(first, judge.asked(config))
    assert len(calls) == 2*read and len([*path.parent.iterdir()]) == 2
    assert first.frequency.gt(0).all() and set(first.unigram) == {0, .5, 1}


def drawn(found):
    for heading, caption, fig in found:
        assert heading and caption.strip().endswith(".") and isinstance(fig, Figure) and any(ax.has_data() for ax in fig.axes), heading
    return [heading for heading, _, _ in found]


def test_figures_of_a_run(smoke, planted_run):
    one = smoke.metrics().assign(run="smoke")
    assert drawn(study.figures(one, {})) == ["When", "Exposure, or frequency?", "Loss"]
    both = pd.concat([one, planted_run.metrics().assign(run="planted")], ignore_index=True)
    assert drawn(study.figures(both, {})) == ["When", "What an exposure is worth", "Exposure, or frequency?", "Loss"]
    first = one.query("step == 0").reset_index(drop=True)
    assert drawn(study.figures(first, {})) == ["When", "Exposure, or frequency?", "Loss"], "of a run with one evaluation"


def test_figures_where_no_paradigm_has_both_groups(smoke):
    "One with exposed pairs only, another with unexposed ones only: there is no lag to draw, and the rest is drawn."
    table = smoke.metrics().assign(run="smoke")
    of = dict(determiner_noun="exposed", subject_verb_1="unexposed", mean="all")
    table = table[(table.probe != "accuracy") | (table.group == table.paradigm.map(of))].reset_index(drop=True)
    assert "Loss" in [heading for heading, _, _ in study.figures(table, {})]


def test_planted_rows_and_their_figure(planted_run):
    rows = planted_run.metrics().query("paradigm == 'planted' and step == 40")
    assert {*zip(rows.group, rows.dose)} == {(s, d) for s in language.schedules for d in language.doses} and set(rows.metric) == {"accuracy"}
    table = pd.concat([planted_run.metrics().assign(run="a"), planted_run.metrics().assign(run="b")])
    assert "planted" not in set(judge.accuracy_curves(table).paradigm)
    assert judge.measured_lags([planted_run], n=20).paradigm.tolist() == list(language.paradigms)
    ax, = language.planted_figure(table).axes
    late = next(c for c in ax.containers if c.get_label() == "late").lines[0]
    wanted = planted_run.metrics().query("paradigm == 'planted' and group == 'late' and dose == 4").value.mean()
    assert np.isclose(dict(zip(*late.get_data()))[4], wanted)


def test_a_run_of_ours_is_told_when_each_pair_came_to_stay_right(planted_run, tmp_path, capsys):
    "By its name and by its folder; planted pairs too, in the columns of other people's checkpoints."
    from grok_nb.commands import grok_nb_measure
    for source in (planted_run.run_id, str(planted_run.path)):
        grok_nb_measure([source, "--items", "--out", str(tmp_path), "--device", "cpu"])
        said, items = capsys.readouterr().out, pd.read_csv(tmp_path/"items.csv")
        assert f"Pairs one by one ({', '.join(f'{n:,} {state}' for state, n in items.state.value_counts().items())}): {tmp_path}" in said
        assert "Pairs are scored under prefix=bos,leading_space=yes,first_token=yes,normalise=none,ties=half" in said and "unexposed pairs" in said
    table = judge.asked(planted_run.config)
    assert [*items] == ["pair", "paradigm", "last_wrong", "right_from", "state"] and items.pair.tolist() == table.pair.tolist()
    assert items.paradigm.tolist() == table.paradigm.tolist() and "planted" in set(items.paradigm)
    steps, tokenizer = planted_run.steps, planted_run.stream.tokenizer
    right = np.array([score_pairs(planted_run.at(step).model, tokenizer, table).margin > 0 for step in steps])
    for i, row in enumerate(items.itertuples()):
        wrong = [k for k in range(len(steps)) if not right[k, i]]
        assert np.isnan(row.last_wrong) if not wrong else row.last_wrong == steps[wrong[-1]]
        after = wrong[-1] + 1 if wrong else 0
        assert (row.state, row.right_from) == ("arrived" if wrong else "always", steps[after]) if after < len(steps) else row.state == "not yet" and np.isnan(row.right_from)
    assert items.state.nunique() == 3


@pytest.mark.promise("input")
def test_what_a_run_of_ours_is_not_asked_is_one_line(planted_run, capsys):
    from grok_nb.commands import grok_nb_measure
    for words in (["--pairs", "x.csv", "--items"], ["--columns", "item=id"], ["--policy", "ties=good"]):
        with pytest.raises(SystemExit) as ended: grok_nb_measure([planted_run.run_id, *words])
        said = capsys.readouterr()
        assert ended.value.code == 2 and said.err == f"grok_nb_measure: {words[0]}: a run is asked about its own data; leave it out\n" and not said.out


def test_concentrations_are_of_the_heads_that_changed(smoke):
    steps = dict(subject_verb_1=(60, 120), determiner_noun=(0, 120))
    found = judge.concentrations(smoke, *({name: pair[i] for name, pair in steps.items()} for i in (0, 1))).set_index("paradigm")
    assert set(found.index) == set(steps)
    rows = measure(smoke, study.checkpoint_probes(smoke.config))
    for name, (before, after) in steps.items():
        best = attention_changes(rows[rows.paradigm == name], before, after).iloc[0]
        assert (found.layer[name], found["head"][name]) == (best.layer, best["head"]) and np.isclose(found.gain[name], best.change, atol=1e-6)
        assert (found.before[name], found.after[name], found.heads[name]) == (before, after, 8)


def test_the_papers_tables_are_those_of_the_wing(smoke):
    table, curves = judge.asked(smoke.config), judge.accuracy_curves(smoke.metrics())
    sizes = paper.split_sizes([smoke])["ours"]
    for name, rows in table.groupby("paradigm"):
        assert sizes.loc[name].tolist() == [str(rows.exposed.sum()), str((~rows.exposed).sum()), str(len(set(clusters(rows))))]
    times = paper.threshold_times([smoke], (.5, .7))["ours"]
    for name, rows in curves[curves.group == "unexposed"].groupby("paradigm"):
        at = [reached(rows.set_index("step").accuracy, tau, 1).hi for tau in (.5, .7)]
        assert times.t_val[name] == ", ".join("–" if np.isinf(t) else f"{t:.0f}" for t in at)
    for name, (before, after) in paper.comparison_steps([smoke]).items():
        assert (before, after) == (60, 120) # or else what is reached by then is compared with itself
    heads = paper.best_heads([smoke])["ours"]
    assert heads.before.eq(60).all() and heads.gain.str.fullmatch(r"-?\d\.\d\d").all()
    lags = judge.measured_lags([smoke], n=50, sustained=1).set_index("paradigm")
    ours = paper.lags_and_p([smoke], n=50)["ours"]
    assert all(ours.p[name] == f"{lags.p_pairs_high[name]:.3f}".lstrip("0") for name in ours.index)


def test_the_papers_figures_are_ten(smoke):
    found = paper.figures([smoke], other_sizes=[[smoke], [smoke]])
    assert {n.strip() for numbers, _, _ in found for n in numbers.split(",")} == {str(n) for n in range(1, 11)}
    assert all(what and any(ax.has_data() for ax in fig.axes) for _, what, fig in found)
    for wrong in ([], [smoke, smoke], [smoke, Run.create(smoke.config.replace(lr=.1), smoke.path.parent)]):
        with pytest.raises(InputError, match="runs: "): paper.figures(wrong)


def test_inside_and_the_report(smoke, tmp_path, small_pictures):
    table = measure(smoke, study.checkpoint_probes(smoke.config))
    assert set(table.paradigm) == set(language.paradigms) and {"auroc", "rank", "rank_control", "to_context", "entropy"} <= set(table.metric)
    assert table[table.metric == "to_context"].groupby(["step", "paradigm", "sentence"]).size().eq(8).all()
    headings = drawn(study.checkpoint_figures(dict(smoke=smoke), table.assign(run="smoke")))
    assert headings == ["Do right and wrong sentences come apart?", "In how many dimensions?", "Do heads look back?", "Which heads?"]
    text = without_scrubbers(report.report([smoke], tmp_path/"page.html").read_text())
    assert study.question in text and all(f"<h2>{h}</h2>" in text for h in (*headings, "When", "Exposure, or frequency?"))
    assert not re.search(r"https?://|<script|<link|url\(", text) and smoke.run_id in text


# ---- the study: claims ----

STEPS = range(0, 2001, 40)


def synthetic(preset, seed, exposed=200, unexposed=600, gap=.2, left=.1, planted=None, auroc=(.5, .9), rank=(5, 9), control=(5, 6), heads=(.5, -.1, -.1, -.1)):
    "What the claims read of a run: times at which both groups jump over 80 %, gaps, planted accuracy by (schedule, dose), insides first and last."
    g, rows = np.random.default_rng([seed, len(preset)]), []
    about = dict(run=f"{preset} {seed}", study="grammar", preset=preset, fidelity="demo", seed=seed)
    def add(probe, step, **row): rows.append(about | dict(probe=probe, step=step, tokens=step*1024) | row | dict(value=row["value"] + 1e-3*g.normal()))
    for step in STEPS:
        for paradigm in ("one", "two", "mean"):
            for group, at in dict(exposed=exposed, unexposed=unexposed).items():
                add("accuracy", step, paradigm=paradigm, dose=0, group=group, metric="accuracy", value=.9 if step >= at else .6)
            for metric, value in dict(gap=gap, gap_left=left).items():
                add("accuracy", step, paradigm=paradigm, dose=0, group="difference", metric=metric, value=value)
        for (schedule, dose), value in (planted or {}).items():
            add("accuracy", step, paradigm="planted", dose=dose, group=schedule, metric="accuracy", value=value if step > 1700 else 0)
    for i, step in enumerate((0, 100, 1000, 2000)): # what is at step 1000 is not asked for
        for paradigm in ("one", "two"):
            for metric, ends in dict(auroc=auroc, rank=rank, rank_control=control).items():
                for layer in (0, 1): add("inside", step, paradigm=paradigm, layer=layer, metric=metric, value=ends[i == 3] if layer and i else 100*(3 - i))
            for head, change in enumerate(heads):
                add("inside", step, paradigm=paradigm, layer=0, head=head, metric="to_context", sentence="good", value=.2 + change*(i == 3) if i else .9)
    return pd.DataFrame(rows)


def at_end(**by_schedule):
    "Runs of `planted`: accuracy at the end by schedule, of doses below 8 and from 8 on."
    return dict(planted=dict(planted={(s, d): by_schedule[s][d >= 8] for s in language.schedules for d in language.doses}))


fast = dict(exposed=200, unexposed=400)
JUDGED = { # claim → presets with options under which it is supported, and under which it is not
    "lag": (dict(demo={}), dict(demo=dict(exposed=600, unexposed=200))),
    "lag, own rise": (dict(demo={}), dict(demo=dict(exposed=600, unexposed=200))),
    "beyond frequency": (dict(demo={}), dict(demo=dict(left=-.1))),
    "lag on a text": (dict(text={}), dict(text=dict(exposed=600, unexposed=200))),
    "beyond frequency on a text": (dict(text={}), dict(text=dict(left=-.1))),
    "mostly frequency on a text": (dict(text=dict(left=.04)), dict(text=dict(left=.18))),
    "frequency alone": (dict(frequency=dict(left=.04)), dict(frequency=dict(left=.18))),
    "density": (dict(demo=dict(unexposed=1200), control=fast), dict(demo=fast, control=dict(unexposed=1200))),
    "dose": (at_end(early=(.6, .8), late=(.6, .8), spaced=(.6, .8)), at_end(early=(.8, .6), late=(.8, .6), spaced=(.8, .6))),
    "late beats early": (at_end(early=(.9, .6), late=(.1, .8), spaced=(.5, .5)), at_end(early=(.1, .8), late=(.9, .6), spaced=(.5, .5))),
    "spacing": (at_end(early=(.9, .6), late=(.5, .1), spaced=(.1, .8)), at_end(early=(.1, .8), late=(.5, .9), spaced=(.9, .6))),
    "smaller sooner": (dict(long=fast, wide=dict(unexposed=900)), dict(long=dict(unexposed=900), wide=fast)),
    "concept": (dict(demo={}), dict(demo=dict(auroc=(.9, .5)))),
    "rank": (dict(demo={}), dict(demo=dict(rank=(9, 5)))),
    "rank, beyond any contrast": (dict(demo={}), dict(demo=dict(control=(5, 12)))),
    "a head looks back": (dict(demo={}), dict(demo=dict(heads=(.1, .1, .1, .1)))),
    "most heads look away": (dict(demo={}), dict(demo=dict(heads=(.5, .1, .1, -.1)))),
    "concept on a text": (dict(text={}), dict(text=dict(auroc=(.9, .5)))),
    "rank on a text": (dict(text={}), dict(text=dict(rank=(9, 5)))),
    "a head looks back on a text": (dict(text={}), dict(text=dict(heads=(.1, .1, .1, .1)))),
}


MADE = {} # what was asked for → its runs


def runs_of(presets):
    if (asked := repr(presets)) not in MADE:
        MADE[asked] = pd.concat([synthetic(preset, seed, **options) for preset, options in presets.items() for seed in range(10)], ignore_index=True)
    return MADE[asked].copy()


@pytest.mark.parametrize("name", JUDGED)
def test_claims_on_synthetic_runs(name):
    claim = next(c for c in study.claims() if c.name == name)
    for presets, wanted in zip(JUDGED[name], ("supported", "not supported")):
        verdict = claim.judge(runs_of(presets))
        assert verdict.verdict == wanted and verdict.evidence.seeds == 10 and np.isfinite(verdict.evidence.interval).all(), str(verdict)


def test_what_token_counts_solve_says_nothing_about_exposure():
    claim = next(c for c in study.claims() if c.name == "beyond frequency")
    rows = runs_of(dict(demo={}))
    kept = claim.judge(rows).evidence.effect
    gap = rows["metric"].eq("gap_left") & rows["paradigm"].eq("two")
    wild = rows.assign(value=rows["value"].where(~gap, 9.0))
    counted = pd.concat([wild, wild[gap].assign(group="all", metric="unigram", value=.9)], ignore_index=True)
    assert claim.judge(wild).evidence.effect > 4 and abs(claim.judge(counted).evidence.effect - kept) < .01
    both = [wild[rows["paradigm"].eq(p) & rows["metric"].eq("gap_left")].assign(group="all", metric="unigram", value=.9) for p in ("one", "two")]
    assert claim.judge(pd.concat([wild, *both], ignore_index=True)).reason == "10 of 10 seeds: token counts alone solve every paradigm"


def test_every_claim_is_in_the_ledger_with_a_reason(smoke):
    names = [c.name for c in study.claims()]
    assert names == list(JUDGED)
    for tables in ({}, runs_of(dict(demo={})), smoke.metrics().assign(study="grammar", preset="smoke", fidelity="smoke", seed=0)):
        book = ledger(study.claims(), tables)
        assert book.claim.tolist() == names and book.reason.str.len().gt(0).all()
    book = ledger(study.claims(), runs_of(dict(demo={}))).set_index("claim")
    missing = {"frequency alone": "frequency", "density": "control", "smaller sooner": "long"}
    missing |= dict.fromkeys([name for name in names if name.endswith("on a text")], "text")
    missing |= dict.fromkeys(["dose", "late beats early", "spacing"], "planted")
    assert {n for n in names if book.verdict[n] == "not tested"} == set(missing)
    for name, preset in missing.items(): assert book.reason[name].startswith(f"no run with preset={preset} in ")
    book = ledger(study.claims(), runs_of(dict(demo={})).query("probe != 'inside' or step >= 1000")).set_index("claim")
    for name in ("concept", "rank", "a head looks back", "most heads look away"): assert "near a twentieth" in book.reason[name]


def test_a_lag_that_is_never_over_is_a_bound():
    verdict = next(c for c in study.claims() if c.name == "lag").judge(runs_of(dict(demo=dict(unexposed=9999))))
    assert "bound" in verdict.reason and verdict.evidence.effect >= 1700


def test_the_planted_figure_shows_the_end_of_every_run():
    "Also where one is longer than the other."
    long, short = (synthetic("planted", seed, **at_end(early=(.5, .5), late=(.5, top), spaced=(.5, .5))["planted"]) for seed, top in ((0, .9), (1, .7)))
    fig = language.planted_figure(pd.concat([long, short.assign(step=short.step/10)], ignore_index=True))
    late = dict(zip(*next(c for c in fig.axes[0].containers if c.get_label() == "late").lines[0].get_data()))
    assert np.isclose(late[16], .8, atol=.01) and np.isclose(late[1], .5, atol=.01)


# ---- a text ----

def pair(good, bad, phrase_good, phrase_bad, paradigm="barking"):
    return dict(sentence_good=good, sentence_bad=bad, phrase_good=phrase_good, phrase_bad=phrase_bad, paradigm=paradigm)


SEEN, UNSEEN = pair("The dog barks.", "The dog bark.", "dog barks", "dog bark"), pair("The zebu barks.", "The zebu bark.", "zebu barks", "zebu bark")


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    "A text in which dogs bark and zebus do not."
    path, g = tmp_path_factory.mktemp("text")/"prose.txt", np.random.default_rng(0)
    words = "The a dog cat fox barks bark runs run that this sees and then red blue green moon star house tree zebu".split()
    path.write_text("\n\n".join("The Dog barks . " + re.sub("zebu barks?", "zebu", " ".join(g.choice(words, 12))) + "." for _ in range(700)))
    return path


def of_text(prose, folder, rows, **changes):
    pd.DataFrame(rows).to_parquet(folder/"pairs.parquet")
    text = dict(language="text", corpus=str(prose), vocab_size=300, context=32, pairs=str(folder/"pairs.parquet"), paradigms="all", pairs_each=0)
    return study.config("smoke", **TINY | text | changes)


def brute_dose(config, table):
    "Occurrences of the phrases in the rows that are trained on, by regular expressions."
    stream, text = study.stream(config), []
    for step in range(config.steps): text += stream.tokenizer.batch_decode(stream.batch(step)["input_ids"])
    text = [re.sub(r"\s+", " ", row.lower().replace("’", "'")) for row in text]
    text = "\n".join(text)
    count = {p: len(re.findall(rf"(?<![\w']){re.escape(p)}(?![\w'])", text)) for p in {*table.phrase_good, *table.phrase_bad}}
    return [count[good] + count[bad] for good, bad in zip(table.phrase_good, table.phrase_bad)]


def test_a_run_on_a_text(root, prose, tmp_path, small_pictures):
    longer = SEEN | dict(phrase_good="the dog barks", phrase_bad="the dog bark")
    another = UNSEEN | dict(sentence_good="A zebu barks!", sentence_bad="A zebu bark!")
    config = of_text(prose, tmp_path, [SEEN, UNSEEN, longer, another])
    run = train(config, root, "cpu", 1)
    table = judge.asked(config)
    assert table.exposed.tolist() == [True, False, True, False] and table.dose.tolist() == brute_dose(config, table) and table.dose[0] > 5
    rows = run.metrics()
    assert set(rows[rows.probe == "accuracy"].paradigm) == {"barking", "mean"} and {"train", "accuracy", "held_out"} == set(rows.probe)
    assert rows[(rows.probe == "held_out") & (rows.step == 6)].value.item() < rows[(rows.probe == "held_out") & (rows.step == 0)].value.item()
    assert set(paper.split_sizes([run])["ours"].index) == {"barking"}
    assert Run(run.path).config == config and study.question in report.report([run], tmp_path/"page.html").read_text()


def test_selection_takes_every_paradigm_of_the_file(root, prose, tmp_path):
    without = {k: v for k, v in SEEN.items() if "phrase" not in k} | dict(paradigm="silent")
    rows = [SEEN, UNSEEN, *[without | dict(sentence_good="The dog sees.")]*2, *[UNSEEN | dict(paradigm="zebus")]*2]
    run = train(of_text(prose, tmp_path, rows, paradigms="barking", steps=20, checkpoints=10), root, "cpu", 1)
    found, counts = paper.selection_beside(run, 2)
    found = found.set_index("paradigm")
    assert found.phrases.to_dict() == dict(barking=2, silent=0, zebus=2) and found.exposed.to_dict() == dict(barking=1, silent=0, zebus=0)
    assert counts.fell.sum() + counts.left.iloc[-1] == 3 and counts.fell_in_paper.tolist() == [19, 27, 6, 4, 4]
    accuracy = measure(run, dict(margins=judge.margins)).query("metric == 'margin'").assign(right=lambda t: t.value >= 0).groupby("step").right.mean()
    assert np.isclose(found.peak["barking"], accuracy.max()) and np.isclose(found.early["barking"], accuracy[2])


def test_words_that_are_written_with_marks_have_a_frequency(root, prose, tmp_path):
    rows = [SEEN, UNSEEN, pair("The mother-in-law barks.", "The mother-in-law bark.", "mother-in-law barks", "mother-in-law bark"),
            pair("The dog doesn’t bark.", "The dog don’t bark.", "dog doesn’t", "dog don’t")]
    assert np.isfinite(judge.asked(of_text(prose, tmp_path, rows)).frequency).all()


ODD = {
    "all exposed": [SEEN], "none exposed": [UNSEEN], "no paradigm has both": [SEEN, UNSEEN | dict(paradigm="lowing")],
    "called planted": [p | dict(paradigm="planted") for p in (SEEN, UNSEEN)], "called mean": [p | dict(paradigm="mean") for p in (SEEN, UNSEEN)],
    "without phrases": [{k: v for k, v in p.items() if "phrase" not in k} for p in (SEEN, UNSEEN)]}


@pytest.mark.parametrize("what", [pytest.param(w, marks=pytest.mark.slow) if w in ("no paradigm has both", "none exposed") else w for w in ODD])
def test_pairs_of_ones_own_are_refused_before_training_or_reported_on(what, root, prose, tmp_path, small_pictures):
    "Nobody trains for an hour to learn that there is nothing to tell."
    config = of_text(prose, tmp_path, ODD[what])
    try: run = train(config, root, "cpu", 1)
    except InputError as error:
        assert len(str(error).splitlines()) == 1 and "pairs" in str(error) and not (root/config.run_id/"checkpoints").exists()
        return
    assert pick(run.records()[-1]["rows"], study.headline) is not None, "a command says the headline at the end"
    assert study.question in report.report([run], tmp_path/"page.html").read_text()


def test_a_file_of_ones_own_needs_no_names_of_blimp(root, prose, tmp_path):
    "Which paradigms is empty: where the file has none of the paper's, all of it is meant."
    assert len(judge.asked(of_text(prose, tmp_path, [SEEN, UNSEEN], paradigms=""))) == 2


def test_a_text_is_no_other_preset_and_an_option_is(root, prose, tmp_path):
    pd.DataFrame([SEEN, UNSEEN]).to_parquet(tmp_path/"pairs.parquet")
    of = lambda **changes: Run.create(study.config("text", corpus=str(prose), pairs=str(tmp_path/"pairs.parquet"), **changes), root).preset
    assert of() == of(seed=3) == "text" and of(lr=.1) == of(paradigms="all") == "custom"
    pd.DataFrame([SEEN]).to_parquet(tmp_path/"pairs.parquet")
    assert of() == "text"


def test_a_pairs_file_is_known_by_its_content(prose, tmp_path):
    one = of_text(prose, tmp_path, [SEEN])
    (tmp_path/"there").mkdir()
    assert of_text(prose, tmp_path/"there", [SEEN]).run_id == one.run_id and of_text(prose, tmp_path/"there", [UNSEEN]).run_id != one.run_id
    (tmp_path/"there"/"more.jsonl").write_text(json.dumps(SEEN))
    assert one.replace(pairs=str(tmp_path/"there")).run_id != one.run_id and one.replace(pairs=str(tmp_path/"pairs.parquet")).run_id == one.run_id


def test_books_and_blimp(root, data_dir):
    config = study.config("text", corpus=str(data_dir/"english_books_small.parquet"), pairs=str(data_dir/"blimp.parquet"), vocab_size=512, limit_tokens=60_000,
                          steps=12, warmup_steps=2, batch_size=16, context=128, pairs_each=150)
    table = judge.asked(config)
    assert set(table.paradigm) == set(judge._of_the_paper) and table.groupby("paradigm").size().between(100, 150).all()
    assert table.dose.tolist() == brute_dose(config, table) and 0 < table.exposed.sum() < .5*len(table)
    assert table.frequency.between(0, np.log(12*16*128)).all() and .3 < table.unigram.mean() < .7
    assert study.stream(config).batch(0)["input_ids"].shape == (16, 128)


def test_all_paradigms_of_blimp_can_be_asked(root, data_dir, tmp_path):
    "Some pairs of each, and those with words that are no plain letters: ex-husbands, isn't."
    blimp = pd.read_parquet(data_dir/"blimp.parquet")
    odd = blimp.sentence_good.str.contains(r"\w[^\w\s]\w|\w[^\w\s.?]\s")
    pd.concat([blimp.groupby("UID").head(5), blimp[odd].groupby("UID").head(30)]).to_parquet(tmp_path/"pairs.parquet")
    config = study.config("text", corpus=str(data_dir/"english_books_small.parquet"), pairs=str(tmp_path/"pairs.parquet"), vocab_size=512, limit_tokens=60_000,
                          steps=2, warmup_steps=0, batch_size=16, context=128, paradigms="all", pairs_each=0)
    table = judge.asked(config)
    assert table.paradigm.nunique() == 38 and np.isfinite(table.frequency).all() and table.dose.tolist() == brute_dose(config, table)
