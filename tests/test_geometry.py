"Shapes inside a modular model: every score against a slow definition, known shapes, noise and bad input; ablations against edited weights."
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes

from grok_nb import InputError
from grok_nb.lens import attention_patterns, head_outputs, hidden_states, mlp_activations
from grok_nb.models import gpt
from grok_nb.modular import geometry as G
from grok_nb.modular.algorithms import grid, grid_sequences, ratio_matchable
from grok_nb.modular.circuits import ablation, arrivals, best_scores, top_heads
from grok_nb.modular.tasks import ModularStream, accuracy

PRIMES = [5, 7, 11, 13, 29]
quick = settings(max_examples=25, derandomize=True)


@pytest.fixture(scope="module")
def stream(): return ModularStream(p=5, n_id=12, alpha=.8, n_shots=6, n_eval=96)


@pytest.fixture(scope="module")
def model(): return gpt(5, 24, 2, 3, 18, std=.3, seed=1).eval()


@pytest.fixture(scope="module")
def seen(model, stream): return G.snapshot(model, stream, contexts=3)


def clock(numbers, p, m=1):
    "Numbers as points on a clock, by their log; 0 in the middle."
    logs = G.discrete_log(p)[numbers]
    return np.where(logs < 0, 0, np.exp(2j*np.pi*m*logs/(p - 1)))


def points(z): return np.stack([z.real, z.imag], -1)
def noise(*shape, seed=0): return np.random.default_rng(seed).normal(size=shape)


def explained(values, labels):
    "R² of the means of groups, by its definition."
    values = values - values.mean(0)
    fitted = np.stack([values[labels == label].mean(0) for label in labels])
    return (fitted**2).sum()/(values**2).sum()


# logarithms and lines

@pytest.mark.parametrize("p", PRIMES)
def test_discrete_log_undoes_powers_for_every_generator(p):
    for base in range(1, p):
        if len({base**k % p for k in range(p - 1)}) < p - 1:
            with pytest.raises(InputError, match=f"base = {base}"): G.discrete_log(p, base)
        else: assert all(pow(base, int(k), p) == x for x, k in enumerate(G.discrete_log(p, base)) if x) and G.discrete_log(p, base)[0] == -1


def test_the_papers_base():
    assert G.primitive_root(29) == 27 and G.primitive_root(7) == 3


@pytest.mark.parametrize("p", PRIMES)
def test_lines_are_the_multiples(p):
    for line in G.lines(p):
        one = grid(p)[line[0]]
        assert set(line) == {int(c*one[0] % p*p + c*one[1] % p) for c in range(1, p)}
    same = G.collinear(p)
    assert np.array_equal(same[1:, 1:], ratio_matchable(grid(p)[1:, None, None], grid(p)[None, 1:], p)) and not same[0].any() and not same[:, 0].any()


@pytest.mark.parametrize("p", [5, 7, 11])
def test_renamings_rename_x_and_y_alike_and_keep_0_and_1(p):
    orders = G.renamings(p, 30)
    assert len(orders) == {5: 6, 7: 120}.get(p, 30) and len(np.unique(orders, axis=0)) == len(orders)
    for order in orders[:10]:
        x, y = grid(p)[order].T.reshape(2, p, p)
        assert (x == x[:, :1]).all() and (y == y[:1]).all() and np.array_equal(x[:, 0], y[0])
        assert sorted(x[:, 0]) == list(range(p)) and x[:2, 0].tolist() == [0, 1]


# snapshot

