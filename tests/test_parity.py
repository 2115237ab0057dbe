"""The numbers against independent implementations: TransformerLens, lifelines, scipy, scikit-learn, and plain float64 numpy by definition.

`lm-eval` and `minicons` score the same pairs in test_grammar_minimal_pairs.py, `ahocorasick_rs` finds the same phrases in test_grammar_search.py,
the lens is held against transformers written in numpy in test_lens.py.
"""
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from test_lens import HEADS, HIDDEN, LAYERS, LONGEST, VOCABULARY, build, sequences
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from grok_nb.claims import over_seeds, paired, share_of_seeds
from grok_nb.copying import formation as F
from grok_nb.copying.experiments import differences
from grok_nb.copying.induction import eigenvalue_positivity, repeated_sequences, stripes
from grok_nb.grammar.attention import concentration
from grok_nb.grammar.concepts import auroc, concept_rows, effective_rank
from grok_nb.grammar.exposure import dose_table
from grok_nb.grammar.lag import frequency_strata, random_splits, split_test
from grok_nb.intervals import Interval, bootstrap_interval, kaplan_meier
from grok_nb.lens import ablate_heads, attention_patterns, head_factors, head_outputs, hidden_states, mlp_activations, ov_matrices
from grok_nb.models import gpt, llama
from grok_nb.modular import geometry as G
from grok_nb.modular.algorithms import grid
from grok_nb.ramps import ar1_deviance, average_blocks, critical_evidence, noise_p_value, rise_shapes, standardise
from grok_nb.transitions import transition


def close(found, expected, atol=1e-9): np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=atol)
def noise(*shape, seed=0): return np.random.default_rng(seed).normal(size=shape)


# ---- TransformerLens: patterns, what heads write, the stream, neurons, OV circuits, ablation ----

def drawn(model):
    "The model in float64 with every weight and norm drawn at random."
    g = torch.Generator().manual_seed(7)
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=g)*(.3 if p.ndim == 1 else .25) + float(p.ndim == 1 and name.endswith("weight"))
    return model.double().eval()


def neox():
    rope = dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=.5)
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                                            max_position_embeddings=LONGEST, rope_parameters=rope, bos_token_id=None, eos_token_id=None))


MODELS = dict(gpt=lambda: drawn(gpt(VOCABULARY, HIDDEN, LAYERS, HEADS, LONGEST)), llama=lambda: drawn(llama(VOCABULARY, HIDDEN, 40, LAYERS, HEADS, LONGEST)),
              gpt_neox=lambda: drawn(neox()), gpt2=lambda: build("gpt2", torch.float64))
