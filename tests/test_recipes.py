"""Every recipe's options, and its whole gradient steps against a second writing and against stored numbers.

When an update is meant to change, write new numbers with `python tests/test_recipes.py NAME...`, and why in the commit.
"""

import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch

from oracle import Facts, Numbers, Oracle
from small import ACTION, BATCH, OBS, double, for_actor, for_critic, normal, small, transitions
from steadyq.algorithm.actor_critic import State, count_parameters, make_agent, size
from steadyq.algorithm.nn import SHAPES, Readout
from steadyq.algorithm.options import Option, make_recipe, options, recipe_function, summary
from steadyq.algorithm.policy import Heads
from steadyq.algorithm.ranges import AT_LEAST_0, COUNT, POSITIVE
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.recipes.hyperparameters import Width
from steadyq.algorithm.tree import named_leaves
from steadyq.algorithm.types import ActorNoise, CriticNoise, Metrics, Transition
from steadyq.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


def numbers(state: State) -> Numbers:
    return {name: leaf.numpy() for name, leaf in named_leaves(state)}


def data(update: int) -> tuple[Transition, torch.Tensor, torch.Tensor]:
    """`(batch, noise of a', noise of a)` of one update."""
    return transitions(update, BATCH), normal(1000 + update, BATCH, ACTION), normal(2000 + update, BATCH, ACTION)


# Whole gradient steps, against tests/oracle.py

WN = Facts(lr=0.01, norm="batch", joint=True, loss_weight=0.5, project="unit", decay=0.5, temperature_lr=0.02)
CASES: dict[str, tuple[str, dict[str, Any], Facts]] = {
    "sac": ("sac", {}, Facts(lr=0.01)),
    "sac, one critic": ("sac", {"n_critics": 1, "tau": 0.5}, Facts(lr=0.01, tau=0.5)),
    "crossq": (
        "crossq",
        {"norm_warm_up": 2},
        Facts(
            lr=0.01,
            b1=0.5,
            norm="renorm",
            warm_up=2,
            joint=True,
            tau=None,
            loss_weight=0.5,
            log_std_min=-20,
            target_entropy=-1,
        ),
    ),
    "crossq_wn": ("crossq_wn", {}, WN),
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no target": ({"target": "none"}, {"tau": None}),
    "fast target": ({"tau": 0.5}, {"tau": 0.5}),
    "no projection": ({"project": "none"}, {"project": None}),
    "weights projected": ({"project": "weights"}, {"project": "weights"}),
    "readout projected": ({"project_readout": True}, {"project_readout": True}),
    "norms decay": ({"decay_norms": True}, {"decay_norms": True}),
    "actor's moments": ({"actor_moments": "critic"}, {"actor_moments": "critic"}),
    "renorm": ({"norm": "renorm", "norm_warm_up": 2}, {"norm": "renorm", "warm_up": 2}),
    "renorm, no target": (
        {"norm": "renorm", "norm_warm_up": 1, "target": "none"},
        {"norm": "renorm", "warm_up": 1, "tau": None},
    ),
    "b1 and entropy": ({"b1": 0.5, "target_entropy": -2.0}, {"b1": 0.5, "target_entropy": -2.0}),
    "three critics": ({"n_critics": 3, "width": 10}, {}),
}
CASES |= {f"crossq_wn, {name}": ("crossq_wn", o, Facts(**{**vars(WN), **f})) for name, (o, f) in VARIANTS.items()}
ALSO = {"crossq_wn": {"decay": 0.5, "temperature_lr": 0.02}}


def check_against(got: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-8, atol=1e-10, err_msg=f"{what}: {name}")


@pytest.mark.parametrize("case", CASES)
def test_updates_against_the_oracle(case: str) -> None:
    """Six updates in float64, the actor's after the third and the sixth as well as before: modes, order and signs."""
    name, chosen, facts = CASES[case]
    _, agent, state = small(name, lr=0.01, alpha=0.2, actor_width=12, **{**ALSO.get(name, {}), **chosen})
    state = double(state)
    oracle = Oracle(facts, numbers(state))
    for update in range(6):
        batch, next_noise, noise = double(data(update))
        state, metrics = agent.step("critic").update(state, batch, CriticNoise(next_noise))
        wanted = oracle.critic_step(*batch, next_noise)
        check_against({k: v.numpy() for k, v in metrics.items()}, wanted, f"update {update}")
        if update in (0, 2, 5):
            state, metrics = agent.step("actor").update(state, batch, ActorNoise(noise))
            wanted = oracle.actor_step(batch.obs, noise)
            check_against({k: v.numpy() for k, v in metrics.items()}, wanted, f"update {update}")
            check_against(numbers(state), oracle.numbers(), f"update {update}")


