"""ruamel.yaml's event parser, without tags and directives.

Composed by hand like ruamel.yaml's own loaders, because `YAML()` searches the disk for plug-ins each time. What is
refused is refused in the scanner, not at the event: the original takes quadratic time to read a long tag.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

from ruamel.yaml.events import Event
from ruamel.yaml.parser import Parser as RuamelParser
from ruamel.yaml.reader import Reader
from ruamel.yaml.scanner import Scanner

from reconciler.appliance.yaml.words import show


class Refused(Exception):  # noqa: N818 - no error of the parser's: the text may be YAML
    """A feature of YAML that appliance files do not have; `place` is line and column, from 1."""

    def __init__(self, place: tuple[int, int], what: str, right: str) -> None:
        super().__init__(what)
        self.place = place
        self.what = what
        self.right = right


class Parser(Reader, Scanner, RuamelParser):
    """The events of a text in YAML 1.2."""

    # Properties in the original, which look for a loader around the parts; here the parts are one.
    reader: Any = None
    scanner: Any = None
    resolver: Any = None
    processing_version = (1, 2)
    comment_handling = None

    def __init__(self, text: str) -> None:
        self.reader = self.scanner = self.resolver = self
        Reader.__init__(self, text, loader=self)
        Scanner.__init__(self, loader=self)
        RuamelParser.__init__(self, loader=self)

    def events(self) -> Iterator[Event]:
        """The events, one by one, so that a bound can end the reading.

        Raises:
            Refused: a tag or a directive.
            ruamel.yaml.error.YAMLError: not YAML.

        """
        while self.check_event():
            yield self.get_event()

    def place(self) -> tuple[int, int]:
        """Line and column, from 1, up to which the text has been read."""
        return self.line + 1, self.column + 1

    def fetch_tag(self) -> NoReturn:
        """Refuse a tag."""
        tag = show(self.prefix(40).split()[0])
        raise Refused(self.place(), f"the tag {tag}", "tags are not used in appliance files: remove it")

    def fetch_directive(self) -> NoReturn:
        """Refuse a directive."""
        raise Refused(self.place(), "a directive", "remove it: the file is read as YAML 1.2, and has no tags")
