"""What some cells have in common, as few clauses as a person reads, and the exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.causes.boxes import union_of
from pytest_rocm_attn.conformance.causes.cells import FAMILY, KIND, usual
from pytest_rocm_attn.conformance.causes.conditions import given, place
from pytest_rocm_attn.conformance.promise.grid.space import GFX
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from pytest_rocm_attn.conformance.causes.cells import Attribute, Bits, Cells
    from pytest_rocm_attn.conformance.causes.conditions import Given

RECALL = 0.9  # of the cells described, at least, that the clauses are true of
LITTLE = (1 - RECALL) / 2  # a share of cells that a description may leave out
_PRECISE = (
    0.97  # of the cells that the clauses are true of, the share that needs no more exceptions
)
_GAIN = 0.05  # of that share: what a clause or an exception must add
_MOST_CLAUSES, _MOST_EXCEPTIONS = 6, 3


@dataclass(frozen=True, slots=True)
class Description:
    """What some cells have in common.

    Attributes:
        where: clauses; each says what was set or asked for, and excludes the attribute's default.
        exceptions: what departs from a default, and is not among the cells.
        region: the cells that clauses and exceptions describe.
        precision: the share of these that are among the cells.
    """

    where: tuple[Given, ...]
    exceptions: tuple[Given, ...]
    region: Bits
    precision: float


class Describer:
    """Describes sets of cells; each once."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._known: dict[tuple[Bits, Bits], Description] = {}

    def of(self, wanted: Bits, among: Bits) -> Description:
        """Return what these cells have in common.

        Args:
            wanted: the cells.
            among: all cells that the description is to tell them from.
        """
        key = wanted, among
        if key not in self._known:
            self._known[key] = self._describe(wanted, among)
        return self._known[key]

    def _describe(self, wanted: Bits, among: Bits) -> Description:
        cells = self._cells
        total, kept, region = cells.count(wanted), wanted, among
        clauses: dict[int, tuple[int, ...]] = {}
        fewest: dict[int, tuple[int, ...]] = {}  # per attribute, as long as kept is the same
        while len(clauses) < _MOST_CLAUSES:
            share = self._share(region, kept)
            found = []
            for number, attribute in enumerate(cells.attributes):
                if number in clauses or attribute.name == FAMILY:
                    continue
                if number not in fewest:
                    fewest[number] = self._fewest(number, kept, total)
                used = fewest[number]
                if _says_what_is_asked(attribute, used):
                    allowed = union_of(cells.holding[number][one] for one in used)
                    after = self._share(region & allowed, kept & allowed)
                    if after >= share * (1 + _GAIN):
                        found.append((after, number, allowed, used))
            if not found:
                break
            # Of those that are about as good, the one that is best known.
            enough = max(found)[0] * (1 - _GAIN)
            _, number, allowed, used = next(one for one in reversed(found) if one[0] >= enough)
            clauses[number] = used
            if kept & ~allowed:
                fewest.clear()
            region, kept = region & allowed, kept & allowed
        exceptions: dict[int, tuple[int, ...]] = {}
        before = region
        while len(exceptions) < _MOST_EXCEPTIONS and self._share(region, kept) < _PRECISE:
            one = self._exception(region, kept, {*clauses, *exceptions})
            if one is None:
                break
            number, used = one
            exceptions[number] = used
            region &= ~union_of(cells.holding[number][one] for one in used)
            kept &= region
        where = [self._given(number, used, wanted) for number, used in clauses.items()]
        return Description(
            tuple(sorted(where, key=lambda one: place(one.name))),
            tuple(self._given(number, used, before) for number, used in exceptions.items()),
            region,
            self._share(region, kept),
        )

    def _share(self, region: Bits, kept: Bits) -> float:
        count = self._cells.count(region)
        return self._cells.count(kept) / count if count else 0.0

    def _given(self, number: int, used: Sequence[int], among: Bits) -> Given:
        attribute = self._cells.attributes[number]
        return given(self._cells, attribute, attribute.of(used), among)

    def _fewest(self, number: int, kept: Bits, total: int) -> tuple[int, ...]:
        """Return the fewest classes of an attribute that hold enough of the cells."""
        count = self._cells.count
        holding = self._cells.holding[number]
        shares = sorted((count(having & kept), one) for one, having in enumerate(holding))
        spare = sum(share for share, _ in shares) - RECALL * total
        used = []
        for share, one in shares:
            if share <= spare:
                spare -= share
            else:
                used.append(one)
        return tuple(sorted(used))

    def _exception(
        self, region: Bits, kept: Bits, taken: AbstractSet[int]
    ) -> tuple[int, tuple[int, ...]] | None:
        """Return the attribute, and its classes, that take away the most cells that do not differ."""
        cells = self._cells
        best, most = None, _GAIN * cells.count(region & ~kept)
        for number, attribute in enumerate(cells.attributes):
            if number in taken or attribute.name in (FAMILY, GFX):
                continue
            used = tuple(
                one
                for one, having in enumerate(cells.holding[number])
                if not set(usual(attribute.name)) & set(attribute.of([one]))
                and self._spared(region & having, kept & having)
            )
            gone = cells.count(region & union_of(cells.holding[number][one] for one in used))
            if used and gone > most:
                best, most = (number, used), gone
        return best

    def _spared(self, region: Bits, kept: Bits) -> bool:
        """Whether hardly any cells of a region differ."""
        return not kept or self._share(region, kept) <= LITTLE


def _says_what_is_asked(attribute: Attribute, used: Sequence[int]) -> bool:
    if len(used) == len(attribute.classes):
        return False
    if attribute.name in (GFX, EXPLICIT, *KIND):
        return True
    return not set(usual(attribute.name)) & set(attribute.of(used))
