"What presets come to: seeds are replicates in everything, older runs keep their names, and the learning rate over a training."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grok_nb import InputError, corpus, streams, studies
from grok_nb.copying.study import study as copying
from grok_nb.grammar.study import study as grammar
from grok_nb.probes import fingerprint
from grok_nb.runs import Config, Run, own_seed
from grok_nb.sweeps import estimate
from grok_nb.training import learning_rate_share

# ---- seeds ----

PARTS = dict( # study → the seed of a part of it, and what that seed makes
    modular=("data_seed", lambda stream: stream.split[1]),
    copying=("language_seed", lambda stream: stream.chain),
    grammar=("language_seed", lambda stream: stream.verbs),
)
SEEDS = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=10)
@given(seeds=st.lists(SEEDS, min_size=3, max_size=3, unique=True))
def test_seeds_are_replicates(name, seeds):
    "Another seed is another split, chain or licence, unless the seed of that is given."
    study, (option, part) = studies[name], PARTS[name]
    def made(**options): return part(study.stream(study.config("demo", **options)))
    one, two, given_ = seeds
    assert study.presets["demo"].options()[option] == -1
    assert np.array_equal(made(seed=one), made(seed=one)) and not np.array_equal(made(seed=one), made(seed=two))
    same = [made(seed=s, **{option: given_}) for s in (one, two)]
    assert np.array_equal(*same) and np.array_equal(same[0], made(seed=given_))
    configs = [study.config("demo", seed=s, **{option: given_}) for s in (one, two)]
    assert [own_seed(c, option) for c in configs] == [given_]*2 and own_seed(study.config("demo", seed=one), option) == one
    assert not np.array_equal(*(study.stream(c).batch(0)["input_ids"] for c in configs)) # what is drawn from it follows the run's


KNOWN = [(name, preset) for name in PARTS for preset, c in studies[name].presets.items() if getattr(c, "language", "") != "text"]