def test_snapshot_is_what_the_lens_sees_one_sequence_at_a_time(model, stream, seen):
    k = stream.n_shots - 1
    for c, query in ((0, 0), (1, 7), (2, 24)):
        tokens = grid_sequences(seen.shown[c], seen.task_vectors[c], 5)[query]
        a, b = seen.task_vectors[c]
        assert tokens[-1] == (a*tokens[-3] + b*tokens[-2]) % 5 and tokens[-3:-1].tolist() == grid(5)[query].tolist()
        tokens, at = torch.as_tensor(tokens)[None], [3*k, 3*k + 1, 3*k + 2]
        for name, slow in dict(heads=head_outputs(model, tokens)[:, 0, at].permute(0, 2, 1, 3), hidden=hidden_states(model, tokens)[:, 0, at],
                               neurons=mlp_activations(model, tokens)[:, 0, at[1]], attention=attention_patterns(model, tokens)[:, 0, :, at[1], :-1]).items():
            found = getattr(seen, name)
            found = found[:, :, c, query] if name in ("heads", "attention") else found[:, c, query]
            np.testing.assert_allclose(found, slow.numpy(), atol=2e-5, err_msg=name)


def test_snapshot_uses_unseen_tasks_and_does_not_depend_on_chunks(model, stream, seen):
    assert {tuple(t) for t in seen.task_vectors.tolist()} <= {tuple(t) for t in stream.ood_tasks.tolist()}
    again = G.snapshot(model, stream, contexts=3, chunk_tokens=50)
    np.testing.assert_allclose(again.hidden, seen.hidden, atol=2e-5)
    shorter = G.snapshot(model, stream, 2, contexts=3)
    assert np.array_equal(shorter.shown, seen.shown[:, :2]) and np.array_equal(shorter.task_vectors, seen.task_vectors)


# the spectrum and its shares

@pytest.mark.parametrize("p", [5, 7, 13])
def test_shares_are_r_squared(p):
    values, nonzero = noise(p*p, 2, seed=p), grid(p).all(1)
    x, y = grid(p)[nonzero].T
    ratio = np.array([next(r for r in range(p) if r*a % p == b) for a, b in zip(x, y)])
    power = G.spectrum(values, p)
    assert np.isclose(power.sum(), 1)
    for variable, labels in {"x": x, "y": y, "y/x": ratio}.items():
        assert np.isclose(G.one_variable(power, variable), explained(values[nonzero], labels))
    assert not G.spectrum(np.ones((p*p, 2)), p).any()


