"""The tree, against an RFC 6962 implementation of somebody else (`pymerkle`) and against the independent verifier."""

import hashlib
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from chatledger.errors import LedgerDamaged
from chatledger.ledger import merkle, tree_store
from chatledger.ledger.merkle import Frontier
from chatledger.storage.connection import Connection
from support.independent_verifier import (
    Wrong,
    commitment_of,
    frontier_of,
    leaf_of,
    record_of,
    root_of,
    tiles_of,
    verify_consistency,
    verify_inclusion,
)
from support.store import Store, append, create, message

SIZES = range(131)
LARGEST = 65_540
EDGES = (255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537)
UPDATE = b'{"changes":{}}'
SALT = bytes(16)
ENVELOPE = {
    "actor": "open",
    "commitment": commitment_of(SALT, UPDATE).hex(),
    "recorded_at": 0,
    "request_id": None,
    "schema": 1,
    "session": "s",
    "tenant": "default",
    "type": "session.updated",
}
EVENT = "INSERT INTO events VALUES (?, 1, ?, 'session.updated', 1, 0, 'open', NULL, ?, ?, ?)"


def leaf(number: int) -> bytes:
    """The leaf with that number, from 0."""
    return merkle.entry_hash(str(number).encode())


def update(position: int) -> bytes:
    """The leaf of an update that changes nothing, in a ledger of one session."""
    return leaf_of(record_of({**ENVELOPE, "position": position, "version": position}))


@lru_cache(maxsize=2)
def leaves_to(size: int) -> list[bytes]:
    """So many leaves."""
    return [leaf(number) for number in range(size)]


@lru_cache(maxsize=2)
def theirs(size: int) -> InmemoryTree:
    """The tree of somebody else over these leaves: SHA-256, with the prefixes of RFC 6962."""
    found = InmemoryTree(algorithm="sha256", disable_security=False)
    found.append_entries(str(number).encode() for number in range(size))
    return found


@lru_cache(maxsize=2)
def nodes_of(size: int) -> Callable[[int, int], bytes]:
    """Reads the roots of perfect subtrees, each made once."""

    @cache
    def read(height: int, index: int) -> bytes:
        if height == 0:
            return leaves_to(size)[index]
        return merkle.node_hash(read(height - 1, 2 * index), read(height - 1, 2 * index + 1))

    return read


def frontier_to(size: int) -> Frontier:
    """The frontier of the first leaves, appended in one go."""
    found = Frontier()
    found.append(leaf(number) for number in range(size))
    return found


def their_inclusion(largest: int, index: int, size: int) -> list[bytes]:
    """Their audit path; it has the leaf itself at its start, RFC 6962's has not."""
    return list(theirs(largest).prove_inclusion(index + 1, size).path[1:])


def assert_they_agree_on_consistency(largest: int, first: int, second: int, old: bytes, new: bytes) -> None:
    """Their proof holds for our roots. It has another form than RFC 6962's: it goes down to a leaf in each case."""
    theirs(largest).prove_consistency(first, second).verify(old, new, first, second, "sha256")