@pytest.mark.parametrize("name, preset", KNOWN)
def test_a_preset_is_known_at_any_seed(name, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("grok_nb.runs._check_space", lambda *_: None) # nothing is trained
    study, option = studies[name], PARTS[name][0]
    configs = [study.config(preset, seed=s) for s in (0, 1, 2**31 - 1)]
    assert [Run.create(c, tmp_path).preset for c in configs] == [preset]*3 and len({c.run_id for c in configs}) == 3
    assert Run.create(configs[0].replace(**{option: 5}), tmp_path).preset == "custom"


@pytest.mark.parametrize("name, preset, run_id", [
    ("modular", "long", "modular-p7-n32-a0.85-d2-s0-af37986c"),
    ("modular", "phase_cpu", "modular-p7-n32-a0.85-d2-s0-19d8eb65"),
    ("modular", "paper", "modular-p29-n256-a0.8-d6-s0-6254a57c"), # p + 18 tokens by rule, evaluated anew: another name on purpose
    ("copying", "batch32", "copying-generated-d2-w64-b32-s0-b056bed3"), # was the demo
    ("copying", "batch16", "copying-generated-d2-w64-b16-s0-a3f1ea56"),
    ("copying", "lr1e-3", "copying-generated-d2-w64-b32-s0-93fac519"),
    ("copying", "dropout", "copying-generated-d2-w64-b32-s0-aaabdcce"),
    ("copying", "wide", "copying-generated-d2-w128-b32-s0-e7e8733c"),
    ("grammar", "long", "grammar-generated-d2-w64-s0-8f377e6f"), # was the demo
    ("grammar", "planted", "grammar-generated-d2-w64-s0-932f298e"),
    ("grammar", "wide", "grammar-generated-d2-w128-s0-b575dbcf"),
])
def test_what_was_trained_before_keeps_its_name(name, preset, run_id):
    "With one split or language for all seeds, as it was."
    config = studies[name].presets[preset]
    assert (config if config.fidelity == "paper" else config.replace(**{PARTS[name][0]: 0})).run_id == run_id


# ---- the learning rate ----

@given(steps=st.integers(1, 400), warmup=st.floats(0, 1), decay=st.floats(0, 1), start=st.floats(0, 1), final=st.floats(0, 1))
def test_warmup_stable_decay(steps, warmup, decay, start, final):
    "Up, then the peak, then in a line down to the end, for the share of the steps that was asked for. Warm-up comes first."
    config = Config(schedule="wsd", steps=steps, warmup_steps=int(warmup*steps), warmup_start=start, decay_share=decay, final_lr=final)
    at, warm, begin = np.arange(steps + 1), config.warmup_steps, max(config.warmup_steps, round(steps*(1 - decay)))
    share = np.array([learning_rate_share(config, int(s)) for s in at])
    if warm: np.testing.assert_allclose(share[:warm], np.interp(at[:warm], [0, warm], [start, 1]), atol=1e-12)
    assert (share[warm:begin] == 1).all() and share[begin] == pytest.approx(1)
    if begin < steps:
        np.testing.assert_allclose(share[begin:], np.interp(at[begin:], [begin, steps], [1, final]), atol=1e-12)
        assert share[steps] == pytest.approx(final, abs=1e-12)


def test_decay_takes_its_share():
    shares = {d: [learning_rate_share(Config(schedule="wsd", steps=1000, warmup_steps=100, final_lr=.1, decay_share=d), s) for s in range(1001)]
              for d in (0., .1, .25, 1.)}
    first = {d: next((s for s, share in enumerate(line) if s >= 100 and share < 1), None) for d, line in shares.items()}
    assert first == {0.: None, .1: 901, .25: 751, 1.: 101} and Config().decay_share == .25
    assert [line[1000] for line in shares.values()] == pytest.approx([1, .1, .1, .1])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_other_schedules_have_no_share(schedule):
    one, other = (Config(schedule=schedule, steps=200, warmup_steps=20, decay_share=d) for d in (.25, .9))
    lines = [[learning_rate_share(c, s) for s in range(201)] for c in (one, other)]
    assert lines[0] == lines[1] and lines[0][20] == 1 and lines[0][200] == pytest.approx(1 if schedule == "constant" else .1)


# ---- where things lie, and when files are read ----

@pytest.fixture
def prose(tmp_path):
    "A text of a few thousand words."
    path = tmp_path/"prose.txt"
    path.write_text("\n\n".join(" ".join(f"word{(7*i + j) % 60}" for j in range(40)) + "." for i in range(120)))
    return path


def test_what_is_prepared_lies_under_the_root(prose, tmp_path, monkeypatch):
    monkeypatch.setenv("GROK_NB_RUNS", str(tmp_path/"elsewhere"))
    few = dict(steps=2, warmup_steps=0, evaluate_every=2, checkpoints=1, vocab_size=300)
    run = corpus.study.run("smoke", tmp_path/"here", corpus=str(prose), **few)
    assert run.config.root == tmp_path/"here" and len(list((tmp_path/"here"/"corpora").glob("*/corpus.json"))) == 1
    again = Run(run.path)
    assert again.config == run.config and again.stream.corpus.folder.is_relative_to(tmp_path/"here")
    assert again.config.replace(seed=1).root == tmp_path/"here" and not (tmp_path/"elsewhere").exists()


def test_a_check_reads_no_file(prose, monkeypatch):
    monkeypatch.setattr(corpus, "open_texts", lambda *_: pytest.fail("a text was read"))
    for study in (corpus.study, copying, grammar):
        with pytest.raises(InputError, match="width = 30"): study.config("text", corpus=str(prose), width=30, heads=4)


def test_a_configuration_stands_once_it_is_made(prose):
    config = corpus.study.config(corpus=str(prose))
    assert config.fingerprint and config.corpus == str(prose.absolute())
    with pytest.raises(AttributeError): config.steps = 3
    with pytest.raises(InputError, match="only the generated language has it"): copying.config(language="text", corpus=str(prose))


def test_a_calibration_prepares_nothing_twice(prose, tmp_path, monkeypatch):
    prepared, prepare = [], streams._prepare
    monkeypatch.setattr(streams, "_prepare", lambda final, *more: prepared.append(final) or prepare(final, *more))
    few = dict(corpus=str(prose), steps=40, warmup_steps=0, vocab_size=300)
    cost = estimate([corpus.study.config("smoke", seed=s, **few) for s in (0, 1)], tmp_path/"here", workers=1)
    assert cost["seconds"] > 0 and len(prepared) == 1 and prepared[0].parent == tmp_path/"here"/"corpora"


def test_where_a_text_is_prepared_is_not_what_is_asked(prose, tmp_path):
    one, two = (copying.foreign_probes(corpus=str(prose), root=tmp_path/name) for name in ("one", "two"))
    assert [fingerprint(one[n]) for n in one] == [fingerprint(two[n]) for n in two]