# The same updates against stored numbers


def golden(name: str) -> dict[str, Any]:
    """Three critic updates and one of the actor: the metrics, and each leaf's sum and norm.

    In float64: of a gradient that is nothing but float32's rounding, as that of XQC's first shift, Adam makes whole
    steps, and they differ between processors. Of float64's rounding it still makes some of 1e-12.
    """
    _, agent, state = small(name)
    state = double(state)
    seen: dict[str, list[float]] = {}

    def note(metrics: Metrics) -> None:
        for key, value in metrics.items():
            seen.setdefault(key, []).append(float(value))

    for update in range(3):
        batch, next_noise, noise = data(update)
        state, metrics = agent.step("critic").update(state, double(batch), double(for_critic(agent, next_noise)))
        note(metrics)
    state, metrics = agent.step("actor").update(state, double(batch), double(for_actor(agent, noise)))
    note(metrics)
    arrays = {key: leaf.astype(np.float64) for key, leaf in numbers(state).items()}
    return {
        "metrics": seen,
        "leaves": {key: [float(x.sum()), float(np.linalg.norm(x))] for key, x in arrays.items()},
    }


@pytest.mark.parametrize("name", RECIPES)
def test_golden_update(name: str) -> None:
    """Initial weights and whole updates are what they were when the file was written."""
    file = GOLDEN / f"{name}.json"
    assert file.exists(), f"no stored numbers of {name}: write them with `python tests/test_recipes.py {name}`"
    stored, got = json.loads(file.read_text()), golden(name)
    for part in ("metrics", "leaves"):
        assert got[part].keys() == stored[part].keys()
        for key, values in got[part].items():
            scale = max(map(abs, stored[part][key]))  # a sum may cancel, its norm says how large the numbers are
            rounding = part == "leaves" and ".opt." not in key  # Adam's moments can be as small and mean something
            least = 1e-10 if rounding else 1e-14
            np.testing.assert_allclose(values, stored[part][key], rtol=1e-6, atol=least + 1e-6 * scale, err_msg=key)


# Options


def base(name: str) -> dict[str, Any]:
    """Small and fast, so that every option shows within a few updates."""
    wanted = {"width": 8, "actor_width": 8, "lr": 0.01, "norm_warm_up": 1}
    return {key: value for key, value in wanted.items() if key in options(name)}


NEEDS = {
    ("crossq_wn", "temperature_lr"): {"temperature_lr": 0.1},
    ("crossq_wn", "norm_warm_up"): {"norm": "renorm"},
    ("xqc", "lr_end"): {"schedule_updates": 2},
    ("simba_v2", "lr_end"): {"schedule_updates": 2},
    ("bro", "kl_target"): {"kl_target": 400.0},  # of the size that the divergence has here: Adam sees little but a sign
    ("bro_fast", "kl_target"): {"kl_target": 400.0},
}
"""Options that mean something only beside another one, or near a value."""


def changed(option: Option, now: Any) -> Any:
    """Another value of the same type, far enough to be seen."""
    if option.choices:
        return next(choice for choice in option.choices if choice != now)
    if option.kind is bool:
        return not now
    if option.kind is int:
        return now + 3 if now < 1_000 else 2 * now
    return now / 2


@cache
def outcome(name: str, chosen: tuple[tuple[str, Any], ...]) -> dict[str, np.ndarray]:
    """What a recipe leads to: its resets, its state before and after a few updates, and an action."""
    recipe, agent, state = small(name, **dict(chosen))
    found = {f"before.{key}": leaf for key, leaf in numbers(state).items()}
    batch, next_noise, _ = data(2)
    state, _ = agent.step("critic").update(state, batch, for_critic(agent, next_noise))
    for update in range(2):
        batch, next_noise, noise = data(update)
        state, _ = agent.step("critic").update(state, batch, for_critic(agent, next_noise))
        state, _ = agent.step("actor").update(state, batch, for_actor(agent, noise))
    found["action"] = agent.act(state, transitions(0).obs, normal(3, ACTION)).numpy()
    found["resets"] = np.array([recipe.resets.due(10**k) for k in range(9)])
    return found | numbers(state)


def differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """By more than rounding."""
    if a.keys() != b.keys() or any(a[key].shape != b[key].shape for key in a):
        return True
    return any(not np.allclose(a[key], b[key], rtol=1e-4, atol=1e-6) for key in a)


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in RECIPES for option in options(name)])
def test_every_option_changes_something(name: str, option: str) -> None:
    """A setting that does not reach the update is a defect that nobody sees."""
    start = base(name) | NEEDS.get((name, option), {})
    known = options(name)[option]
    other = start | {option: changed(known, start.get(option, known.default))}
    if make_recipe(name, start).protocol == make_recipe(name, other).protocol:
        assert differ(outcome(name, tuple(start.items())), outcome(name, tuple(other.items())))


@pytest.mark.parametrize("choice", ["weights", "none"])
def test_each_projection_is_another(choice: str) -> None:
    start = base("crossq_wn")
    state = outcome("crossq_wn", tuple(start.items()))
    for other in {"weights", "none", "unit"} - {choice}:
        left = outcome("crossq_wn", tuple({**start, "project": other}.items()))
        right = outcome("crossq_wn", tuple({**start, "project": choice}.items()))
        assert differ(left, right)
    assert differ(state, outcome("crossq_wn", tuple({**start, "project": choice}.items())))


def test_readouts_alone_can_be_projected() -> None:
    chosen = base("crossq_wn") | {"project": "none", "project_readout": True}
    state = outcome("crossq_wn", tuple(chosen.items()))
    for network, readout in (("actor", "1.mean.w"), ("critic", "1.w")):
        of_readout, of_hidden = (np.linalg.norm(state[f"{network}.params.{w}"], axis=-2) for w in (readout, "0.1.w"))
        np.testing.assert_allclose(of_readout, 1, rtol=1e-5)
        assert not np.allclose(of_hidden, 1, rtol=0.1)


def test_options_are_read_off_the_signature() -> None:
    known = options("crossq_wn")
    assert known["lr"] == Option("lr", float, 3e-4, (), POSITIVE, "step size of AdamW for critic and actor")
    assert known["target"].kind is str
    assert known["target"].choices == ("polyak", "none")
    assert known["width"].kind is int
    assert known["decay_norms"] == Option(
        "decay_norms", bool, False, (), None, "let the scale and shift of the normalisation layers decay too"
    )


def test_words_of_a_recipe_stand_before_the_shared_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(*, width: Width = 3, depth: Annotated[Width, "layers"] = 4, size: Annotated[Width, AT_LEAST_0] = 5):
        raise NotImplementedError

    monkeypatch.setitem(RECIPES, "recipe", recipe)
    width, depth, size = options("recipe").values()
    assert width == Option("width", int, 3, (), COUNT, "units in each of the critic's two hidden layers")
    assert depth == Option("depth", int, 4, (), COUNT, "layers")
    assert size == Option("size", int, 5, (), AT_LEAST_0, width.help)


def documents_itself(name: str) -> bool:
    """Whether a recipe and each of its options come with words, a type, and a range where they are numbers."""
    known = options(name).values()
    typed = all(option.kind in (int, float, bool, str) for option in known)
    ranged = all(option.range or option.choices or option.kind is bool for option in known)
    return summary(name).endswith(".") and typed and ranged and all(option.help for option in known)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_documents_itself(name: str) -> None:
    assert documents_itself(name)
    for option in options(name).values():
        assert make_recipe(name, {option.name: option.default})  # a default is a value that is accepted


