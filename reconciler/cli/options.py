"""Options that several commands share."""

from pathlib import Path

import click

from reconciler.host import places

# Not checked by click: what cannot be read is said in one place, `places.read_file`, and is no wrong usage.
PATH = click.Path(readable=False, path_type=Path)

FILE = click.option(
    "-f",
    "--file",
    "file",
    type=PATH,
    help=f"The appliance file; `-` reads standard input.  [default: {places.DEFAULT_FILE}]",
)
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or programs.",
)