@pytest.mark.parametrize("p", PRIMES)
def test_a_circle_is_one_whatever_its_frequency_place_size_and_mirror_image(p):
    x, y = grid(p).T
    for m in set(range(1, p - 1)) - {(p - 1)//2}:
        for z in (clock(x, p, m), 3*np.exp(1j)*clock(x, p, m) + 5, clock(x, p, m).conj()):
            assert np.isclose(G.circle(G.spectrum(points(z), p), "x"), 1) and G.circle(G.spectrum(points(z), p), "y") < 1e-9
    assert G.circle(G.spectrum(points(clock(x, p, (p - 1)//2)), p), "x") < 1e-9 # two points taking turns are no circle
    flat = points(clock(x, p).real + 0j)
    assert np.isclose(G.circle(G.spectrum(flat, p), "x"), .5) # a cosine on a line is half a circle


@quick
@given(p=st.sampled_from([7, 11, 29]), outer=st.floats(.5, 3), share=st.floats(.25, .9), swap=st.booleans(), seed=st.integers(0, 99))
def test_a_circle_of_circles_is_told_from_a_lone_circle(p, outer, share, swap, seed):
    x, y = grid(p).T[::-1] if swap else grid(p).T
    jitter = .05*outer*share*noise(p*p, 2, seed=seed)
    both, lone = (G.circle_of_circles(G.spectrum(points(z) + jitter, p)) for z in (outer*(clock(x, p) + share*clock(y, p)), outer*clock(x, p)))
    assert both > .9 > .2 > lone


@pytest.mark.parametrize("amount", [.05, .3, 1.])
def test_a_lone_circle_does_not_pass_however_noisy(amount):
    x, _ = grid(29).T
    assert G.circle_of_circles(G.spectrum(points(clock(x, 29)) + amount*noise(29*29, 2), 29)) < .1


def test_circles_in_another_order_stay_at_the_null():
    p, (x, y) = 29, grid(29).T
    names = np.concatenate([[0], 1 + np.random.default_rng(3).permutation(p - 1)])
    made = points(clock(names[x], p) + .4*clock(names[y], p))
    for score in (lambda s: G.circle(s, "x"), G.circle_of_circles):
        found, null = G.against_renamings(lambda order: score(G.spectrum(made[order], p)), p, 60)
        assert found < 1.5*null


def test_noise_passes_its_null_about_as_often_as_promised():
    p, passed = 11, []
    for seed in range(120):
        x, y = grid(p).T
        made = noise(p, 2, seed=seed)[x] + .3*noise(p, 2, seed=1000 + seed)[y] # every number somewhere, in no order
        found, null = G.against_renamings(lambda order: G.circle(G.spectrum(made[order], p), "x"), p, 60, seed)
        passed.append(found > null)
    assert .03 < np.mean(passed) < .2 # .1 is promised


def test_the_best_of_many_heads_has_a_stricter_null():
    p, heads = 11, noise(8, 11, 2)[:, grid(11)[:, 0]]
    score = lambda order: G.circle(G.spectrum(heads[:, order], p), "x")
    _, single = G.against_renamings(score, p)
    _, best = G.against_renamings(score, p, best_of=-1)
    assert best.shape == single.shape and (best >= single).all() and np.ptp(best) == 0
    assert np.isclose(best[0], np.quantile([score(order).max() for order in G.renamings(p)], .9))


@pytest.mark.parametrize("p", [7, 13])
@pytest.mark.parametrize("variable", ["x", "y"])
@pytest.mark.parametrize("of", ["number", "log"])
def test_parity_is_what_its_definition_says(p, variable, of):
    values, column = noise(p*p, 3, seed=p), grid(p)[:, "xy".index(variable)]
    nonzero, numbers = grid(p).all(1), np.arange(1, p)
    means = np.stack([values[nonzero & (column == number)].mean(0) for number in numbers])
    odd = (numbers if of == "number" else G.discrete_log(p)[numbers]) % 2 == 1
    along = means @ (means[odd].mean(0) - means[~odd].mean(0))
    assert np.isclose(G.parity(values, p, variable, of), explained(along[:, None], odd))


def test_parity_of_the_log_is_the_quadratic_residues():
    p = 13
    residues = {x*x % p for x in range(1, p)}
    sides = np.array([1. if x in residues else -1. for x in range(p)])[grid(p)[:, 0]][:, None]
    assert np.isclose(G.parity(sides, p, "x", "log"), 1) and G.parity(sides, p, "x", "number") < .2


def test_stability_is_scipys_procrustes():
    clouds = noise(4, 30, 2)
    slow = np.mean([1 - procrustes(clouds[i], clouds[j])[2] for i in range(4) for j in range(i)])
    assert np.isclose(G.stability(clouds), slow) and np.isclose(G.stability(np.stack([clouds] * 3))[0], slow)


def test_planes_keep_the_distances_that_two_dimensions_can_hold(seen):
    flat = G.planes(seen, "xz", 2)
    vectors = seen.heads[1, 2, 0][:, [0, 2]].reshape(25, -1).astype(float)
    vectors -= vectors.mean(0)
    singular = np.linalg.svd(vectors, compute_uv=False)
    np.testing.assert_allclose((flat[1, 2, 0]**2).sum(0), singular[:2]**2, rtol=1e-5)


# lines, attention, neurons, probes

def test_line_contrast_is_the_contrast_of_the_map():
    p, vectors = 7, noise(2, 49, 12)
    maps, same = G.cosine_map(vectors), G.collinear(7)
    other = ~same & (np.arange(49) > 0) & (np.arange(49)[:, None] > 0)
    same = same & ~np.eye(49, dtype=bool)
    np.testing.assert_allclose(maps[0], np.corrcoef(vectors[0]), atol=1e-12)
    np.testing.assert_allclose(G.line_contrast(vectors, p), [1 - (1 - m[same].mean())/(1 - m[other].mean()) for m in maps])


def test_collinear_attention_by_hand():
    p, rng = 5, np.random.default_rng(0)
    shown = rng.integers(p, size=(2, 4, 2))
    weights = rng.random((3, 2, 25, 13))
    for t, token in enumerate("xyz"):
        on, off = [], []
        for c in range(2):
            for q, (x, y) in enumerate(grid(p)):
                for k, (u, v) in enumerate(shown[c]):
                    if (x or y) and (u or v): (on if (x*v - y*u) % p == 0 else off).append(weights[:, c, q, 3*k + t])
        np.testing.assert_allclose(G.collinear_attention(weights, shown, p, token), np.mean(on, 0)/np.mean(off, 0))


def test_attention_to_the_same_number_is_no_attention_to_lines():
    p, rng = 11, np.random.default_rng(0)
    shown = rng.integers(1, p, size=(3, 8, 2))
    weights = np.full((3, p*p, 25), .01)
    weights[..., 2:24:3] += .2*(grid(p)[None, :, None, 0] == shown[:, None, :, 0]) # looks for the same x
    found, null = G.against_renamings(lambda order: G.collinear_attention(weights, shown, p, order=order), p, 40)
    assert found <= null


def test_periodic_neurons_are_found_and_noise_is_not():
    p, (x, y), rng = 11, grid(11).T, np.random.default_rng(0)
    angles = {"x": np.angle(clock(x, p)), "y": np.angle(clock(y, p)), "y/x": np.angle(clock(y, p)*clock(x, p).conj())}
    for variable, angle in angles.items():
        waves = np.maximum(0, np.cos(2*angle[:, None] + rng.uniform(0, 6, 20)))[None, None] + .2*noise(1, 1, p*p, 20)
        shares = G.periodic_neurons(waves, p, 60)
        assert shares[variable][0] > .9 and all(shares[other][0] < .5 for other in {"x", "y", "y/x"} - {variable})
    assert all(share < null + .15 for share, null in G.periodic_neurons(noise(1, 1, p*p, 60), p, 60).values())


def test_linear_probes_read_ratios_and_not_what_they_were_fitted_on():
    p, (x, y) = 7, grid(7).T
    ratio = points(clock(y, p)*clock(x, p).conj()) @ noise(2, 20) + .1*noise(3, 49, 20)
    score, null = G.linear_probes(ratio, p)["y/x"]
    assert score > .95 > .6 > null
    private = np.tile(noise(49, 60), (3, 1, 1)) # every query has a vector of its own: enough to learn all by heart
    assert all(score < .1 for score, _ in G.linear_probes(private, p).values())


# the probe

def test_probe_rows_are_finite_unique_and_the_same_again(model, stream):
    context = SimpleNamespace(stream=stream)
    rows = G.geometry(model, context, contexts=2)
    table = pd.DataFrame(rows)
    assert rows == G.geometry(model, context, contexts=2)
    assert np.isfinite(table.value).all() and not table.duplicated(["quantity", "layer", "head", "where", "metric"]).any()
    assert {"linear y/x", "collinear attention to z", "circle of circles", "neurons by y/x"} <= set(table.quantity)
    best = best_scores(table.assign(step=0))
    assert best.score.tolist() == table[table.metric == "score"].groupby("quantity").value.max().tolist()


def test_arrivals_reads_the_order_off_curves():
    steps = np.arange(0, 1000, 100)
    best = pd.DataFrame([dict(quantity=q, layer=0, head=0, where="y", step=s, score=float(s >= at), null=0.)
                         for q, at in dict(a=300, b=500, c=700, d=2000).items() for s in steps])
    behaviour = pd.Series((steps >= 500)*.5, steps)
    assert arrivals(best, behaviour).order.tolist() == ["before", "undecided", "after", ""]


# causes

def test_intact_accuracy_is_the_accuracy_probes(model, stream):
    table = ablation(model, stream, [(0, 0)])
    rows = pd.DataFrame(accuracy(model, SimpleNamespace(stream=stream, step=0, device="cpu")))
    rows = rows[(rows["shot"] == "last") & (rows["queries"] == "matchable") & (rows["metric"] == "accuracy")].set_index("set").value
    intact = table[table.kind == "intact"].set_index("tasks").accuracy
    assert np.isclose(intact["unseen"], rows["ood_train"]) and np.isclose(intact["seen"], rows["id_train"])


def test_zero_ablation_is_a_head_with_zeroed_weights(model, stream):
    table = ablation(model, stream, [(0, 1), (1, 2)], draws=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edited = gpt(5, 24, 2, 3, 18).eval()
    edited.load_state_dict(before)
    for layer, head in ((0, 1), (1, 2)): edited.model.layers[layer].self_attn.o_proj.weight.data[:, 8*head:8*head + 8] = 0
    expected = ablation(edited, stream, [(0, 0)], draws=0)
    found = table[(table.kind == "named") & (table["mode"] == "zero")].set_index("tasks").accuracy
    assert found.to_dict() == expected[expected.kind == "intact"].set_index("tasks").accuracy.to_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) # found as it was


def test_other_sets_are_as_large_and_different(model, stream):
    table = ablation(model, stream, [(1, 0), (1, 2)])
    sets = {kind: set(part.heads) for kind, part in table.groupby("kind")}
    assert sets["named"] == {"1.0 1.2"} and sets["same layers"] == {"1.0 1.1", "1.1 1.2"}
    assert len(sets["elsewhere"]) == 15 - 3 and all(len(heads.split()) == 2 for heads in sets["elsewhere"])


# bad input

@pytest.mark.parametrize("call, says", [
    (lambda m, s: G.discrete_log(9), "p = 9: must be a prime"),
    (lambda m, s: G.lines(91), "p = 91: must be a prime"),
    (lambda m, s: G.snapshot(m, SimpleNamespace(batch=None)), "stream = SimpleNamespace: must be the stream of a modular run"),
    (lambda m, s: G.snapshot(m, None), "stream = NoneType: must be the stream of a modular run"),
    (lambda m, s: G.snapshot(m, ModularStream(p=7)), "model: has 5 tokens"),
    (lambda m, s: G.snapshot(gpt(3, 8, 1, 1, 18), ModularStream(p=3, n_id=4, alpha=.7, n_shots=4)), "p = 3: must be a prime from 5 on"),
    (lambda m, s: G.snapshot(m, s, 6), "n_shots = 6: must be from 1 to 5"),
    (lambda m, s: G.snapshot(m, s, 0), "n_shots = 0: must be from 1 to 5"),
    (lambda m, s: G.snapshot(m, s, contexts=0), "contexts = 0: must be at least 1"),
    (lambda m, s: G.snapshot(m, s, contexts=10**10), "needs .* GB of memory"),
    (lambda m, s: G.planes(None, "xx"), "pair = 'xx': must be two of x, y, z"),
    (lambda m, s: G.cosine_map(np.broadcast_to(np.float32(0), (400, 113*113, 1))), "a map of 12769 × 12769 queries: needs .* GB"),
    (lambda m, s: ablation(m, s, [(2, 0)]), r"head = \(2, 0\): must be \(layer, head\) with layer 0 … 1 and head 0 … 2"),
    (lambda m, s: ablation(m, s, [(0, -1)]), r"head = \(0, -1\)"),
    (lambda m, s: ablation(m, s, []), "named = 0 heads: must be 1 to 5"),
    (lambda m, s: best_scores(pd.DataFrame(dict(run=["a", "b"]))), "run: best_scores takes one run"),
    (lambda m, s: top_heads(pd.DataFrame(dict(metric=["score"], head=[0], quantity=["circle"])), "circel"), "did you mean 'circle'"),
])
def test_one_clear_line(model, stream, call, says):
    with pytest.raises(InputError, match=says) as error: call(model, stream)
    assert "\n" not in str(error.value)
