"""A bar on standard error, if that is a terminal, while a run goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .run import OnStep


@contextmanager
def shown(step_count: int) -> Iterator[OnStep]:
    """Gives what a run calls at each step."""
    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    # Somewhere else than on a terminal a bar is noise in a log.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=step_count)
        begun = 0

        def on_step(what: str) -> None:
            nonlocal begun
            # The step that begins is not done yet.
            progress.update(task, completed=begun, description=what)
            begun += 1

        yield on_step
