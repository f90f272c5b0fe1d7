"""`steadyq list`: what there is to train, and on what."""

from steadyq.cli.parser import DONE, Parser, parse


def names(parser: Parser, arguments: list[str]) -> int:
    """`steadyq list recipes|envs`."""
    parser.add_argument("what", choices=("recipes", "envs"), metavar="recipes|envs")
    if parse(parser, arguments).what == "recipes":
        print_recipes()
    else:
        from steadyq.envs import suites

        for suite, known in suites.names().items():
            print(f"{suite}: {' '.join(known)}")
    return DONE


def print_recipes() -> None:
    """Every recipe with its protocol on DeepMind Control and its size on dog-run, and what it is in the line below."""
    from steadyq.algorithm.actor_critic import size
    from steadyq.algorithm.options import make_recipe, summary
    from steadyq.algorithm.recipes import RECIPES

    obs_dim, action_dim = 223, 38  # of dog-run
    row = "{:14}{:>4}{:>7}{:>8}{:>9}{:>9}{:>9}{:>12}  {}"
    print(row.format("", "UTD", "batch", "repeat", "warm-up", "gamma", "size", "per 1,000", "source"))
    for name in RECIPES:
        made = make_recipe(name)
        protocol = made.protocol
        learned = size(made, obs_dim=obs_dim, action_dim=action_dim)
        print(
            row.format(
                name,
                f"{protocol.utd:g}",
                protocol.batch_size,
                protocol.action_repeat,
                f"{protocol.learning_starts:,}",
                protocol.gamma or "length",
                f"{learned / 1e6:.2f}M",
                f"{1_000 * protocol.utd / protocol.action_repeat:,.0f}",
                protocol.source,
            )
        )
        print(f"    {summary(name)}")
    print(
        "\nrepeat: frames per agent step; warm-up: agent steps of random actions; gamma: `length`, by an episode's;"
        "\nsize: learned numbers of actor and critics on dog-run; per 1,000: critic updates per 1,000 frames"
    )
