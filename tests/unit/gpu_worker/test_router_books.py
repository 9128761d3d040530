from services.gpu_worker.router_books import IDLE_KEPT, RouterBooks


def test_a_router_s_latest_request_and_its_work_are_known() -> None:
    books = RouterBooks()
    for router, request in (("r1", "a"), ("r2", "b"), ("r1", "c")):
        books.sent(router, request, at_work=())
    booked = {b.router: (b.last_request_id, b.gpu_seconds) for b in books.booked({"r1": 2.5})}
    assert booked == {"r1": ("c", 2.5), "r2": ("b", 0.0)}


def test_of_idle_routers_only_the_latest_are_remembered() -> None:
    books = RouterBooks()
    for i in range(3 * IDLE_KEPT):
        books.sent(f"r{i}", "a", at_work=())
    books.sent(f"r{2 * IDLE_KEPT}", "b", at_work=())
    kept = [b.router for b in books.booked({})]
    assert len(kept) == IDLE_KEPT
    assert kept[0] == f"r{2 * IDLE_KEPT + 1}"
    assert kept[-1] == f"r{2 * IDLE_KEPT}"


def test_routers_with_work_here_are_remembered_beyond_that() -> None:
    books = RouterBooks()
    for i in range(3 * IDLE_KEPT):
        books.sent(f"r{i}", "a", at_work=("r0",))
    kept = [b.router for b in books.booked({"r0": 1.0})]
    assert kept[0] == "r0"
    assert len(kept) == IDLE_KEPT + 1