@pytest.mark.parametrize(
    "annotation",
    [int, Annotated[int, "units"], Annotated[int, COUNT], Annotated[list, COUNT, "units"], Annotated[str, "a"]],
)
def test_a_recipe_that_does_not_document_itself_is_seen(annotation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(*, width: int = 3) -> None:
        """One sentence."""

    monkeypatch.setitem(RECIPES, "recipe", recipe)
    for given, documented in ((Width, True), (annotation, False)):
        recipe.__annotations__["width"] = given
        assert documents_itself("recipe") is documented


def test_one_word_means_one_thing() -> None:
    """An option of several recipes has one type, range and choices; its words and default may differ."""
    known: dict[str, tuple] = {}
    for name in RECIPES:
        for key, option in options(name).items():
            assert known.setdefault(key, (option.kind, option.range, option.choices)) == (
                (option.kind, option.range, option.choices)
            )


def test_what_is_chosen_reaches_the_recipe() -> None:
    recipe = make_recipe("crossq", {"n_critics": 5, "alpha": 2, "actor_every": 7})
    assert recipe.n_critics == 5
    assert recipe.temperature.init().exp() == pytest.approx(2.0)
    assert recipe.protocol.actor_every == 7
    assert make_recipe("sac").n_critics == 2


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("crosq", {}, "unknown recipe 'crosq'; did you mean 'crossq'"),
        ("zebra", {}, "unknown recipe 'zebra'; known: bro, bro_fast, crossq, "),
        ("sac", {"witdh": 3}, "unknown option 'witdh'; did you mean 'width'"),
        ("sac", {"decay": 0.1}, "unknown option 'decay' of sac; recipes that have it: crossq_wn, bro, bro_fast, simba"),
        ("crossq_wn", {"target": "polyac"}, "unknown value of target 'polyac'; did you mean 'polyak'"),
        ("crossq_wn", {"target": None}, "target is None, of type NoneType; give one of type str"),
        ("sac", {"width": 2.0}, "width is 2.0, of type float; give one of type int"),
        ("sac", {"width": True}, "width is True, of type bool; give one of type int"),
        ("sac", {"lr": "0.1"}, "lr is '0.1', of type str; give one of type float"),
        ("crossq_wn", {"decay_norms": 1}, "decay_norms is 1, of type int; give one of type bool"),
        ("sac", {"width": 0}, "width is 0; give a whole number of at least 1"),
        ("sac", {"n_critics": -1}, "n_critics is -1; give a whole number of at least 1"),
        ("crossq", {"actor_every": 0}, "actor_every is 0; give a whole number of at least 1"),
        ("crossq", {"norm_warm_up": -1}, "norm_warm_up is -1; give a whole number of at least 0"),
        ("sac", {"lr": 0}, "lr is 0.0; give a number above 0"),
        ("sac", {"lr": float("inf")}, "lr is inf; give a number above 0"),
        ("sac", {"lr": float("nan")}, "lr is nan; give a number above 0"),
        ("sac", {"alpha": -1.0}, "alpha is -1.0; give a number above 0"),
        ("crossq_wn", {"temperature_lr": 0.0}, "temperature_lr is 0.0; give a number above 0"),
        ("crossq", {"b1": 1.0}, r"b1 is 1.0; give a number in \[0, 1\)"),
        ("crossq", {"b1": -0.1}, r"b1 is -0.1; give a number in \[0, 1\)"),
        ("sac", {"tau": 0.0}, r"tau is 0.0; give a number in \(0, 1\]"),
        ("sac", {"tau": 1.01}, r"tau is 1.01; give a number in \(0, 1\]"),
        ("crossq_wn", {"decay": -1e-9}, "decay is -1e-09; give a number of at least 0"),
        ("sac", {"target_entropy": float("-inf")}, "target_entropy is -inf; give a number below 0.693 "),
        ("sac", {"target_entropy": 0.694}, "target_entropy is 0.694; give a number below 0.693 "),
    ],
)
def test_what_cannot_work_is_refused(name: str, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_recipe(name, chosen)


def test_the_limits_themselves_are_accepted() -> None:
    chosen = {"b1": 0.0, "tau": 1.0, "decay": 0.0, "norm_warm_up": 0, "width": 1, "target_entropy": 0.69}
    assert make_recipe("crossq_wn", chosen).n_critics == 2


def test_unknown_recipes_have_no_function_and_no_options() -> None:
    for ask in (recipe_function, options, summary):
        with pytest.raises(InputError, match="unknown recipe"):
            ask("nothing")


# Published facts


@pytest.mark.parametrize(
    ("name", "utd", "actor_every", "learning_starts"),
    [("sac", 1, 1, 10_000), ("crossq", 1, 3, 5_000), ("crossq_wn", 2, 3, 5_000)],
)
def test_protocols(name: str, utd: float, actor_every: int, learning_starts: int) -> None:
    protocol = make_recipe(name).protocol
    assert (protocol.utd, protocol.actor_every, protocol.learning_starts) == (utd, actor_every, learning_starts)
    assert (protocol.batch_size, protocol.buffer_size, protocol.gamma, protocol.action_repeat) == (256, 10**6, 0.99, 2)


@pytest.mark.parametrize(
    ("name", "lowest", "middle"),
    [
        *(("sac", -10, 0), ("crossq", -20, 0), ("crossq_wn", -10, 0), ("redq", -20, 0), ("droq", -20, 0)),
        *(("sac_resets", -10, -4), ("sac_primacy", -10, -4), ("bro", -10, -4), ("simba", -10, -4)),
    ],
)
def test_bounds_of_the_log_std(name: str, lowest: float, middle: float) -> None:
    """Cut off at [-10, 2] in jaxrl and XQC, [-20, 2] in CrossQ's and REDQ's code; squashed by a tanh in the others."""
    policy, zeros = make_recipe(name).policy, torch.zeros(3, 1)
    for raw, bound in ((-99.0, lowest), (0.0, middle), (99.0, 2.0)):
        heads = Heads(Readout(zeros, torch.zeros(1)), Readout(zeros, torch.tensor([raw])))
        _, log_prob = policy.sample(heads, torch.zeros(1, 3), torch.zeros(1, 1))
        assert log_prob.item() == pytest.approx(-bound - 0.5 * np.log(2 * np.pi))


@pytest.mark.parametrize(
    ("name", "mean", "log_std"),
    [("sac", 1, 1), ("sac_resets", 2**0.5, 1), ("sac_primacy", 2**0.5, 1), ("bro", 2**0.5, 1), ("simba", 1, 1)],
)
def test_gains_of_the_actors_heads(name: str, mean: float, log_std: float) -> None:
    """Orthogonal at the start, with the gains of each one's code."""
    heads = make_recipe(name).policy.init(np.random.default_rng(0), 32, 5)
    for head, gain in ((heads.mean, mean), (heads.log_std, log_std)):
        np.testing.assert_allclose(torch.linalg.svdvals(head.w), gain, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "slope"), [("sac", 0.25), ("crossq", 0.25), ("crossq_wn", 0.25), ("bro", 0.25), ("redq", 1), ("droq", 1)]
)
def test_slope_of_the_temperature(name: str, slope: float) -> None:
    """At alpha 0.25: REDQ's and DroQ's code weigh the entropy's excess by log alpha, the others by alpha."""
    temperature, log_alpha = make_recipe(name).temperature, torch.tensor(0.25).log()

    def loss(entropy: float) -> torch.Tensor:
        return torch.func.grad(temperature.loss)(log_alpha, torch.tensor(entropy), 4)

    assert (loss(3.0) - loss(2.0)).item() == pytest.approx(slope)


