"The generated language against brute force, and the copying study: its options, its times, its claims."
import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from grok_nb import InputError
from grok_nb.copying import language
from grok_nb.copying import claims as copying_claims
from grok_nb.copying.study import study
from grok_nb.copying.language import (LanguageStream, bigram_losses, copied, evaluation_rows, few_shot_sequences, ideal_losses, losses, other_abilities,
                                      recall_sequences, repeated, token_losses)
from grok_nb.intervals import Interval
from grok_nb.models import llama
from grok_nb.runs import Context
from grok_nb.streams import check_stream

# ---- the language ----

def tiny(**changes): return LanguageStream(**dict(vocab_size=3, context=8, batch_size=4, span_min=2, span_max=4, copy_rate=0.7) | changes)


def hypotheses(stream):
    "Every way a document can come about, written down from the text: (source, copy, length), probability."
    half, n = stream.context // 2, stream.span_max - stream.span_min + 1
    yield (0, 0, 0), 1 - stream.copy_rate
    for length in range(stream.span_min, stream.span_max + 1):
        if stream.copy_from == "half":
            places = [(source, copy, length) for source in range(half - length + 1) for copy in range(half, stream.context - length + 1)]
            for place in places: yield place, stream.copy_rate / n / len(places)
        else: # where it goes, as long as there is room for it before; then where it comes from
            copies = [copy for copy in range(stream.context) if copy >= length and copy + length <= stream.context]
            for copy in copies:
                sources = [source for source in range(copy) if source + length <= copy]
                for source in sources: yield (source, copy, length), stream.copy_rate / n / len(copies) / len(sources)


def probability(stream, row):
    "Of a document given its first token, summed over how it came about."
    total = 0.0
    for (source, copy, length), prior in hypotheses(stream):
        chance = prior
        for t in range(1, len(row)):
            if copy <= t < copy + length: chance *= float(row[t] == row[source + t - copy])
            else: chance *= stream.chain[row[t - 1], row[t]]
        total += chance
    return total


@pytest.mark.parametrize("copy_from", language.sources)
def test_the_ideal_observer_is_the_probability_of_the_document(copy_from):
    stream = tiny(copy_from=copy_from)
    ids, _ = stream.documents(40, "test")
    for row, nats in zip(ids, ideal_losses(ids, stream)): assert np.isclose(nats.sum(), -np.log(probability(stream, row)), rtol=1e-9)


@pytest.mark.parametrize("copy_from", language.sources)
def test_probabilities_of_all_documents_sum_to_one(copy_from):
    stream = tiny(vocab_size=2, context=6, span_max=3, copy_from=copy_from)
    every = np.array([row for row in itertools.product(range(2), repeat=6) if row[0] == 1])
    assert np.isclose(np.exp(-ideal_losses(every, stream).sum(1)).sum(), 1)
    assert np.isclose(np.exp(-bigram_losses(every, stream.chain).sum(1)).sum(), 1)


@settings(max_examples=25)
@given(st.integers(2, 4), st.integers(0, 3), st.integers(0, 9), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from(language.sources))
def test_what_may_have_been_copied_and_how_likely(low, more, room, rate, copy_from):
    stream = tiny(context=2*(low + more) + room, span_min=low, span_max=low + more, copy_rate=rate, copy_from=copy_from)
    source, copy, length, prior = language._hypotheses(stream)
    assert np.isclose(prior.sum(), 1) and (prior >= 0).all()
    ours, wanted = {}, {}
    for place, p in zip(zip(source.tolist(), copy.tolist(), length.tolist()), prior): ours[place] = ours.get(place, 0) + p
    for place, p in hypotheses(stream): wanted[place] = wanted.get(place, 0) + p
    assert ours.keys() == wanted.keys() and np.allclose([ours[place] for place in wanted], list(wanted.values()))


