"""Algorithms, each a short function that returns a `Recipe` and states how it differs from its parent.

A function's keyword arguments are its hyperparameters: `steadyq train NAME --help` shows them with these types,
defaults and words.
"""

from collections.abc import Callable

from steadyq.algorithm.agent import Recipe
from steadyq.algorithm.recipes.bro import bro, bro_fast
from steadyq.algorithm.recipes.crossq import crossq, crossq_wn, crossq_wn_td3, xqc
from steadyq.algorithm.recipes.sac import droq, nap, ofn, redq, sac, sac_primacy, sac_resets
from steadyq.algorithm.recipes.simba import simba, simba_v2

RECIPES: dict[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        crossq_wn,
        crossq,
        xqc,
        crossq_wn_td3,
        sac,
        sac_resets,
        sac_primacy,
        redq,
        droq,
        ofn,
        nap,
        bro,
        bro_fast,
        simba,
        simba_v2,
    )
}
"""Every algorithm by its name."""
