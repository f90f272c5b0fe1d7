"""`steadyq check-env`: whether an environment can be trained on, and what to mend in it."""

from steadyq.cli.parser import DONE, REFUSED, Parser, parse
from steadyq.cli.train import add_setting
from steadyq.settings import SETTINGS


def check_env(parser: Parser, arguments: list[str]) -> int:
    """`steadyq check-env ENV ...`, refused if `steadyq train` would refuse it."""
    parser.epilog = (
        "The environment is reset and stepped with random actions; docs/environments.md explains the checks."
    )
    parser.add_argument("env", metavar="ENV", help="as for `steadyq train --env`")
    for name in ("action_repeat", "env_kwargs", "max_episode_steps", "single_env"):
        add_setting(parser, name, SETTINGS[name])
    values = vars(parse(parser, arguments))

    from steadyq.run.check_env import check_env

    refused = [one for one in check_env(values.pop("env"), **values) if one.state == "refused"]
    return REFUSED if refused else DONE
