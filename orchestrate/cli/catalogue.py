"""The command that says what there is to train with: methods."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrate.cli.common import ImportOption, complete_method, load_imports, table
from orchestrate.loading import loading
from training.errors import UserError


def methods(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [FIELD=VALUE]...",
            help="A method with what is added to it, like hat+awp+wa; and fields, like method.beta=3",
            autocompletion=complete_method,
        ),
    ] = None,
    setups: Annotated[bool, typer.Option("--setups", help="List the papers' training recipes too.")] = False,
    imports: ImportOption = None,
) -> None:
    """List the methods and what can be added to them; or say what one of them is made of.

    Any composition has a name: a method, and modifiers with + between them, in the order in which they are applied.
    The same name stands in a sweep file (method: hat+awp), in an override (method=hat+awp) and in parapet train.
    """
    load_imports(imports)
    if words and setups:
        raise UserError("--setups: lists all of them; leave the method out")
    if not words:
        _list(setups)
    elif "=" in words[0]:
        raise UserError(f"{words[0]}: name the method first, like hat {words[0]}")
    else:
        _describe(words[0], words[1:])


def _list(setups: bool) -> None:
    with loading("torch"):
        from orchestrate import catalogue

    table(("method", "loss", "parameters", "source", "summary"), catalogue.recipes())
    print()
    table(("modifier", "loss", "parameters", "source", "summary"), catalogue.modifiers())
    if setups:
        from training.setups import names, read

        print()
        told = [(name, read(name).get("about", "-"), read(name).get("source", "-")) for name in names()]
        table(("setup", "about", "source"), [tuple(" ".join(cell.split()) for cell in row) for row in told])
    print("\nOne of them in detail: parapet methods hat+wa. In a sweep file: method: hat+wa")


def _describe(name: str, overrides: list[str]) -> None:
    with loading("torch"):
        from orchestrate import catalogue
        from training.recipes import MODIFIERS, RECIPES

    alone = name in MODIFIERS.entries and name not in RECIPES.entries and not overrides
    found = catalogue.describe_modifier(name) if alone else catalogue.describe(name, overrides)
    print(found.name)
    for line in found.about:
        print(f"  {line}")
    if found.facts:
        print()
    for what, words in found.facts:
        print(f"{what:<10} {words}")
    if found.parameters:
        print()
        table(("parameter", "value", "allowed"), found.parameters)