@pytest.mark.parametrize(("obs_dim", "action_dim", "millions"), [(17, 6, 0.63), (223, 38, 0.94)])
def test_size_of_the_networks(obs_dim: int, action_dim: int, millions: float) -> None:
    """cheetah-run and dog-run: the paper says about 600k parameters of all networks that are trained."""
    agent = make_agent(make_recipe("crossq_wn"), obs_dim=obs_dim, action_dim=action_dim)
    state = agent.init(np.random.default_rng(0))
    counted = count_parameters(state.actor.params) + count_parameters(state.critic.params)
    assert round(counted / 1e6, 2) == millions


@pytest.mark.parametrize("name", RECIPES)
def test_size_is_that_of_the_networks_that_are_made(name: str) -> None:
    """Counted without drawing weights, and counted in drawn ones."""
    recipe, _, state = small(name)
    before = str(SHAPES.bit_generator.state)
    made = count_parameters(state.actor.params) + count_parameters(state.critic.params)
    assert size(recipe, obs_dim=OBS, action_dim=ACTION) == made
    assert str(SHAPES.bit_generator.state) == before


def write(names: Iterable[str]) -> None:
    """Store the numbers of these recipes; of others they would differ by the rounding of this processor."""
    for name in names:
        (GOLDEN / f"{name}.json").write_text(json.dumps(golden(name), indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(sys.argv[1:])