ABOUT = dict(gpt=dict(act_fn="relu", d_mlp=4*HIDDEN), llama=dict(act_fn="silu", gated_mlp=True, normalization_type="RMS", final_rms=True),
             gpt_neox=dict(act_fn="gelu", parallel_attn_mlp=True, rotary_dim=HIDDEN//HEADS//2), gpt2=dict(act_fn="gelu_new", positional_embedding_type="standard"))


def of_gpt(model, config, convert):
    "TransformerLens has no Starcoder2: its Llama's weights, with biases of the norms and without a gate."
    for block in model.model.layers: block.mlp.up_proj, block.mlp.gate_proj, block.mlp.down_proj = block.mlp.c_fc, block.mlp.c_fc, block.mlp.c_proj
    weights = {k: v for k, v in convert(model, config).items() if "gate" not in k}
    for i, block in enumerate(model.model.layers): weights |= {f"blocks.{i}.ln1.b": block.input_layernorm.bias, f"blocks.{i}.ln2.b": block.post_attention_layernorm.bias}
    return weights | {"ln_final.b": model.model.norm.bias}


@pytest.fixture(params=MODELS)
def twins(request):
    "One of our models, and a function that makes TransformerLens' own transformer of its weights."
    pytest.importorskip("transformer_lens", reason="needs TransformerLens 3: pip install 'grok_nb[peers]'")
    try: from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError: pytest.skip("needs TransformerLens 3, whose transformer is its own: from 4 on it looks into transformers'")
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights, convert_neox_weights
    name, model = request.param, MODELS[request.param]()
    about = dict(positional_embedding_type="rotary", rotary_dim=HIDDEN//HEADS, normalization_type="LN", d_mlp=40) | ABOUT[name]
    eps = [getattr(model.config, e) for e in ("rms_norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon") if hasattr(model.config, e)]
    config = HookedTransformerConfig(n_layers=LAYERS, d_model=HIDDEN, n_heads=HEADS, d_head=HIDDEN//HEADS, n_ctx=LONGEST, d_vocab=VOCABULARY, eps=eps[0],
                                     dtype=torch.float64, device="cpu", use_attn_result=True, rotary_adjacent_pairs=False, **about)
    def hooked(fold=False):
        convert = dict(gpt=lambda *about: of_gpt(*about, convert_llama_weights), llama=convert_llama_weights, gpt_neox=convert_neox_weights, gpt2=convert_gpt2_weights)
        weights = convert[name](MODELS[name](), config)
        theirs = HookedTransformer(config)
        theirs.load_and_process_state_dict({k: v.detach().clone() for k, v in weights.items()}, fold_ln=fold, center_writing_weights=False, center_unembed=False,
                                           fold_value_biases=False)
        return theirs.eval()
    return model, hooked


@torch.no_grad()
def test_what_is_inside_is_what_transformer_lens_computes(twins):
    model, theirs, ids = twins[0], twins[1](), sequences()
    logits, cache = theirs.run_with_cache(ids)
    close(model(input_ids=ids).logits, logits, 1e-5)
    each = range(LAYERS)
    close(attention_patterns(model, ids), torch.stack([cache["pattern", i] for i in each]), 1e-6)
    close(head_outputs(model, ids), torch.stack([cache["result", i] for i in each]), 1e-5)
    close(mlp_activations(model, ids), torch.stack([cache["post", i] for i in each]), 1e-5)
    close(hidden_states(model, ids), torch.stack([*(cache["resid_pre", i] for i in each), cache["resid_post", LAYERS - 1]]), 1e-5)
    values, outputs = head_factors(model)
    close(values, theirs.W_V), close(outputs, theirs.W_O)
    for i in each: close(ov_matrices(model, i), theirs.OV.AB[i])


@torch.no_grad()
@pytest.mark.parametrize("fold", [False, True])
def test_eigenvalue_positivity_is_that_of_transformer_lens(twins, fold):
    model, theirs = twins[0], twins[1](fold)
    eigenvalues = (theirs.W_E @ theirs.OV @ theirs.W_U).eigenvalues
    close(eigenvalue_positivity(model, fold), eigenvalues.sum(-1).real/eigenvalues.abs().sum(-1), 1e-7)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_ablation_is_that_of_transformer_lens(twins, mode):
    model, theirs, ids, others, gone = twins[0], twins[1](), sequences(), sequences(seed=1), [(0, 1), (2, 3)]
    mean = {i: theirs.run_with_cache(others)[1]["z", i].mean(0) for i in range(LAYERS)}
    def replace(z, hook):
        for layer, head in gone:
            if hook.layer() == layer: z[:, :, head] = 0 if mode == "zero" else mean[layer][:, head]
        return z
    expected = theirs.run_with_hooks(ids, fwd_hooks=[(f"blocks.{i}.attn.hook_z", replace) for i in range(LAYERS)])
    with ablate_heads(model, gone, mode, others if mode == "mean" else None): close(model(input_ids=ids).logits, expected, 1e-5)


def test_stripes_are_the_detection_patterns_of_transformer_lens():
    detector = pytest.importorskip("transformer_lens.head_detector", reason="needs TransformerLens: pip install 'grok_nb[peers]'")
    s, attention = 7, torch.rand(3, 14, 14, dtype=torch.double).tril()
    tokens = torch.as_tensor(repeated_sequences(20, s, 1))
    induction, previous = stripes(attention)
    after_the_last = attention[:, -1, s] # theirs counts what follows the end of the first half too
    close(induction*(s - 1) + after_the_last, (attention*detector.get_induction_head_detection_pattern(tokens)).sum((-1, -2)))
    theirs = detector.get_previous_token_head_detection_pattern(tokens)
    theirs[s:] = 0 # and tokens of the second half
    close(previous*(s - 1), (attention*theirs).sum((-1, -2)))


# ---- lifelines: times that may never come ----

def arrivals(seed, n=12):
    "Exact times, some tied, and runs that were given up before."
    rng = np.random.default_rng(seed)
    return rng.integers(1, 15, n)*100., rng.random(n) < .7


@pytest.mark.parametrize("seed", range(8))
def test_kaplan_meier_is_that_of_lifelines(seed):
    lifelines = pytest.importorskip("lifelines", reason="needs lifelines: pip install 'grok_nb[peers]'")
    times, came = arrivals(seed)
    for level in (.8, .95):
        theirs = lifelines.KaplanMeierFitter(alpha=1 - level).fit(times, came)
        ours = kaplan_meier([t if c else Interval(t, np.inf) for t, c in zip(times, came)], level)
        curve = ours.curve.set_index("time")
        close(curve.waiting, theirs.survival_function_.iloc[:, 0].loc[curve.index])
        inside = curve.index[(curve.waiting > 0) & (curve.waiting < 1)]
        close(curve.loc[inside, ["low", "high"]], theirs.confidence_interval_.loc[inside], 1e-9)
        limits = theirs.confidence_interval_[theirs.survival_function_.iloc[:, 0] > 0] # where nobody is left, nothing is known: as in R
        limits = lifelines.utils.median_survival_times(limits).iloc[0].to_numpy(float)
        end = times[~came].max() if (~came).any() else np.inf
        assert ours.median == Interval(min(theirs.median_survival_time_, end), theirs.median_survival_time_)
        assert ours.interval == (min(limits[0], end), limits[1])


@pytest.mark.parametrize("seed", range(6))
def test_the_median_of_intervals_holds_that_of_turnbull(seed):
    "The nonparametric estimate of interval-censored times lies between all as early and all as late as can be."
    npmle = pytest.importorskip("lifelines.fitters.npmle", reason="needs lifelines: pip install 'grok_nb[peers]'")
    rng = np.random.default_rng(seed)
    truth, every = rng.uniform(100, 3000, 10), rng.choice([100, 200, 300], 10) # each run is evaluated at a pace of its own
    late = np.ceil(truth/every)*every
    events = [Interval(b - e, b) if b <= 2400 else Interval(2400//e*e, np.inf) for b, e in zip(late, every)]
    share, where = npmle.npmle(np.nextafter([e.lo for e in events], np.inf), np.array([e.hi for e in events])) # theirs are closed, ours open below
    half = where[np.flatnonzero(np.cumsum(share) >= .5 - 1e-6)[0]]
    ours = kaplan_meier(events).median
    assert ours.lo <= half[0] and half[1] <= ours.hi


# ---- scipy: intervals and tests ----

def test_a_median_over_seeds_has_the_interval_and_p_of_the_sign_test():
    a, b = noise(9, seed=1), noise(9, seed=2) + .4
    for level in (.8, .95):
        found = over_seeds(dict(enumerate(a)), level=level)
        close(found.interval, stats.quantile_test(a, p=.5).confidence_interval(level)), close(found.effect, np.median(a))
    both = over_seeds(paired(dict(enumerate(a)), dict(enumerate(b))))
    close(both.interval, stats.quantile_test(b - a, p=.5).confidence_interval(.95))
    for q in (-.3, 0, .4): close(both.p_value(q), stats.binomtest(int((b - a > q).sum()), 9).pvalue)


def test_differences_between_presets_have_the_sign_tests_interval():
    a, b, c = noise(3, 9)
    per_run = pd.DataFrame([dict(preset=p, seed=s, loss=x[s], steps=10*x[s]) for p, x in dict(base=a, other=b, third=c).items() for s in range(9)])
    table = differences(per_run.sample(frac=1, random_state=0), "base").set_index(["preset", "quantity"])
    assert set(table.index) == set(product(("other", "third"), ("loss", "steps")))
    for (preset, quantity), row in table.iterrows():
        x, scale = dict(other=b, third=c)[preset], dict(loss=1, steps=10)[quantity]
        test = stats.quantile_test(x - a, p=.5)
        close([row["low"], row["high"]], np.array(test.confidence_interval(.95))*scale, 1e-8)
        close(row["median"], np.median(x - a)*scale)
        assert row["seeds"] == 9 and set(row["each"]) == set(range(9))


@pytest.mark.parametrize("k, n", [(0, 5), (1, 4), (3, 7), (6, 6)])
def test_shares_have_the_interval_of_clopper_and_pearson(k, n):
    for level in (.8, .95):
        found, tail = share_of_seeds({i: i < k for i in range(n)}, level), (1 - level)/2
        low, high = (stats.beta.ppf(tail, k, n - k + 1) if k else 0), (stats.beta.isf(tail, k + 1, n - k) if k < n else 1)
        close(found.interval, (low, high)), close(found.effect, k/n)


@pytest.mark.parametrize("k, n", [(0, 7), (3, 11), (40, 60), (9, 9)])
def test_doses_have_the_interval_of_wilson(k, n):
    "The shares from which the observed one is as many standard errors away as the level says."
    row = dose_table(pd.DataFrame(dict(dose=np.ones(n))), np.arange(n) < k, level=.9).iloc[0]
    z = stats.norm.ppf(.95)
    off = lambda p: (k/n - p)**2 - z**2*p*(1 - p)/n
    low = optimize.brentq(off, 1e-12, k/n - 1e-9) if k else 0
    high = optimize.brentq(off, k/n + 1e-9, 1 - 1e-12) if k < n else 1
    close([row["low"], row["high"]], [low, high], 1e-6)
    assert (row["group"], row["pairs"], row["accuracy"]) == ("1", n, pytest.approx(k/n))


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_is_that_of_all_resamples(statistic):
    "All 5⁵ resamples of five values, at the level of Hesterberg (2015): Φ(−√(n/(n−1)) t)."
    values = np.array([.1, .5, .7, 1.9, 2.2])
    every = np.sort(statistic(values[np.array(list(product(range(5), repeat=5)))], axis=1))
    for level in (.8, .95):
        tail = stats.norm.cdf(np.sqrt(5/4)*stats.t.ppf((1 - level)/2, 4))
        found = bootstrap_interval(values, statistic, level, resamples=40_000)
        for end, at in zip(found, (tail, 1 - tail)): # within what 40,000 draws leave open
            lower, upper = np.quantile(every, np.clip([at - .004, at + .004], 0, 1))
            assert lower - 1e-12 <= end <= upper + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_mann_whitneys_u(seed):
    g = np.random.default_rng(seed)
    good, bad = g.integers(0, 6, 15), g.integers(0, 5, 9)
    close(auroc(good, bad), stats.mannwhitneyu(good, bad).statistic/15/9)


def formed(layers, times, width=100):
    rows = [dict(run="r", layer=layer, head=i, metric="induction_score", onset_lo=t - width, onset_hi=t, formed=True) for i, (layer, t) in enumerate(zip(layers, times))]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_heads_is_somers_d_of_onset_and_layer(seed):
    "Pairs within a layer left out, ties of the onset counted as undecided."
    g = np.random.default_rng(seed)
    layers, times = np.sort(g.integers(0, 4, 12)), 200.*g.integers(1, 9, 12) + 100*np.arange(12)//4
    times = 500*(times//500) # many at once
    row = F.layer_order(formed(layers, times, 500), previous=None, draws=20).iloc[0]
    close(row.tau, stats.somersd(layers, times).statistic)


def test_the_p_of_the_order_is_that_of_all_orders():
    layers, times = np.arange(6), np.array([300, 100, 500, 400, 900, 700.])
    row = F.layer_order(formed(layers, times), previous=None, draws=20_000).iloc[0]
    exact = stats.permutation_test((times,), lambda t: stats.kendalltau(layers, t).statistic, permutation_type="pairings", alternative="greater", n_resamples=np.inf)
    close(row.tau, exact.statistic)
    assert row.orders == 720 and abs(row.p_value - exact.pvalue) < .006 and abs(row.p_heads - exact.pvalue) < .006
    close([row.null_low, row.null_high], np.quantile(exact.null_distribution, [.025, .975]), .07)


def test_the_interval_of_the_order_is_that_of_layers_drawn_again():
    layers, times = np.repeat(np.arange(5), 2), np.array([100, 300, 200, 900, 400, 800, 1200, 600, 700, 1500.])
    row, g, drawn_again = F.layer_order(formed(layers, times), previous=None, draws=8000).iloc[0], np.random.default_rng(1), []
    for _ in range(8000):
        chosen = g.integers(5, size=5)
        heads = np.concatenate([np.flatnonzero(layers == layer) for layer in chosen])
        if len(set(chosen)) > 1: drawn_again.append(stats_tau(layers[heads], times[heads]))
    close([row.low, row.high], np.quantile(drawn_again, [.025, .975]), .05)


def stats_tau(layers, times):
    deeper, later = np.sign(np.subtract.outer(layers, layers)), np.sign(np.subtract.outer(times, times))
    return (deeper*later).sum()/np.abs(deeper).sum()


def test_the_p_of_a_gain_is_that_of_all_flips():
    change = np.random.default_rng(3).normal(.35, 1, 12)
    exact = stats.permutation_test((change,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf)
    found = concentration(np.zeros((12, 1, 1)), change[:, None, None], draws=20_000)
    assert found["gain"] == pytest.approx(exact.statistic) and abs(found["p_gain"] - exact.pvalue) < .01 and .02 < exact.pvalue < .5


def test_the_p_of_a_gap_is_that_of_all_splits():
    "The gap is a difference of two means, of what each pair's verdicts come to over the steps."
    g, steps, exposed = np.random.default_rng(0), np.array([0, 100, 300, 700.]), np.arange(11) < 5
    correct = g.random((4, 11)) < .4 + .35*exposed
    areas = np.trapezoid(correct.astype(float), steps, axis=0)/700
    exact = stats.permutation_test((areas[exposed], areas[~exposed]), lambda a, b: a.mean() - b.mean(), alternative="greater", n_resamples=np.inf)
    found = split_test(steps, correct, exposed, n=20_000)
    assert found["gap"] == pytest.approx(exact.statistic) and abs(found["gap_p"] - exact.pvalue) < .01 and .01 < exact.pvalue < .6
    assert random_splits(exposed, 5).sum(1).tolist() == [5]*6


@pytest.mark.parametrize("pairs, bins", [(40, 8), (41, 7), (9, 4), (5, 8)])
def test_strata_without_ties_are_the_quantiles_of_pandas(pairs, bins):
    frequency = np.random.default_rng(pairs).permutation(pairs)**1.5
    found, theirs = frequency_strata(frequency, bins), pd.qcut(frequency, min(bins, pairs), labels=False)
    assert np.ptp(np.bincount(found)) <= 1 and (pd.Series(found).groupby(np.argsort(np.argsort(frequency))).first().diff().dropna() >= 0).all()
    if pairs % bins == 0: assert (found == theirs).all()


# ---- noise that wanders: by the density of a stationary AR(1) process ----

RHOS = 0, .2, .4, .6, .8


def ar1_twin(y, design):
    "Least deviance over ρ, by generalised least squares with the whole covariance matrix; slopes and ρ."
    found, n = [], len(y)
    for rho in RHOS:
        covariance = rho**np.abs(np.subtract.outer(np.arange(n), np.arange(n)))/(1 - rho**2)
        inverse = np.linalg.inv(covariance)
        slopes = np.linalg.solve(design @ inverse @ design.T, design @ inverse @ y)
        rest = y - slopes @ design
        found.append((n*np.log(rest @ inverse @ rest + 1e-3*n) + np.linalg.slogdet(covariance)[1], slopes[-1], rho))
    return min(found)


def test_the_deviance_is_that_of_generalised_least_squares():
    y, fixed = standardise(noise(14)), np.vstack([np.ones(14), np.arange(14)**2/50])
    shapes = rise_shapes(14).shapes[::97]
    without, deviance, slope, rho = ar1_deviance(y, fixed, shapes, rise_shapes(14).squares[:, ::97])
    close(without, ar1_twin(y, fixed)[0], 1e-8)
    for i, shape in enumerate(shapes): close((deviance[i], slope[i], rho[i]), ar1_twin(y, np.vstack([fixed, shape])), 1e-6)


def test_the_deviance_differs_as_the_likelihood_does():
    "Of two designs, at the ρ that is best for both, by twice the difference of scipy's normal densities at their best scale."
    y = standardise(np.r_[noise(20), noise(20, seed=1) + 2])
    one, two = np.ones((1, 40)), np.vstack([np.ones(40), np.arange(40) >= 20])
    def twice_log(design, rho):
        covariance = rho**np.abs(np.subtract.outer(np.arange(40), np.arange(40)))/(1 - rho**2)
        inverse = np.linalg.inv(covariance)
        rest = y - np.linalg.solve(design @ inverse @ design.T, design @ inverse @ y) @ design
        scale = rest @ inverse @ rest/40
        return 2*stats.multivariate_normal(np.zeros(40), scale*covariance).logpdf(rest)
    expected = max(twice_log(two, r) for r in RHOS) - max(twice_log(one, r) for r in RHOS)
    assert ar1_deviance(y, one) - ar1_deviance(y, two) == pytest.approx(expected, rel=.005) # but for the share that counts as perfect


def ramp(a, b, n): return np.clip((np.arange(n) - a)/(b - a), 0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_p_is_that_of_the_best_ramp_or_pair_of_ramps(seed):
    "Every ramp of nine evaluations, and every pair of opposite ones, three evaluations apart or more, one by one (three ramps say no more of these); then scipy's Gumbel law."
    n, y = 9, standardise(noise(9, seed=seed) + (ramp(2, 4, 9) if seed else 0) - (ramp(5, 6, 9) if seed > 1 else 0))
    ramps = [(a, b) for a in range(n) for b in range(a + 1, n) if (a + b)/2 < n - 2]
    none = ar1_twin(y, np.ones((1, n)))[0]
    one = min(ar1_twin(y, np.vstack([np.ones(n), ramp(*r, n)]))[0] for r in ramps)
    two = np.inf
    for r, q in product(ramps, ramps):
        if r[1] <= q[0] and (sum(q) - sum(r))/2 >= 3:
            for rho in RHOS: # opposite at this ρ
                inverse = np.linalg.inv(rho**np.abs(np.subtract.outer(np.arange(n), np.arange(n)))/(1 - rho**2))
                design = np.vstack([np.ones(n), ramp(*r, n), ramp(*q, n)])
                slopes = np.linalg.solve(design @ inverse @ design.T, design @ inverse @ y)
                if slopes[1]*slopes[2] < 0:
                    rest = y - slopes @ design
                    two = min(two, n*np.log(rest @ inverse @ rest + 1e-3*n) - np.log(1 - rho**2))
    evidence = max(none - one, none - two - 9)
    assert noise_p_value((np.arange(n), y)) == pytest.approx(stats.gumbel_r.sf(evidence, 9.9, 2.9), rel=1e-6)


def test_critical_evidence_is_gumbels():
    for p in (.001, .025, .05, .5): close(critical_evidence(p), stats.gumbel_r.isf(p, 9.9, 2.9))


@pytest.mark.parametrize("n", [8, 20, 70])
def test_times_of_shapes_are_where_the_shapes_cross(n):
    "Finely drawn; a shape within one gap has one time."
    shapes, times, _, gap, square, _, _ = rise_shapes(n)
    assert (np.abs(shapes[:, 0]) < 1e-9).all() and np.allclose(shapes[:, -1], 1) and (np.diff(shapes) >= -1e-9).all()
    for shape, (a, b, c) in zip(shapes[~gap], times[~gap]):
        at = [np.interp(q, shape, np.arange(n)) for q in (.1, .5, .9)] # straight between evaluations: half a gap off at most
        assert a <= b <= c and np.abs(np.subtract(at, (a, b, c))).max() < .5
    assert (times[gap] == times[gap, :1]).all() and (times[gap, 0] % 1 == .5).all()
    straight = {(a, b): ramp(a, b, n) for a in range(n) for b in range(a + 1, n) if n <= 32}
    for (a, b), wanted in straight.items(): assert np.abs(shapes - wanted/wanted[-1]).max(1).min() < 1e-9, (a, b) # each is among them
    for rho, of_rho in zip(RHOS, square):
        inverse = np.linalg.inv(rho**np.abs(np.subtract.outer(np.arange(n), np.arange(n)))/(1 - rho**2))
        close(of_rho[::29], np.einsum("gi,ij,gj->g", shapes[::29], inverse, shapes[::29]), 1e-8)


@pytest.mark.parametrize("middle, width", [(20.3, 4.), (31.8, 9.), (15.5, 14.)])
def test_a_transition_is_where_scipy_fits_a_logistic(middle, width):
    steps, curve = np.arange(50.), lambda t, low, height, m, w: low + height/(1 + np.exp(-np.log(81)*(t - m)/w))
    y = curve(steps, .1, .6, middle, width) + .01*noise(50)
    (low, height, m, w), _ = optimize.curve_fit(curve, steps, y, p0=(0, 1, 25, 5))
    seen = transition((steps, y))
    close([seen.baseline, seen.height], [low, height], .02)
    assert m in seen.midpoint and m - w/2 in seen.onset and m + w/2 in seen.saturation and seen.noise == pytest.approx(.01, rel=.3)
    assert seen.sharpness == pytest.approx(m/w, rel=.3)


def test_long_curves_are_averaged_in_blocks():
    steps, values = np.arange(1000)*10., noise(1000)
    found, first, last = average_blocks(steps, values, 128)
    cut = np.arange(0, 1001, 8) # 125 blocks of 8: no more than 128, all as large
    close(found, np.add.reduceat(values, cut[:-1])/np.diff(cut))
    assert (first == steps[cut[:-1]]).all() and (last == steps[cut[1:] - 1]).all()


# ---- geometry: by sums over the grid, by regression, by the definition of ridge ----

def logs(p): return G.discrete_log(p)[grid(p)[grid(p).all(1)]].T


@pytest.mark.parametrize("p", [7, 11])
def test_circles_are_sums_over_the_grid(p):
    "Fourier coefficients one by one, in float64."
    values, (a, b) = noise(p*p, 2, seed=p), logs(p)
    z = (values[:, 0] + 1j*values[:, 1])[grid(p).all(1)]
    spread = (np.abs(z - z.mean())**2).mean()
    share = lambda k, l: abs((z*np.exp(-2j*np.pi*(k*a + l*b)/(p - 1))).mean())**2/spread
    power, other = G.spectrum(values, p), [m for m in range(1, p - 1) if m != (p - 1)//2]
    alone = {"x": lambda m: share(m, 0), "y": lambda m: share(0, m), "y/x": lambda m: share(-m, m)}
    for variable, of in alone.items():
        close(G.circle(power, variable), max(map(of, other)))
        close(G.one_variable(power, variable), sum(map(of, range(1, p - 1))))
    both = []
    for outer, inner in (("x", "y"), ("y", "x")):
        whole = sum(map(alone[outer], range(1, p - 1)))
        both.append(min(max(map(alone[outer], other))/whole, max(map(alone[inner], other))/(1 - whole)))
    close(G.circle_of_circles(power), max(both))


def test_neurons_follow_what_a_regression_on_waves_explains():
    p, neurons = 11, 12
    a, b = logs(p)
    activations = noise(2, 3, p*p, neurons)
    activations[..., :4] += 2*np.cos(2*np.pi*3*(G.discrete_log(p)[grid(p)[:, 1]])/(p - 1))[:, None]
    def best(values, angle): # R² of the best frequency
        waves = [np.column_stack([np.cos(2*np.pi*m*angle/(p - 1)), np.sin(2*np.pi*m*angle/(p - 1))]) for m in range(1, (p - 1)//2)]
        return np.max([r2_score(values, LinearRegression().fit(w, values).predict(w), multioutput="raw_values") for w in waves], 0)
    found, orders, nonzero = G.periodic_neurons(activations, p, draws=12), G.renamings(p, 12), grid(p).all(1)
    for variable, angle in {"x": a, "y": b, "y/x": (b - a) % (p - 1)}.items():
        for layer, means in enumerate(activations.mean(1)):
            score, renamed = best(means[nonzero], angle), np.array([best(means[order][nonzero], angle) for order in orders])
            above = np.quantile(renamed, .9, axis=0)
            close(found[variable][0][layer], (score > above + 1e-9).mean())
            close(found[variable][1][layer], np.quantile((renamed > above + 1e-9).mean(1), .9))
    assert found["y"][0].min() >= .2


def test_linear_probes_are_ridge_regressions_written_out():
    p, contexts, hidden, folds, penalty = 7, 2, 9, 4, 3.0
    stream, (a, b) = noise(contexts, p*p, hidden), logs(p)
    for feature, wave in enumerate((np.cos, np.sin)): stream[:, grid(p).all(1), feature] += 5*wave(2*np.pi*a/(p - 1))
    found = G.linear_probes(stream, p, draws=5, folds=folds, penalty=penalty)
    nonzero = grid(p).all(1)
    fold = np.tile(G.generator(0, "folds").permutation(nonzero.sum()) % folds, contexts)
    x = np.concatenate([one[nonzero] for one in stream])
    def r2(angle):
        best = []
        for m in range(1, (p - 1)//2):
            wrong = spread = 0
            for wave in (np.cos, np.sin):
                t = np.tile(wave(2*np.pi*m*angle/(p - 1)), contexts)
                read = np.empty(len(t))
                for k in range(folds):
                    seen = fold != k
                    mean, scale = x[seen].mean(0), x[seen].std(0)
                    z, c = (x[seen] - mean)/scale, t[seen] - t[seen].mean()
                    weights = np.linalg.solve(z.T @ z + penalty*np.eye(hidden), z.T @ c)
                    read[~seen] = (x[~seen] - mean)/scale @ weights + t[seen].mean()
                wrong, spread = wrong + ((read - t)**2).mean(), spread + t.var()
            best.append(1 - wrong/spread)
        return max(best)
    of = {"x": lambda a, b: a, "y": lambda a, b: b, "y/x": lambda a, b: b - a}
    for variable, angle in of.items():
        renamed = [r2(angle(*G.discrete_log(p)[grid(p)[order][nonzero]].T)) for order in G.renamings(p)]
        close(found[variable][0], r2(angle(a, b))), close(found[variable][1], np.quantile(renamed, .9))
    assert found["x"][0] > .5


def test_planes_are_the_eigenvectors_of_the_covariance():
    class Seen: heads = noise(2, 1, 2, 25, 3, 6)
    found = G.planes(Seen, "xz", 3)
    for layer, context in product(range(2), range(2)):
        vectors = Seen.heads[layer, 0, context][:, [0, 2]].reshape(25, 12)
        vectors = vectors - vectors.mean(0)
        axes = np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :3]
        close(np.abs(found[layer, 0, context]), np.abs(vectors @ axes))


@pytest.mark.parametrize("p", [5, 7])
def test_a_null_is_the_ninetieth_percentile_of_all_renamings(p):
    "Up to 7, numbers other than 0 and 1 are renamed in every way there is."
    values = noise(p*p)
    score = lambda order: (values[order]*(grid(p) @ (1, 3) % p)).sum()
    every = []
    for names in permutations(range(2, p)):
        new = np.array([0, 1, *names])
        every.append(sum(values[new[x]*p + new[y]]*((x + 3*y) % p) for x, y in grid(p)))
    found, null = G.against_renamings(score, p)
    close(found, sum(values[x*p + y]*((x + 3*y) % p) for x, y in grid(p))), close(null, np.quantile(every, .9))


# ---- float64 twins: what float32 loses ----

def test_float32_moves_no_score_by_more_than_1e_5():
    "The same analyses of the same float32 numbers, in float64."
    p, g = 7, np.random.default_rng(0)
    hidden, attention, shown = g.normal(size=(3, 49, 12)).astype(np.float32), g.random((2, 3, 49, 13)).astype(np.float32), g.integers(p, size=(3, 4, 2))
    clouds, states = g.normal(size=(3, 49, 2)).astype(np.float32), g.normal(size=(20, 2, 2, 8)).astype(np.float32)
    scores = dict(line_contrast=lambda t: G.line_contrast(t(hidden), p), attention=lambda t: G.collinear_attention(t(attention), shown, p),
                  probes=lambda t: np.ravel(list(G.linear_probes(t(hidden), p).values())), spectrum=lambda t: G.spectrum(t(clouds), p),
                  parity=lambda t: G.parity(t(clouds), p, "x", "log"), stability=lambda t: G.stability(t(clouds)), map=lambda t: G.cosine_map(t(hidden)),
                  concepts=lambda t: [row["value"] for row in concept_rows(t(states), np.arange(20) % 2 == 0, matched=10)],
                  rank=lambda t: effective_rank(t(hidden)[0]), stripes=lambda t: torch.stack(stripes(torch.as_tensor(t(attention[0, :, :12, :12])))))
    for name, of in scores.items():
        single, double = (np.asarray(of(lambda x: x.astype(kind)), float) for kind in (np.float32, np.float64))
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5, err_msg=name)