def subproof(first: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2, word by word."""
    size = len(leaves)
    if first == size:
        return [] if whole else [root_of(leaves)]
    k = 1
    while 2 * k < size:
        k *= 2
    if first <= k:
        return [*subproof(first, leaves[:k], whole=whole), root_of(leaves[k:])]
    return [*subproof(first - k, leaves[k:], whole=False), root_of(leaves[:k])]


def assert_tiles(completed: Iterable[merkle.TileHash], leaves: list[bytes]) -> None:
    """The completed hashes are those of the tiles over the leaves, in order."""
    found: dict[tuple[int, int], bytes] = {}
    for level, entry, hashed in completed:
        place = (level, entry // 256)
        assert len(found.get(place, b"")) == entry % 256 * 32
        found[place] = found.get(place, b"") + hashed
    assert found == tiles_of(leaves)


# ---------------------------------------------------------------- roots and proofs


@pytest.mark.parametrize("size", SIZES)
def test_roots_are_those_of_others(size: int) -> None:
    """The root by frontier, by ranges, by pymerkle and by the independent verifier is one."""
    root = frontier_to(size).root()
    assert root == theirs(SIZES[-1]).get_root(size) == root_of(leaves_to(SIZES[-1])[:size])
    if size:
        assert root == merkle.range_root(nodes_of(SIZES[-1]), 0, size)


@pytest.mark.parametrize("size", SIZES)
def test_inclusion_proofs_are_those_of_others(size: int) -> None:
    """Each leaf's audit path is pymerkle's, and leads to the root by our check and by the independent one."""
    root = root_of(leaves_to(SIZES[-1])[:size])
    for index in range(size):
        path = merkle.inclusion_proof(nodes_of(SIZES[-1]), index, size)
        assert path == their_inclusion(SIZES[-1], index, size)
        assert merkle.root_of_inclusion(leaf(index), index, size, path) == root
        verify_inclusion(index, size, leaf(index), path, root)


@pytest.mark.parametrize("second", SIZES)
def test_consistency_proofs_are_those_of_others(second: int) -> None:
    """The proof for each earlier size is the RFC's, and leads to the roots that pymerkle proves, by both checks."""
    new = root_of(leaves_to(SIZES[-1])[:second])
    for first in range(1, second + 1):
        proof = merkle.consistency_proof(nodes_of(SIZES[-1]), first, second)
        assert proof == subproof(first, leaves_to(SIZES[-1])[:second], whole=True)
        old = root_of(leaves_to(SIZES[-1])[:first])
        verify_consistency(first, second, old, new, proof)
        assert_they_agree_on_consistency(SIZES[-1], first, second, old, new)
        if first < second:
            assert merkle.roots_of_consistency(first, second, old, proof) == (old, new)


near_an_edge = st.sampled_from(EDGES) | st.integers(min_value=1, max_value=LARGEST)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(near_an_edge, near_an_edge)
@example(255, 256)
@example(256, 257)
@example(65_535, 65_536)
@example(65_536, 65_537)
def test_proofs_in_large_trees_are_those_of_others(one: int, other: int) -> None:
    """As above, for trees around and beyond whole tiles of both levels."""
    first, second = sorted((one, other))
    read = nodes_of(LARGEST)
    old, new = merkle.range_root(read, 0, first), merkle.range_root(read, 0, second)
    assert (old, new) == (theirs(LARGEST).get_root(first), theirs(LARGEST).get_root(second))
    proof = merkle.consistency_proof(read, first, second)
    assert_they_agree_on_consistency(LARGEST, first, second, old, new)
    verify_consistency(first, second, old, new, proof)
    path = merkle.inclusion_proof(read, first - 1, second)
    assert path == their_inclusion(LARGEST, first - 1, second)
    verify_inclusion(first - 1, second, leaf(first - 1), path, new)
    assert merkle.root_of_inclusion(leaf(first - 1), first - 1, second, path) == new


def test_an_empty_tree_is_continued_by_any() -> None:
    """From nothing there is nothing to prove; its root is the hash of nothing."""
    assert merkle.consistency_proof(nodes_of(SIZES[-1]), 0, 7) == []
    assert Frontier().root() == hashlib.sha256(b"").digest()


# ---------------------------------------------------------------- what is refused


def inclusion_holds(index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """Whether our check accepts the path; the independent one has to be of the same opinion."""
    try:
        ours = merkle.root_of_inclusion(leaf(index), index, size, path) == root
    except ValueError:
        ours = False
    try:
        verify_inclusion(index, size, leaf(index), path, root)
    except Wrong:
        assert not ours
        return False
    assert ours
    return True


def consistency_holds(first: int, second: int, roots: tuple[bytes, bytes], proof: list[bytes]) -> bool:
    """Whether our check accepts the proof; the independent one has to be of the same opinion."""
    try:
        ours = merkle.roots_of_consistency(first, second, roots[0], proof) == roots
    except ValueError:
        ours = False
    try:
        verify_consistency(first, second, *roots, proof)
    except Wrong:
        assert not ours
        return False
    assert ours
    return True


def spoiled(proof: list[bytes]) -> Iterable[list[bytes]]:
    """Proofs that are nearly that one: a bit more, one hash less or more, two hashes in each other's place."""
    for at, hashed in enumerate(proof):
        yield [*proof[:at], bytes([hashed[0] ^ 1]) + hashed[1:], *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
    for at in range(1, len(proof)):
        yield [*proof[: at - 1], proof[at], proof[at - 1], *proof[at + 1 :]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 130])
def test_a_wrong_inclusion_proof_is_refused(size: int) -> None:
    """A proof altered in any place, of another leaf's place, or under another root, by both checks."""
    root = root_of(leaves_to(SIZES[-1])[:size])
    for index in range(size):
        path = merkle.inclusion_proof(nodes_of(SIZES[-1]), index, size)
        assert inclusion_holds(index, size, path, root)
        assert not inclusion_holds(index, size, path, leaf(1000))
        assert not any(inclusion_holds(index, size, wrong, root) for wrong in spoiled(path))
        assert not any(inclusion_holds(other, size, path, root) for other in range(-1, size + 1) if other != index)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 3), (3, 5), (4, 7), (6, 8), (8, 130), (129, 130)])
