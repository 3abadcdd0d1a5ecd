"""All recipes, by the names of their families."""

from __future__ import annotations

from ...core.errors import ScheduleError
from .controlnet import ControlNetRecipe
from .controlnet_lite import LiteRecipe
from .controlnet_xs import XSRecipe
from .controlnext import ControlNeXtRecipe
from .ctrlora import CtrLoraRecipe
from .ip_adapter import IPAdapterRecipe
from .lllite import LLLiteRecipe
from .recipe import Recipe
from .t2i_adapter import AdapterRecipe
from .uni import UniRecipe
from .union import UnionRecipe

RECIPES: tuple[Recipe, ...] = (
    ControlNetRecipe(),
    LiteRecipe(),
    ControlNeXtRecipe(),
    AdapterRecipe(),
    LLLiteRecipe(),
    IPAdapterRecipe(),
    UnionRecipe(),
    UniRecipe(),
    XSRecipe(),
    CtrLoraRecipe(),
)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a family. ScheduleError for a family that cannot be trained."""
    found = next((recipe for recipe in RECIPES if recipe.id == name), None)
    if found is None:
        known = ", ".join(recipe.id for recipe in RECIPES)
        raise ScheduleError(f"--family is '{name}', expected one of {known}")
    return found
