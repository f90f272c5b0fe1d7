"""What a run is asked to do, as names and values: checked and completed into settings before anything is started."""

from collections.abc import Mapping
from typing import Any

from steadyq.algorithm.options import make_recipe, options, stranger, taken
from steadyq.envs import suites
from steadyq.envs.source import Source, origin
from steadyq.settings import SETTINGS, Settings, check, complete, take


def settings_of(recipe: str, *, env: Source, choices: Mapping[str, Any]) -> Settings:
    """Checked and completed settings from names and values, but for a discount by the length of an episode."""
    known_options = options(recipe)
    for key in choices:
        if key not in SETTINGS and key not in known_options:
            raise stranger(recipe, key, SETTINGS.keys() | known_options.keys())
    chosen = taken(recipe, {key: value for key, value in choices.items() if key in known_options})
    made = make_recipe(recipe, chosen)
    defaults = {key: option.default for key, option in known_options.items()}
    given = {key: take(key, value) for key, value in choices.items() if key in SETTINGS}
    name, words, is_env = origin(env)
    if is_env:
        given["single_env"] = True
    settings = Settings(recipe=recipe, env=name, env_object=words, options=chosen, **given)
    settings = complete(settings, made.protocol, defaults, repeats=suites.repeats_actions(env))
    check(settings)
    return settings