@pytest.mark.parametrize("copy_from", language.sources)
def test_spans_are_drawn_as_often_as_the_ideal_observer_thinks(copy_from):
    stream, n = tiny(copy_from=copy_from), 20_000
    _, spans = stream.documents(n, "test")
    drawn = np.where(spans[:, 2:] > 0, spans, 0)
    at, counts = np.unique(drawn, axis=0, return_counts=True)
    counts, wanted = dict(zip(map(tuple, at.tolist()), counts)), {}
    for place, p in hypotheses(stream): wanted[place] = wanted.get(place, 0) + p
    assert counts.keys() <= wanted.keys()
    for place, p in wanted.items(): assert abs(counts.get(place, 0) - n*p) < 5*np.sqrt(n*p*(1 - p)) + 1, place


def every_document(stream):
    "All there are, and the probability of each, first token included."
    every = np.array([*itertools.product(range(stream.vocab_size), repeat=stream.context)])
    nats = ideal_losses(every, stream)
    return every, language.zipf(stream.vocab_size, stream.zipf)[every[:, 0]] * np.exp(-nats.sum(1)), nats


@pytest.mark.parametrize("copy_from", language.sources)
def test_documents_are_drawn_as_often_as_the_ideal_observer_thinks(copy_from):
    "Of a language so small that each document comes many times, and with it the mean loss."
    stream, n = tiny(vocab_size=2, context=6, span_max=3, copy_from=copy_from), 40_000
    every, p, nats = every_document(stream)
    ids, _ = stream.documents(n, "test")
    drawn, loss = np.bincount(ids @ 2**np.arange(6)[::-1], minlength=64), nats.sum(1)
    assert np.isclose(p.sum(), 1) and (abs(drawn - n*p) < 5*np.sqrt(n*p*(1 - p)) + 1).all()
    mean = (p*loss).sum()
    assert abs((drawn*loss).sum()/n - mean) < 5*np.sqrt((p*(loss - mean)**2).sum()/n)


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.1, 1.0, 100.0]), st.floats(0.01, 0.99), st.sampled_from(language.sources))
def test_the_ideal_observer_never_loses_more_than_the_chain_alone(seed, zipf, concentration, rate, copy_from):
    "On average over all documents, exactly; all are possible where some have no copy."
    stream = tiny(vocab_size=2, context=7, span_max=3, copy_rate=rate, language_seed=seed, zipf=zipf, concentration=concentration, copy_from=copy_from)
    every, p, nats = every_document(stream)
    assert np.isclose(p.sum(), 1) and (p * (bigram_losses(every, stream.chain) - nats).sum(1)).sum() >= -1e-9


@pytest.mark.parametrize("copy_from", language.sources)
def test_no_one_does_better_than_the_ideal_observer(copy_from):
    stream = LanguageStream(copy_from=copy_from)
    ids, spans = stream.documents(100, "test")
    ideal, bigram = ideal_losses(ids, stream), bigram_losses(ids, stream.chain)
    knows_the_spans = np.where(copied(spans, 64)[:, 1:], 0, bigram)
    assert knows_the_spans.mean() < ideal.mean() < bigram.mean()
    assert np.isfinite(ideal).all() and (ideal >= -1e-12).all()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(0, 6), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from(language.sources))
def test_spans_are_where_the_stream_says(seed, low, more, rate, copy_from):
    stream = LanguageStream(vocab_size=20, context=24, span_min=low, span_max=low + more, copy_rate=rate, copy_from=copy_from)
    ids, spans = stream.documents(50, seed)
    assert ids.min() >= 0 and ids.max() < 20
    for row, (source, copy, length) in zip(ids, spans):
        if not length: continue
        assert low <= length <= low + more and 0 <= source and source + length <= copy and copy + length <= 24
        if copy_from == "half": assert source + length <= 12 <= copy
        assert (row[source:source + length] == row[copy:copy + length]).all()
    assert (spans[:, 2] > 0).all() if rate == 1 else (spans[:, 2] == 0).all() if rate == 0 else True
    assert (copied(spans, 24).sum(1) == np.maximum(spans[:, 2] - 1, 0)).all()


def test_the_stream_keeps_the_contract_and_its_seeds():
    check_stream(tiny())
    one, two, other = (LanguageStream(seed=s, language_seed=l) for s, l in ((0, 0), (1, 0), (0, 1)))
    assert np.array_equal(one.chain, two.chain) and not np.array_equal(one.chain, other.chain)
    assert not np.array_equal(one.batch(0)["input_ids"], two.batch(0)["input_ids"])
    assert np.array_equal(one.evaluation[0], two.evaluation[0]), "evaluation documents are the language's, not the run's"
    seen = {row.tobytes() for step in range(200) for row in one.batch(step)["input_ids"]}
    assert not any(row.tobytes() in seen for row in one.evaluation[0])


