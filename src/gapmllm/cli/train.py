"""`gapmllm train RECIPE`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gapmllm.train.recipe import Recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/debug/align.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, such as batch=4 or data.marks=2; may be given often."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set that takes the place of the recipe's own.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be trained, on what, how long; do nothing.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on where the run is; --no-resume refuses to."),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Go on although the recipe has changed.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Write where the time goes to OUT/profile/.")] = False,
) -> None:
    """Train a model by a recipe; what is left of a run that was stopped or killed continues."""
    from gapmllm.train.recipe import read_recipe

    read = read_recipe(recipe, set_ or (), data)
    if plan:
        _show_plan(read, recipe)
        return
    from gapmllm.train.loop import train as run

    run(read, resume=resume, force=force, profile=profile)


def _show_plan(recipe: Recipe, path: Path) -> None:
    from gapmllm.cli.tables import show
    from gapmllm.train.plan import make_plan

    found = make_plan(recipe, path.parent)
    for name, value in found.about.items():
        print(f"{name}: {value}")
    for title, rows in found.tables():
        if rows:
            print(f"\n{title}")
            show([{key: _readable(value) for key, value in row.items()} for row in rows])
    for line in found.missing:
        print(f"missing: {line}")


def _readable(value: Any) -> Any:
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else value