def test_a_wrong_consistency_proof_is_refused(first: int, second: int) -> None:
    """A proof altered in any place, or for other roots, by both checks."""
    roots = root_of(leaves_to(SIZES[-1])[:first]), root_of(leaves_to(SIZES[-1])[:second])
    proof = merkle.consistency_proof(nodes_of(SIZES[-1]), first, second)
    assert consistency_holds(first, second, roots, proof)
    assert not consistency_holds(first, second, (leaf(1000), roots[1]), proof)
    assert not consistency_holds(first, second, (roots[0], leaf(1000)), proof)
    assert not consistency_holds(first, second, roots, [])
    assert not any(consistency_holds(first, second, roots, wrong) for wrong in spoiled(proof))


def test_there_is_no_proof_of_what_is_not_there() -> None:
    """A leaf behind the end, and a size behind the tree, are refused by name."""
    read = nodes_of(SIZES[-1])
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(ValueError, match="is not in a tree"):
            merkle.inclusion_proof(read, index, size)
    for first, second in ((6, 5), (-1, 5)):
        with pytest.raises(ValueError, match="does not continue"):
            merkle.consistency_proof(read, first, second)


# ---------------------------------------------------------------- the frontier


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(min_value=0, max_value=300), max_size=8))
@example([255, 1, 1])
@example([256, 256])
def test_leaves_appended_in_any_cut_make_one_tree(cuts: list[int]) -> None:
    """Frontier and tile hashes are the same whether leaves come one by one or in runs, stored in between or not."""
    size = sum(cuts)
    leaves = leaves_to(LARGEST)[:size]
    grown, completed, start = Frontier(), [], 0
    for cut in cuts:
        completed += grown.append(leaves[start : start + cut])
        start += cut
        grown = Frontier.of(grown.size, grown.encode())
    assert (grown.size, grown.hashes) == (size, frontier_of(leaves))
    assert_tiles(completed, leaves)


def test_a_tile_of_the_second_level_is_filled_by_the_65536th_leaf() -> None:
    """256 tiles of 256 leaves make the first hash of level 2, and not a leaf sooner."""
    frontier = Frontier()
    assert {found.level for found in frontier.append(leaves_to(LARGEST)[:65_535])} == {1}
    assert [found[:2] for found in frontier.append(leaves_to(LARGEST)[65_535:65_536])] == [(1, 255), (2, 0)]
    assert frontier.hashes == [theirs(LARGEST).get_root(65_536)]


def test_a_copy_stays_as_it_is() -> None:
    """A frontier is copied before a commit that may fail."""
    frontier = frontier_to(5)
    copy = frontier.copy()
    frontier.append([leaf(5)])
    assert (copy.size, copy.root()) == (5, root_of(leaves_to(SIZES[-1])[:5]))


@pytest.mark.parametrize(("size", "stored"), [(3, bytes(32)), (4, bytes(64)), (0, bytes(32)), (1, bytes(31))])
def test_a_stored_frontier_of_another_length_is_refused(size: int, stored: bytes) -> None:
    """It has one hash for each one in the binary size."""
    with pytest.raises(ValueError, match="perfect subtrees"):
        Frontier.of(size, stored)


# ---------------------------------------------------------------- nodes and tiles of a ledger


def leaves_of(ledger: Connection) -> list[bytes]:
    """The leaves that the ledger's events have."""
    return [found for (found,) in ledger.execute("SELECT leaf FROM events ORDER BY position")]