def test_anywhere_is_anywhere():
    "Copies also begin in the first half, and sources lie in the second."
    _, (source, copy, length) = (part.T for part in LanguageStream(copy_from="anywhere").documents(2000, "test"))
    assert copy.min() == length[copy.argmin()] and (copy < 32).any() and (source + length > 32).any() and (copy + length == 64).any()


@pytest.mark.parametrize("options, found", [
    ({}, "317bf5f5b6cecf1a0c3997cabdcd6354f5babbbcad829c49043698500c653afa"),
    (dict(language_seed=3, seed=5, vocab_size=40, context=48, span_max=12, copy_rate=.7), "0ff419873f0f0d376b79c2702f26e92b6d6259ca8ebc1911e23eeb8a0dd04fef"),
], ids=["default", "other"])
def test_documents_of_older_runs_are_the_same_bits(options, found):
    "As they were before spans could be copied from anywhere."
    for more in ({}, dict(copy_from="half", zipf=1., concentration=1.)):
        assert hashlib.sha256(LanguageStream(**options | more).batch(7)["input_ids"].tobytes()).hexdigest() == found


def test_how_alike_tokens_are():
    assert np.allclose(language.zipf(5, 0.), .2) and np.allclose(language.zipf(3, 2.), np.array([36, 9, 4])/49)
    apart = [abs(language.bigram_chain(20, 0, c, 0.) - .05).mean() for c in (.1, 1., 10., 1000.)]
    assert apart == sorted(apart, reverse=True) and apart[-1] < .01, "the more alike the rows are, the nearer to the marginal"


@pytest.mark.parametrize("exponent", [0., 1.])
def test_tokens_follow_zipf_and_the_chain(exponent):
    stream = LanguageStream(copy_rate=0.0, zipf=exponent)
    ids, _ = stream.documents(4000, "test")
    share = np.bincount(ids[:, 0], minlength=64) / 4000
    assert abs(share - language.zipf(64, exponent)).max() < 0.03
    counts = np.zeros((64, 64)); np.add.at(counts, (ids[:, :-1].ravel(), ids[:, 1:].ravel()), 1)
    often = counts.sum(1) > 2000
    assert often.sum() > 15 and abs(counts[often] / counts[often].sum(1, keepdims=True) - stream.chain[often]).max() < 0.05


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 3))
def test_repeated_is_what_its_line_says(row, order):
    if len(row) <= order: return
    wanted = [t >= order and any(row[s - order:s + 1] == row[t - order:t + 1] for s in range(order, t)) for t in range(len(row))]
    assert repeated(np.array([row]), order)[0].tolist() == wanted


def test_losses_by_token():
    stream = LanguageStream()
    model = llama(64, 32, 64, 1, 2, 64, seed=3).eval()
    ids, can = evaluation_rows(stream, 10)
    nats = token_losses(model, ids)
    assert np.allclose(nats, token_losses(model, ids, at_once=64 * 64), atol=1e-5), "how many are held at once changes nothing"
    rows = {(r["scored"], r["metric"]): r["value"] for r in losses(model, Context(stream=stream), rows=10)}
    assert np.isclose(rows["all", "loss"], model(input_ids=torch.tensor(ids), labels=torch.tensor(ids)).loss.item(), atol=1e-5)
    assert np.isclose(rows["copyable", "loss"], nats[can[:, 1:]].mean()) and np.isclose(rows["other", "loss"], nats[~can[:, 1:]].mean())
    assert np.isclose(rows["copyable", "ideal observer"], ideal_losses(ids, stream)[can[:, 1:]].mean())


def test_where_nothing_was_copied_there_is_no_row_about_it():
    rows = losses(llama(64, 32, 64, 1, 2, 64).eval(), Context(stream=LanguageStream(copy_rate=0.0)), rows=4)
    assert {r["scored"] for r in rows} == {"all", "other"} and all(np.isfinite(r["value"]) for r in rows)


