"""The queue between a thread that must not wait and one that does."""

from concurrent.futures import ThreadPoolExecutor

from nyquist.server.wire.byte_queue import ByteQueue


def of(limit: int, limit_bytes: int) -> ByteQueue[bytes]:
    return ByteQueue(limit, limit_bytes, len)


def test_it_is_bounded_in_number_and_in_bytes_and_drops_the_newest() -> None:
    many, large = of(2, 100), of(100, 10)
    assert [many.put(b"x") for _ in range(3)] == [True, True, False]
    assert [large.put(b"12345") for _ in range(3)] == [True, True, False]
    assert (len(many), len(large)) == (2, 2)


def test_what_is_in_hand_counts_until_it_is_done_with() -> None:
    queue = of(1, 10)
    assert queue.put(b"first")
    assert queue.first() == b"first"
    assert not queue.put(b"second")
    assert queue.done()
    assert queue.put(b"1234567890")
    assert queue.first() == b"1234567890"


def test_items_come_in_their_order() -> None:
    queue = of(10, 10)
    for item in (b"1", b"2", b"3"):
        assert queue.put(item)
    taken = []
    while len(queue):
        taken.append(queue.first())
        queue.done()
    assert taken == [b"1", b"2", b"3"]


def test_a_closed_one_takes_and_gives_nothing_and_wakes_who_waits() -> None:
    queue = of(10, 10)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(queue.first)
        queue.close()
        assert waiting.result(timeout=20) is None
    assert not queue.open
    assert not queue.put(b"late")


def test_what_is_left_is_told_once_with_what_is_in_hand() -> None:
    queue = of(10, 10)
    for item in (b"1", b"2"):
        queue.put(item)
    assert queue.first() == b"1"
    queue.close()
    assert queue.first() is None
    assert queue.left() == [b"1", b"2"]
    assert not queue.done()
    assert queue.left() == []


def test_an_item_that_was_done_with_is_not_left() -> None:
    queue = of(10, 10)
    for item in (b"1", b"2"):
        queue.put(item)
    queue.close()
    assert queue.done()
    assert queue.left() == [b"2"]


def test_bytes_are_free_again_after_what_was_left_is_let_go() -> None:
    queue = of(10, 5)
    assert queue.put(b"12345")
    assert queue.left() == [b"12345"]
    assert queue.put(b"12345")