def assert_nodes(ledger: Connection, leaves: list[bytes]) -> None:
    """Root, tiles and a proof come out of the stored tiles as they do out of the leaves."""
    size = len(leaves)
    nodes = tree_store.Nodes(ledger, size)
    assert nodes.root() == root_of(leaves)
    expected = tiles_of(leaves)
    for number in range(size // 256 + 2):
        assert nodes.tile(0, number) == leaves[256 * number : 256 * number + 256]
    for level in range(1, 4):
        for number in range((size >> 8 * level) // 256 + 2):
            assert b"".join(nodes.tile(level, number)) == expected.get((level, number), b"")
    for index in {0, size // 2, size - 1} if size else set():
        path = merkle.inclusion_proof(nodes.node, index, size)
        verify_inclusion(index, size, leaves[index], path, root_of(leaves))


def test_a_ledger_has_its_tree_before_and_behind_whole_tiles(store: Store) -> None:
    """Runs of 1 to 100 events, over 256 and 512: tree, nodes and tiles after each, and of each size before."""
    store.commit_all(create("s"))
    sizes = [0, 1]
    for run, count in enumerate([1, 100, 100, 53, 1, 1, 99, 100, 56, 1]):
        store.commit_all(append("s", *(message(f"m{run}-{number}") for number in range(count))))
        sizes.append(sizes[-1] + count)
        leaves = leaves_of(store.ledger)
        stored = tree_store.read(store.ledger)
        assert (stored.size, stored.hashes) == (sizes[-1], frontier_of(leaves))
        assert len(leaves) == sizes[-1]
    assert {256, 257, 512 + 1} <= set(sizes)
    leaves = leaves_of(store.ledger)
    for size in sizes:
        assert_nodes(store.ledger, leaves[:size])


def test_groups_of_commands_make_the_tree_of_their_events(store: Store) -> None:
    """A group in which a command is refused in the middle leaves no leaf of it behind."""
    for number in range(90):
        store.commit(create(f"a{number}", message("m")), append("none", message("m")), create(f"b{number}"))
    leaves = leaves_of(store.ledger)
    assert len(leaves) == 270
    assert tree_store.read(store.ledger).hashes == frontier_of(leaves)
    assert_nodes(store.ledger, leaves)


@pytest.mark.slow
def test_a_ledger_has_its_tree_beyond_65536_events(tmp_path: Path) -> None:
    """A tree built from the events at once, then carried over the edge of level 2 by appends."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
        rows = ((number, number, UPDATE, SALT, update(number)) for number in range(2, 65_531))
        store.ledger.execute("DROP TRIGGER events_insert")
        store.ledger.execute("BEGIN")
        store.ledger.executemany(EVENT, rows)
        store.ledger.execute("UPDATE tree SET size = 0, frontier = x''")
        store.ledger.execute("COMMIT")
    with Store(tmp_path / "ledger.db") as store:
        assert tree_store.read(store.ledger).hashes == frontier_of(leaves_of(store.ledger))
        for number in range(10):
            store.commit_all(append("s", message(f"m{number}")))
        leaves = leaves_of(store.ledger)
        assert tree_store.read(store.ledger).hashes == frontier_of(leaves)
        for size in (65_530, 65_535, 65_536, 65_537, 65_540):
            assert_nodes(store.ledger, leaves[:size])


def test_a_missing_tile_is_reported(store: Store) -> None:
    """A node whose tile is gone is a damaged ledger, not a wrong proof."""
    store.commit_all(create("s"))
    for run in range(3):
        store.commit_all(append("s", *(message(f"m{run}-{number}") for number in range(100))))
    store.ledger.execute("DELETE FROM tiles")
    with pytest.raises(LedgerDamaged, match="no hash 0 at"):
        tree_store.Nodes(store.ledger, 300).root()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("UPDATE tree SET frontier = zeroblob(32)", "damaged"),
        ("UPDATE tree SET size = 4", "damaged"),
        ("UPDATE tree SET size = 7", "damaged"),
        ("UPDATE tree SET size = 5", "5 leaves, and the ledger 3 events"),
        ("DELETE FROM tree", "missing"),
    ],
)
def test_a_tree_that_is_not_the_ledgers_is_refused(store: Store, spoil: str, said: str) -> None:
    """A tree of another size or form, or none, is a damaged ledger."""
    store.commit_all(create("s", message("m1"), message("m2")))
    store.ledger.execute(spoil)
    with pytest.raises(LedgerDamaged, match=said):
        tree_store.open_tree(store.ledger, 3)