# ---- other abilities ----

def test_recall_asks_for_the_value_beside_the_key():
    ids, answers = recall_sequences(30, pairs=5, count=200, seed=1)
    for row, answer in zip(ids, answers):
        assert len(set(row[:10])) == 10 and row[:-1][list(row[:10]).index(row[-1]) + 1] == answer and list(row[:10]).index(row[-1]) % 2 == 0
    assert not np.array_equal(ids, recall_sequences(30, pairs=5, count=200, seed=2)[0])


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 8]))
def test_few_shot_can_be_answered_by_the_rule_alone(seed, shots):
    ids, labels = few_shot_sequences(40, shots, 50, seed)
    for row, (right, other) in zip(ids, labels):
        items, said, query = row[:-1:2], row[1:-1:2], row[-1]
        of_half = {bool(item >= 20): label for item, label in zip(items, said)}
        assert len(of_half) == 2 and all(of_half[bool(i >= 20)] == l for i, l in zip(items, said)) # one label a half, everywhere
        assert of_half[bool(query >= 20)] == right and of_half[not query >= 20] == other and query not in row[:-1]
        assert (said == right).sum() == (said == other).sum() == shots // 2


def test_who_copies_recalls_and_who_does_not_cannot():
    from grok_nb.copying.copy_test import copier
    score = lambda model: {r["test"]: r["value"] for r in other_abilities(model) if r["metric"] == "accuracy"}
    copier, nobody = score(copier(512, 64)), score(llama(512, 32, 64, 2, 2, 64).eval())
    assert copier["recall"] > 0.7 and nobody["recall"] < 0.1
    assert abs(nobody["few-shot"] - 0.5) < 0.2


# ---- the study ----

def test_presets_are_the_papers_where_they_say_so():
    paper = study.presets["paper"]
    assert paper.n_parameters == 162_417_408 and paper.batch_size * paper.context * paper.steps >= 40e9
    assert {study.presets[f"paper{x}"].lr for x in ("", "_lr1e-4", "_lr4e-4")} == {1e-4, 2e-4, 4e-4}
    assert (paper.test_sequences, paper.test_prefix, paper.test_suffix, paper.test_samples, paper.test_every) == (50, 12, 6, 500, 5)
    assert len({c.identity.__repr__() for c in study.presets.values()}) == len(study.presets), "two presets are one"


@pytest.mark.parametrize("changes, says", [
    (dict(corpus="books.parquet"), "the generated language reads none"),
    (dict(context=64, span_max=40), "at most half of context"),
    (dict(span_min=1), "span_min = 1"),
    (dict(context=64, test_sequences=8), "holds 6 and a query"),
    (dict(test_every=6), "at most test_sequences"),
    (dict(language="texts"), "did you mean 'text'"),
    (dict(language="text"), "only the generated language has it"),
    (dict(zipf=3.5), "from 0.0 to 3.0"),
    (dict(concentration=0), "from 0.01 to"),
    (dict(copy_from="everywhere"), "did you mean 'anywhere'"),
    (dict(language_seed=-2), "from -1 to"),
    (dict(vocab_size=1), "from 2 to"),
    (dict(width=30, heads=2), "multiple of 2·heads"),
    (dict(copy_rate=1.5), "from 0.0 to 1.0"),
])
def test_options_that_do_not_fit(changes, says):
    with pytest.raises(InputError, match=says) as error: study.config("demo", **changes)
    assert len(str(error.value).splitlines()) == 1


def test_a_text_without_a_name_has_no_run():
    with pytest.raises(InputError, match="corpus is not given"): study.config("text").run_id


