"""Is what a generator yields once more what was taken from it before? Its map left off in the middle: the process died, or
the generator has failed.

Elements that are stored already are left out and held against the digests of the pages that they came in, or, where the
generator leaves them out by itself, the last item against what is stored of it. Other elements would be items that run
twice, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphflow.ids import ItemNumber
from graphflow.run import Failure, SourcePage
from graphflow.values import texts_digest, value_text

_REMEDY = (
    "put it back as it was and try the run again (graphflow retry), or start a new run for what it yields now"
)


class Retrace:
    """The elements from `first` to `stop` of what `source` yields for the map `node`. `pages` are those known of them;
    earlier versions have stored none."""

    def __init__(self, node: str, source: str, first: int, stop: int, pages: Sequence[SourcePage]) -> None:
        self._node = node
        self._source = source
        self._next = first
        self._stop = stop
        self._pages = [page for page in reversed(pages) if first <= page.start and page.end <= stop]
        #: Texts of the items of the page under way.
        self._texts: list[str] = []

    @property
    def left(self) -> int:
        """How many elements are still to come."""
        return self._stop - self._next

    def passes(self, element: Any) -> Failure | None:
        """Leave out the next element. Why it is not the one that was stored; None if it is, or nobody knows yet."""
        index = ItemNumber(self._next)
        self._next += 1
        if not self._pages or index < self._pages[-1].start:
            return None
        page = self._pages[-1]
        if page.kept is None or index in page.kept:
            self._texts.append(value_text(f"{self._node}[{index}]", element))
        if self._next < page.end:
            return None
        self._pages.pop()
        texts, self._texts = self._texts, []
        return None if texts_digest(texts) == page.digest else self._changed(_named(page))

    def ended(self) -> Failure | None:
        """The generator yields nothing more. Why that is too early, if it is."""
        if not self.left:
            return None
        return self._changed(f"it yields {self._next} elements, of {self._stop} that are stored")

    def _changed(self, how: str) -> Failure:
        message = f"{self._source} yields something else than what is stored of it: {how}; {_REMEDY}"
        return Failure("SourceChanged", message, retryable=False)


def _named(page: SourcePage) -> str:
    if page.end == page.start + 1:
        return f"element {page.start} is another"
    return f"the first other one is among elements {page.start} to {page.end - 1}"
