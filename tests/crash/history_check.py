"""The check of a client-side history: what clients did, when, what they were told, and whether one order explains it.

Pure: it knows nothing of HTTP. The final reading of each session is the order that everything is held against.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Append:
    """Messages that a client sent for one session; acknowledged or not. Times are of one monotonic clock."""

    session: str
    ids: tuple[str, ...]
    start_s: float
    end_s: float
    acknowledged: bool
    version: int | None = None


@dataclass(frozen=True)
class Read:
    """What a client saw of one session behind the message number *after*: ids in order, one or several pages.

    *version* is the one that the last page came with; *whole* says that there was nothing behind it.
    """

    session: str
    after: int
    ids: tuple[str, ...]
    start_s: float
    end_s: float
    version: int
    whole: bool


@dataclass(frozen=True)
class Listing:
    """The positions that one client saw of the tenant's events, from the first one on, page by page."""

    positions: tuple[int, ...]
    start_s: float
    end_s: float


@dataclass(frozen=True)
class History:
    """All of it."""

    appends: Sequence[Append]
    reads: Sequence[Read]
    listings: Sequence[Listing]
    final: Mapping[str, Sequence[str]]
    """Each session's message ids, in order, as they are when all clients have ended."""


def violations(history: History) -> Iterator[str]:
    """Each promise that *history* shows broken."""
    yield from _final(history)
    appends, reads = defaultdict(list), defaultdict(list)
    for append in history.appends:
        appends[append.session].append(append)
    for read in history.reads:
        reads[read.session].append(read)
    for session, ids in history.final.items():
        places = {name: number for number, name in enumerate(ids, start=1)}
        yield from _order(session, appends[session], places)
        yield from _prefixes(session, reads[session], ids)
        yield from _recent(session, appends[session], reads[session], places)
        yield from _versions(session, reads[session])
    yield from _listed(history.listings)


def _final(history: History) -> Iterator[str]:
    """Acknowledged: there, whole, once. Not acknowledged: there as a whole and once, or not at all."""
    sent = {name: append.session for append in history.appends for name in append.ids}
    for session, ids in history.final.items():
        if len(set(ids)) != len(ids):
            yield f"{session}: a message is there twice"
        for name in ids:
            if sent.get(name) != session:
                yield f"{session}: {name} was never sent to it"
    places = {session: {name: number for number, name in enumerate(ids)} for session, ids in history.final.items()}
    for append in history.appends:
        found = [places.get(append.session, {}).get(name) for name in append.ids]
        first = found[0]
        if all(place is None for place in found):
            if append.acknowledged:
                yield f"{append.session}: {append.ids[0]} was acknowledged and is lost"
        elif first is None or found != list(range(first, first + len(found))):
            yield f"{append.session}: the batch of {append.ids[0]} is torn"


def _order(session: str, appends: Sequence[Append], places: Mapping[str, int]) -> Iterator[str]:
    """What was acknowledged before another one was sent stands before it, with a lower version."""
    known = [append for append in appends if append.acknowledged and append.ids[0] in places]
    by_end = sorted(known, key=lambda append: append.end_s)
    ends = [append.end_s for append in by_end]
    highest: list[tuple[int, int]] = [(0, 0)]
    for append in by_end:
        highest.append((max(highest[-1][0], places[append.ids[-1]]), max(highest[-1][1], append.version or 0)))
    for append in known:
        place, version = highest[bisect_left(ends, append.start_s)]
        if places[append.ids[0]] <= place:
            yield f"{session}: {append.ids[0]} stands before one that was acknowledged before it was sent"
        if append.version is not None and append.version <= version:
            yield f"{session}: {append.ids[0]} got version {append.version} after version {version} was handed out"


def _prefixes(session: str, reads: Sequence[Read], ids: Sequence[str]) -> Iterator[str]:
    """Whoever reads sees the final order from where he began, nothing left out, nothing twice."""
    for read in reads:
        if tuple(ids[read.after : read.after + len(read.ids)]) != read.ids:
            yield f"{session}: a read behind {read.after} of {len(read.ids)} messages is no part of the order"
        elif read.whole and read.version != 1 + read.after + len(read.ids):
            yield f"{session}: version {read.version} came with {read.after + len(read.ids)} messages"


def _recent(session: str, appends: Sequence[Append], reads: Sequence[Read], places: Mapping[str, int]) -> Iterator[str]:
    """What was acknowledged before a read began is in it; and what one read has seen, each later one has."""
    known = [append for append in appends if append.acknowledged and append.ids[-1] in places]
    whole = [read for read in reads if read.whole]
    facts = [(append.end_s, places[append.ids[-1]]) for append in known]
    facts += [(read.end_s, read.after + len(read.ids)) for read in whole]
    facts.sort()
    ends = [end_s for end_s, _ in facts]
    least = [0]
    for _, place in facts:
        least.append(max(least[-1], place))
    for read in whole:
        must = least[bisect_left(ends, read.start_s)]
        if read.after + len(read.ids) < must:
            yield f"{session}: a read saw {read.after + len(read.ids)} messages when {must} were known to be there"


def _versions(session: str, reads: Sequence[Read]) -> Iterator[str]:
    """The version never goes back."""
    by_end = sorted(reads, key=lambda read: read.end_s)
    ends = [read.end_s for read in by_end]
    highest = [0]
    for read in by_end:
        highest.append(max(highest[-1], read.version))
    for read in reads:
        before = highest[bisect_left(ends, read.start_s)]
        if read.version < before:
            yield f"{session}: version {read.version} was read after version {before}"


def _listed(listings: Sequence[Listing]) -> Iterator[str]:
    """The only tenant's events come without a gap, and no later listing has fewer."""
    for listing in listings:
        if listing.positions != tuple(range(1, len(listing.positions) + 1)):
            yield f"a listing of {len(listing.positions)} events has a gap or repeats one"
    by_end = sorted(listings, key=lambda listing: listing.end_s)
    ends = [listing.end_s for listing in by_end]
    most = [0]
    for listing in by_end:
        most.append(max(most[-1], len(listing.positions)))
    for listing in listings:
        if len(listing.positions) < most[bisect_left(ends, listing.start_s)]:
            yield f"a listing of {len(listing.positions)} events came after a longer one"