def test_when_a_loss_has_settled():
    steps = np.arange(0, 2001, 100)
    cliff = pd.Series(np.where(steps < 500, 4.0, 3.0), steps)
    assert copying_claims.settled(cliff) == Interval(400, 500)
    line = pd.Series(np.linspace(4, 2, 21), steps)  # its end is the mean of the last three, 2.1; a twentieth of 1.9 above that is 2.195
    assert copying_claims.settled(line) == Interval(1800, np.inf), "at 1900 and 2000 only: not confirmed"
    jumps_later = pd.Series(np.where(steps < 300, 4.0, np.where(steps < 1500, 3.0, 2.0)), steps)
    assert copying_claims.settled(jumps_later) == Interval(1400, 1500), "what it does later counts"
    assert copying_claims.settled(jumps_later, share=0.6) == Interval(200, 300)


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0])
def test_the_exponent_of_planted_times(power):
    exactly = {b: Interval(1000 * b**power, 1000 * b**power) for b in (16, 32, 64, 128)}
    found = copying_claims.exponent(exactly)
    np.testing.assert_allclose([found.lo, found.hi], power, atol=1e-9)
    assert np.isclose(found.mid, np.polyfit(np.log(list(exactly)), np.log([t.lo for t in exactly.values()]), 1)[0])
    known = {b: Interval(900 * b**power, 1100 * b**power) for b in exactly}
    drawn = np.random.default_rng(0).uniform(np.log(900), np.log(1100), (500, 4)) + power*np.log(list(known))
    slopes = np.polyfit(np.log(list(known)), drawn.T, 1)[0]
    found = copying_claims.exponent(known)
    x = np.log(list(known))
    assert found.lo <= slopes.min() and slopes.max() <= found.hi
    assert found.width == pytest.approx(np.log(11/9)*abs(x - x.mean()).sum()/((x - x.mean())**2).sum())


def test_a_run_that_did_not_begin_bounds_the_exponent():
    times = {16: Interval(100, 100), 32: Interval(400, np.inf)}
    found, turned = copying_claims.exponent(times), copying_claims.exponent({16: times[32], 32: times[16]})
    np.testing.assert_allclose([found.lo, found.hi, turned.lo, turned.hi], [2, np.inf, -np.inf, -2])


def test_every_contradiction_is_the_opposite_of_a_claim():
    names = [c.name for c in study.claims()]
    assert len(set(names)) == len(names) and set(study.contradictions.values()) <= set(names)


def planted(seed, preset, copying, step=100):
    "A table with the rows that claims about copying read."
    return pd.DataFrame([dict(run=f"{preset} {seed}", study="copying", preset=preset, fidelity="demo", seed=seed, step=i * step, tokens=i * step * 2048,
                              probe="copy", position="mean", metric="exact", value=v) for i, v in enumerate(copying)])


def judge(name, *tables):
    claim = next(c for c in study.claims() if c.name == name)
    return claim.judge(pd.concat(tables, ignore_index=True)).verdict


def test_claims_on_planted_runs():
    jump = lambda at, n=31, top=0.6: np.where(np.arange(n) < at, 0.0, top) + 1e-3 * np.random.default_rng(at).normal(size=n)
    runs, base = ({s: planted(s, preset, jump(12 + s)) for s in range(10)} for preset in ("demo", "batch32"))
    assert judge("surge", *list(runs.values())[:5]) == "inconclusive", "five of five seeds are an interval from .48 on"
    assert judge("surge", *runs.values()) == "supported"
    assert judge("not linear", *runs.values()) == "supported"
    assert judge("not linear", *(planted(s, "demo", np.linspace(0, 1, 31) + np.random.default_rng(s).normal(0, .02, 31)) for s in range(10))) == "not supported"
    assert judge("two blocks", *(planted(s, "depth1", 1e-3 * s + np.zeros(31)) for s in range(10))) == "supported"
    assert judge("learning rate", *base.values(), *(planted(s, "lr1e-3", jump(25 + s % 5)) for s in range(10))) == "supported"
    assert judge("learning rate", *base.values(), *(planted(s, "lr1e-3", jump(2 + s)) for s in range(10))) == "not supported"
    by_tokens = [planted(s, name, jump(8 + s % 2), step=32 * 200 // b) for b, name in copying_claims.batches.items() for s in range(10)]
    assert judge("steps, not tokens", *by_tokens) == "not supported"
    by_steps = [planted(s, name, jump(8 + s % 2), step=200) for name in copying_claims.batches.values() for s in range(10)]
    assert judge("steps, not tokens", *by_steps) == "supported"
    assert judge("dropout", *base.values()) == "not tested"
