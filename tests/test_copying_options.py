"Options of the copying study that are allowed can be run; models that never copy are no contradiction."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from grok_nb import InputError
from grok_nb.claims import ledger
from grok_nb.copying import claims as copying_claims
from grok_nb.copying.study import study
from grok_nb.runs import Context

@st.composite
def options(draw):
    "Options of the generated language, sensible or not."
    context = draw(st.sampled_from([8, 12, 16, 17, 24, 48, 96])) # the ideal observer weighs all places of a span: their number grows with its square
    low = draw(st.integers(2, 5))
    return dict(vocab_size=draw(st.sampled_from([2, 16, 17, 20, 64, 130])), context=context, span_min=low, span_max=draw(st.integers(low, max(low, min(context//2, 7)))),
                zipf=draw(st.sampled_from([0., 1., 3.])), concentration=draw(st.sampled_from([.01, 1., 1000.])), copy_from=draw(st.sampled_from(["half", "anywhere"])),
                copy_rate=draw(st.sampled_from([0., .4, 1.])), test_sequences=draw(st.integers(1, 20)), test_prefix=draw(st.integers(1, 6)),
                test_suffix=draw(st.integers(1, 4)), test_every=draw(st.integers(1, 3)), test_samples=draw(st.sampled_from([1, 2])))


@settings(max_examples=25)
@given(options())
def test_options_that_are_allowed_can_be_measured(options):
    "A run that is begun does not end at its first evaluation."
    try: config = study.config("smoke", width=8, heads=1, mlp=8, depth=1, batch_size=2, **options)
    except InputError: return
    model, context = study.model(config).eval(), Context(config, study.stream(config), 0, 0, "cpu")
    for name, probe in study.probes(config).items(): assert all(np.isfinite(row["value"]) for row in probe(model, context)), name


def flat(preset, seed, n=31):
    "Rows of a run that learns nothing."
    noise = np.random.default_rng(seed).normal(0, 1e-3, (n, 3))
    about = dict(run=f"{preset} {seed}", study="copying", preset=preset, fidelity="demo", seed=seed)
    rows = []
    for i in range(n):
        at = about | dict(step=100*i, tokens=1000*i)
        rows += [at | dict(probe="copy", position="mean", metric="exact", value=0.), at | dict(probe="losses", scored="all", metric="loss", value=4 + noise[i, 0]),
                 at | dict(probe="in_context", metric="icl_score", value=noise[i, 1])]
        rows += [at | dict(probe="abilities", test=test, metric=m, value=v) for test in ("recall", "few-shot") for m, v in (("accuracy", .1), ("chance", .125))]
        rows += [at | dict(probe="induction", layer=layer, head=0, metric=m, value=.01*abs(noise[i, 2])) for layer in (0, 1)
                 for m in ("induction_score", "attention", "eigenvalue_positivity", "previous_token")]
    return rows


@pytest.mark.parametrize("seeds", [3, 8])
def test_models_that_never_copy_contradict_nothing(seeds):
    "They tell nothing about how copying comes, and are no contradiction of the paper."
    rows = [row for preset in dict.fromkeys(("dropout", "decay0", "lr1e-3", *copying_claims.batches.values())) for s in range(seeds) for row in flat(preset, s)]
    book = ledger(study.claims(), pd.DataFrame(rows)).set_index("claim").verdict
    assert not [what for what, name in study.contradictions.items() if book[name] == "not supported"]
    assert set(book[["recall follows", "few-shot follows", "a head at work", "not linear"]]) == {"not tested"}
