"""`steadyq check-env`: whether an environment can be trained on, and what to fix in it."""

from steadyq.cli.parser import DONE, REFUSED, Parser, parse
from steadyq.cli.train import add_setting, loading
from steadyq.settings import CHECK_TIMEOUT, SETTINGS


def check_env(parser: Parser, arguments: list[str]) -> int:
    """`steadyq check-env ENV ...`, refused if `steadyq train` would refuse it."""
    parser.epilog = (
        "The environment is reset and stepped with random actions; docs/environments.md explains the checks."
    )
    parser.add_argument("env", metavar="ENV", help="as for `steadyq train --env`")
    for name in ("action_repeat", "env_kwargs", "max_episode_steps", "single_env"):
        add_setting(parser, name, SETTINGS[name])
    timeout = "seconds after which an environment that does not answer is refused; 0 for never"
    add_setting(parser, "env_timeout", SETTINGS["env_timeout"]._replace(default=CHECK_TIMEOUT, help=timeout))
    values = vars(parse(parser, arguments))

    with loading():
        from steadyq.run.check_env import check_env

    refused = [one for one in check_env(values.pop("env"), **values) if one.state == "refused"]
    return REFUSED if refused else DONE
