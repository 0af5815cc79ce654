"""How the demo looks: numbered chapters, tables, and a mark for everything that was promised. Plain where piped."""

import time
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PIPED_WIDTH = 110


class Show:
    """`failures` collects every promise that was not kept."""

    def __init__(self, chapters: int) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=_PIPED_WIDTH)
        self._chapters, self._chapter = chapters, 0
        self._began = time.monotonic()
        self.failures: list[str] = []

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        self._chapter += 1
        self._console.print(f"\n[bold]{self._chapter}/{self._chapters}  {escape(title)}[/bold]")

    def progress(self, text: str) -> None:
        self._console.print(f"  [dim]{self.elapsed_s:5.1f} s[/dim]  {escape(text)}")

    def line(self, text: str) -> None:
        self._console.print(f"  {escape(text)}")

    def promise(self, kept: bool, text: str, otherwise: str = "") -> None:
        mark = "[green]ok[/green]  " if kept else "[red]FAIL[/red]"
        detail = f" ({otherwise})" if otherwise and not kept else ""
        self._console.print(f"  {mark}  {escape(text + detail)}")
        if not kept:
            self.failures.append(text + detail)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(_coloured(cell) for cell in row))
        self._console.print(table, new_line_start=True)


def _coloured(cell: str) -> str:
    colour = {"allowed": "green", "dropped": "yellow"}.get(cell)
    return f"[{colour}]{cell}[/{colour}]" if colour else escape(cell)
